//! Errors of the admin address: problem documents (RFC 9457). Every error response is made here, also those of the router.
//! Pages are the exception: their errors are pages.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Body as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ErrorMessage;

/// Media type of a problem document.
const MEDIA_TYPE: &str = "application/problem+json";

/// Type of a problem that its status describes (RFC 9457 §4.2.1).
const ABOUT_STATUS: &str = "about:blank";

/// A problem document.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemDocument {
    /// Always `about:blank`: the status describes the problem.
    pub r#type: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What happened, and what to do.
    pub detail: String,
}

/// Returns the response for an error.
pub(super) fn respond((status, detail): ErrorMessage) -> Response {
    let title = status.canonical_reason().unwrap_or("Error").to_owned();
    let problem = ProblemDocument { r#type: ABOUT_STATUS.to_owned(), title, status: status.as_u16(), detail };
    // Texts and a number always have a form in JSON.
    let text = serde_json::to_string(&problem).unwrap_or_default();
    let mut response = (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response();
    if status == StatusCode::UNAUTHORIZED {
        // A 401 names the scheme (RFC 9110 §11.6.1).
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Describes the errors of the router, which have no body, and keeps their fields.
pub(super) async fn describe_routing_error(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let detail = match response.status() {
        StatusCode::NOT_FOUND => format!("{path}: no such resource: see /api/v1/openapi.json"),
        StatusCode::METHOD_NOT_ALLOWED => format!("{path}: does not support {method}: see the Allow field"),
        _ => return response,
    };
    if response.body().size_hint().exact() != Some(0) {
        return response;
    }
    let mut described = respond((response.status(), detail));
    if let Some(allow) = response.headers().get(header::ALLOW) {
        described.headers_mut().insert(header::ALLOW, allow.clone());
    }
    described
}
