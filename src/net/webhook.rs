//! A notification to a web service of the administrator: one request, one connection, one answer. The relay calls it
//! for events of its own, never with bytes of clients.

use std::time::Duration;

use bytes::Bytes;
use gupd_config::Trust;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::upstream::connect_tls_to;

/// Time for the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Failure of a notification.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The URL has no host.
    #[error("its URL has no host")]
    Host,
    /// The connection failed.
    #[error("{0}")]
    Connection(#[from] std::io::Error),
    /// TLS cannot be set up, or the service is not trusted.
    #[error("{0}")]
    Tls(#[from] Box<dyn std::error::Error + Send + Sync>),
    /// The exchange failed.
    #[error("{0}")]
    Exchange(#[from] hyper::Error),
    /// The service answered with a failure.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// No answer came in time.
    #[error("it did not answer within {} s", TIMEOUT.as_secs())]
    Late,
}

/// Sends a JSON text. A service over TLS is verified by `trust`.
///
/// # Errors
/// When the service cannot be reached, or answers with another status than 2xx.
pub async fn post_json(url: &Uri, trust: &Trust, json: String) -> Result<(), WebhookError> {
    let request = Request::post(url)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Bytes::from(json))
        .map_err(|_invalid| WebhookError::Host)?;
    match post(request, trust).await? {
        status if status.is_success() => Ok(()),
        status => Err(WebhookError::Status(status)),
    }
}

/// Sends a request, the target of which is the URL of the service, and returns the status of the answer.
///
/// # Errors
/// When the service cannot be reached or does not answer.
pub async fn post(request: Request<Bytes>, trust: &Trust) -> Result<StatusCode, WebhookError> {
    timeout(TIMEOUT, exchange(request, trust)).await.map_err(|_late| WebhookError::Late)?
}

async fn exchange(request: Request<Bytes>, trust: &Trust) -> Result<StatusCode, WebhookError> {
    let (mut head, body) = request.into_parts();
    let url = std::mem::take(&mut head.uri);
    let host = url.host().ok_or(WebhookError::Host)?.trim_matches(['[', ']']);
    let is_tls = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    // Dropped with this future, also after a time-out.
    let mut connections = JoinSet::new();
    let mut sender = if is_tls {
        let name = ServerName::try_from(host.to_owned()).map_err(|_invalid| WebhookError::Host)?;
        open(connect_tls_to(stream, name, trust).await?, &mut connections).await?
    } else {
        open(stream, &mut connections).await?
    };
    head.uri = Uri::from(url.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    let authority = url.authority().map_or(host, |authority| authority.as_str());
    // Credentials of the URL are not sent in `Host`.
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    let own = [
        (header::HOST, HeaderValue::from_str(authority).map_err(|_invalid| WebhookError::Host)?),
        (header::USER_AGENT, HeaderValue::from_static(concat!("gupd/", env!("CARGO_PKG_VERSION")))),
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    head.headers.extend(own);
    let request = Request::from_parts(head, Full::new(body));
    Ok(sender.send_request(request).await?.status())
}

async fn open<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    connections: &mut JoinSet<()>,
) -> Result<SendRequest<Full<Bytes>>, WebhookError> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // An error of the connection is reported by the request too.
    connections.spawn(async move { drop(connection.await) });
    Ok(sender)
}
