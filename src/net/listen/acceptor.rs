//! Acceptors: one task per listening socket, which assigns each connection to a worker or refuses it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::LifecycleStage;
use super::connection_limits::AdmittedConnection;
use super::connection_rate::ConnectionRateLimiter;
use super::keep_alive::close_gracefully;
use super::listener::{ClientListener, ClientListeners};
use super::refusal::{ConnectionRefusal, RefusalLog};
use super::sockets::ClientSocket;
use super::worker::WorkerPool;
use crate::log_limit::LogLimit;
use crate::metrics::NetMetrics;

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
        sockets: Vec<ClientSocket>,
        workers: &Arc<WorkerPool>,
        rate: &Arc<ConnectionRateLimiter>,
        listeners: &ClientListeners,
        metrics: &Arc<NetMetrics>,
    ) -> io::Result<Self> {
        let lingering = Arc::new(Semaphore::new(MAX_LINGERING));
        let running = TaskTracker::new();
        for unserved in
            listeners.iter().filter(|own| !sockets.iter().any(|socket| socket.listener == *own.name()))
        {
            tracing::error!(
                listener = &**unserved.name(),
                "listener has no socket: restart gupd to open its addresses"
            );
        }
        for ClientSocket { listener: name, socket } in sockets {
            let Some(listener) = listeners.find(&name) else {
                // Its clients are those of another listener, with other rules.
                let address = socket.local_addr().map(tracing::field::display).ok();
                tracing::error!(
                    listener = &*name,
                    address,
                    "listener was removed: its clients wait until a restart"
                );
                continue;
            };
            let acceptor = Acceptor {
                socket: TcpListener::from_std(socket)?,
                listener: listener.clone(),
                workers: workers.clone(),
                rate: rate.clone(),
                lingering: lingering.clone(),
                refusals: RefusalLog::default(),
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
    socket: TcpListener,
    listener: Arc<ClientListener>,
    workers: Arc<WorkerPool>,
    rate: Arc<ConnectionRateLimiter>,
    lingering: Arc<Semaphore>,
    refusals: RefusalLog,
    metrics: Arc<NetMetrics>,
}

impl Acceptor {
    async fn run(self, mut stage: watch::Receiver<LifecycleStage>) {
        let failures = LogLimit::new(1, LOG_INTERVAL);
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = LifecycleStage::Leaving.wait_until_reached(&mut stage) => return,
            };
            match accepted {
                Ok((stream, client)) => self.admit(stream, client, &stage).await,
                Err(error) => {
                    self.metrics.accept_failures.inc();
                    if let Some(suppressed) = failures.admit(Instant::now()) {
                        tracing::error!(%error, suppressed, "cannot accept connections; new clients wait");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn admit(&self, stream: TcpStream, client: SocketAddr, stage: &watch::Receiver<LifecycleStage>) {
        self.metrics.connections_total.inc();
        let admitted = match self.listener.is_proxy(client.ip()) {
            true => self.listener.limits.admit_proxy(),
            false => self.admit_client(client.ip()),
        };
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => {
                if reason == ConnectionRefusal::Denied {
                    self.metrics.traffic.add_refused(client.ip().to_canonical());
                }
                self.refusals.write(reason, client.ip(), self.listener.name(), &remedy(reason));
                return self.refuse(stream, reason, stage);
            }
        };
        if let Err(error) = self.workers.assign(stream, client, self.listener.clone(), admitted).await {
            tracing::error!(%error, "cannot assign a connection to a worker");
        }
    }

    fn admit_client(&self, client: IpAddr) -> Result<AdmittedConnection, ConnectionRefusal> {
        if !self.listener.permits(client) {
            return Err(ConnectionRefusal::Denied);
        }
        let client = self.listener.network_of(client);
        if !self.rate.admit(client) {
            return Err(ConnectionRefusal::TooManyNew);
        }
        self.listener.limits.admit(client)
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

/// Returns the cause of a refusal as an administrator knows it.
fn remedy(refusal: ConnectionRefusal) -> &'static str {
    match refusal {
        ConnectionRefusal::Denied => "address not served (allow, deny)",
        // One client exceeds its rate; the relay itself has capacity.
        ConnectionRefusal::TooManyNew => "limit reached (lan.client_connections)",
        _ => "limit reached",
    }
}
