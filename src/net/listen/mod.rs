//! Accepts clients. One task a listening socket accepts and gives each connection to the worker with the fewest; a
//! worker is a thread with a runtime of its own, so that a connection never changes cores. Owns sockets, threads and
//! the bounds on connections; what is said on a connection is the proxy's business.

mod connection;
mod connection_rate;
mod stall;
pub mod tls;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use self::connection::ConnectionRefusal;
pub use self::connection::{ClientConnection, HttpServer, RequestHandler};
pub use self::connection_rate::ConnectionRateLimiter;
pub use self::worker::{LifecycleStage, WorkerPool};
use crate::metrics::NetMetrics;
use gupd_config as config;

/// Connections the kernel holds for a busy acceptor: a site that wakes up at once must not see refusals.
const BACKLOG: i32 = 4096;

/// Pause after `accept` failed for want of something (file descriptors, memory), so that it is not tried in a circle.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often it is told, at most: it lasts for as long as clients keep what is wanting.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Connections that are turned away and not closed yet, so that what they were told arrives. Past these, and in a flood
/// of connections that is soon, they are closed at once.
const TURNED_AWAY: usize = 256;

/// Why a connection is turned away.
#[derive(Clone, Copy)]
enum TooMany {
    /// `server.max_connections` are open.
    Open,
    /// Its client has made `lan.client_connections` within a second.
    New,
}

impl TooMany {
    const fn refusal(self) -> ConnectionRefusal {
        match self {
            Self::Open => ConnectionRefusal::TooManyOpen,
            Self::New => ConnectionRefusal::TooManyNew,
        }
    }

    /// What a client is told, if it speaks plain HTTP.
    const fn response(self) -> &'static [u8] {
        match self {
            Self::Open => {
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 10\r\n\
                  Connection: close\r\n\r\n"
            }
            // All that it may make in a second it may make again after one.
            Self::New => {
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n\
                  Connection: close\r\n\r\n"
            }
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Some other process has it.
    #[error("{address}: the port is in use; stop the other process or choose another with --listen")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system refuses.
    #[error("{address}: cannot listen: {error}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// A socket handed over by the service manager is no TCP listener.
    #[error("the socket handed over as LISTEN_FDS number {number} is not a TCP listener: {error}")]
    Inherited {
        /// Counted from 0.
        number: usize,
        /// What the system says.
        error: io::Error,
    },
}

/// Bound sockets, not yet accepting.
#[derive(Debug)]
pub struct Sockets {
    /// For clients.
    pub clients: Vec<StdListener>,
    /// For metrics and health.
    pub admin: StdListener,
}

impl Sockets {
    /// Takes the clients' sockets that the service manager opened (`LISTEN_FDS`), if it opened any, else binds the
    /// addresses of the configuration.
    ///
    /// # Errors
    /// When one cannot be had.
    pub fn open(server: &config::ServerSettings) -> Result<Self, ListenError> {
        let inherited = inherited()?;
        let clients = if inherited.is_empty() {
            server.listen.iter().map(|&address| bind(address)).collect::<Result<_, _>>()?
        } else {
            inherited
        };
        Ok(Self { clients, admin: bind(server.admin)? })
    }

    /// As another process handed them over: the admin address's is the last.
    pub fn from_descriptors(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut clients: Vec<_> = descriptors.into_iter().map(StdListener::from).collect();
        let admin = clients.pop()?;
        Some(Self { clients, admin })
    }

    /// The addresses clients connect to.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.clients.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }
}

/// What accepts connections.
#[derive(Debug)]
pub struct Acceptors(TaskTracker);

impl Acceptors {
    /// Accepts on every socket until the stage is no longer serving; must be called within a runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch a socket.
    pub fn start(
        sockets: Vec<StdListener>,
        workers: &Arc<WorkerPool>,
        newcomers: &Arc<ConnectionRateLimiter>,
        server: &config::ServerSettings,
        metrics: &Arc<NetMetrics>,
        stage: &watch::Receiver<LifecycleStage>,
    ) -> io::Result<Self> {
        let places = Arc::new(Semaphore::new(server.max_connections));
        let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
        let running = TaskTracker::new();
        for socket in sockets {
            let acceptor = Acceptor {
                listener: TcpListener::from_std(socket)?,
                workers: workers.clone(),
                newcomers: newcomers.clone(),
                places: places.clone(),
                turned_away: turned_away.clone(),
                metrics: metrics.clone(),
            };
            running.spawn(acceptor.run(stage.clone()));
        }
        Ok(Self(running))
    }

    /// Waits until nothing is accepted any more, and every connection that was has been given to a worker.
    pub async fn wait_until_stopped(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

/// Binds a socket for clients or for the admin address.
///
/// # Errors
/// When the address is in use or not ours.
pub fn bind(address: SocketAddr) -> Result<StdListener, ListenError> {
    let open = || -> io::Result<StdListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Without it, a restart would find its own old connections in the way. It does not share a port that is
        // listened on.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // `[::]` beside `0.0.0.0` in a configuration means one socket for each family.
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { address },
        _ => ListenError::Refused { address, error },
    })
}

fn inherited() -> Result<Vec<StdListener>, ListenError> {
    let mut handed = ListenFd::from_env();
    let mut sockets = Vec::with_capacity(handed.len());
    for number in 0..handed.len() {
        let refused = |error| ListenError::Inherited { number, error };
        if let Some(socket) = handed.take_tcp_listener(number).map_err(refused)? {
            socket.set_nonblocking(true).map_err(refused)?;
            // A copy that processes started from here do not get.
            sockets.push(socket.try_clone().map_err(refused)?);
        }
    }
    Ok(sockets)
}

struct Acceptor {
    listener: TcpListener,
    workers: Arc<WorkerPool>,
    newcomers: Arc<ConnectionRateLimiter>,
    places: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    metrics: Arc<NetMetrics>,
}

impl Acceptor {
    async fn run(self, mut stage: watch::Receiver<LifecycleStage>) {
        let mut told: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = LifecycleStage::Leaving.wait_until_reached(&mut stage) => return,
            };
            match accepted {
                Ok((stream, peer)) => self.give(stream, peer, &stage).await,
                Err(error) => {
                    self.metrics.accept_failures.inc();
                    if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                        told = Some(Instant::now());
                        tracing::error!(%error, "cannot accept connections now; those who come wait");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn give(&self, stream: TcpStream, peer: SocketAddr, stage: &watch::Receiver<LifecycleStage>) {
        self.metrics.connections_total.inc();
        if !self.newcomers.admit(peer.ip()) {
            return self.turn_away(stream, peer, TooMany::New, stage);
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return self.turn_away(stream, peer, TooMany::Open, stage);
        };
        if let Err(error) = self.workers.give(stream, peer, place).await {
            tracing::error!(%error, "cannot give a connection to a worker");
        }
    }

    fn turn_away(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        why: TooMany,
        stage: &watch::Receiver<LifecycleStage>,
    ) {
        let (client, reason) = (peer.ip().to_canonical(), why.refusal().as_str());
        self.metrics.refused.with_label_values(&[reason]).inc();
        match why {
            TooMany::Open => {
                tracing::warn!(%client, reason, "refused a connection: server.max_connections are open");
            }
            // The relay has enough; one client asks for too much.
            TooMany::New => {
                tracing::info!(%client, reason, "refused a connection: lan.client_connections in a second");
            }
        }
        // A new connection's buffer takes this much at once; if not, the close says the same.
        let _unsent = stream.try_write(why.response());
        if let Ok(place) = self.turned_away.clone().try_acquire_owned() {
            let stage = stage.clone();
            tokio::spawn(async move {
                connection::linger(stream, stage).await;
                drop(place);
            });
        }
    }
}
