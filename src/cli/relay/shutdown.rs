//! The end of a relay: handover to another process, stop with a drain, and stop at once. Also the liveness probe of a
//! watchdog, since a stuck thread can end in no other way than with its process.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::Relay;
use gupd_net::listen::{LifecycleStage, WorkerPool};

/// Time for bytes that fills hold in memory, at most a few MiB each, to reach the disk.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for requests that are in flight on kept connections when another process has taken over: the round trip of a
/// slow line. Closing such a connection would make its client send the request again.
const IN_FLIGHT_REQUESTS: Duration = Duration::from_secs(1);

/// Checks that the threads of a running relay make progress.
#[derive(Clone, Debug)]
pub struct LivenessProbe {
    workers: Arc<WorkerPool>,
    control: Handle,
}

impl LivenessProbe {
    /// Returns true if every worker thread and the control runtime respond within this time. Blocks for at most that
    /// long; must not be called on a runtime's thread.
    pub fn is_alive(&self, within: Duration) -> bool {
        let (sender, result) = std::sync::mpsc::channel();
        let workers = self.workers.clone();
        self.control.spawn(async move {
            // The receiver is gone if it has stopped waiting.
            let _late = sender.send(workers.is_responsive(within).await);
        });
        result.recv_timeout(within).unwrap_or(false)
    }
}

impl Relay {
    /// Hands the sockets and the store over to another process. Stops accepting, closes the store and continues running
    /// downloads until [`stop`](Self::stop), which must follow. Running fills are completed for their followers but not
    /// stored. Blocks until the other process may open the store.
    pub fn hand_over(&mut self) {
        let Some(control) = &self.control else { return };
        self.stage.send_replace(LifecycleStage::Leaving);
        self.server.close_after_response();
        self.handed_over.cancel();
        control.block_on(async {
            if let Some(acceptors) = &self.acceptors {
                acceptors.wait_until_stopped().await;
            }
            // No background task may write to the store once another process has it.
            self.end_background_tasks().await;
            self.record_uses().await;
            self.cache.store().release().await;
            self.proxy.fills().notify_store_released();
        });
    }

    /// Stops accepting, lets running downloads finish within `server.drain_timeout`, and ends. Blocks.
    pub fn stop(mut self) {
        let Some(control) = self.control.take() else { return };
        self.advance_stage(LifecycleStage::Leaving);
        control.block_on(async {
            tokio::select! {
                () = self.drain() => {}
                () = tokio::time::sleep(self.drain_timeout()) => {
                    tracing::warn!("server.drain_timeout expired; dropping running downloads");
                }
                () = self.stop_now.cancelled() => {
                    tracing::warn!("dropping running downloads");
                }
            }
            // Bytes of unfinished fills are kept for the next start. Fills end before the workers on which they run.
            self.proxy.fills().stop();
            if timeout(FLUSH_TIMEOUT, self.proxy.fills().wait_until_idle()).await.is_err() {
                tracing::warn!("disk too slow: part of the unfinished downloads may be fetched again");
            }
            self.end_background_tasks().await;
            if let Some(tier) = self.builder.tier() {
                tier.stop().await;
            }
            if !self.handed_over.is_cancelled() {
                self.record_uses().await;
            }
        });
        self.stage.send_replace(LifecycleStage::Stopped);
        self.workers.join();
        self.ledger_end.cancel();
        self.ledger_writes.close();
        if control.block_on(async { timeout(FLUSH_TIMEOUT, self.ledger_writes.wait()).await }).is_err() {
            tracing::warn!("disk too slow: the ledger lacks its last minute");
        }
        // Open connections to the admin address must not delay the end.
        control.shutdown_timeout(Duration::from_secs(1));
    }

    /// Waits until all downloads of clients have ended. A fill without a client keeps what has arrived for the next
    /// start.
    async fn drain(&self) {
        if self.handed_over.is_cancelled() {
            tokio::time::sleep(IN_FLIGHT_REQUESTS).await;
        }
        if let Some(acceptors) = &self.acceptors {
            acceptors.wait_until_stopped().await;
        }
        self.advance_stage(LifecycleStage::Draining);
        self.workers.wait_until_idle().await;
    }

    async fn end_background_tasks(&self) {
        self.background.close();
        if timeout(FLUSH_TIMEOUT, self.background.wait()).await.is_err() {
            tracing::warn!("store maintenance did not finish in time; aborting it");
        }
    }

    async fn record_uses(&self) {
        if let Err(error) = self.cache.record_uses().await {
            tracing::error!(%error, "last uses could not be recorded");
        }
    }

    /// Sets the stage unless it is reached already.
    fn advance_stage(&self, next: LifecycleStage) {
        self.stage.send_if_modified(|stage| {
            let is_later = *stage < next;
            if is_later {
                *stage = next;
            }
            is_later
        });
    }

    /// Returns a handle that ends the drain at once.
    pub fn stopper(&self) -> impl Fn() + Send + 'static {
        let stop_now = self.stop_now.clone();
        move || stop_now.cancel()
    }

    /// Returns the liveness probe; `None` once the relay has ended.
    pub fn liveness_probe(&self) -> Option<LivenessProbe> {
        let control = self.control.as_ref()?.handle().clone();
        Some(LivenessProbe { workers: self.workers.clone(), control })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(control) = self.control.take() {
            self.stage.send_replace(LifecycleStage::Stopped);
            self.workers.join();
            control.shutdown_background();
        }
    }
}
