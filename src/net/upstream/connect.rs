//! Connections to one upstream: dialing, limits, the tunnel through a proxy, TLS. The module orders these steps and
//! bounds their time; `dial` is the network, `limited_stream` applies limits, `tls` decides about trust.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use prometheus::IntGaugeVec;
use rustix::net::sockopt::set_tcp_congestion;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::dial::Dialer;
use super::http_1_0::Http10Stream;
use super::limited_stream::{LimitedStream, LineHandle};
use super::proxy::{CredentialsError, HttpProxyClient};
use super::tls::{self, SystemRoots, TrustError};
use crate::pem;
use crate::shape::WanLimiter;
use gupd_config::Trust;

/// Failure to set up connections to an upstream.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Trust settings.
    #[error("upstream {upstream}: {reason}")]
    Trust {
        /// Name of the upstream.
        upstream: Arc<str>,
        /// The cause.
        reason: Box<TrustError>,
    },
    /// Credentials for its proxy.
    #[error("upstream {upstream}: proxy_auth_file: {reason}")]
    Credentials {
        /// Name of the upstream.
        upstream: Arc<str>,
        /// The cause.
        reason: CredentialsError,
    },
    /// The host cannot be a name in a certificate.
    #[error("upstream {upstream}: {host:?} is not a name that TLS can ask for: give its DNS name or address")]
    ServerName {
        /// Name of the upstream.
        upstream: Arc<str>,
        /// The host.
        host: String,
    },
    /// The kernel does not offer the algorithm.
    #[error(
        "wan.congestion: the kernel does not offer {algorithm:?} ({cause}): it has {offered}, and more with modprobe \
         tcp_{algorithm}"
    )]
    Congestion {
        /// The configured algorithm.
        algorithm: String,
        /// The kernel's error.
        cause: io::Error,
        /// The available algorithms.
        offered: String,
    },
}

/// Connects to one upstream.
#[derive(Clone, Debug)]
pub(super) struct Connector(Arc<ConnectSettings>);

/// Settings of connections to one upstream.
#[derive(Debug)]
pub(super) struct ConnectSettings {
    /// Its name.
    pub(super) upstream: Arc<str>,
    pub(super) dialer: Dialer,
    pub(super) wan: Arc<WanLimiter>,
    /// `TCP_CONGESTION`, if configured.
    pub(super) congestion: Option<Arc<str>>,
    pub(super) proxy: Option<Arc<HttpProxyClient>>,
    pub(super) tls: Option<TlsSettings>,
    /// Time-out of each step: connect, tunnel, handshake.
    pub(super) timeout: Duration,
    /// Expiry of certificates, by use and upstream.
    pub(super) certificate_expiry: IntGaugeVec,
}

/// TLS settings of one upstream.
#[derive(Clone)]
pub(super) struct TlsSettings {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// An open connection.
#[derive(Debug)]
pub(super) enum UpstreamConnection {
    Plain(LimitedStream),
    /// To a proxy, which gets absolute targets.
    Proxied(LimitedStream),
    Tls(Box<TlsStream<LimitedStream>>),
}

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Connector {
    pub(super) fn new(settings: ConnectSettings) -> Self {
        Self(Arc::new(settings))
    }

    /// Opens a connection to `uri`.
    pub(super) async fn connect(&self, uri: Uri) -> Result<UpstreamConnection, BoxError> {
        let settings = &*self.0;
        let socket = match &settings.proxy {
            None => settings.dialer.connect(uri.clone()).await?,
            Some(proxy) => settings.dialer.connect(proxy.url().clone()).await.map_err(|error| {
                format!("proxy {} cannot be connected to: {}", proxy.name(), super::root_cause(&*error))
            })?,
        };
        if let Some(algorithm) = &settings.congestion
            && let Err(error) = socket.set_congestion(algorithm)
        {
            // It was available when the configuration was loaded. A slower transfer is better than none.
            tracing::warn!(%error, %algorithm, "cannot set wan.congestion on a connection");
        }
        let stream = LimitedStream::new(socket, settings.wan.clone(), settings.upstream.clone());
        let line = stream.line().clone();
        let (stream, TlsSettings { connector, name }) = match (&settings.proxy, &settings.tls) {
            (None, None) => return Ok(UpstreamConnection::Plain(stream)),
            (Some(_), None) => return Ok(UpstreamConnection::Proxied(stream)),
            (None, Some(tls)) => (stream, tls),
            (Some(proxy), Some(tls)) => {
                let tunnel = within_limit(&line, settings.timeout, proxy.tunnel(stream, &uri)).await;
                (tunnel.ok_or_else(|| format!("proxy {} gives no tunnel in time", proxy.name()))??, tls)
            }
        };
        let handshake = connector.connect(name.clone(), stream);
        let handshaken = within_limit(&line, settings.timeout, handshake).await;
        let tls = handshaken.ok_or(tls::NO_HANDSHAKE)?.map_err(tls::handshake_error)?;
        settings.record_certificate(&tls);
        Ok(UpstreamConnection::Tls(Box::new(tls)))
    }
}

impl ConnectSettings {
    /// Records the expiry of the server's certificate. A pinned one is known from its first connection only.
    fn record_certificate(&self, connection: &TlsStream<LimitedStream>) {
        let certificate = connection.get_ref().1.peer_certificates().and_then(<[_]>::first);
        if let Some(until) = certificate.and_then(|certificate| pem::expiry(certificate)) {
            let labels = ["upstream", &*self.upstream];
            self.certificate_expiry.with_label_values(&labels).set(until / 1_000);
        }
    }
}

impl TlsSettings {
    /// Creates settings for the server at `url`, trusted as `trust` says.
    pub(super) fn new(
        upstream: &Arc<str>,
        url: &Uri,
        trust: &Trust,
        roots: &mut SystemRoots,
    ) -> Result<Self, ConnectError> {
        let config = tls::client_config(trust, roots)
            .map_err(|reason| ConnectError::Trust { upstream: upstream.clone(), reason: reason.into() })?;
        let host = url.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| ConnectError::ServerName { upstream: upstream.clone(), host: bare.to_owned() })?;
        Ok(Self { connector: TlsConnector::from(config), name })
    }
}

impl std::fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Waits for a step for at most `limit`, not counting time in which the relay's limits hold bytes back.
async fn within_limit<T>(line: &LineHandle, limit: Duration, step: impl Future<Output = T>) -> Option<T> {
    let mut step = std::pin::pin!(step);
    loop {
        match tokio::time::timeout(limit, &mut step).await {
            Ok(done) => return Some(done),
            Err(_) if line.was_limited_within(limit) => {}
            Err(_) => return None,
        }
    }
}

/// Returns the algorithm if the kernel accepts it for a socket.
pub(super) fn check_congestion(algorithm: &str) -> Result<Arc<str>, ConnectError> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let taken = socket.and_then(|socket| Ok(set_tcp_congestion(&socket, algorithm)?));
    let available = || std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    taken.map(|()| Arc::from(algorithm)).map_err(|cause| ConnectError::Congestion {
        algorithm: algorithm.to_owned(),
        cause,
        offered: available().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(", "),
    })
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Http10Stream<UpstreamConnection>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let connection = connector.connect(uri).await?;
            let line = connection.line().clone();
            Ok(TokioIo::new(Http10Stream::new(connection, line)))
        })
    }
}

impl UpstreamConnection {
    pub(super) fn line(&self) -> &LineHandle {
        match self {
            Self::Plain(stream) | Self::Proxied(stream) => stream.line(),
            Self::Tls(tls) => tls.get_ref().0.line(),
        }
    }
}

impl Connection for Http10Stream<UpstreamConnection> {
    fn connected(&self) -> Connected {
        self.get_ref().connected()
    }
}

impl Connection for UpstreamConnection {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain(stream) => stream.connected(),
            Self::Proxied(stream) => stream.connected().proxy(true),
            Self::Tls(tls) => tls.get_ref().0.connected(),
        }
    }
}

impl AsyncRead for UpstreamConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) | Self::Proxied(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for UpstreamConnection {
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
