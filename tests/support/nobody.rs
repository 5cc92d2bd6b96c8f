//! An upstream that is down: an address that refuses connections, and that nobody else is given meanwhile. A port that
//! was free a moment ago is soon another test's.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// A port that is taken, on which nobody listens.
pub struct Nobody(TcpSocket);

impl Nobody {
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// From now on somebody does.
    pub fn listen(self) -> TcpListener {
        self.0.listen(1024).unwrap()
    }
}
