//! The HTTP client of a bucket: connections of hyper, TLS of the relay. The object store's own client would bring a second
//! one of each into the program.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use http::Uri;
use http_body_util::BodyExt;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector as TcpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use crate::problem::{TierError, TierProblem};
use gupd_config::Trust;
use gupd_net::upstream::{Duplex, load_tls};

/// Maximum of idle connections.
const MAX_IDLE: usize = 8;

/// Idle time-out of a connection, below that of common storages.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

type TransportFailure = Box<dyn std::error::Error + Send + Sync>;

/// Sends requests to a bucket.
#[derive(Clone, Debug)]
pub(crate) struct BucketClient(legacy::Client<Connect, HttpRequestBody>);

/// Opens connections.
#[derive(Clone)]
struct Connect {
    tcp: TcpConnector,
    /// `None` if the endpoint is plain.
    tls: Option<TlsConnector>,
    timeout: Duration,
}

/// An open connection.
struct BucketConnection(Box<dyn Duplex>);

impl BucketClient {
    /// Creates a client. Reads the certificates that `trust` names.
    pub(crate) fn new(trust: &Trust, is_tls: bool, timeout: Duration) -> Result<Self, TierError> {
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeout));
        let unusable = |error: &dyn std::error::Error| TierError::new(TierProblem::Denied, error.to_string());
        let tls = is_tls.then(|| load_tls(trust)).transpose().map_err(|error| unusable(&error))?;
        let connect = Connect { tcp, tls: tls.map(TlsConnector::from), timeout };
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(connect);
        Ok(Self(client))
    }
}

impl HttpConnector for BucketClient {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for BucketClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let kind = |error: &legacy::Error| match error.is_connect() {
            true => HttpErrorKind::Connect,
            false => HttpErrorKind::Request,
        };
        let response = self.0.request(request).await.map_err(|error| HttpError::new(kind(&error), error))?;
        let broken = |error| HttpError::new(HttpErrorKind::Interrupted, error);
        Ok(response.map(|body| HttpResponseBody::new(body.map_err(broken))))
    }
}

impl Service<Uri> for Connect {
    type Response = TokioIo<BucketConnection>;
    type Error = TransportFailure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, TransportFailure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportFailure>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let (connecting, tls, timeout) = (self.tcp.call(uri), self.tls.clone(), self.timeout);
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            let Some(tls) = tls else { return Ok(TokioIo::new(BucketConnection(Box::new(stream)))) };
            let handshake = tls.connect(ServerName::try_from(host)?, stream);
            let late = |_late| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time");
            let stream = tokio::time::timeout(timeout, handshake).await.map_err(late)??;
            Ok(TokioIo::new(BucketConnection(Box::new(stream))))
        })
    }
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect").field("is_tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Connection for BucketConnection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for BucketConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for BucketConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
