//! Listens on loopback and gives every connection to its own task. Owns the accept loop of the demo's manager and of
//! its line; dropping a [`Listener`] ends the loop and every connection it accepted.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Connections at once; further ones wait in the kernel's backlog. A relay needs one for each running fill.
const MAX_CONNECTIONS: usize = 1024;

/// Pause after a failed accept: out of descriptors is cured by connections that end, not by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening socket and the connections that came from it.
#[derive(Debug)]
pub(super) struct Listener {
    address: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

impl Listener {
    /// Listens on a free port of 127.0.0.1 and runs `connection` for each stream. Needs a runtime around it.
    pub(super) async fn start<F, C>(connection: F) -> io::Result<Self>
    where
        F: Fn(TcpStream) -> C + Send + 'static,
        C: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, connection)));
        Ok(Self { address, _accepting: accepting })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept<F, C>(listener: TcpListener, connection: F)
where
    F: Fn(TcpStream) -> C,
    C: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() == MAX_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                // Small segments wait for nobody's acknowledgement: the line has its own delay.
                let _ = stream.set_nodelay(true);
                connections.spawn(connection(stream));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}
