//! The body of a command: its bounds, and the author and reason that the audit log gets.

use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;

use super::auth::authorize;
use super::{AdminApi, ErrorMessage};

/// Maximum bytes of a command, many times the longest one.
const MAX_COMMAND: usize = 16 << 10;

/// Timeout for the body of a command.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum characters of `by`: a line of the audit log must stay readable.
const MAX_BY: usize = 100;

/// Maximum characters of `reason`.
pub(super) const MAX_REASON: usize = 1_000;

/// Returns the command of a request, if its sender has the admin token. `parse` returns what is wrong with a body.
pub(super) async fn read_command<T>(
    api: &AdminApi,
    request: Request,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<T, ErrorMessage> {
    let body = read_authorized(api, request).await?;
    parse(&body).map_err(|message| (StatusCode::BAD_REQUEST, message))
}

/// Returns the body of a command, if its sender has the admin token.
async fn read_authorized(api: &AdminApi, request: Request) -> Result<Bytes, ErrorMessage> {
    authorize(api.token_file.clone(), request.headers()).await?;
    let body = Limited::new(request.into_body(), MAX_COMMAND).collect();
    match timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => {
            let message = format!("command: body incomplete or larger than {MAX_COMMAND} bytes: {error}");
            Err((StatusCode::BAD_REQUEST, message))
        }
        Err(_) => Err((
            StatusCode::REQUEST_TIMEOUT,
            "command: body did not arrive in time: send it at once".to_owned(),
        )),
    }
}

/// Checks author and reason of a command, and returns the author without surrounding space.
pub(super) fn check_author(by: &str, reason: Option<&str>) -> Result<String, String> {
    let by = by.trim();
    if by.is_empty() || by.chars().count() > MAX_BY {
        return Err(format!("by: must have 1 to {MAX_BY} characters"));
    }
    if reason.is_some_and(|reason| reason.chars().count() > MAX_REASON) {
        return Err(format!("reason: must have at most {MAX_REASON} characters"));
    }
    Ok(by.to_owned())
}
