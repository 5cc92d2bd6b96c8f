//! `POST /api/v1/refresh`: asks for a refresh and answers, when it is done, with what came of it. Only for who knows the
//! admin token; the file it is in is read each time, so that a changed one holds at once.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::Admin;

/// Bytes of the token's file that are read: whatever it names, it is not read for ever.
const MAX_TOKEN: u64 = 4 << 10;

pub(super) async fn refresh(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    if let Err((status, why)) = authorise(admin.token_file, &headers).await {
        return (status, format!("{why}\n")).into_response();
    }
    match admin.refresher.refresh().await {
        Ok(report) => match serde_json::to_string(&report) {
            Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        },
        Err(unasked) => (StatusCode::SERVICE_UNAVAILABLE, format!("{unasked}\n")).into_response(),
    }
}

/// Whether a request may change something.
pub(super) async fn authorise(
    file: Option<PathBuf>,
    headers: &HeaderMap,
) -> Result<(), (StatusCode, String)> {
    let Some(file) = file else {
        let why = "the relay has no admin token, and so takes no such request; set server.admin_token_file";
        return Err((StatusCode::FORBIDDEN, why.to_owned()));
    };
    let read = spawn_blocking(move || read_token(&file)).await.map_err(|error| error.to_string());
    let token = read.flatten().map_err(|why| (StatusCode::INTERNAL_SERVER_ERROR, why))?;
    let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
    if is_same(given, token.as_bytes()) {
        return Ok(());
    }
    let why = "this is not the admin token; send that of server.admin_token_file as Authorization: Bearer";
    Err((StatusCode::UNAUTHORIZED, why.to_owned()))
}

/// The first line of the file that `server.admin_token_file` names.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn read_token(file: &Path) -> Result<String, String> {
    let problem = |what: &str| format!("server.admin_token_file {}: {what}", file.display());
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text));
    read.map_err(|error| problem(&error.to_string()))?;
    match text.lines().next().map(str::trim) {
        Some(token) if !token.is_empty() => Ok(token.to_owned()),
        _ => Err(problem("has no token in its first line")),
    }
}

/// Takes as long whatever is the same of them: digests tell nothing of where two texts begin to differ.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differing =
        Sha256::digest(given).iter().zip(Sha256::digest(token)).fold(0, |all, (a, b)| all | (a ^ b));
    differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, token.parse().unwrap())])
    }

    #[tokio::test]
    async fn only_the_whole_token_is_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, " s3cret \nsecond line\n").unwrap();
        let status = async |headers: &HeaderMap| {
            authorise(Some(file.clone()), headers).await.map_err(|(status, _)| status)
        };
        assert_eq!(status(&with("Bearer s3cret")).await, Ok(()));
        for wrong in ["Bearer s3cre", "Bearer s3crett", "Bearer ", "s3cret", "Basic s3cret", "bearer s3cret"]
        {
            assert_eq!(status(&with(wrong)).await, Err(StatusCode::UNAUTHORIZED), "{wrong}");
        }
        assert_eq!(status(&HeaderMap::new()).await, Err(StatusCode::UNAUTHORIZED));
        assert_eq!(authorise(None, &with("Bearer ")).await.unwrap_err().0, StatusCode::FORBIDDEN);
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(status(&with("Bearer ")).await, Err(StatusCode::INTERNAL_SERVER_ERROR));
    }
}
