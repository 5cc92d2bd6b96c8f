//! Responses that the guard itself writes: refusals, redirects and `503`. None is cacheable; each has a length.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

use gupd_http::refusal::{ALLOWED_METHODS, Refusal};
use gupd_net::upstream::BodyStreamError;

/// `Retry-After` of a `503`, in seconds: time for a worker to restart.
const RETRY_AFTER: u64 = 5;

/// Body of a response that the guard writes or passes on.
pub(super) type GuardBody = UnsyncBoxBody<Bytes, BodyStreamError>;

pub(super) fn refused(refusal: Refusal) -> Response<GuardBody> {
    match refusal.status() {
        StatusCode::METHOD_NOT_ALLOWED => with_allow(StatusCode::METHOD_NOT_ALLOWED, refusal.message()),
        status => text(status, refusal.message()),
    }
}

pub(super) fn with_allow(status: StatusCode, message: &'static str) -> Response<GuardBody> {
    let mut response = text(status, message);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(ALLOWED_METHODS));
    response
}

pub(super) fn unavailable() -> Response<GuardBody> {
    let mut response = text(
        StatusCode::SERVICE_UNAVAILABLE,
        "gupd: the relay is restarting and no manager answers; retry after 5 s\n",
    );
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
    response
}

pub(super) fn text(status: StatusCode, message: &'static str) -> Response<GuardBody> {
    let body = if message.is_empty() {
        empty()
    } else {
        Full::new(Bytes::from_static(message.as_bytes())).map_err(|never| match never {}).boxed_unsync()
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !message.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    if status != StatusCode::NO_CONTENT {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(message.len()));
    }
    response
}

pub(super) fn empty() -> GuardBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
