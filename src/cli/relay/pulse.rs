//! Whether the threads of a running relay turn: what a watchdog asks. A thread that is stuck serves nobody, and cannot say
//! so itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use gupd_net::listen::WorkerPool;

/// Tells whether a relay's threads turn.
#[derive(Clone, Debug)]
pub struct Pulse {
    pub(super) workers: Arc<WorkerPool>,
    pub(super) control: Handle,
}

impl Pulse {
    /// Whether every thread that serves clients, and the runtime behind them, turns within this time. Blocks for at most
    /// that long; not to be called from a runtime's thread.
    pub fn beats(&self, within: Duration) -> bool {
        let (turned, told) = std::sync::mpsc::channel();
        let workers = self.workers.clone();
        self.control.spawn(async move {
            // Whoever asked may have stopped waiting.
            let _late = turned.send(workers.is_responsive(within).await);
        });
        told.recv_timeout(within).unwrap_or(false)
    }
}
