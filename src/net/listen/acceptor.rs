//! Acceptors: one task per listening socket, which assigns each connection to a worker or refuses it.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::LifecycleStage;
use super::client_share::ClientShares;
use super::connection_rate::ConnectionRateLimiter;
use super::keep_alive::close_gracefully;
use super::refusal::ConnectionRefusal;
use super::worker::WorkerPool;
use crate::metrics::NetMetrics;
use gupd_config as config;

/// Pause after `accept` failed for lack of a resource (file descriptors, memory), against a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Minimum time between two log lines about failed accepts, which last as long as clients hold the resource.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum of refused connections that stay open until the client has read the refusal. In a flood of connections the
/// others are closed at once.
const MAX_LINGERING: usize = 256;

/// The running acceptors.
#[derive(Debug)]
pub struct Acceptors(TaskTracker);

impl Acceptors {
    /// Accepts on every socket while the stage is `Serving`. Must be called within a runtime.
    ///
    /// # Errors
    /// If the runtime cannot watch a socket.
    pub fn start(
        sockets: Vec<StdListener>,
        workers: &Arc<WorkerPool>,
        rate: &Arc<ConnectionRateLimiter>,
        server: &config::ServerSettings,
        metrics: &Arc<NetMetrics>,
    ) -> io::Result<Self> {
        let slots = Arc::new(Semaphore::new(server.max_connections));
        let shares = ClientShares::new(server.max_connections, server.max_client_connections);
        let lingering = Arc::new(Semaphore::new(MAX_LINGERING));
        let running = TaskTracker::new();
        for socket in sockets {
            let acceptor = Acceptor {
                listener: TcpListener::from_std(socket)?,
                workers: workers.clone(),
                rate: rate.clone(),
                slots: slots.clone(),
                shares: shares.clone(),
                lingering: lingering.clone(),
                metrics: metrics.clone(),
            };
            running.spawn(acceptor.run(workers.stage()));
        }
        Ok(Self(running))
    }

    /// Waits until no socket accepts, and every accepted connection is assigned to a worker.
    pub async fn wait_until_stopped(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

struct Acceptor {
    listener: TcpListener,
    workers: Arc<WorkerPool>,
    rate: Arc<ConnectionRateLimiter>,
    slots: Arc<Semaphore>,
    shares: Arc<ClientShares>,
    lingering: Arc<Semaphore>,
    metrics: Arc<NetMetrics>,
}

impl Acceptor {
    async fn run(self, mut stage: watch::Receiver<LifecycleStage>) {
        let mut logged: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = LifecycleStage::Leaving.wait_until_reached(&mut stage) => return,
            };
            match accepted {
                Ok((stream, client)) => self.admit(stream, client, &stage).await,
                Err(error) => {
                    self.metrics.accept_failures.inc();
                    if logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
                        logged = Some(Instant::now());
                        tracing::error!(%error, "cannot accept connections; new clients wait");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn admit(&self, stream: TcpStream, client: SocketAddr, stage: &watch::Receiver<LifecycleStage>) {
        self.metrics.connections_total.inc();
        if !self.rate.admit(client.ip()) {
            // One client exceeds its rate; the relay itself has capacity.
            tracing::info!(client = %client.ip().to_canonical(), reason = ConnectionRefusal::TooManyNew.as_str(),
                "connection refused: limit reached (lan.client_connections)");
            return self.refuse(stream, ConnectionRefusal::TooManyNew, stage);
        }
        let Some(counted) = self.shares.admit(client.ip()) else {
            tracing::info!(client = %client.ip().to_canonical(), reason = ConnectionRefusal::TooManyOfClient.as_str(),
                "connection refused: limit reached (server.max_client_connections)");
            return self.refuse(stream, ConnectionRefusal::TooManyOfClient, stage);
        };
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            tracing::warn!(client = %client.ip().to_canonical(), reason = ConnectionRefusal::TooManyOpen.as_str(),
                "connection refused: limit reached (server.max_connections)");
            return self.refuse(stream, ConnectionRefusal::TooManyOpen, stage);
        };
        if let Err(error) = self.workers.assign(stream, client, (slot, counted)).await {
            tracing::error!(%error, "cannot assign a connection to a worker");
        }
    }

    fn refuse(&self, stream: TcpStream, reason: ConnectionRefusal, stage: &watch::Receiver<LifecycleStage>) {
        self.metrics.refused.with_label_values(&[reason.as_str()]).inc();
        // The empty buffer of a new connection takes the whole response; otherwise the close says the same.
        let _unsent = stream.try_write(reason.response());
        if let Ok(permit) = self.lingering.clone().try_acquire_owned() {
            let stage = stage.clone();
            tokio::spawn(async move {
                close_gracefully(stream, stage).await;
                drop(permit);
            });
        }
    }
}
