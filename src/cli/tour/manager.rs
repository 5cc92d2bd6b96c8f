//! The demo's manager: serves a [`Site`] over HTTP/1.1 as a SEPM's web server would. Owns the mapping of a request to
//! status, headers and the range sent: validators, conditional requests and single ranges (RFC 9110 §13, §14).
//! Bodies are generated as they are sent; nothing is held for a connection but one piece.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::content::{Object, Site};
use super::loopback::Listener;
use gupd_http::range::Ranges;

/// Bytes generated at once for one connection.
const PIECE: usize = 32 * 1024;

/// A running manager. Dropping it breaks its connections.
#[derive(Debug)]
pub struct Manager {
    listener: Listener,
}

impl Manager {
    /// Serves `site` on a free loopback port. Needs a tokio runtime around it.
    pub async fn start(site: Arc<Site>) -> io::Result<Self> {
        let listener = Listener::start(move |stream| {
            let site = Arc::clone(&site);
            let service = service_fn(move |request| {
                let response = respond(&site, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            // A peer that goes away is the peer's business.
            async move {
                let _ = connection.await;
            }
        })
        .await?;
        Ok(Self { listener })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }
}

/// The response to `request`, whatever its body.
pub fn respond<B>(site: &Site, request: &Request<B>) -> Response<Content> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = status_only(StatusCode::METHOD_NOT_ALLOWED);
        refused.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let Some(object) = site.at(request.uri().path()) else {
        return status_only(StatusCode::NOT_FOUND);
    };
    let mut response = if unchanged(object, request.headers()) {
        status_only(StatusCode::NOT_MODIFIED)
    } else {
        match selected(object, request) {
            Selected::Whole => Response::new(Content::of(object, 0..object.length())),
            Selected::Part(part) => {
                let content_range = format!("bytes {}-{}/{}", part.start, part.end - 1, object.length());
                let mut response = Response::new(Content::of(object, part));
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                set(&mut response, CONTENT_RANGE, content_range);
                response
            }
            Selected::Nothing => {
                let mut response = status_only(StatusCode::RANGE_NOT_SATISFIABLE);
                set(&mut response, CONTENT_RANGE, format!("bytes */{}", object.length()));
                return response;
            }
        }
    };
    set(&mut response, ETAG, object.etag());
    set(&mut response, LAST_MODIFIED, httpdate::fmt_http_date(object.published()));
    set(&mut response, ACCEPT_RANGES, "bytes".to_owned());
    set(&mut response, CONTENT_TYPE, media_type(object.path()).to_owned());
    response
}

/// A response body: a range of an object, generated as it is polled.
#[derive(Debug)]
pub struct Content {
    object: Option<Arc<Object>>,
    left: Range<u64>,
}

impl Content {
    fn of(object: &Arc<Object>, part: Range<u64>) -> Self {
        Self { object: Some(Arc::clone(object)), left: part }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let most = usize::try_from(self.left.end - self.left.start).map_or(PIECE, |left| left.min(PIECE));
        let piece =
            self.object.as_ref().map(|object| object.bytes(self.left.start, most)).unwrap_or_default();
        self.left.start += piece.len() as u64;
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(Bytes::from(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.end - self.left.start)
    }
}

/// What a request asks to be sent.
enum Selected {
    Whole,
    Part(Range<u64>),
    Nothing,
}

/// The range asked for. Several at once are answered whole, which RFC 9110 §14.2 allows.
fn selected<B>(object: &Object, request: &Request<B>) -> Selected {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Selected::Whole;
    }
    // §13.1.5: a range of another version is no range; a date must match exactly.
    if text(headers, &IF_RANGE).is_some_and(|validator| {
        validator != object.etag() && validator != httpdate::fmt_http_date(object.published())
    }) {
        return Selected::Whole;
    }
    match Ranges::parse(headers, object.length()) {
        Ranges::Single(part) => Selected::Part(part),
        Ranges::Unsatisfiable => Selected::Nothing,
        Ranges::Whole | Ranges::Multiple(_) => Selected::Whole,
    }
}

/// Whether the client's copy is current; a date counts only where there is no tag (§13.2.2).
fn unchanged(object: &Object, headers: &HeaderMap) -> bool {
    if let Some(tags) = text(headers, &IF_NONE_MATCH) {
        let etag = object.etag();
        return tags
            .split(',')
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == etag || tag == "*");
    }
    text(headers, &IF_MODIFIED_SINCE)
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .is_some_and(|date| object.published() <= date)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn status_only(status: StatusCode) -> Response<Content> {
    let mut response = Response::new(Content { object: None, left: 0..0 });
    *response.status_mut() = status;
    response
}

/// Sets a header whose value this file has built from digits, dates and hexadecimal digits.
fn set(response: &mut Response<Content>, name: HeaderName, value: String) {
    if let Ok(value) = value.try_into() {
        response.headers_mut().insert(name, value);
    }
}

fn media_type(path: &str) -> &'static str {
    if path.ends_with(".zip") { "application/zip" } else { "application/octet-stream" }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    const DELTA: &str = "/content/{D6AEBC07-D833-485f-9723-6C908D37F806}/250604002/xdelta250603019.dax";

    async fn ask(site: &Site, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Bytes) {
        let mut request = Request::get(DELTA);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, body) = respond(site, &request.body(()).unwrap()).into_parts();
        (head.status, head.headers, body.collect().await.unwrap().to_bytes())
    }

    #[tokio::test]
    async fn a_range_is_the_bytes_of_that_range() {
        let site = Site::new(1);
        let whole = ask(&site, &[]).await.2;
        let length = whole.len();
        for (range, expected) in [
            ("bytes=0-0", 0..1),
            ("bytes=3-40000", 3..40_001),
            ("bytes=50000-", 50_000..length),
            ("bytes=-7", length - 7..length),
            ("bytes=-99999999", 0..length),
            ("bytes=9-99999999", 9..length),
        ] {
            let (status, headers, body) = ask(&site, &[("range", range)]).await;
            assert_eq!(status, StatusCode::PARTIAL_CONTENT, "{range}");
            assert_eq!(body, whole[expected.clone()], "{range}");
            let content_range = format!("bytes {}-{}/{length}", expected.start, expected.end - 1);
            assert_eq!(headers[CONTENT_RANGE], content_range, "{range}");
        }
    }

    #[tokio::test]
    async fn a_range_behind_the_end_is_refused_and_an_invalid_one_ignored() {
        let site = Site::new(1);
        let length = site.at(DELTA).unwrap().length();
        let (status, headers, _) = ask(&site, &[("range", &format!("bytes={length}-"))]).await;
        assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(headers[CONTENT_RANGE], format!("bytes */{length}"));
        for range in ["bytes=9-3", "bytes=0-1,5-6", "lines=1-2", "bytes=x"] {
            assert_eq!(ask(&site, &[("range", range)]).await.0, StatusCode::OK, "{range}");
        }
    }

    #[tokio::test]
    async fn a_range_of_another_version_is_answered_whole() {
        let site = Site::new(1);
        let object = site.at(DELTA).unwrap();
        let date = httpdate::fmt_http_date(object.published());
        for (validator, status) in [
            (object.etag().as_str(), StatusCode::PARTIAL_CONTENT),
            (date.as_str(), StatusCode::PARTIAL_CONTENT),
            ("\"other\"", StatusCode::OK),
            ("Tue, 03 Jun 2025 02:00:00 GMT", StatusCode::OK),
        ] {
            let headers = [("range", "bytes=1-2"), ("if-range", validator)];
            assert_eq!(ask(&site, &headers).await.0, status, "{validator}");
        }
    }

    #[tokio::test]
    async fn a_current_copy_is_not_sent_again() {
        let site = Site::new(1);
        let object = site.at(DELTA).unwrap();
        let (etag, date) = (object.etag(), httpdate::fmt_http_date(object.published()));
        for (headers, status) in [
            (vec![("if-none-match", etag.as_str())], StatusCode::NOT_MODIFIED),
            (vec![("if-none-match", "\"other\""), ("if-modified-since", &date)], StatusCode::OK),
            (vec![("if-modified-since", date.as_str())], StatusCode::NOT_MODIFIED),
            (vec![("if-modified-since", "Tue, 03 Jun 2025 02:00:00 GMT")], StatusCode::OK),
        ] {
            let (answered, sent, body) = ask(&site, &headers).await;
            assert_eq!(answered, status, "{headers:?}");
            assert_eq!(sent[ETAG], etag);
            assert_eq!(body.is_empty(), status == StatusCode::NOT_MODIFIED);
        }
    }
}
