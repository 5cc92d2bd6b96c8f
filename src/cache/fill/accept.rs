//! Turns an upstream's response into content for the store: decides whether it may be shared, builds the stored head,
//! and computes which bytes the body brings. Pure, except for the freshness rules of the cache. The complication is a
//! `206` to a range request: only its whole blocks are used, under the head of the complete content.

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body;

use super::FillRequest;
use super::content_range::ContentRange;
use super::head::{ContentHead, check_type};
use crate::Cache;
use crate::digest::{ContentProof, Expectation};
use gupd_config::Class;
use gupd_http::range::RequestedPart;
use gupd_http::validator::strong_validator;
use gupd_http::{UnstorableReason, VaryFields, compact, spelling, update};
use gupd_net::upstream::UpstreamResponse;
use gupd_store::BLOCK;

/// Response with content that may be shared.
pub(super) struct AcceptedResponse {
    pub(super) answer: Box<UpstreamResponse>,
    pub(super) head: ContentHead,
    /// Complete length of the content, if known.
    pub(super) length: Option<u64>,
    /// Range of the content that the body is used for.
    pub(super) range: Range<u64>,
    /// Bytes of the body before `range`.
    pub(super) skip: u64,
    /// Position in the content where the body ends, if known.
    pub(super) end: Option<u64>,
    /// Other ranges may be requested while this one arrives.
    pub(super) accepts_ranges: bool,
    /// Cookies that only the client that started the fill may have.
    pub(super) cookies: HeaderMap,
}

/// Reason why a response is not accepted.
pub(super) enum RejectedResponse {
    /// The response is unusable: ask for the complete content without conditions.
    Unusable,
    /// Only one client may have the response.
    Unstorable(Box<UpstreamResponse>, UnstorableReason),
}

/// Range of the content that a response brings, and the head of the complete content.
struct BodyRange {
    status: StatusCode,
    headers: HeaderMap,
    length: Option<u64>,
    range: Range<u64>,
    skip: u64,
    end: Option<u64>,
}

impl AcceptedResponse {
    /// Judges the response to `request`, which asked for `part` or for the complete content. `are_authenticated`: TLS
    /// proves the bytes of every upstream that may send the rest.
    pub(super) fn from_response(
        answer: Box<UpstreamResponse>,
        request: &FillRequest,
        part: Option<RequestedPart>,
        (cache, are_authenticated): (&Cache, bool),
        expect: impl Fn(StatusCode, &HeaderMap) -> Expectation,
    ) -> Result<Box<Self>, RejectedResponse> {
        let body = BodyRange::parse(&answer, part).ok_or(RejectedResponse::Unusable)?;
        let BodyRange { status, mut headers, length, range, skip, end } = body;
        let class = request.classification.class;
        let kept = cache.check_storable(&request.client_headers, status, &headers, class);
        match kept {
            // Followers may have an empty payload; it is not kept.
            Ok(()) | Err(UnstorableReason::EmptyPayload) => {}
            Err(why) => return Err(RejectedResponse::Unstorable(answer, why)),
        }
        // An upstream that answers a range request with the complete content does not serve ranges.
        let accepts_ranges = status == StatusCode::OK
            && (part.is_none() || end != length || range.start > 0)
            && strong_validator(&headers).is_some()
            && headers.get(header::ACCEPT_RANGES).is_none_or(|unit| unit != "none");
        let (client, fields) = (&request.client_headers, request.classification.key_fields());
        let selecting = VaryFields::from_response(status, &headers, request.selecting(), class);
        let Some(selecting) = selecting.and_then(|selecting| selecting.with_fields(fields, client)) else {
            return Err(RejectedResponse::Unstorable(answer, UnstorableReason::Vary));
        };
        let cookies = match class {
            Class::Generic if !cache.stores_cookies() => update::take_cookies(&mut headers),
            _ => HeaderMap::new(),
        };
        update::remove_unstored(&mut headers, class);
        update::add_date(&mut headers, answer.response_time);
        spelling::keep_target(&mut headers, &request.key, &request.target);
        if are_authenticated && answer.upstream.is_authenticated() {
            ContentProof::Tls.set(&mut headers);
        }
        let (request_time, response_time) = (answer.request_time, answer.response_time);
        let expected = expect(status, &headers);
        let head = ContentHead {
            status,
            kept: kept.and(expected.check_storable()).and(check_type(request, status, &headers)),
            expected,
            freshness: cache.freshness(
                status,
                &headers,
                request_time,
                response_time,
                &request.classification,
            ),
            headers,
            selecting,
            classification: request.classification.clone(),
            upstream: answer.upstream.name.clone(),
            request_time,
            response_time,
            is_hidden: false,
            replaced: None,
        };
        Ok(Box::new(Self { answer, head, length, range, skip, end, accepts_ranges, cookies }))
    }
}

impl BodyRange {
    /// `None` if the response does not fit the range request.
    fn parse(answer: &UpstreamResponse, part: Option<RequestedPart>) -> Option<Self> {
        let status = answer.response.status();
        let mut headers = compact(answer.response.headers());
        match (status, part) {
            (StatusCode::PARTIAL_CONTENT, Some(_)) => {
                let ContentRange { bytes, complete } = ContentRange::parse(&headers)?;
                let complete = complete?;
                let range = whole_blocks(&bytes, complete)?;
                if strong_validator(&headers).is_none() && bytes != (0..complete) {
                    return None;
                }
                headers.remove(header::CONTENT_RANGE);
                // These digests cover the part, not the stored content (RFC 9530 §2).
                headers.remove(HeaderName::from_static("content-digest"));
                headers.remove(HeaderName::from_static("content-md5"));
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(complete));
                let (skip, end) = (range.start.saturating_sub(bytes.start), Some(bytes.end));
                Some(Self { status: StatusCode::OK, headers, length: Some(complete), range, skip, end })
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => None,
            _ => {
                let length = answer.response.body().size_hint().exact();
                let range = 0..length.unwrap_or(u64::MAX);
                Some(Self { status, headers, length, range, skip: 0, end: length })
            }
        }
    }
}

/// Returns the whole blocks within `bytes`; the last block of the content counts as whole.
fn whole_blocks(bytes: &Range<u64>, complete: u64) -> Option<Range<u64>> {
    let start = bytes.start.checked_next_multiple_of(BLOCK)?;
    let end = if bytes.end == complete { complete } else { bytes.end.saturating_sub(bytes.end % BLOCK) };
    (start < end).then_some(start..end)
}
