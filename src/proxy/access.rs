//! The access record of one request. It is created when the request arrives and completed as facts become known. It is
//! dropped when the response ends, in whichever way. The drop counts the metrics, writes the access line and gives the
//! finished response to the observer.

use std::borrow::Cow;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri, Version, header};

use crate::metrics::{RequestMetrics, protocol_name};
use gupd_config::Class;
use gupd_config::policy::Group;
use gupd_http::status::{CacheStatus, FinishedResponse, ResponseEnd};
use gupd_store::BlobId;

/// Maximum bytes of a client's field in the access line; the rest is cut off. 16 ranges, or the name of any updater.
const MAX_FIELD: usize = 256;

/// Maximum bytes of the path in the access line: the default of `server.max_uri_bytes`.
const MAX_PATH: usize = 8 << 10;

/// Maximum bytes of the method in the access line; the longest registered one has 17.
const MAX_METHOD: usize = 32;

/// A subscriber to the end of one request.
pub(crate) trait RequestObserver: Debug + Send + Sync {
    /// Takes the finished response. Runs on the request's thread and must not block.
    fn finished(self: Box<Self>, response: FinishedResponse);
}

/// Facts of one request and its response.
#[derive(Debug)]
pub(crate) struct AccessRecord {
    started: Instant,
    client: SocketAddr,
    version: Version,
    method: Method,
    target: Uri,
    metrics: Arc<RequestMetrics>,
    /// Fields of the client; `None` without an access line.
    logged: Option<LoggedFields>,
    /// Group of the client; `None` if the request was refused before.
    pub group: Option<Arc<Group>>,
    /// Name of the upstream that sent the content, now or when it was stored.
    pub upstream: Option<Arc<str>>,
    pub status: StatusCode,
    /// Part of the cache in the response; `None` if the request was refused before.
    pub cache: Option<CacheStatus>,
    /// Class of the path.
    pub class: Class,
    /// Content type of the path; `None` if the request was refused before it was classified.
    pub content_type: Option<Arc<str>>,
    /// Blob of the stored object.
    pub object: Option<BlobId>,
    /// Body bytes of a complete response, if known.
    pub expected: Option<u64>,
    /// Body bytes that the relay had when the request came, for a response that follows a fill.
    pub present: u64,
    /// Body bytes handed to the connection.
    pub sent: u64,
    /// How the response ended.
    pub end: ResponseEnd,
    /// True if the response broke off because the content failed verification.
    pub is_damaged: bool,
    /// True if the content includes the last byte of the object. Set only where there is an observer.
    pub has_last_byte: bool,
    /// Gets the finished response; `None` while nothing tracks clients.
    pub observer: Option<Box<dyn RequestObserver>>,
}

/// Fields of a client's request that only the access line has. Cloned without a copy.
#[derive(Debug)]
struct LoggedFields {
    user_agent: Option<HeaderValue>,
    range: Option<HeaderValue>,
}

impl AccessRecord {
    /// The record of a request that has just arrived. It gets an access line if `is_logged`. Boxed, because the
    /// response that carries it is moved several times.
    pub(crate) fn new(
        client: SocketAddr,
        head: &Parts,
        metrics: Arc<RequestMetrics>,
        is_logged: bool,
    ) -> Box<Self> {
        let logged = || LoggedFields {
            user_agent: head.headers.get(header::USER_AGENT).cloned(),
            range: head.headers.get(header::RANGE).cloned(),
        };
        Box::new(Self {
            started: Instant::now(),
            client,
            version: head.version,
            method: head.method.clone(),
            target: head.uri.clone(),
            metrics,
            logged: is_logged.then(logged),
            group: None,
            upstream: None,
            status: StatusCode::OK,
            cache: None,
            class: Class::Generic,
            content_type: None,
            object: None,
            expected: None,
            present: 0,
            sent: 0,
            end: ResponseEnd::Client,
            is_damaged: false,
            has_last_byte: false,
            observer: None,
        })
    }

    /// Counts a body that ended in a panic.
    pub(crate) fn count_panic(&self) {
        self.metrics.panics.inc();
    }

    /// Counts the response's head, which is about to be sent.
    pub(crate) fn count_head(&self) {
        self.metrics.count_response(self.cache, self.class, self.status);
        self.metrics.count_protocol(self.version);
        self.metrics.head_seconds.observe(self.started.elapsed().as_secs_f64());
    }
}

#[cfg(feature = "otlp")]
impl AccessRecord {
    /// Records the span of the finished request, if traces are on and it is sampled.
    fn record_span(&self, duration: std::time::Duration) {
        let Some(tracer) = self.metrics.tracer.get() else { return };
        tracer.record_request(|| gupd_traces::RequestSpan {
            method: &self.method,
            path: self.target.path(),
            version: self.version,
            client: self.client.ip().to_canonical(),
            group: self.group.as_ref().map(|group| &*group.name),
            class: self.class.as_str(),
            content_type: self.content_type.as_deref(),
            outcome: self.cache.map_or("refused", CacheStatus::as_str),
            upstream: self.upstream.as_deref(),
            status: self.status,
            bytes: self.sent,
            broken: (self.end != ResponseEnd::Complete).then(|| self.end.as_str()),
            duration,
        });
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        if self.end == ResponseEnd::Client && self.expected == Some(self.sent) {
            self.end = ResponseEnd::Complete;
        }
        let stored = match self.cache {
            Some(cache) if cache.is_from_store() => self.sent,
            _ => self.present.min(self.sent),
        };
        self.metrics.count_sent(self.cache, self.class, self.sent, stored, took);
        self.metrics.count_content_type(self.content_type.as_deref(), self.sent);
        if self.end != ResponseEnd::Complete {
            self.metrics.broken.with_label_values(&[self.end.as_str()]).inc();
        }
        #[cfg(feature = "otlp")]
        self.record_span(took);
        if let Some(observer) = self.observer.take() {
            observer.finished(FinishedResponse {
                status: self.status,
                cache: self.cache,
                end: self.end,
                is_damaged: self.is_damaged,
                has_last_byte: self.has_last_byte,
                bytes: self.sent,
            });
        }
        if let Some(LoggedFields { user_agent, range }) = &self.logged {
            tracing::info!(
                target: "gupd::access",
                client = %self.client.ip().to_canonical(),
                group = self.group.as_ref().map(|group| &*group.name),
                protocol = protocol_name(self.version),
                method = shorten(self.method.as_str(), MAX_METHOD).as_ref(),
                path = shorten(self.target.path_and_query().map_or("", |target| target.as_str()), MAX_PATH).as_ref(),
                range = range.as_ref().map(field_text).as_deref(),
                status = self.status.as_u16(),
                bytes = self.sent,
                stored_bytes = stored,
                duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                cache = self.cache.map_or("refused", CacheStatus::as_str),
                upstream = self.upstream.as_deref(),
                content_type = self.content_type.as_deref().unwrap_or("-"),
                object = self.object.map(tracing::field::display),
                end = self.end.as_str(),
                user_agent = user_agent.as_ref().map(field_text).as_deref(),
            );
        }
    }
}

/// Returns the text of a field, of at most [`MAX_FIELD`] bytes. Bytes that are not UTF-8 are replaced. The log escapes
/// control characters.
fn field_text(value: &HeaderValue) -> Cow<'_, str> {
    match String::from_utf8_lossy(value.as_bytes()) {
        Cow::Borrowed(text) => shorten(text, MAX_FIELD),
        Cow::Owned(text) => Cow::Owned(shorten(&text, MAX_FIELD).into_owned()),
    }
}

/// Cuts a text off after `max` bytes, and marks the end.
fn shorten(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug)]
    struct Reported(Arc<Mutex<Vec<FinishedResponse>>>);

    impl RequestObserver for Reported {
        fn finished(self: Box<Self>, response: FinishedResponse) {
            self.0.lock().unwrap().push(response);
        }
    }

    #[test]
    fn dropped_record_reports_the_finished_response_once() {
        let reported = Arc::new(Mutex::new(Vec::new()));
        let client = ([10, 0, 0, 1], 1).into();
        let metrics = Arc::new(RequestMetrics::in_new_registry());
        let (head, ()) = http::Request::new(()).into_parts();
        let mut access = AccessRecord::new(client, &head, metrics, false);
        access.observer = Some(Box::new(Reported(reported.clone())));
        (access.status, access.cache, access.has_last_byte) = (StatusCode::OK, Some(CacheStatus::Hit), true);
        (access.expected, access.sent) = (Some(5), 5);
        drop(access);
        let expected = FinishedResponse {
            status: StatusCode::OK,
            cache: Some(CacheStatus::Hit),
            end: ResponseEnd::Complete,
            is_damaged: false,
            has_last_byte: true,
            bytes: 5,
        };
        assert_eq!(*reported.lock().unwrap(), [expected]);
    }

    #[test]
    fn fields_of_clients_are_short_text() {
        let text = |bytes: &[u8]| field_text(&HeaderValue::from_bytes(bytes).unwrap()).into_owned();
        let (long, longest) = ("é".repeat(200), "a".repeat(MAX_FIELD));
        for (bytes, expected) in [
            (&b""[..], String::new()),
            (b"bytes=0-1", "bytes=0-1".to_owned()),
            (longest.as_bytes(), longest.clone()),
            (format!("{longest}b").as_bytes(), format!("{longest}…")),
            (long.as_bytes(), format!("{}…", "é".repeat(MAX_FIELD / 2))),
            (format!("a{long}").as_bytes(), format!("a{}…", "é".repeat(MAX_FIELD / 2 - 1))),
            (b"a\xffb", "a\u{fffd}b".to_owned()),
            (&[0xff; 300], format!("{}…", "\u{fffd}".repeat(MAX_FIELD / 3))),
        ] {
            assert_eq!(text(bytes), expected, "{bytes:?}");
        }
    }
}
