//! A gate that holds responses back until a test opens it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::PATIENCE;

/// A gate, closed at first. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// Opens the gate for good.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the gate is open.
    pub(crate) async fn pass(&self) {
        let opened = timeout(PATIENCE, self.0.subscribe().wait_for(|is_open| *is_open)).await.is_ok();
        assert!(opened, "a gate was never opened");
    }
}
