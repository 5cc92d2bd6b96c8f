//! Listening sockets: bound by the relay, or inherited from the service manager or another process. None accepts yet.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

use gupd_config::{self as config, ListenerSettings};

/// Connections that the kernel queues for a busy acceptor: a site that wakes up at once must not see refusals.
const BACKLOG: i32 = 4096;

/// Address or socket that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens on it.
    #[error("{address}: the port is in use: stop the other process, or choose another port with {purpose}")]
    InUse {
        /// The address.
        address: SocketAddr,
        /// The setting that names it.
        purpose: ListenPurpose,
    },
    /// The system refused.
    #[error("{address}: cannot listen: {error}: {}", purpose.remedy(error, address))]
    Refused {
        /// The address.
        address: SocketAddr,
        /// The setting that names it.
        purpose: ListenPurpose,
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

/// Purpose of an address. Shows as the flag and the setting that name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenPurpose {
    /// Clients.
    Clients,
    /// Metrics, health and commands.
    Admin,
}

impl fmt::Display for ListenPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clients => "--listen or server.listen",
            Self::Admin => "--admin or server.admin",
        })
    }
}

impl ListenPurpose {
    fn remedy(self, error: &io::Error, address: &SocketAddr) -> String {
        match error.kind() {
            io::ErrorKind::AddrNotAvailable => {
                let every = if address.is_ipv4() { "0.0.0.0" } else { "[::]" };
                format!(
                    "no interface of this machine has the address: name one of its own with {self}, or {every}"
                )
            }
            io::ErrorKind::PermissionDenied => format!(
                "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE: choose another port with {self}"
            ),
            io::ErrorKind::Unsupported => {
                format!("this machine has no IPv6: name an IPv4 address with {self}")
            }
            _ => format!("choose another address with {self}"),
        }
    }
}

/// Bound sockets that do not accept yet.
#[derive(Debug)]
pub struct Sockets {
    /// For clients.
    pub clients: Vec<ClientSocket>,
    /// For metrics and health.
    pub admin: StdListener,
}

/// A socket for clients.
#[derive(Debug)]
pub struct ClientSocket {
    /// Name of its listener.
    pub listener: Arc<str>,
    /// The socket.
    pub socket: StdListener,
}

impl Sockets {
    /// Takes the client sockets of the service manager (`LISTEN_FDS`), and binds the addresses of listeners that get
    /// none. A socket is that of the listener with its port, or else that of `server.listen`.
    ///
    /// # Errors
    /// If an address cannot be bound.
    pub fn open(server: &config::ServerSettings) -> Result<Self, ListenError> {
        let listeners: Vec<_> = server.all_listeners().collect();
        let mut clients = Vec::new();
        for socket in inherited_sockets()? {
            let port = socket.local_addr().map_or(0, |address| address.port());
            let has_port =
                |listener: &&ListenerSettings| listener.listen.iter().any(|own| own.port() == port);
            let name = listeners.iter().find(has_port).map_or(ListenerSettings::DEFAULT, |found| &found.name);
            clients.push(ClientSocket { listener: name.into(), socket });
        }
        for listener in &listeners {
            let name: Arc<str> = listener.name.as_str().into();
            if clients.iter().any(|client| client.listener == name) {
                continue;
            }
            for &address in &listener.listen {
                let socket = bind(address, ListenPurpose::Clients)?;
                clients.push(ClientSocket { listener: name.clone(), socket });
            }
        }
        Ok(Self { clients, admin: bind(server.admin, ListenPurpose::Admin)? })
    }

    /// Creates sockets from descriptors of another process; the last is the admin address. `listeners` are the names of
    /// the others, from the first on; the rest are those of `server.listen`.
    pub fn from_descriptors(descriptors: Vec<OwnedFd>, listeners: &[String]) -> Option<Self> {
        let mut sockets: Vec<_> = descriptors.into_iter().map(StdListener::from).collect();
        let admin = sockets.pop()?;
        let names = listeners.iter().map(String::as_str).chain(std::iter::repeat(ListenerSettings::DEFAULT));
        let clients = sockets.into_iter().zip(names);
        let clients = clients.map(|(socket, name)| ClientSocket { listener: name.into(), socket });
        Some(Self { clients: clients.collect(), admin })
    }

    /// Returns other descriptors of the same sockets.
    ///
    /// # Errors
    /// If no file descriptors are left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let clients = self.clients.iter().map(|client| {
            Ok(ClientSocket { listener: client.listener.clone(), socket: client.socket.try_clone()? })
        });
        Ok(Self { clients: clients.collect::<io::Result<_>>()?, admin: self.admin.try_clone()? })
    }

    /// Returns the addresses for clients.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.clients.iter().filter_map(|client| client.socket.local_addr().ok()).collect()
    }

    /// Returns the names of the listeners of the client sockets.
    pub fn listeners(&self) -> Vec<String> {
        self.clients.iter().map(|client| client.listener.to_string()).collect()
    }
}

/// Binds a socket.
///
/// # Errors
/// If the address is in use or not local.
pub fn bind(address: SocketAddr, purpose: ListenPurpose) -> Result<StdListener, ListenError> {
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
        io::ErrorKind::AddrInUse => ListenError::InUse { address, purpose },
        // Its kind is unstable: an address family that the kernel lacks.
        _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => ListenError::Refused {
            address,
            purpose,
            error: io::Error::new(io::ErrorKind::Unsupported, error),
        },
        _ => ListenError::Refused { address, purpose, error },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_an_address_names_its_setting_and_the_remedy() {
        let taken = StdListener::bind("127.0.0.1:0").unwrap();
        for (purpose, flag) in [
            (ListenPurpose::Clients, "--listen or server.listen"),
            (ListenPurpose::Admin, "--admin or server.admin"),
        ] {
            let used = bind(taken.local_addr().unwrap(), purpose).unwrap_err().to_string();
            assert!(used.ends_with(&format!("choose another port with {flag}")), "{used}");
            let foreign = bind("192.0.2.1:2967".parse().unwrap(), purpose).unwrap_err().to_string();
            assert!(foreign.contains("no interface of this machine") && foreign.contains(flag), "{foreign}");
            for (kind, address, remedy) in [
                (io::ErrorKind::PermissionDenied, "0.0.0.0:80", "CAP_NET_BIND_SERVICE"),
                (io::ErrorKind::Unsupported, "[::]:2967", "no IPv6"),
                (io::ErrorKind::AddrNotAvailable, "[2001:db8::1]:1", "[::]"),
                (io::ErrorKind::Other, "0.0.0.0:1", "choose another address"),
            ] {
                let address = address.parse().unwrap();
                let refused = ListenError::Refused { address, purpose, error: kind.into() }.to_string();
                assert!(refused.contains(remedy) && refused.contains(flag), "{refused}");
            }
        }
    }
}
