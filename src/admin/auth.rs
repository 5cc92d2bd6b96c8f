//! The admin token: the first line of the file that `server.admin_token_file` names. The file is read for each request,
//! so a changed token applies at once. Also the check of `Host`, which needs no token.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use prometheus::IntCounter;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::{ErrorMessage, text_response};
use gupd_config::PublicName;
use gupd_net::metrics::NetMetrics;

/// Maximum bytes read from the file, which may be any file.
const MAX_TOKEN: u64 = 4 << 10;

/// Minimum length of a token: 16 characters of base64 are 96 bits, which nobody guesses.
const MIN_TOKEN: usize = 16;

/// Rights to the file that make a token everybody's: of its group and of others to write, and of others to read.
const OPEN_MODE: u32 = 0o026;

/// Time after which a wrong token is answered.
const FAILURE_DELAY: Duration = Duration::from_secs(1);

/// Minimum time between two log lines about wrong tokens.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Refuses requests whose `Host` is a foreign name (RFC 9110 §15.5.20).
pub(super) async fn refuse_foreign_host(
    State(names): State<Arc<[PublicName]>>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(header::HOST).map_or(Ok(""), |host| host.to_str());
    if host.is_ok_and(|host| PublicName::is_admin_host(&names, host)) {
        return next.run(request).await;
    }
    let message = "Host: not a name of this relay: use its address, or add the name to server.public_names";
    text_response((StatusCode::MISDIRECTED_REQUEST, message.to_owned()))
}

/// Wrong tokens of requests, which leave a trace: a count, and a line in the log every few seconds.
#[derive(Debug)]
pub(super) struct TokenFailures {
    refused: IntCounter,
    // Locked for a comparison, never across a wait.
    unlogged: Mutex<UnloggedFailures>,
}

#[derive(Debug, Default)]
struct UnloggedFailures {
    count: u64,
    logged: Option<Instant>,
}

impl TokenFailures {
    /// Counts wrong tokens among the refusals of the relay.
    pub(super) fn new(metrics: &NetMetrics) -> Self {
        Self { refused: metrics.refused.with_label_values(&["admin-token"]), unlogged: Mutex::default() }
    }

    fn record(&self, from: SocketAddr, now: Instant) {
        self.refused.inc();
        let mut unlogged = self.unlogged.lock().unwrap_or_else(PoisonError::into_inner);
        unlogged.count += 1;
        if unlogged.logged.is_none_or(|logged| now.duration_since(logged) >= FAILURE_LOG_INTERVAL) {
            tracing::warn!(from = %from.ip().to_canonical(), count = unlogged.count, "wrong admin token");
            *unlogged = UnloggedFailures { count: 0, logged: Some(now) };
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

/// Checks the token of a request.
///
/// # Errors
/// `403` if no token is configured, `401` if the request has another one, `500` if the file cannot be read.
pub(super) async fn authorize(file: Option<PathBuf>, headers: &HeaderMap) -> Result<(), ErrorMessage> {
    let Some(file) = file else {
        let message = "this relay has no admin token: set server.admin_token_file";
        return Err((StatusCode::FORBIDDEN, message.to_owned()));
    };
    let read = spawn_blocking(move || read_token(&file)).await.map_err(|error| error.to_string());
    let token = read.flatten().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
    if is_equal(given, token.as_bytes()) {
        return Ok(());
    }
    let message = "wrong admin token: send the token of server.admin_token_file as Authorization: Bearer";
    Err((StatusCode::UNAUTHORIZED, message.to_owned()))
}

/// Checks that a request may read what has addresses: it comes from this machine, or has the token.
///
/// # Errors
/// As [`authorize`], for a request from another machine.
pub(super) async fn authorize_read(
    file: Option<PathBuf>,
    from: SocketAddr,
    headers: &HeaderMap,
) -> Result<(), ErrorMessage> {
    if from.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    authorize(file, headers).await
}

/// Reads the admin token, the first line of `file`.
///
/// # Errors
/// When the file cannot be read, others have rights to it, or its first line is too short; the message names the setting.
pub fn read_token(file: &Path) -> Result<String, String> {
    let problem = |error: &str| format!("server.admin_token_file {}: {error}", file.display());
    let mut text = String::new();
    let read = File::open(file).and_then(|file| {
        let mode = file.metadata()?.mode();
        file.take(MAX_TOKEN).read_to_string(&mut text)?;
        Ok(mode)
    });
    let mode = read.map_err(|error| problem(&format!("{error}: {}", remedy(error.kind()))))?;
    if mode & OPEN_MODE != 0 {
        let rights = mode & 0o777;
        return Err(problem(&format!("other users may read or change it (mode {rights:03o}): chmod 600")));
    }
    match text.lines().next().map(str::trim).unwrap_or_default() {
        "" => Err(problem("the first line is empty: write the token there")),
        token if token.chars().count() < MIN_TOKEN => Err(problem(&format!(
            "the token has fewer than {MIN_TOKEN} characters: write a random one, such as that of `head -c 24 /dev/urandom | base64`"
        ))),
        token => Ok(token.to_owned()),
    }
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "write a token to it, or correct the path",
        // The command runs as root, the relay with a copy of its own (docs/install.md).
        ErrorKind::PermissionDenied => "run commands with sudo, and give the relay a copy that it can read",
        _ => "name a file with a token",
    }
}

/// Compares in constant time: the digests do not reveal where the texts begin to differ.
fn is_equal(given: &[u8], token: &[u8]) -> bool {
    let differing =
        Sha256::digest(given).iter().zip(Sha256::digest(token)).fold(0, |all, (a, b)| all | (a ^ b));
    differing == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
        write_token(&file, TOKEN, 0o600);
        let good = format!("Bearer {TOKEN}");
        for (from, token, expected) in [
            ("127.0.0.1:5", "", Ok(())),
            ("[::1]:5", "", Ok(())),
            ("[::ffff:127.0.0.9]:5", "", Ok(())),
            ("10.0.0.1:5", &*good, Ok(())),
            ("10.0.0.1:5", "", Err(StatusCode::UNAUTHORIZED)),
            ("[2001:db8::1]:5", "Bearer wrong", Err(StatusCode::UNAUTHORIZED)),
        ] {
            let allowed = authorize_read(Some(file.clone()), from.parse().unwrap(), &bearer(token)).await;
            assert_eq!(allowed.map_err(|(status, _)| status), expected, "{from} {token}");
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
        assert_eq!(authorize(None, &bearer("Bearer ")).await.unwrap_err().0, StatusCode::FORBIDDEN);
        write_token(&file, "\n", 0o600);
        assert_eq!(status(&bearer("Bearer ")).await, Err(StatusCode::INTERNAL_SERVER_ERROR));
    }

    #[test]
    fn open_file_and_short_token_are_refused_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        for (mode, is_accepted) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o440, true),
            (0o644, false),
            (0o604, false),
            (0o660, false),
            (0o620, false),
            (0o602, false),
            (0o666, false),
            (0o777, false),
        ] {
            write_token(&file, TOKEN, mode);
            let read = read_token(&file);
            assert_eq!(read.is_ok(), is_accepted, "{mode:o} {read:?}");
            if let Err(error) = read {
                assert!(error.contains(&format!("(mode {mode:o}): chmod 600")), "{error}");
            }
        }
        for (token, is_accepted) in
            [("x", false), ("123456789012345", false), ("1234567890123456", true), (" ", false)]
        {
            write_token(&file, token, 0o600);
            let read = read_token(&file);
            assert_eq!(read.is_ok(), is_accepted, "{token} {read:?}");
            if let Err(error) = read {
                assert!(error.contains("token: the ") && !error.contains(&format!(" {token} ")), "{error}");
            }
        }
    }
}
