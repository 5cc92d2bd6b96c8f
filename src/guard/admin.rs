//! The admin address while no worker serves: alive, not ready with the reason, and the guard's own metrics. It is
//! read-only.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::metrics::GuardMetrics;
use gupd_config::PublicName;

/// Timeout of a whole exchange; a scrape takes milliseconds.
const EXCHANGE: Duration = Duration::from_secs(10);

/// Maximum bytes of a request head: the smallest that hyper allows.
const MAX_HEAD: usize = 8 << 10;

/// Service of the admin address.
#[derive(Debug)]
pub(super) struct AdminPage {
    registry: Registry,
    /// Names under which requests may reach the admin address.
    public_names: Vec<PublicName>,
    pub(super) metrics: GuardMetrics,
}

impl AdminPage {
    pub(super) fn new(public_names: Vec<PublicName>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        Ok(Self { metrics: GuardMetrics::register(&registry)?, registry, public_names })
    }

    /// Answers one request and closes the connection. `status` says why no worker serves.
    pub(super) async fn serve(
        self: Arc<Self>,
        (stream, tls): (TcpStream, Option<TlsAcceptor>),
        status: String,
    ) {
        // A failed exchange concerns its client alone.
        let _ended = timeout(EXCHANGE, async {
            match tls {
                None => self.exchange(stream, &status).await,
                Some(tls) => self.exchange(tls.accept(stream).await?, &status).await,
            }
        })
        .await;
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, status: &str) -> io::Result<()> {
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            let host = request.headers().get(header::HOST).map_or(Ok(""), |host| host.to_str());
            let is_own = host.is_ok_and(|host| PublicName::is_admin_host(&self.public_names, host));
            let response = self.answer(if is_own { request.uri().path() } else { "" }, status);
            async move { Ok::<_, Infallible>(response) }
        });
        let exchange = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        exchange.await.map_err(io::Error::other)
    }

    fn answer(&self, path: &str, status_text: &str) -> Response<Full<Bytes>> {
        let (code, text) = match path {
            "/healthz" => (StatusCode::OK, "alive\n".to_owned()),
            "/metrics" => match TextEncoder::new().encode_to_string(&self.registry.gather()) {
                Ok(text) => (StatusCode::OK, text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ => (StatusCode::SERVICE_UNAVAILABLE, format!("{status_text}\n")),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = code;
        let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    }
}
