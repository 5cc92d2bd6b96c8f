//! The admin address while no worker serves: alive, not ready with the reason, and the guard's own metrics. It is
//! read-only.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::metrics::GuardMetrics;

/// Timeout of a whole exchange; a scrape takes milliseconds.
const EXCHANGE: Duration = Duration::from_secs(10);

/// Maximum bytes of a request head: the smallest that hyper allows.
const MAX_HEAD: usize = 8 << 10;

/// Service of the admin address.
#[derive(Debug)]
pub(super) struct AdminPage {
    registry: Registry,
    pub(super) metrics: GuardMetrics,
}

impl AdminPage {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        Ok(Self { metrics: GuardMetrics::register(&registry)?, registry })
    }

    /// Answers one request and closes the connection. `status` says why no worker serves.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, status: String) {
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            let response = self.answer(request.uri().path(), &status);
            async move { Ok::<_, Infallible>(response) }
        });
        let exchange = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        // A failed exchange concerns its client alone.
        let _ended = timeout(EXCHANGE, exchange).await;
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
