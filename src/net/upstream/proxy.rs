//! An HTTP proxy between the relay and an upstream: its address, the relay's credentials, and the tunnel through it
//! (RFC 9110 §9.3.6). hyper runs the exchange. Credentials never appear in logs or errors.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::limited_stream::LimitedStream;
use gupd_config::HttpProxy;

/// Maximum size of a proxy's response head: hyper's minimum, and many times the usual size.
const MAX_HEAD: usize = 8 << 10;

/// Maximum of fields in a proxy's response head.
const MAX_FIELDS: usize = 64;

/// Maximum size of a credentials file, so that a wrong path is a clear error.
const MAX_FILE: u64 = 64 << 10;

/// A proxy.
#[derive(Debug)]
pub(super) struct HttpProxyClient {
    url: Uri,
    authorization: Option<HeaderValue>,
}

/// Unusable credentials for a proxy.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        reason: std::io::Error,
    },
    /// The content is not credentials.
    #[error("{}: its first line is not user:password", path.display())]
    NotCredentials {
        /// The file.
        path: PathBuf,
    },
}

/// Failure to open a tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelError {
    #[error("proxy {proxy} asks for other credentials than it was given (407): correct proxy_auth_file")]
    Credentials { proxy: String },
    #[error("proxy {proxy} answers {status} to CONNECT{}", refusal_remedy(*status))]
    Refused { proxy: String, status: StatusCode },
    #[error("proxy {proxy} gives no usable answer to CONNECT: {reason}: check the port of the proxy")]
    NotHttp { proxy: String, reason: hyper::Error },
    #[error("proxy {proxy} closed the connection without an answer to CONNECT: check the port of the proxy")]
    Closed { proxy: String },
    #[error("proxy {proxy} sends bytes of its own into the tunnel")]
    Early { proxy: String },
}

impl HttpProxyClient {
    /// Reads the credentials file, if configured.
    pub(super) fn new(config: &HttpProxy) -> Result<Self, CredentialsError> {
        let authorization = config.auth_file.as_deref().map(authorization).transpose()?;
        Ok(Self { url: config.url.clone(), authorization })
    }

    pub(super) fn url(&self) -> &Uri {
        &self.url
    }

    /// Returns host and port, for errors.
    pub(super) fn name(&self) -> String {
        self.url.authority().map_or_else(String::new, ToString::to_string)
    }

    /// Returns the value of `HttpProxyClient-Authorization`.
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Returns the error for a proxy that requires other credentials.
    pub(super) fn credentials_error(&self) -> Arc<str> {
        Arc::from(TunnelError::Credentials { proxy: self.name() }.to_string())
    }

    /// Opens a tunnel over `stream` to the host and port of `to`.
    pub(super) async fn tunnel(&self, stream: LimitedStream, to: &Uri) -> Result<LimitedStream, TunnelError> {
        let proxy = || self.name();
        let not_http = |reason| TunnelError::NotHttp { proxy: proxy(), reason };
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD).max_headers(MAX_FIELDS);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(not_http)?;
        let mut connection = std::pin::pin!(connection.without_shutdown());
        let mut response_future = std::pin::pin!(sender.send_request(self.connect(to)));
        let (answer, ended) = tokio::select! {
            biased;
            answer = &mut response_future => (answer, None),
            // The response is ready by then, or there is none.
            ended = &mut connection => (response_future.await, Some(ended)),
        };
        let answer = answer.map_err(|error| match error.is_incomplete_message() || error.is_canceled() {
            true => TunnelError::Closed { proxy: proxy() },
            false => not_http(error),
        })?;
        match answer.status() {
            status if status.is_success() => {}
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                return Err(TunnelError::Credentials { proxy: proxy() });
            }
            status => return Err(TunnelError::Refused { proxy: proxy(), status }),
        }
        let ended = match ended {
            Some(ended) => ended,
            None => connection.await,
        };
        let parts = ended.map_err(not_http)?;
        // An upstream does not speak first: these bytes are the proxy's.
        if !parts.read_buf.is_empty() {
            return Err(TunnelError::Early { proxy: proxy() });
        }
        Ok(parts.io.into_inner())
    }

    fn connect(&self, to: &Uri) -> Request<Empty<Bytes>> {
        let host = to.host().unwrap_or_default();
        let target = format!("{host}:{}", to.port_u16().unwrap_or(443));
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::CONNECT;
        if let Ok(field) = HeaderValue::from_str(&target) {
            request.headers_mut().insert(header::HOST, field);
        }
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization.clone());
        }
        // Parts of a valid URL are valid.
        *request.uri_mut() = target.parse().unwrap_or_default();
        request
    }
}

/// Returns the remedy for a status other than `407`.
fn refusal_remedy(status: StatusCode) -> &'static str {
    match status {
        StatusCode::FORBIDDEN => ": allow the host and port of the upstream at the proxy",
        StatusCode::BAD_REQUEST
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_IMPLEMENTED => ": it is a web server rather than a proxy: check its port",
        status if status.is_server_error() => ": it cannot reach the upstream",
        _ => "",
    }
}

/// Reads Basic credentials (RFC 7617) from the first line of a file.
fn authorization(path: &Path) -> Result<HeaderValue, CredentialsError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
        .map_err(|reason| CredentialsError::Unreadable { path: path.to_owned(), reason })?;
    let line = text.lines().next().unwrap_or_default();
    let is_valid = line.split_once(':').is_some_and(|(user, _)| !user.is_empty());
    if !is_valid || line.chars().any(char::is_control) {
        return Err(CredentialsError::NotCredentials { path: path.to_owned() });
    }
    let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(line)));
    let mut value = value.map_err(|_| CredentialsError::NotCredentials { path: path.to_owned() })?;
    value.set_sensitive(true);
    Ok(value)
}
