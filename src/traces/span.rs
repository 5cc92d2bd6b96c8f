//! Facts of a request and of a fill, and the attributes of their spans. Names are those of OpenTelemetry's semantic
//! conventions for HTTP where these have one; the others begin with `gupd.` and have the spelling of the access log.

use std::net::IpAddr;
use std::time::Duration;

use http::{Method, StatusCode, Version};
use opentelemetry::trace::{SpanKind, Status};
use opentelemetry::{KeyValue, StringValue};

/// Maximum bytes of a path in a span: the rest is cut off.
const MAX_PATH: usize = 1 << 10;

/// A finished request.
#[derive(Clone, Copy, Debug)]
pub struct RequestSpan<'a> {
    /// Method of the request.
    pub method: &'a Method,
    /// Path of the request, without its query.
    pub path: &'a str,
    /// Protocol version.
    pub version: Version,
    /// Address of the client.
    pub client: IpAddr,
    /// Group of the client; `None` if the request was refused before.
    pub group: Option<&'a str>,
    /// Class of the path.
    pub class: &'static str,
    /// Content type of the path, if it was classified.
    pub content_type: Option<&'a str>,
    /// Outcome, as `cache` in the access log.
    pub outcome: &'static str,
    /// Name of the upstream that sent the content.
    pub upstream: Option<&'a str>,
    /// Status of the response.
    pub status: StatusCode,
    /// Body bytes sent.
    pub bytes: u64,
    /// How the response ended, if not with its last byte.
    pub broken: Option<&'static str>,
    /// Time from the request to the end of its response.
    pub duration: Duration,
}

/// A finished fill.
#[derive(Clone, Copy, Debug)]
pub struct FillSpan<'a> {
    /// Path that was requested.
    pub path: &'a str,
    /// Class of the path.
    pub class: &'static str,
    /// Content type of the path.
    pub content_type: &'a str,
    /// Outcome, as in `gupd_fills_total`.
    pub outcome: &'static str,
    /// True if the outcome is a failure.
    pub is_failure: bool,
    /// Name of the last upstream that was asked.
    pub upstream: Option<&'a str>,
    /// Content bytes that arrived.
    pub bytes: u64,
    /// Number of requests that joined.
    pub followers: u64,
    /// Time from the first request to the commit, with the wait for a permit.
    pub duration: Duration,
}

/// A span before it has IDs and times.
#[derive(Debug)]
pub(crate) struct SpanFacts {
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) status: Status,
    pub(crate) attributes: Vec<KeyValue>,
    pub(crate) duration: Duration,
}

impl RequestSpan<'_> {
    pub(crate) fn facts(&self) -> SpanFacts {
        let method = known_method(self.method);
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.unwrap_or("_OTHER")),
            KeyValue::new("url.path", shorten(self.path)),
            KeyValue::new("client.address", self.client.to_string()),
            KeyValue::new("network.protocol.version", protocol_version(self.version)),
            KeyValue::new("http.response.status_code", i64::from(self.status.as_u16())),
            KeyValue::new("http.response.body.size", integer(self.bytes)),
            KeyValue::new("gupd.class", self.class),
            KeyValue::new("gupd.cache", self.outcome),
        ];
        let optional = [
            ("gupd.group", self.group),
            ("gupd.content_type", self.content_type),
            ("gupd.upstream", self.upstream),
            ("http.request.method_original", method.is_none().then(|| self.method.as_str())),
        ];
        attributes.extend(optional.into_iter().filter_map(|(key, value)| optional_text(key, value)));
        let error = match self.broken {
            Some(end) => Some(StringValue::from(end)),
            None => self.status.is_server_error().then(|| self.status.as_str().to_owned().into()),
        };
        let status = mark_error(&mut attributes, error);
        let name = method.unwrap_or("HTTP").to_owned();
        SpanFacts { name, kind: SpanKind::Server, status, attributes, duration: self.duration }
    }
}

impl FillSpan<'_> {
    pub(crate) fn facts(&self) -> SpanFacts {
        let mut attributes = vec![
            KeyValue::new("url.path", shorten(self.path)),
            KeyValue::new("http.response.body.size", integer(self.bytes)),
            KeyValue::new("gupd.class", self.class),
            KeyValue::new("gupd.content_type", self.content_type.to_owned()),
            KeyValue::new("gupd.fill.outcome", self.outcome),
            KeyValue::new("gupd.fill.followers", integer(self.followers)),
        ];
        attributes.extend(optional_text("gupd.upstream", self.upstream));
        let status = mark_error(&mut attributes, self.is_failure.then(|| self.outcome.into()));
        let name = "fill".to_owned();
        SpanFacts { name, kind: SpanKind::Client, status, attributes, duration: self.duration }
    }
}

/// Adds the error of a span, and returns the span's status.
fn mark_error(attributes: &mut Vec<KeyValue>, error: Option<StringValue>) -> Status {
    match error {
        None => Status::Unset,
        Some(error) => {
            let status = Status::error(error.to_string());
            attributes.push(KeyValue::new("error.type", error));
            status
        }
    }
}

fn optional_text(key: &'static str, value: Option<&str>) -> Option<KeyValue> {
    value.map(|value| KeyValue::new(key, value.to_owned()))
}

/// Returns the method if it is one of RFC 9110 or RFC 5789; clients choose the others, so these have no name of their own.
fn known_method(method: &Method) -> Option<&'static str> {
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    known.into_iter().find(|known| *known == method.as_str())
}

fn protocol_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn shorten(path: &str) -> String {
    let end = (0..=MAX_PATH.min(path.len())).rev().find(|end| path.is_char_boundary(*end));
    path.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &Method) -> RequestSpan<'_> {
        RequestSpan {
            method,
            path: "/content/x/full.zip",
            version: Version::HTTP_11,
            client: [10, 0, 0, 1].into(),
            group: Some("branch-a"),
            class: "payload",
            content_type: Some("virus-definitions-64"),
            outcome: "hit",
            upstream: Some("manager"),
            status: StatusCode::OK,
            bytes: 5,
            broken: None,
            duration: Duration::from_millis(3),
        }
    }

    fn value(facts: &SpanFacts, key: &str) -> Option<String> {
        let found = facts.attributes.iter().find(|attribute| attribute.key.as_str() == key)?;
        Some(found.value.to_string())
    }

    #[test]
    fn unknown_method_is_no_name_of_a_span() {
        let method = Method::from_bytes(b"BREW").unwrap();
        let facts = request(&method).facts();
        assert_eq!(facts.name, "HTTP");
        assert_eq!(value(&facts, "http.request.method").as_deref(), Some("_OTHER"));
        assert_eq!(value(&facts, "http.request.method_original").as_deref(), Some("BREW"));
    }

    #[test]
    fn error_of_a_request_is_its_end_or_its_server_error() {
        for (broken, status, expected) in [
            (None, StatusCode::OK, None),
            (None, StatusCode::NOT_FOUND, None),
            (None, StatusCode::GATEWAY_TIMEOUT, Some("504")),
            (Some("client"), StatusCode::OK, Some("client")),
            (Some("upstream"), StatusCode::BAD_GATEWAY, Some("upstream")),
        ] {
            let facts = RequestSpan { broken, status, ..request(&Method::GET) }.facts();
            assert_eq!(value(&facts, "error.type").as_deref(), expected, "{broken:?} {status}");
            assert_eq!(facts.status == Status::Unset, expected.is_none(), "{broken:?} {status}");
        }
    }

    #[test]
    fn long_path_is_cut_between_characters() {
        let path = format!("/{}", "é".repeat(MAX_PATH));
        let facts = RequestSpan { path: &path, ..request(&Method::GET) }.facts();
        let shortened = value(&facts, "url.path").unwrap();
        assert_eq!(shortened.len(), MAX_PATH - 1);
        assert!(path.starts_with(&shortened));
    }
}
