//! A client of a relay's admin address: one request a connection, with the admin token where it is needed.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::screen::with_spinner;
use super::{CommandError, new_runtime};
use gupd_admin::{ProblemDocument, read_token};
use gupd_config::{CertificateFiles, Config, Pin, Trust};
use gupd_net::pem;
use gupd_net::upstream::{connect_tls, connect_tls_by_name};

/// Maximum bytes of the response to a command: a few lines.
const MAX_RESPONSE: usize = 64 << 10;

/// Port of `server.admin` by default.
const DEFAULT_PORT: u16 = 9467;

/// Interval of the requests that observe a long command.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum bytes of an observation: a thousand running fills.
const MAX_POLLED: usize = 16 << 20;

/// Client of the admin address of one relay.
pub(super) struct AdminClient {
    address: SocketAddr,
    /// Host name of its certificate; `None` for its address.
    name: Option<String>,
    token: Option<String>,
    /// Trust in the relay's certificate; `None` without TLS.
    trust: Option<Trust>,
    runtime: Runtime,
}

/// A request to the admin address.
pub(super) struct AdminRequest<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) body: Bytes,
    /// Maximum bytes of the response.
    pub(super) max_response: usize,
}

/// Error of a request without a response.
pub(super) type RequestError = Box<dyn std::error::Error + Send + Sync>;

impl AdminClient {
    /// Creates a client without a token for the relay with this configuration. Its own certificate is trusted as it is.
    pub(super) fn new(config: &Config) -> Result<Self, CommandError> {
        let own = config.server.admin_tls.as_ref().and_then(|tls| tls.certificates.first());
        let trust = own.map(own_certificate).transpose()?;
        let address = config.server.admin;
        Ok(Self { address, name: None, token: None, trust, runtime: new_runtime()? })
    }

    /// Uses TLS, and trusts certificates of these issuers only.
    #[must_use]
    pub(super) fn with_issuers(self, file: &Path) -> Self {
        Self { trust: Some(Trust { ca: Some(file.to_owned()), ..Trust::default() }), ..self }
    }

    /// Creates a client with the admin token of this file.
    pub(super) fn with_token(config: &Config, file: &Path) -> Result<Self, CommandError> {
        let token = read_token(file).map_err(CommandError::Configuration)?;
        Ok(Self { token: Some(token), ..Self::new(config)? })
    }

    /// Creates a client that reads what has addresses: with the admin token if this user can read it. Without it, the
    /// relay answers requests of its own machine.
    pub(super) fn for_reading(config: &Config) -> Result<Self, CommandError> {
        match &config.server.admin_token_file {
            Some(file) => Self::with_token(config, file).or_else(|_| Self::new(config)),
            None => Self::new(config),
        }
    }

    /// Creates a client of another relay, `http://HOST:PORT` or `https://HOST:PORT`. Its certificate must be of
    /// `issuers`, or of one that the system trusts.
    pub(super) fn for_url(
        url: &str,
        issuers: Option<&Path>,
        token_file: Option<&Path>,
    ) -> Result<Self, CommandError> {
        let invalid = |why: &str| {
            CommandError::Configuration(format!("{url}: {why}: use a URL such as http://192.0.2.10:9467"))
        };
        let uri: Uri = url.parse().map_err(|_| invalid("not a URL"))?;
        let has_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(invalid("neither http nor https")),
        };
        if uri.path_and_query().is_some_and(|path| path != "/") {
            return Err(invalid("an admin address has no path"));
        }
        let host = uri.host().ok_or_else(|| invalid("no host"))?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
        let resolved = (host.as_str(), port).to_socket_addrs().map(|mut found| found.next());
        let address = match resolved {
            Ok(Some(address)) => address,
            Ok(None) => return Err(CommandError::Failed(format!("{url}: {host} has no address"))),
            Err(error) => {
                return Err(CommandError::Failed(format!("{url}: {host} is not resolved: {error}")));
            }
        };
        let trust = has_tls.then(|| Trust { ca: issuers.map(Path::to_owned), ..Trust::default() });
        let token = token_file.map(read_token).transpose().map_err(CommandError::Configuration)?;
        Ok(Self { address, name: Some(host), token, trust, runtime: new_runtime()? })
    }

    /// Sends a request, and meanwhile another one every second. `observe` gets the bodies that answer it.
    pub(super) fn send_beside(
        &self,
        request: AdminRequest<'_>,
        beside: &str,
        mut observe: impl FnMut(&[u8]),
    ) -> Result<(StatusCode, Bytes), RequestError> {
        self.runtime.block_on(async {
            let mut exchange = std::pin::pin!(self.exchange(request));
            loop {
                tokio::select! {
                    response = &mut exchange => return response,
                    () = tokio::time::sleep(POLL_INTERVAL) => {}
                }
                let poll = AdminRequest {
                    method: Method::GET,
                    path: beside,
                    body: Bytes::new(),
                    max_response: MAX_POLLED,
                };
                if let Ok(Ok((StatusCode::OK, body))) =
                    tokio::time::timeout(POLL_INTERVAL, self.exchange(poll)).await
                {
                    observe(&body);
                }
            }
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a command without a body; returns its result when it is done.
    pub(super) fn command(&self, method: Method, path: &str) -> Result<Bytes, CommandError> {
        self.send(AdminRequest { method, path, body: Bytes::new(), max_response: MAX_RESPONSE })
    }

    /// Sends a request and returns the body of a `200`.
    pub(super) fn send(&self, request: AdminRequest<'_>) -> Result<Bytes, CommandError> {
        let waiting = format!("waiting for the relay at {}", self.address);
        let exchange = with_spinner(&waiting, self.exchange(request));
        let response = self.runtime.block_on(exchange);
        let (status, body) = response.map_err(|error| {
            CommandError::Failed(format!(
                "admin address {}: {error}: start the relay, or pass its --config or --admin",
                self.address
            ))
        })?;
        if status != StatusCode::OK {
            let problem = serde_json::from_slice::<ProblemDocument>(&body).map(|problem| problem.detail);
            let message = problem.unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned());
            return Err(CommandError::Failed(format!("refused by the relay: {}", message.trim())));
        }
        Ok(body)
    }

    /// Sends a request and returns any response that arrives within `timeout`.
    pub(super) fn try_send(
        &self,
        request: AdminRequest<'_>,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), RequestError> {
        self.runtime.block_on(async { tokio::time::timeout(timeout, self.exchange(request)).await? })
    }

    /// Returns the error for a response that is not that of a relay.
    pub(super) fn invalid_response(&self, error: &serde_json::Error) -> CommandError {
        CommandError::Failed(format!(
            "admin address {}: unexpected response: {error}: check --admin and the version of the relay",
            self.address
        ))
    }

    async fn exchange(&self, request: AdminRequest<'_>) -> Result<(StatusCode, Bytes), RequestError> {
        let stream = TcpStream::connect(self.address).await?;
        match &self.trust {
            None => self.exchange_over(stream, request).await,
            Some(trust) => match &self.name {
                None => self.exchange_over(connect_tls(stream, trust).await?, request).await,
                Some(name) => {
                    self.exchange_over(connect_tls_by_name(stream, name, trust).await?, request).await
                }
            },
        }
    }

    async fn exchange_over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        request: AdminRequest<'_>,
    ) -> Result<(StatusCode, Bytes), RequestError> {
        let AdminRequest { method, path, body, max_response } = request;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // An error of the connection is reported by the request too.
        let connection = tokio::spawn(async move { drop(connection.await) });
        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, self.address.to_string());
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), max_response).collect().await?.to_bytes();
        connection.abort();
        Ok((status, body))
    }
}

/// Returns trust in the certificate that the configuration names for the relay: it need not be signed by anyone.
pub(super) fn own_certificate(files: &CertificateFiles) -> Result<Trust, CommandError> {
    let invalid =
        |error: pem::PemError| CommandError::Configuration(format!("server.admin_tls_cert: {error}"));
    let certificates = pem::read_certificates(&files.cert).map_err(invalid)?;
    let pins = certificates.first().map(|leaf| Pin::for_certificate(leaf)).into_iter().collect();
    Ok(Trust { pins, ..Trust::default() })
}
