//! Commands that speak to a running relay: one request to its admin address, with the admin token where it is needed.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::{Failure, Settings};
use gupd_admin::read_token;
use gupd_config::Config;

/// Bytes of an answer, at most: a line or three numbers.
const MAX_ANSWER: usize = 64 << 10;

/// A relay's admin address.
pub(super) struct Admin {
    address: SocketAddr,
    token: Option<String>,
    runtime: Runtime,
}

/// What is asked.
pub(super) struct Question<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) body: Bytes,
    /// Bytes of the answer, at most.
    pub(super) max: usize,
}

/// Why there is no answer.
pub(super) type Unanswered = Box<dyn std::error::Error + Send + Sync>;

/// Has the relay do what `path` stands for, and gives its answer, which comes when that is done. `command` is what the
/// administrator called.
pub(super) fn relay(
    settings: &Settings,
    command: &str,
    method: &Method,
    path: &str,
) -> Result<(SocketAddr, Bytes), Failure> {
    let admin = Admin::with_token(&settings.load_without_upstreams()?, command)?;
    let question = Question { method: method.clone(), path, body: Bytes::new(), max: MAX_ANSWER };
    Ok((admin.address, admin.ask(question)?))
}

impl Admin {
    /// That of the relay with this configuration, for what needs no token.
    pub(super) fn of(config: &Config) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("the system gives no event queue: {error}")))?;
        Ok(Self { address: config.server.admin, token: None, runtime })
    }

    /// The same with the token; `command` is what the administrator called.
    pub(super) fn with_token(config: &Config, command: &str) -> Result<Self, Failure> {
        let Some(file) = &config.server.admin_token_file else {
            let why = format!(
                "{command}: there is no admin token; give the relay's configuration with --config, and set \
                 server.admin_token_file there"
            );
            return Err(Failure::Configuration(why));
        };
        let token = read_token(file).map_err(Failure::Configuration)?;
        Ok(Self { token: Some(token), ..Self::of(config)? })
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The answer, if the relay does what it is asked.
    pub(super) fn ask(&self, question: Question<'_>) -> Result<Bytes, Failure> {
        let answer = self.runtime.block_on(self.send(question));
        let (status, body) = answer.map_err(|error| {
            let address = self.address;
            Failure::Failed(format!(
                "the relay's admin address {address}: {error}; see that the relay runs, and give its --config or --admin"
            ))
        })?;
        if status != StatusCode::OK {
            let why = String::from_utf8_lossy(&body);
            return Err(Failure::Failed(format!("the relay refuses: {}", why.trim())));
        }
        Ok(body)
    }

    /// The answer whatever it is, if there is one in time.
    pub(super) fn try_ask(
        &self,
        question: Question<'_>,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), Unanswered> {
        self.runtime.block_on(async { tokio::time::timeout(patience, self.send(question)).await? })
    }

    async fn send(&self, question: Question<'_>) -> Result<(StatusCode, Bytes), Unanswered> {
        let Question { method, path, body, max } = question;
        let stream = TcpStream::connect(self.address).await?;
        let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // What goes wrong with the connection is the request's error.
        let connection = tokio::spawn(async move { drop(connection.await) });
        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, self.address.to_string());
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = requests.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), max).collect().await?.to_bytes();
        connection.abort();
        Ok((status, body))
    }
}
