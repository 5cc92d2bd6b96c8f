//! Dialing of upstreams: TCP by the system, or a substitute network. The module sets socket options; hyper-util
//! resolves names and tries all addresses of both families (RFC 8305). It knows no HTTP, TLS or limits.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::dns::{GaiAddrs, GaiResolver, Name};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use rustix::net::sockopt::set_tcp_congestion;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

use super::tcp::{self, TcpMeasurement};

/// TCP keep-alive, to detect a dead line under a silent connection.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Read-ahead on a network that cannot tell whether bytes are available.
const READ_AHEAD: usize = 16 << 10;

/// A substitute for the system's network, such as a simulated one.
pub trait Network: Debug + Send + Sync {
    /// Connects to the host and port of a URL.
    fn connect(&self, to: Uri) -> Connecting;
}

/// A pending connection.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>> + Send>>;

/// A bidirectional byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Duplex for T {}

/// Opens connections.
#[derive(Clone, Debug)]
pub(super) enum Dialer {
    Tcp(HttpConnector<Resolver>),
    Given(Arc<dyn Network>, Duration),
}

/// A connection without limits.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Given(BufReader<Box<dyn Duplex>>),
}

impl Dialer {
    /// Creates a dialer for a substitute network.
    pub(super) fn given(network: Arc<dyn Network>, timeout: Duration) -> Self {
        Self::Given(network, timeout)
    }

    /// Creates a dialer for TCP; `timeout` covers all addresses of a name.
    pub(super) fn tcp(timeout: Duration) -> Self {
        Self::Tcp(configure(HttpConnector::new_with_resolver(Resolver(GaiResolver::new())), timeout))
    }

    pub(super) async fn connect(&self, to: Uri) -> Result<Socket, Box<dyn std::error::Error + Send + Sync>> {
        match self {
            Self::Tcp(tcp) => Ok(Socket::Tcp(tcp.clone().call(to).await?.into_inner())),
            Self::Given(network, timeout) => {
                let connected = tokio::time::timeout(*timeout, network.connect(to)).await;
                Ok(Socket::Given(BufReader::with_capacity(READ_AHEAD, connected??)))
            }
        }
    }
}

/// The system's resolver. Its errors name the host and the remedy.
#[derive(Clone, Debug)]
pub(super) struct Resolver(GaiResolver);

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("host {host} has no address: {reason}: check its spelling, and the name servers of this machine")]
pub(super) struct ResolveError {
    host: String,
    reason: String,
}

impl Service<Name> for Resolver {
    type Response = GaiAddrs;
    type Error = ResolveError;
    type Future = Pin<Box<dyn Future<Output = Result<GaiAddrs, ResolveError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        // Always ready.
        self.0.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let host = name.to_string();
        let addresses = self.0.call(name);
        Box::pin(async move {
            addresses.await.map_err(|error| {
                let text = error.to_string();
                let reason = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
                ResolveError { host, reason: reason.to_owned() }
            })
        })
    }
}

/// Applies the settings of TCP connections, for any resolver.
fn configure<R>(mut tcp: HttpConnector<R>, timeout: Duration) -> HttpConnector<R> {
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(timeout));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp
}

impl Socket {
    /// Sets the congestion control, on TCP.
    pub(super) fn set_congestion(&self, algorithm: &str) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => Ok(set_tcp_congestion(tcp, algorithm)?),
            Self::Given(_) => Ok(()),
        }
    }

    /// Returns the kernel's measurements; `None` if unavailable.
    pub(super) fn measure(&self) -> Option<TcpMeasurement> {
        match self {
            Self::Tcp(tcp) => tcp::measure(tcp).ok(),
            Self::Given(_) => None,
        }
    }

    /// Limits the receive window. If the kernel refuses, more bytes arrive in advance.
    pub(super) fn clamp_window(&self, bytes: u64) {
        if let Self::Tcp(tcp) = self {
            let _refused = tcp::clamp_window(tcp, bytes);
        }
    }

    /// Waits for readable bytes or the end.
    pub(super) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx),
            Self::Given(given) => Pin::new(given).poll_fill_buf(cx).map_ok(|_| ()),
        }
    }
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        match self {
            Self::Tcp(tcp) => tcp.connected(),
            Self::Given(_) => Connected::new(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Given(given) => Pin::new(given).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Given(given) => Pin::new(given).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Given(given) => Pin::new(given).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Given(given) => Pin::new(given).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Ready;
    use std::net::{IpAddr, SocketAddr};

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// Resolves every name to these addresses.
    #[derive(Clone)]
    struct Addresses(Vec<IpAddr>);

    impl Service<Name> for Addresses {
        type Response = std::vec::IntoIter<SocketAddr>;
        type Error = io::Error;
        type Future = Ready<io::Result<Self::Response>>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _name: Name) -> Self::Future {
            let addresses: Vec<_> = self.0.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
            std::future::ready(Ok(addresses.into_iter()))
        }
    }

    async fn connect(addresses: &[&str], port: u16) -> IpAddr {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let mut tcp =
            configure(HttpConnector::new_with_resolver(Addresses(addresses)), Duration::from_secs(60));
        let url = format!("http://manager.example:{port}").parse().unwrap();
        tcp.call(url).await.unwrap().inner().peer_addr().unwrap().ip()
    }

    #[tokio::test]
    async fn refused_address_does_not_block_a_working_one() {
        let living = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = living.local_addr().unwrap().port();
        for addresses in [
            &["127.0.0.2", "127.0.0.1"][..],
            &["::1", "127.0.0.1"],
            &["127.0.0.1", "::1"],
            &["::1", "127.0.0.2", "127.0.0.1"],
        ] {
            assert_eq!(connect(addresses, port).await, IpAddr::from([127, 0, 0, 1]), "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn silent_address_does_not_use_up_the_timeout() {
        let living = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = living.local_addr().unwrap().port();
        // A full backlog answers no SYN. A machine without IPv6 has no silent address.
        let Ok(silent) = TcpSocket::new_v6() else { return };
        let Ok(()) = silent.bind(SocketAddr::new("::1".parse().unwrap(), port)) else { return };
        let silent = silent.listen(1).unwrap();
        let full = silent.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(full)).await
        {
            waiting.push(stream);
        }
        let connected = tokio::time::timeout(Duration::from_secs(20), connect(&["::1", "127.0.0.1"], port));
        assert_eq!(connected.await.expect("the silent one was waited for"), IpAddr::from([127, 0, 0, 1]));
    }
}
