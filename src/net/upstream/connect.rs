//! A connection to an upstream: dialled, on its line, through its proxy, with TLS if the upstream speaks it. Owns the
//! order of these steps and their time; relies on `dial` for the network, on `line` for the limits, on `tls` for whom to
//! trust. Knows nothing of what is asked.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::set_tcp_congestion;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::dial::Dialer;
use super::limited_stream::{Line, Stream};
use super::proxy::{CredentialsError, Proxy};
use super::tls::{self, Roots, TrustError};
use crate::shape::WanLimiter;
use gupd_config::Trust;

/// Connections to upstreams cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Whom to trust.
    #[error("upstream {upstream}: {reason}")]
    Trust {
        /// Its name.
        upstream: Arc<str>,
        /// What is wrong.
        reason: Box<TrustError>,
    },
    /// The credentials for its proxy.
    #[error("upstream {upstream}: proxy_auth_file: {reason}")]
    Credentials {
        /// Its name.
        upstream: Arc<str>,
        /// What is wrong.
        reason: CredentialsError,
    },
    /// The host of an upstream cannot be that of a certificate.
    #[error("upstream {upstream}: {host:?} is not a name that TLS can ask for; give its DNS name or address")]
    ServerName {
        /// Its name.
        upstream: Arc<str>,
        /// Its host.
        host: String,
    },
    /// The kernel does not offer this algorithm.
    #[error(
        "wan.congestion: the kernel does not offer {algorithm:?} ({cause}); it has {offered}, and more with modprobe \
         tcp_{algorithm}"
    )]
    Congestion {
        /// What was asked for.
        algorithm: String,
        /// What the kernel says.
        cause: io::Error,
        /// What it has.
        offered: String,
    },
}

/// Connects to one upstream.
#[derive(Clone, Debug)]
pub(super) struct Connector(Arc<Way>);

/// How one upstream is connected to.
#[derive(Debug)]
pub(super) struct Way {
    /// Its name.
    pub(super) upstream: Arc<str>,
    pub(super) dialer: Dialer,
    pub(super) wan: Arc<WanLimiter>,
    /// `TCP_CONGESTION`, if it is not the system's.
    pub(super) congestion: Option<Arc<str>>,
    pub(super) proxy: Option<Arc<Proxy>>,
    pub(super) tls: Option<Tls>,
    /// For each step: connecting, the proxy's tunnel, the handshake.
    pub(super) timeout: Duration,
}

/// TLS toward one upstream.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// The connection.
#[derive(Debug)]
pub(super) enum Wire {
    Plain(Stream),
    /// To a proxy, which is told in each request where it goes.
    Proxied(Stream),
    Tls(Box<TlsStream<Stream>>),
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Connector {
    pub(super) fn new(way: Way) -> Self {
        Self(Arc::new(way))
    }

    /// A new connection to `uri`.
    pub(super) async fn connect(&self, uri: Uri) -> Result<Wire, Failed> {
        let way = &*self.0;
        let socket = match &way.proxy {
            None => way.dialer.connect(uri.clone()).await?,
            Some(proxy) => way.dialer.connect(proxy.url().clone()).await.map_err(|error| {
                format!("proxy {} cannot be connected to: {}", proxy.name(), super::root_cause(&*error))
            })?,
        };
        if let Some(algorithm) = &way.congestion
            && let Err(error) = socket.set_congestion(algorithm)
        {
            // It was there when the configuration was taken; a slower upload is better than none.
            tracing::warn!(%error, %algorithm, "the kernel does not take wan.congestion any more");
        }
        let stream = Stream::new(socket, way.wan.clone(), way.upstream.clone());
        let line = stream.line().clone();
        let (stream, Tls { connector, name }) = match (&way.proxy, &way.tls) {
            (None, None) => return Ok(Wire::Plain(stream)),
            (Some(_), None) => return Ok(Wire::Proxied(stream)),
            (None, Some(tls)) => (stream, tls),
            (Some(proxy), Some(tls)) => {
                let tunnel = in_time(&line, way.timeout, proxy.tunnel(stream, &uri)).await;
                (tunnel.ok_or_else(|| format!("proxy {} gives no tunnel in time", proxy.name()))??, tls)
            }
        };
        let handshake = connector.connect(name.clone(), stream);
        let handshaken = in_time(&line, way.timeout, handshake).await;
        let tls = handshaken.ok_or("no TLS handshake in time")?.map_err(tls::failed)?;
        Ok(Wire::Tls(Box::new(tls)))
    }
}

impl Tls {
    /// To the server at `url`, known as `trust` says.
    pub(super) fn new(
        upstream: &Arc<str>,
        url: &Uri,
        trust: &Trust,
        roots: &mut Roots,
    ) -> Result<Self, ConnectError> {
        let config = tls::toward(trust, roots)
            .map_err(|reason| ConnectError::Trust { upstream: upstream.clone(), reason: reason.into() })?;
        let host = url.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| ConnectError::ServerName { upstream: upstream.clone(), host: bare.to_owned() })?;
        Ok(Self { connector: TlsConnector::from(config), name })
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Waits for a step, but not for longer than `limit` in which the relay's own limits let bytes pass.
async fn in_time<T>(line: &Line, limit: Duration, step: impl Future<Output = T>) -> Option<T> {
    let mut step = std::pin::pin!(step);
    loop {
        match tokio::time::timeout(limit, &mut step).await {
            Ok(done) => return Some(done),
            Err(_) if line.waited_within(limit) => {}
            Err(_) => return None,
        }
    }
}

/// The algorithm, if the kernel takes it for a socket.
pub(super) fn offered(algorithm: &str) -> Result<Arc<str>, ConnectError> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let taken = socket.and_then(|socket| Ok(set_tcp_congestion(&socket, algorithm)?));
    let offered = || std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    taken.map(|()| Arc::from(algorithm)).map_err(|cause| ConnectError::Congestion {
        algorithm: algorithm.to_owned(),
        cause,
        offered: offered().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(", "),
    })
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failed>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(uri).await.map(TokioIo::new) })
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain(stream) => stream.connected(),
            Self::Proxied(stream) => stream.connected().proxy(true),
            Self::Tls(tls) => tls.get_ref().0.connected(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Proxied(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Proxied(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Proxied(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Proxied(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
