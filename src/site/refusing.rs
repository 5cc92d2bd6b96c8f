//! A machine that is down: its port refuses connections, and no other test is given it meanwhile.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::or_panic;

/// A bound port of loopback without a listener.
#[derive(Debug)]
pub struct RefusingPort {
    socket: TcpSocket,
    address: SocketAddr,
}

impl RefusingPort {
    /// Takes a free port.
    #[expect(clippy::new_without_default, reason = "no port is the same as another")]
    pub fn new() -> Self {
        let socket = or_panic(TcpSocket::new_v4());
        or_panic(socket.bind((Ipv4Addr::LOCALHOST, 0).into()));
        Self { address: or_panic(socket.local_addr()), socket }
    }

    /// The address that refuses.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Listens on the port: the machine is up again.
    pub fn listen(self) -> TcpListener {
        or_panic(self.socket.listen(1024))
    }
}
