//! Listening sockets: bound by the relay, or inherited from the service manager or another process. None accepts yet.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

use gupd_config as config;

/// Connections that the kernel queues for a busy acceptor: a site that wakes up at once must not see refusals.
const BACKLOG: i32 = 4096;

/// Address or socket that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens on it.
    #[error("{address}: the port is in use; stop the other process or choose another port with --listen")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system refused.
    #[error("{address}: cannot listen: {error}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// A socket from the service manager is not a TCP listener.
    #[error("LISTEN_FDS socket {number}: not a TCP listener: {error}")]
    Inherited {
        /// Index, from 0.
        number: usize,
        /// The system's error.
        error: io::Error,
    },
    /// More sockets than fit in one message to a worker.
    #[error(
        "server.listen: more addresses than the guard can pass to a worker: list fewer, or one that covers all interfaces"
    )]
    TooManyAddresses,
}

/// Bound sockets that do not accept yet.
#[derive(Debug)]
pub struct Sockets {
    /// For clients.
    pub clients: Vec<StdListener>,
    /// For metrics and health.
    pub admin: StdListener,
}

impl Sockets {
    /// Takes the client sockets of the service manager (`LISTEN_FDS`), or else binds the addresses of the
    /// configuration.
    ///
    /// # Errors
    /// If an address cannot be bound.
    pub fn open(server: &config::ServerSettings) -> Result<Self, ListenError> {
        let inherited = inherited_sockets()?;
        let clients = if inherited.is_empty() {
            server.listen.iter().map(|&address| bind(address)).collect::<Result<_, _>>()?
        } else {
            inherited
        };
        Ok(Self { clients, admin: bind(server.admin)? })
    }

    /// Creates sockets from descriptors of another process; the last is the admin address.
    pub fn from_descriptors(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut clients: Vec<_> = descriptors.into_iter().map(StdListener::from).collect();
        let admin = clients.pop()?;
        Some(Self { clients, admin })
    }

    /// Returns the addresses for clients.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.clients.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }
}

/// Binds a socket for clients or for the admin address.
///
/// # Errors
/// If the address is in use or not local.
pub fn bind(address: SocketAddr) -> Result<StdListener, ListenError> {
    let open = || -> io::Result<StdListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Otherwise a restart would meet its own old connections. This does not share a port that another socket
        // listens on.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // `[::]` beside `0.0.0.0` in a configuration means one socket per family.
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

fn inherited_sockets() -> Result<Vec<StdListener>, ListenError> {
    let mut descriptors = ListenFd::from_env();
    let mut sockets = Vec::with_capacity(descriptors.len());
    for number in 0..descriptors.len() {
        let refused = |error| ListenError::Inherited { number, error };
        if let Some(socket) = descriptors.take_tcp_listener(number).map_err(refused)? {
            socket.set_nonblocking(true).map_err(refused)?;
            // A copy that child processes do not inherit.
            sockets.push(socket.try_clone().map_err(refused)?);
        }
    }
    Ok(sockets)
}
