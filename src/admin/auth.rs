//! Access to the admin address: the role that a request needs, the trace of wrong tokens, and the check of `Host`.
//! Requests of this machine may read without a token; every change needs one. `token` has the tokens.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::IntCounter;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::token::{AdminTokens, TokenRole};
use super::{AdminApi, ErrorMessage, page, problem};
use gupd_config::PublicName;
use gupd_net::log_limit::LogLimit;
use gupd_net::metrics::NetMetrics;

/// Time after which a wrong token is answered.
const FAILURE_DELAY: Duration = Duration::from_secs(1);

/// Minimum time between two log lines about wrong tokens.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Refuses requests with a foreign name in `Host` or in their target (RFC 9110 §15.5.20).
pub(super) async fn refuse_foreign_host(
    State(names): State<Arc<[PublicName]>>,
    request: Request,
    next: Next,
) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().ok());
    let mut hosts = hosts.chain(request.uri().host().map(Some));
    if hosts.all(|host| host.is_some_and(|host| PublicName::is_admin_host(&names, host))) {
        return next.run(request).await;
    }
    let message = "Host: not a name of this relay: use its address, or add the name to server.public_names";
    problem::respond((StatusCode::MISDIRECTED_REQUEST, message.to_owned()))
}

/// Wrong tokens of requests, which leave a trace: a count, and a line in the log every few seconds.
#[derive(Debug)]
pub(super) struct TokenFailures {
    refused: IntCounter,
    lines: LogLimit,
}

impl TokenFailures {
    /// Counts wrong tokens among the refusals of the relay.
    pub(super) fn new(metrics: &NetMetrics) -> Self {
        let refused = metrics.refused.with_label_values(&["admin-token"]);
        Self { refused, lines: LogLimit::new(1, FAILURE_LOG_INTERVAL) }
    }

    fn record(&self, from: SocketAddr, now: Instant) {
        self.refused.inc();
        if let Some(suppressed) = self.lines.admit(now) {
            let count = suppressed.saturating_add(1);
            tracing::warn!(from = %from.ip().to_canonical(), count, "wrong admin token");
        }
    }
}

/// Answers requests with a wrong token late, so that a connection makes one guess a second. A right token never waits:
/// guesses must not keep an administrator out.
pub(super) async fn delay_wrong_token(
    State(failures): State<Arc<TokenFailures>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let has_token = request.headers().contains_key(header::AUTHORIZATION);
    let response = next.run(request).await;
    if has_token && response.status() == StatusCode::UNAUTHORIZED {
        failures.record(from, Instant::now());
        sleep(FAILURE_DELAY).await;
    }
    response
}

/// A request that may read the addresses of clients: one of this machine, with a token, or with a session of the page.
/// A refused request gets a problem document from the API, and a page from the page.
pub(super) struct ReadAccess;

impl FromRequestParts<AdminApi> for ReadAccess {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, api: &AdminApi) -> Result<Self, Response> {
        let from = ConnectInfo::<SocketAddr>::from_request_parts(parts, api).await;
        let ConnectInfo(from) = from.map_err(IntoResponse::into_response)?;
        if api.sessions.form_token(&parts.headers).is_some() {
            return Ok(Self);
        }
        match authorize_read(api.token_file.clone(), from, &parts.headers).await {
            Ok(()) => Ok(Self),
            Err(refusal) if parts.uri.path().starts_with("/api/") => Err(problem::respond(refusal)),
            Err(refusal) => Err(page::refuse_reading(refusal)),
        }
    }
}

/// Checks that a request may change something: its token has the role.
///
/// # Errors
/// `403` if no token is configured or the token may only read, `401` if it is wrong or absent, `500` if the file cannot
/// be read.
pub(super) async fn authorize(file: Option<PathBuf>, headers: &HeaderMap) -> Result<(), ErrorMessage> {
    require(file, headers, TokenRole::Operate).await
}

/// Fields that a proxy adds. The request is then another machine's, whatever address the proxy connects from.
const PROXY_FIELDS: [&str; 5] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];

/// Checks that a request may read what has addresses: it comes from this machine and through no proxy, or has a token.
///
/// # Errors
/// As [`authorize`], for a request from another machine.
pub(super) async fn authorize_read(
    file: Option<PathBuf>,
    from: SocketAddr,
    headers: &HeaderMap,
) -> Result<(), ErrorMessage> {
    let is_proxied = PROXY_FIELDS.iter().any(|field| headers.contains_key(*field));
    if from.ip().to_canonical().is_loopback() && !is_proxied {
        return Ok(());
    }
    require(file, headers, TokenRole::Read).await
}

async fn require(file: Option<PathBuf>, headers: &HeaderMap, needed: TokenRole) -> Result<(), ErrorMessage> {
    let Some(file) = file else {
        let message = "this relay has no admin token: set server.admin_token_file";
        return Err((StatusCode::FORBIDDEN, message.to_owned()));
    };
    let read = spawn_blocking(move || AdminTokens::read(&file)).await.map_err(|error| error.to_string());
    let tokens = read.flatten().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
    let (status, message) = match tokens.role(given) {
        Some(role) if role >= needed => return Ok(()),
        Some(_) => (StatusCode::FORBIDDEN, "this token may only read: send one that may operate"),
        None => (
            StatusCode::UNAUTHORIZED,
            "wrong admin token: send a token of server.admin_token_file as Authorization: Bearer",
        ),
    };
    Err((status, message.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn bearer(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, token.parse().unwrap())])
    }

    const TOKEN: &str = "s3cret-of-the-site";

    fn write_token(file: &Path, text: &str, mode: u32) {
        std::fs::write(file, text).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn addresses_are_read_on_this_machine_or_with_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        write_token(&file, &format!("{TOKEN}\nread monitoring-may-read\n"), 0o600);
        let good = format!("Bearer {TOKEN}");
        for (from, token, expected) in [
            ("127.0.0.1:5", "", Ok(())),
            ("[::1]:5", "", Ok(())),
            ("[::ffff:127.0.0.9]:5", "", Ok(())),
            ("10.0.0.1:5", &*good, Ok(())),
            ("10.0.0.1:5", "Bearer monitoring-may-read", Ok(())),
            ("10.0.0.1:5", "", Err(StatusCode::UNAUTHORIZED)),
            ("[2001:db8::1]:5", "Bearer wrong", Err(StatusCode::UNAUTHORIZED)),
        ] {
            let allowed = authorize_read(Some(file.clone()), from.parse().unwrap(), &bearer(token)).await;
            assert_eq!(allowed.map_err(|(status, _)| status), expected, "{from} {token}");
        }
        for field in PROXY_FIELDS {
            let mut headers = bearer("");
            headers.insert(field, "203.0.113.9".parse().unwrap());
            let proxied = authorize_read(Some(file.clone()), "127.0.0.1:5".parse().unwrap(), &headers).await;
            assert_eq!(proxied.unwrap_err().0, StatusCode::UNAUTHORIZED, "{field}");
            headers.insert(header::AUTHORIZATION, good.parse().unwrap());
            let proxied = authorize_read(Some(file.clone()), "127.0.0.1:5".parse().unwrap(), &headers).await;
            assert!(proxied.is_ok(), "{field}");
        }
        let refused = authorize_read(None, "10.0.0.1:5".parse().unwrap(), &HeaderMap::new()).await;
        assert_eq!(refused.unwrap_err().0, StatusCode::FORBIDDEN);
    }

    #[tokio::test]
    async fn only_the_exact_token_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        write_token(&file, &format!(" {TOKEN} \nsecond line\n"), 0o600);
        let status = async |headers: &HeaderMap| {
            authorize(Some(file.clone()), headers).await.map_err(|(status, _)| status)
        };
        assert_eq!(status(&bearer(&format!("Bearer {TOKEN}"))).await, Ok(()));
        for wrong in [
            &format!("Bearer {}", &TOKEN[1..]),
            &format!("Bearer {TOKEN}t"),
            "Bearer ",
            TOKEN,
            &format!("Basic {TOKEN}"),
            &format!("bearer {TOKEN}"),
        ] {
            assert_eq!(status(&bearer(wrong)).await, Err(StatusCode::UNAUTHORIZED), "{wrong}");
        }
        assert_eq!(status(&HeaderMap::new()).await, Err(StatusCode::UNAUTHORIZED));
        write_token(&file, &format!("read monitoring-may-read\noperate {TOKEN}\n"), 0o600);
        assert_eq!(status(&bearer("Bearer monitoring-may-read")).await, Err(StatusCode::FORBIDDEN));
        assert_eq!(status(&bearer(&format!("Bearer {TOKEN}"))).await, Ok(()));
        assert_eq!(authorize(None, &bearer("Bearer ")).await.unwrap_err().0, StatusCode::FORBIDDEN);
        write_token(&file, "\n", 0o600);
        assert_eq!(status(&bearer("Bearer ")).await, Err(StatusCode::INTERNAL_SERVER_ERROR));
    }
}
