//! Controls that a test changes while connections are open: the reachability of a machine or line, and a gate that
//! holds responses back.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::PATIENCE;

/// State of a machine or line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reachability {
    /// Connections are made and bytes pass.
    #[default]
    Up,
    /// Connections and bytes wait.
    Silent,
    /// Connections are refused, and open ones break.
    Refusing,
}

/// The current [`Reachability`] of a machine or line. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct LinkSwitch(Arc<watch::Sender<Reachability>>);

impl LinkSwitch {
    /// Changes the state for all connections.
    pub fn set(&self, state: Reachability) {
        self.0.send_replace(state);
    }

    /// Waits until the state is not [`Reachability::Silent`] and returns it.
    pub async fn wait_while_silent(&self) -> Reachability {
        self.wait_for(|state| state != Reachability::Silent).await
    }

    /// Waits until connections are refused.
    pub async fn wait_until_refusing(&self) {
        self.wait_for(|state| state == Reachability::Refusing).await;
    }

    async fn wait_for(&self, is_reached: impl Fn(Reachability) -> bool) -> Reachability {
        // The sender lives as long as `self`, so the wait cannot fail.
        self.0
            .subscribe()
            .wait_for(|state| is_reached(*state))
            .await
            .map_or(Reachability::Refusing, |state| *state)
    }
}

/// A gate, closed at first. Clones share it.
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
