//! One client connection: TLS if configured, then HTTP/1.1 by hyper within the configured bounds. A connection that
//! exceeds a bound is answered, counted and closed without an effect on others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{HeaderValue, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::lifecycle::LifecycleStage;
use super::refusal::ConnectionRefusal;
use super::stall::StallTimeout;
use super::tls;
use crate::metrics::GaugeGuard;
use crate::metrics::NetMetrics;
use crate::pem::PemError;
use gupd_config as config;

/// Maximum of fields in a request head: three times as many as browsers send.
const MAX_FIELDS: usize = 128;

/// Time for a client to read a refusal while it still sends: enough to cross a slow line.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);

/// Size of the buffer for discarded bytes.
const LINGER_BUFFER: usize = 16 << 10;

/// A stream over TCP.
trait TcpBased {
    fn tcp(&self) -> &TcpStream;
}

impl TcpBased for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl TcpBased for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A client connection, as a request handler sees it.
#[derive(Clone, Debug)]
pub struct ClientConnection {
    /// Address of the client.
    pub address: SocketAddr,
    /// Address that the client connected to.
    pub local: SocketAddr,
    /// True over TLS.
    pub is_encrypted: bool,
    /// Names of the client certificate in lower case; `None` without a certificate.
    names: Option<Arc<[Box<str>]>>,
}

impl ClientConnection {
    /// Returns the names of the client certificate.
    pub fn certificate_names(&self) -> &[Box<str>] {
        self.names.as_deref().unwrap_or_default()
    }
}

/// Handler of the requests on connections.
pub trait RequestHandler: Send + Sync + 'static {
    /// Body of the responses.
    type Body: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    /// Answers one request. A failure becomes a status, or a broken body.
    fn handle_request(
        &self,
        request: Request<Incoming>,
        client: ClientConnection,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// HTTP/1.1 server for client connections.
pub struct HttpServer<A> {
    handler: Arc<A>,
    metrics: Arc<NetMetrics>,
    tls: ArcSwapOption<TlsAcceptor>,
    http: http1::Builder,
    header_timeout: Duration,
    stall_timeout: Duration,
    /// True once every response closes its connection.
    is_closing: AtomicBool,
}

impl<A: RequestHandler> HttpServer<A> {
    /// Creates a server that passes requests to `handler`, within the bounds of `server`, over TLS if there is an
    /// acceptor.
    pub fn new(
        handler: Arc<A>,
        metrics: Arc<NetMetrics>,
        server: &config::ServerSettings,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        for reason in ConnectionRefusal::ALL {
            metrics.refused.with_label_values(&[reason.as_str()]);
        }
        let mut http = http1::Builder::new();
        // `pipeline_flush` stays off: with it, hyper copies every body behind its head.
        http.timer(TokioTimer::new())
            .header_read_timeout(server.header_timeout)
            .max_buf_size(server.max_header_bytes)
            .max_headers(MAX_FIELDS);
        Self {
            handler,
            metrics,
            tls: ArcSwapOption::new(tls.map(Arc::new)),
            http,
            header_timeout: server.header_timeout,
            stall_timeout: server.stall_timeout,
            is_closing: AtomicBool::new(false),
        }
    }

    /// Closes each connection after its next response.
    ///
    /// A connection closed while a request is in transit leaves the client without an answer. This way only silent
    /// connections are closed while idle.
    pub fn close_after_response(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    /// Reloads the certificate and its key for new connections. A relay that started without TLS stays without.
    ///
    /// # Errors
    /// If they cannot be used; the old ones stay.
    pub fn reload_certificate(&self, server: &config::ServerSettings) -> Result<(), PemError> {
        let renewed = tls::load_acceptor(server)?.map(Arc::new);
        if renewed.is_some() && self.tls.load().is_some() {
            self.tls.store(renewed);
        }
        Ok(())
    }

    /// Closes each connection after its first response.
    #[must_use]
    pub fn without_keep_alive(mut self) -> Self {
        self.http.keep_alive(false);
        self
    }

    /// Serves one connection to its end, then drops `slot`.
    pub async fn serve<P: Send>(
        self: Arc<Self>,
        stream: TcpStream,
        client: SocketAddr,
        _slot: P,
        stage: watch::Receiver<LifecycleStage>,
    ) {
        let _open = GaugeGuard::increment(&self.metrics.connections);
        self.serve_stream(stream, client, stage).await;
    }

    async fn serve_stream(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        stage: watch::Receiver<LifecycleStage>,
    ) {
        let Ok(local) = stream.local_addr() else { return };
        let mut connection = ClientConnection { address: client, local, is_encrypted: false, names: None };
        // Send heads and small bodies at once; large bodies fill segments anyway.
        let _unsupported = stream.set_nodelay(true);
        let tls = self.tls.load_full();
        let Some(tls) = tls else { return self.serve_http(stream, connection, stage).await };
        match timeout(self.header_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                connection.is_encrypted = true;
                connection.names = tls::client_names(stream.get_ref().1);
                self.serve_http(stream, connection, stage).await;
            }
            Ok(Err(error)) => self.refuse(ConnectionRefusal::Tls, client, &error),
            Err(late) => self.refuse(ConnectionRefusal::Tls, client, &late),
        }
    }

    async fn serve_http<S>(
        &self,
        stream: S,
        client: ClientConnection,
        mut stage: watch::Receiver<LifecycleStage>,
    ) where
        S: AsyncRead + AsyncWrite + TcpBased + Unpin + Send + 'static,
    {
        let unanswered = Arc::new(AtomicBool::new(false));
        let is_http_1_0 = AtomicBool::new(false);
        let (handler, client) = (&self.handler, &client);
        let service = service_fn(|request: Request<Incoming>| {
            is_http_1_0.store(request.version() < Version::HTTP_11, Ordering::Relaxed);
            // One reference count for a client with a certificate, and two copied addresses for others.
            let client = client.clone();
            async move {
                let mut response = handler.handle_request(request, client).await;
                if self.is_closing.load(Ordering::Relaxed) {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<Response<A::Body>, std::convert::Infallible>(response)
            }
        });
        let stream = StallTimeout::new(stream, self.stall_timeout, unanswered.clone());
        let mut connection = self.http.serve_connection(TokioIo::new(stream), service);
        let result = tokio::select! {
            biased;
            result = &mut connection => result,
            () = LifecycleStage::Draining.wait_until_reached(&mut stage) => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                (&mut connection).await
            }
        };
        let Err(error) = result else {
            return close_gracefully(connection.into_parts().io.into_inner(), stage).await;
        };
        if error.is_timeout() {
            // A kept connection that sent nothing since its last response is idle, not slow.
            if unanswered.load(Ordering::Relaxed) {
                self.refuse(ConnectionRefusal::SlowHead, client.address, &error);
                let mut stream = connection.into_parts().io.into_inner();
                let sent = stream.write_all(ConnectionRefusal::SlowHead.response());
                // The client may be gone.
                drop(timeout(self.header_timeout, sent).await);
                close_gracefully(stream, stage).await;
            }
        } else if error.is_parse() {
            let reason = match error.is_parse_too_large() {
                true => ConnectionRefusal::HeadTooLarge,
                false => ConnectionRefusal::Malformed,
            };
            self.refuse(reason, client.address, &error);
            close_gracefully(connection.into_parts().io.into_inner(), stage).await;
        } else {
            if error.is_user() && is_http_1_0.load(Ordering::Relaxed) {
                // The body broke off. To a client of HTTP/1.0 a closed connection could mean its end, so reset it.
                let _closed = connection.into_parts().io.inner().get_ref().tcp().set_zero_linger();
            }
            tracing::debug!(client = %client.address, %error, "connection broke off");
        }
    }

    fn refuse(&self, reason: ConnectionRefusal, client: SocketAddr, error: &dyn std::fmt::Display) {
        let reason = reason.as_str();
        self.metrics.refused.with_label_values(&[reason]).inc();
        tracing::info!(client = %client.ip().to_canonical(), reason, %error, "connection refused");
    }
}

impl<A> std::fmt::Debug for HttpServer<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpServer").field("http", &self.http).finish_non_exhaustive()
    }
}

/// Closes a connection so that the last response arrives (RFC 9112 §9.6).
///
/// A socket closed over unread bytes is reset, and the reset can overtake a refusal that the client, still sending,
/// has not read yet.
pub(super) async fn close_gracefully<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    mut stage: watch::Receiver<LifecycleStage>,
) {
    let unread = async {
        stream.shutdown().await?;
        let mut unread = vec![0; LINGER_BUFFER];
        while stream.read(&mut unread).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    tokio::select! {
        // However it ends, the connection is closed.
        _ended = timeout(LINGER_TIMEOUT, unread) => {}
        () = LifecycleStage::Draining.wait_until_reached(&mut stage) => {}
    }
}
