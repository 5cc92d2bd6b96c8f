//! The stages of a relay's shutdown, which listeners, workers and background tasks watch.

use tokio::sync::watch;

/// Stage of the relay's shutdown, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LifecycleStage {
    /// The relay accepts connections and requests.
    Serving,
    /// Another process accepts connections. A request on an open connection is answered, and the connection closed.
    Leaving,
    /// Running responses finish; no new request is read.
    Draining,
    /// Responses that still run are dropped.
    Stopped,
}

impl LifecycleStage {
    /// Waits until the relay has reached at least this stage, or is gone.
    pub async fn wait_until_reached(self, stage: &mut watch::Receiver<Self>) {
        // The guard that `wait_for` returns must not live across an await.
        drop(stage.wait_for(|now| *now >= self).await);
    }
}
