//! A response before it is sent: head, content, and its annotations for `Cache-Status` and the access line.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use crate::access::AccessRecord;
use crate::body::{BodyContent, ResponseBody};
use crate::pacing::ResponsePacer;
use crate::slot::DownloadSlot;
use gupd_config::policy::Classification;
use gupd_http::refusal::{ALLOWED_METHODS, Refusal};
use gupd_http::status::CacheStatus;
use gupd_net::field_names::FieldNames;
use gupd_net::shape::SlotRefusal;
use gupd_store::BlobId;

/// A response, ready to be sent. Boxed, because steps and their futures hand it on.
pub(crate) struct Reply(Box<ReplyParts>);

struct ReplyParts {
    status: StatusCode,
    headers: HeaderMap,
    /// Spelling of the upstream, of a response that is passed on.
    field_names: FieldNames,
    content: BodyContent,
    expected: Option<u64>,
    present: u64,
    cache: Option<CacheStatus>,
    classification: Option<Classification>,
    object: Option<BlobId>,
    upstream: Option<Arc<str>>,
    slot: Option<Box<DownloadSlot>>,
}

impl Reply {
    /// A response with this head and content. `expected` is the length of the content, if known.
    pub(crate) fn new(
        status: StatusCode,
        headers: HeaderMap,
        content: BodyContent,
        expected: Option<u64>,
    ) -> Self {
        Self(Box::new(ReplyParts {
            status,
            headers,
            field_names: FieldNames::default(),
            content,
            expected,
            present: 0,
            cache: None,
            classification: None,
            object: None,
            upstream: None,
            slot: None,
        }))
    }

    /// A sentence for people. Never cached.
    pub(crate) fn text(status: StatusCode, sentence: impl Into<Bytes>) -> Self {
        let sentence = sentence.into();
        let length = sentence.len() as u64;
        let headers = HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
            (header::CONTENT_LENGTH, HeaderValue::from(length)),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ]);
        Self::new(status, headers, BodyContent::Whole(sentence), Some(length))
    }

    /// The reply to an `OPTIONS` request that goes no further (RFC 9110 §9.3.7).
    pub(crate) fn options() -> Self {
        let headers = HeaderMap::from_iter([(header::ALLOW, HeaderValue::from_static(ALLOWED_METHODS))]);
        Self::new(StatusCode::NO_CONTENT, headers, BodyContent::Empty, Some(0))
    }

    /// Sends field names as the upstream spelled them.
    pub(crate) fn with_field_names(mut self, field_names: FieldNames) -> Self {
        self.0.field_names = field_names;
        self
    }

    /// Sets the number of content bytes that the relay has already.
    pub(crate) fn with_present(mut self, present: u64) -> Self {
        self.0.present = present;
        self
    }

    /// Adds the upstream that sent the content, now or when it was stored, to the access line.
    pub(crate) fn with_upstream(mut self, upstream: &Arc<str>) -> Self {
        self.0.upstream = Some(upstream.clone());
        self
    }

    /// Number of bytes of a running fill that had arrived when the reply was made; 0 for stored content.
    pub(crate) fn bytes_on_hand(&self) -> u64 {
        self.0.present
    }

    /// Length of the content, if known.
    pub(crate) fn expected(&self) -> Option<u64> {
        self.0.expected
    }

    /// Returns true if the relay had all content bytes when the reply was made.
    pub(crate) fn has_all_bytes_on_hand(&self) -> bool {
        self.0.expected == Some(self.0.present)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Class and content type of the path, if it was classified.
    pub(crate) fn classification(&self) -> Option<&Classification> {
        self.0.classification.as_ref()
    }

    /// Returns true if the reply brings content, all or a part: false for an error or a `304`.
    pub(crate) fn brings_content(&self) -> bool {
        matches!(self.0.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT)
            && !matches!(self.0.content, BodyContent::Empty)
    }

    /// Keeps a slot until the last byte has left.
    pub(crate) fn with_slot(mut self, slot: Option<Box<DownloadSlot>>) -> Self {
        self.0.slot = slot;
        self
    }

    /// Keeps `held` until the last byte has been handed on.
    pub(crate) fn holding(mut self, held: impl Send + 'static) -> Self {
        self.0.content = self.0.content.holding(held);
        self
    }

    /// Calls `observe` with the length of each piece of passed-on content.
    pub(crate) fn observing_pieces(mut self, observe: impl Fn(u64) + Send + 'static) -> Self {
        self.0.content = self.0.content.observing_pieces(observe);
        self
    }

    pub(crate) fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.0.headers
    }

    /// Adds the class of the path to the access line. For replies that the cache had no part in.
    pub(crate) fn with_class(mut self, classification: &Classification) -> Self {
        self.0.classification = Some(classification.clone());
        self
    }

    /// Adds the cache's part in the reply to `Cache-Status` and to the access line.
    pub(crate) fn annotate(
        mut self,
        cache: CacheStatus,
        classification: &Classification,
        object: Option<BlobId>,
    ) -> Self {
        cache.append_to(&mut self.0.headers);
        self.0.cache = Some(cache);
        self.0.classification = Some(classification.clone());
        self.0.object = object;
        self
    }

    /// Turns the reply into the response to `method`, with the record that becomes its access line. `pacer` is called
    /// for content that may have to wait for a limit.
    pub(crate) fn into_response(
        self,
        method: &Method,
        mut access: Box<AccessRecord>,
        pacer: impl FnOnce() -> ResponsePacer,
        is_limited: bool,
    ) -> Response<ResponseBody> {
        let reply = *self.0;
        access.status = reply.status;
        access.cache = reply.cache;
        access.object = reply.object;
        access.upstream = reply.upstream;
        access.present = reply.present;
        if let Some(classification) = reply.classification {
            access.class = classification.class;
            access.content_type = Some(classification.content_type);
        }
        let has_body = method != Method::HEAD;
        access.expected = if has_body { reply.expected } else { Some(0) };
        if access.observer.is_some() {
            access.has_last_byte = *method == Method::GET && has_last_byte(reply.status, &reply.headers);
        }
        access.count_head();
        let content = if has_body { reply.content } else { BodyContent::Empty };
        let waits = match content {
            BodyContent::Empty => false,
            BodyContent::Whole(_) => is_limited,
            // A limit may be configured while the content is sent.
            BodyContent::Stream(_) => true,
        };
        let pacer = waits.then(|| Box::new(pacer()));
        let mut response = Response::new(ResponseBody::new(content, access, pacer, reply.slot));
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        *response.extensions_mut() = reply.field_names.into_extensions();
        response
    }
}

/// Returns true if a `200` or `206` carries the object's last byte (RFC 9110 §14.4): a client that resumed its download
/// has all of it then.
fn has_last_byte(status: StatusCode, headers: &HeaderMap) -> bool {
    let ends_at_last_byte = || {
        let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let (span, complete) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (_, last) = span.split_once('-')?;
        Some(last.parse::<u64>().ok()?.checked_add(1)? == complete.parse::<u64>().ok()?)
    };
    match status {
        StatusCode::OK => true,
        StatusCode::PARTIAL_CONTENT => ends_at_last_byte().unwrap_or(false),
        _ => false,
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let mut reply = Reply::text(refusal.status(), refusal.message());
        if refusal.status() == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110 §15.5.6: a 405 lists the allowed methods.
            // Replaced where the route decides.
            reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(ALLOWED_METHODS));
        }
        reply
    }
}

impl From<SlotRefusal> for Reply {
    fn from(refusal: SlotRefusal) -> Self {
        let mut reply = Reply::from(Refusal::NoSlot(refusal.reason));
        let seconds = HeaderValue::from(refusal.retry_after.as_secs());
        reply.headers_mut().insert(header::RETRY_AFTER, seconds);
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_byte_is_found_by_status_and_content_range() {
        for (status, range, expected) in [
            (200, "", true),
            (206, "bytes 5-9/10", true),
            (206, "bytes 0-8/10", false),
            (206, "bytes 0-9/*", false),
            (206, "bytes */10", false),
            (206, "", false),
            (404, "", false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let headers = HeaderMap::from_iter([(header::CONTENT_RANGE, HeaderValue::from_static(range))]);
            assert_eq!(has_last_byte(status, &headers), expected, "{status} {range}");
        }
    }
}
