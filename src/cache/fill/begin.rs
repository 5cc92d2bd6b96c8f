//! From an upstream's answer to content on its way into the store: whether it may be shared, what its head will be, and
//! which of its bytes the answer brings. Pure but for the freshness rules it asks the cache for.

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::Body;

use super::FillRequest;
use super::content::Head;
use super::content_range::ContentRange;
use crate::Cache;
use crate::digest::Expectation;
use gupd_http::range::RequestedPart;
use gupd_http::storable::check_storable;
use gupd_http::validator::strong_validator;
use gupd_http::{UnstorableReason, VaryFields, update};
use gupd_net::upstream::UpstreamResponse;
use gupd_store::{BLOCK, CHUNK, NewObject, UnfinishedFill};

/// Content that has begun to arrive.
pub(super) struct Begun {
    pub(super) answer: UpstreamResponse,
    pub(super) head: Head,
    /// The content's complete length, if that is known.
    pub(super) length: Option<u64>,
    /// The bytes this answer is taken for.
    pub(super) brings: Range<u64>,
    /// Bytes before those in its body.
    pub(super) skip: u64,
    /// Where its body ends in the content, if that is known.
    pub(super) end: Option<u64>,
    /// Other bytes may be asked for while these arrive.
    pub(super) in_parts: bool,
}

/// Why an answer begins nothing.
pub(super) enum NotBegun {
    /// It is of no use; everything is to be asked for.
    Unusable,
    /// It is for one client alone.
    Unstorable(Box<UpstreamResponse>, UnstorableReason),
}

impl Begun {
    /// Judges an answer to `wanted`, which was asked for `part` of it only or for everything.
    pub(super) fn of(
        answer: UpstreamResponse,
        wanted: &FillRequest,
        part: Option<RequestedPart>,
        cache: &Cache,
        expect: impl Fn(StatusCode, &HeaderMap) -> Expectation,
    ) -> Result<Self, NotBegun> {
        let mut status = answer.response.status();
        let mut headers = answer.response.headers().clone();
        let exact = answer.response.body().size_hint().exact();
        let (length, brings, skip, end) = match (status, part) {
            (StatusCode::PARTIAL_CONTENT, Some(_)) => {
                let found = ContentRange::of(&headers).and_then(|part| Some((part.complete?, part.bytes)));
                let (complete, bytes) = found.ok_or(NotBegun::Unusable)?;
                let whole = bytes == (0..complete);
                let brings = whole_blocks(&bytes, complete).ok_or(NotBegun::Unusable)?;
                if strong_validator(&headers).is_none() && !whole {
                    return Err(NotBegun::Unusable);
                }
                status = StatusCode::OK;
                headers.remove(header::CONTENT_RANGE);
                // They speak of the part, and of nothing that is kept (RFC 9530 §2).
                headers.remove(HeaderName::from_static("content-digest"));
                headers.remove(HeaderName::from_static("content-md5"));
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(complete));
                let skip = brings.start - bytes.start;
                (Some(complete), brings, skip, Some(bytes.end))
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => return Err(NotBegun::Unusable),
            _ => (exact, 0..exact.unwrap_or(u64::MAX), 0, exact),
        };
        let class = wanted.classification.class;
        let kept = check_storable(&Method::GET, &wanted.client_headers, status, &headers, class);
        match kept {
            // Everyone who waits may have an empty one; it is not kept.
            Ok(()) | Err(UnstorableReason::EmptyPayload) => {}
            Err(why) => return Err(NotBegun::Unstorable(Box::new(answer), why)),
        }
        // An upstream that sends all of it when a part was asked for has no parts to give.
        let in_parts = status == StatusCode::OK
            && (part.is_none() || end != length || brings.start > 0)
            && strong_validator(&headers).is_some()
            && headers.get(header::ACCEPT_RANGES).is_none_or(|unit| unit != "none");
        // `storable` refused `Vary: *`, the only case without a selection.
        let selecting =
            VaryFields::from_response(&headers, &wanted.client_headers, class).unwrap_or_default();
        update::remove_unstored(&mut headers, class);
        update::add_date(&mut headers, answer.response_time);
        let (request_time, response_time) = (answer.request_time, answer.response_time);
        let expected = expect(status, &headers);
        let head = Head {
            status,
            kept: kept.and(expected.kept()),
            expected,
            freshness: cache.freshness(status, &headers, request_time, response_time, class),
            headers,
            selecting,
            classification: wanted.classification.clone(),
            upstream: answer.upstream.name.clone(),
            request_time,
            response_time,
        };
        Ok(Self { answer, head, length, brings, skip, end, in_parts })
    }
}

impl Head {
    /// The head of content that an earlier fill left unfinished.
    pub(super) fn of_unfinished(
        left: &UnfinishedFill,
        wanted: &FillRequest,
        cache: &Cache,
        expected: Expectation,
    ) -> Self {
        let object = &left.object;
        let (request_time, response_time) = (object.request_time, object.response_time);
        let class = wanted.classification.class;
        Self {
            status: object.status,
            kept: expected.kept(),
            expected,
            freshness: cache.freshness(object.status, &object.headers, request_time, response_time, class),
            headers: object.headers.clone(),
            selecting: VaryFields::decode(&object.selecting).unwrap_or_default(),
            classification: wanted.classification.clone(),
            upstream: object.upstream.clone(),
            request_time,
            response_time,
        }
    }

    /// As the store keeps it.
    pub(super) fn to_object(&self, wanted: &FillRequest) -> NewObject {
        NewObject {
            key: wanted.key.clone(),
            selecting: self.selecting.encode(),
            status: self.status,
            headers: self.headers.clone(),
            content_type: self.classification.content_type.clone(),
            upstream: self.upstream.clone(),
            request_time: self.request_time,
            response_time: self.response_time,
        }
    }

    /// Whether a later fill could go on with a part of it: only a strong validator tells that the rest is of the same
    /// content.
    pub(super) fn is_resumable(&self, length: Option<u64>) -> bool {
        self.status == StatusCode::OK
            && self.kept.is_ok()
            && length.is_some_and(|length| length > CHUNK)
            && strong_validator(&self.headers).is_some()
    }
}

/// The whole blocks among `bytes`; the last one is whole at the end of the content.
fn whole_blocks(bytes: &Range<u64>, complete: u64) -> Option<Range<u64>> {
    let start = bytes.start.checked_next_multiple_of(BLOCK)?;
    let end = if bytes.end == complete { complete } else { bytes.end / BLOCK * BLOCK };
    (start < end).then_some(start..end)
}
