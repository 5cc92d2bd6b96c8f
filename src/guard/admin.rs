//! The admin address while no worker serves: alive, not ready and why, and the guard's own figures. Nothing can be changed
//! here.

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

/// Time for a whole exchange: a scrape takes milliseconds.
const EXCHANGE: Duration = Duration::from_secs(10);

/// Bytes of a request's head, at most: hyper's least.
const MAX_HEAD: usize = 8 << 10;

/// Its metrics, and how to show them.
#[derive(Debug)]
pub(super) struct Page {
    registry: Registry,
    pub(super) metrics: GuardMetrics,
}

impl Page {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        Ok(Self { metrics: GuardMetrics::new(&registry)?, registry })
    }

    /// Answers one request, and closes. `why` says why no worker serves.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, why: String) {
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            let response = self.answer(request.uri().path(), &why);
            async move { Ok::<_, Infallible>(response) }
        });
        let exchange = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        // Whoever asks again is told again.
        let _ended = timeout(EXCHANGE, exchange).await;
    }

    fn answer(&self, path: &str, why: &str) -> Response<Full<Bytes>> {
        let (status, text) = match path {
            "/healthz" => (StatusCode::OK, "alive\n".to_owned()),
            "/metrics" => match TextEncoder::new().encode_to_string(&self.registry.gather()) {
                Ok(text) => (StatusCode::OK, text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    }
}
