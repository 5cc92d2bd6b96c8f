//! One connection, from its first byte to its last: TLS if configured, then HTTP/1.1 by hyper within the bounds of the
//! configuration. A connection that breaks a bound is answered, counted and closed; no other connection notices.

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

use super::stall::Stalling;
use super::tls;
use super::worker::LifecycleStage;
use crate::metrics::GaugeGuard;
use crate::metrics::NetMetrics;
use crate::pem::PemError;
use gupd_config as config;

/// Fields a request's head may have: three times what browsers send.
const MAX_FIELDS: usize = 128;

/// What a client whose request head does not arrive in time is told (RFC 9110 §15.5.9).
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// How long a client may go on sending what nobody reads any more: time for a refusal to cross a slow line and be read.
const LINGER: Duration = Duration::from_secs(5);

/// Bytes thrown away at once meanwhile.
const LINGER_BUFFER: usize = 16 << 10;

/// Reason why a connection is refused; reasons for requests are in [`Refusal`](crate::forward::Refusal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionRefusal {
    /// The handshake failed, or was not done in time.
    Tls,
    /// The head was not whole in time.
    SlowHead,
    /// The head is longer than `server.max_header_bytes`, or has too many fields.
    HeadTooLarge,
    /// What came is not HTTP.
    Malformed,
    /// `server.max_connections` are open.
    TooManyOpen,
    /// Its client has made `lan.client_connections` within a second.
    TooManyNew,
}

impl ConnectionRefusal {
    const ALL: [Self; 6] =
        [Self::Tls, Self::SlowHead, Self::HeadTooLarge, Self::Malformed, Self::TooManyOpen, Self::TooManyNew];

    /// The one spelling used in logs and metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::SlowHead => "slow-head",
            Self::HeadTooLarge => "head-too-large",
            Self::Malformed => "malformed",
            Self::TooManyOpen => "too-many-connections",
            Self::TooManyNew => "too-many-new-connections",
        }
    }
}

/// What a stream's bytes travel on.
trait OverTcp {
    fn tcp(&self) -> &TcpStream;
}

impl OverTcp for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl OverTcp for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A client's end of a connection.
#[derive(Clone, Debug)]
pub struct ClientConnection {
    /// The client.
    pub address: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// The names of its certificate, in lower case; `None` if it has shown none.
    names: Option<Arc<[Box<str>]>>,
}

impl ClientConnection {
    /// The names of the certificate that it has shown.
    pub fn certificate_names(&self) -> &[Box<str>] {
        self.names.as_deref().unwrap_or_default()
    }
}

/// Whoever answers what is asked on connections.
pub trait RequestHandler: Send + Sync + 'static {
    /// The body of its responses.
    type Body: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    /// Answers one request. What goes wrong becomes a status, or a broken body.
    fn handle_request(
        &self,
        request: Request<Incoming>,
        peer: ClientConnection,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Serves connections, all alike.
pub struct HttpServer<A> {
    answers: Arc<A>,
    metrics: Arc<NetMetrics>,
    tls: ArcSwapOption<TlsAcceptor>,
    http: http1::Builder,
    header_timeout: Duration,
    stall_timeout: Duration,
    /// Every response is its connection's last.
    leaving: AtomicBool,
}

impl<A: RequestHandler> HttpServer<A> {
    /// Connections to `answers` within the bounds of `server`, all of them over TLS if there is an acceptor.
    pub fn new(
        answers: Arc<A>,
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
            answers,
            metrics,
            tls: ArcSwapOption::new(tls.map(Arc::new)),
            http,
            header_timeout: server.header_timeout,
            stall_timeout: server.stall_timeout,
            leaving: AtomicBool::new(false),
        }
    }

    /// Ends each connection behind the response to its next request. One that is closed while that is on its way leaves
    /// its client without an answer; this way only one that says nothing for a while is closed idle.
    pub fn close_after_response(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Reads the certificate and its key again, for connections to come. A relay that began without TLS stays so.
    ///
    /// # Errors
    /// When they cannot be used; the old ones stay.
    pub fn reload_certificate(&self, server: &config::ServerSettings) -> Result<(), PemError> {
        let renewed = tls::load_acceptor(server)?.map(Arc::new);
        if renewed.is_some() && self.tls.load().is_some() {
            self.tls.store(renewed);
        }
        Ok(())
    }

    /// Has each connection end with its first response.
    #[must_use]
    pub fn without_keep_alive(mut self) -> Self {
        self.http.keep_alive(false);
        self
    }

    /// Serves one connection to its end. `place` is given back then.
    pub async fn serve<P: Send>(
        self: Arc<Self>,
        stream: TcpStream,
        client: SocketAddr,
        _place: P,
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
        let mut peer = ClientConnection { address: client, local, names: None };
        // Heads and small bodies leave at once; large bodies fill segments anyway.
        let _unsupported = stream.set_nodelay(true);
        let tls = self.tls.load_full();
        let Some(tls) = tls else { return self.serve_http(stream, peer, stage).await };
        match timeout(self.header_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                peer.names = tls::names(stream.get_ref().1);
                self.serve_http(stream, peer, stage).await;
            }
            Ok(Err(error)) => self.refuse(ConnectionRefusal::Tls, client, &error),
            Err(late) => self.refuse(ConnectionRefusal::Tls, client, &late),
        }
    }

    async fn serve_http<S>(
        &self,
        stream: S,
        peer: ClientConnection,
        mut stage: watch::Receiver<LifecycleStage>,
    ) where
        S: AsyncRead + AsyncWrite + OverTcp + Unpin + Send + 'static,
    {
        let unanswered = Arc::new(AtomicBool::new(false));
        let ends_by_close = AtomicBool::new(false);
        let answers = &self.answers;
        let client = &peer;
        let service = service_fn(|request: Request<Incoming>| {
            ends_by_close.store(request.version() < Version::HTTP_11, Ordering::Relaxed);
            // Counts up once for a client with a certificate, and copies two addresses for others.
            let client = client.clone();
            async move {
                let mut response = answers.handle_request(request, client).await;
                if self.leaving.load(Ordering::Relaxed) {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<Response<A::Body>, std::convert::Infallible>(response)
            }
        });
        let stream = Stalling::new(stream, self.stall_timeout, unanswered.clone());
        let mut connection = self.http.serve_connection(TokioIo::new(stream), service);
        let ended = tokio::select! {
            biased;
            ended = &mut connection => ended,
            () = LifecycleStage::Draining.wait_until_reached(&mut stage) => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                (&mut connection).await
            }
        };
        let Err(error) = ended else { return linger(connection.into_parts().io.into_inner(), stage).await };
        if error.is_timeout() {
            // A kept connection that sent nothing since its last response is idle, not slow.
            if unanswered.load(Ordering::Relaxed) {
                self.refuse(ConnectionRefusal::SlowHead, peer.address, &error);
                let mut stream = connection.into_parts().io.into_inner();
                // It may be gone; it has been told what there is to tell.
                let _unsent = timeout(self.header_timeout, stream.write_all(TOO_SLOW)).await;
                linger(stream, stage).await;
            }
        } else if error.is_parse() {
            let reason = match error.is_parse_too_large() {
                true => ConnectionRefusal::HeadTooLarge,
                false => ConnectionRefusal::Malformed,
            };
            self.refuse(reason, peer.address, &error);
            linger(connection.into_parts().io.into_inner(), stage).await;
        } else {
            if error.is_user() && ends_by_close.load(Ordering::Relaxed) {
                // The body broke off, and to a client of HTTP/1.0 a closed connection could be its end.
                let _closed = connection.into_parts().io.inner().get_ref().tcp().set_zero_linger();
            }
            tracing::debug!(client = %peer.address, %error, "a connection broke off");
        }
    }

    fn refuse(&self, reason: ConnectionRefusal, client: SocketAddr, error: &dyn std::fmt::Display) {
        let reason = reason.as_str();
        self.metrics.refused.with_label_values(&[reason]).inc();
        tracing::info!(client = %client.ip().to_canonical(), reason, %error, "refused");
    }
}

impl<A> std::fmt::Debug for HttpServer<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("http", &self.http).finish_non_exhaustive()
    }
}

/// Ends a connection so that the last response arrives (RFC 9112 §9.6): a socket closed over unread bytes is reset, and
/// the reset may overtake a refusal that a client, still sending, has not read yet.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(
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
        // However it ends, the connection is over.
        _ended = timeout(LINGER, unread) => {}
        () = LifecycleStage::Draining.wait_until_reached(&mut stage) => {}
    }
}
