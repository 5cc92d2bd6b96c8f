//! A WAN line between a port on loopback and a manager.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use crate::{Line, Link, LinkSwitch, Listener, or_panic};

/// Receive buffer towards the manager. Small, so that the manager's request ends when the line has carried it.
const RECEIVE_BYTES: u32 = 256 << 10;

/// A running line. Dropping it breaks every connection that uses it.
#[derive(Debug)]
pub struct Wan {
    link: Arc<Link>,
    listener: Listener,
}

impl Wan {
    /// Starts an unlimited line from a free port to `manager`.
    pub fn unlimited(manager: SocketAddr) -> Self {
        or_panic(Self::start(manager, Line::UNLIMITED))
    }

    /// Starts a line from a free port to `manager`.
    pub fn start(manager: SocketAddr, line: Line) -> io::Result<Self> {
        Self::start_at(Listener::ANY_PORT, manager, line)
    }

    /// Starts a line from `near` to `manager`.
    pub fn start_at(near: SocketAddr, manager: SocketAddr, line: Line) -> io::Result<Self> {
        let switch = LinkSwitch::default();
        let link = Arc::new(Link::new(line, switch.clone()));
        let carrying = link.clone();
        let listener = Listener::start_at(near, switch, move |stream| {
            let link = carrying.clone();
            async move { forward(stream, manager, &link).await }
        })?;
        Ok(Self { link, listener })
    }

    /// The near end: connect here to reach the manager.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }
}

impl Deref for Wan {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

async fn forward(near: TcpStream, manager: SocketAddr, link: &Link) -> io::Result<()> {
    // A TCP handshake over the line takes a round trip; the one on loopback took no time.
    sleep(link.line().one_way * 2).await;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    let far = socket.connect(manager).await?;
    far.set_nodelay(true)?;
    link.carry(near, far, u64::MAX).await
}
