//! The guard's own words to clients: refusals, redirects, and that nobody can serve. Never cached, and each with a length.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

use gupd_http::refusal::{ALLOWED_METHODS, Refusal};
use gupd_net::upstream::BodyStreamError;

/// When a client may ask again that neither worker nor manager can serve, in seconds: a worker is back sooner than a
/// manager.
const RETRY_AFTER: u64 = 5;

/// Of what the guard itself says, and of what it passes on.
pub(super) type ResponseBody = UnsyncBoxBody<Bytes, BodyStreamError>;

pub(super) fn refused(refusal: Refusal) -> Response<ResponseBody> {
    match refusal.status() {
        StatusCode::METHOD_NOT_ALLOWED => allowed(StatusCode::METHOD_NOT_ALLOWED, refusal.message()),
        status => text(status, refusal.message()),
    }
}

pub(super) fn allowed(status: StatusCode, sentence: &'static str) -> Response<ResponseBody> {
    let mut response = text(status, sentence);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(ALLOWED_METHODS));
    response
}

pub(super) fn unavailable() -> Response<ResponseBody> {
    let mut response =
        text(StatusCode::SERVICE_UNAVAILABLE, "gupd: neither relay nor manager can serve now\n");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
    response
}

pub(super) fn text(status: StatusCode, sentence: &'static str) -> Response<ResponseBody> {
    let body = if sentence.is_empty() {
        empty()
    } else {
        Full::new(Bytes::from_static(sentence.as_bytes())).map_err(|never| match never {}).boxed_unsync()
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !sentence.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    if status != StatusCode::NO_CONTENT {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(sentence.len()));
    }
    response
}

pub(super) fn empty() -> ResponseBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
