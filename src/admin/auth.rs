//! The admin token: the first line of the file that `server.admin_token_file` names. The file is read for each request,
//! so a changed token applies at once. Also the check of `Host`, which needs no token.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::{ErrorMessage, text_response};
use gupd_config::PublicName;

/// Maximum bytes read from the file, which may be any file.
const MAX_TOKEN: u64 = 4 << 10;

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
/// When the file cannot be read or its first line is empty; the message names the setting.
pub fn read_token(file: &Path) -> Result<String, String> {
    let problem = |error: &str| format!("server.admin_token_file {}: {error}", file.display());
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text));
    read.map_err(|error| problem(&format!("{error}: {}", remedy(error.kind()))))?;
    match text.lines().next().map(str::trim) {
        Some(token) if !token.is_empty() => Ok(token.to_owned()),
        _ => Err(problem("the first line is empty: write the token there")),
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
    use super::*;

    fn bearer(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, token.parse().unwrap())])
    }

    #[tokio::test]
    async fn addresses_are_read_on_this_machine_or_with_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "s3cret").unwrap();
        for (from, token, expected) in [
            ("127.0.0.1:5", "", Ok(())),
            ("[::1]:5", "", Ok(())),
            ("[::ffff:127.0.0.9]:5", "", Ok(())),
            ("10.0.0.1:5", "Bearer s3cret", Ok(())),
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
        std::fs::write(&file, " s3cret \nsecond line\n").unwrap();
        let status = async |headers: &HeaderMap| {
            authorize(Some(file.clone()), headers).await.map_err(|(status, _)| status)
        };
        assert_eq!(status(&bearer("Bearer s3cret")).await, Ok(()));
        for wrong in ["Bearer s3cre", "Bearer s3crett", "Bearer ", "s3cret", "Basic s3cret", "bearer s3cret"]
        {
            assert_eq!(status(&bearer(wrong)).await, Err(StatusCode::UNAUTHORIZED), "{wrong}");
        }
        assert_eq!(status(&HeaderMap::new()).await, Err(StatusCode::UNAUTHORIZED));
        assert_eq!(authorize(None, &bearer("Bearer ")).await.unwrap_err().0, StatusCode::FORBIDDEN);
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(status(&bearer("Bearer ")).await, Err(StatusCode::INTERNAL_SERVER_ERROR));
    }
}
