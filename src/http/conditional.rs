//! Preconditions of a client's request against a stored or streaming response (RFC 9110 §13), and whether its `Range`
//! still applies. Relies on `validator` for tags and dates; sends nothing and reads no body.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::validator::{EntityTag, is_last_modified_strong};
use crate::{date, field};

/// Fields that make a request conditional (§13.1), except `If-Range`.
const CONDITIONS: [HeaderName; 4] =
    [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE];

/// Media type of a `206` with several ranges.
const MULTIPART: &[u8] = b"multipart/byteranges";

/// Result of a request's preconditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Answer as without preconditions.
    Proceed,
    /// The client has the response: `304`.
    NotModified,
    /// A precondition failed: `412`.
    Failed,
}

/// Evaluates the preconditions in the order of RFC 9110 §13.2.2 against the selected response.
///
/// Preconditions apply only to a response that would be `2xx` (§13.2.1). RFC 9111 §4.3.2 lets a cache leave
/// `If-Match` and `If-Unmodified-Since` to the origin; they are evaluated here, because the bytes of the response are
/// known.
pub fn evaluate(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
) -> Precondition {
    // Most requests have none, so skip reading the response.
    if !status.is_success() || !CONDITIONS.iter().any(|name| request.contains_key(name)) {
        return Precondition::Proceed;
    }
    let tag = EntityTag::from_response(response);
    let modified = date::from_headers(response, header::LAST_MODIFIED);
    let assumed = if request.contains_key(header::IF_MATCH) {
        is_any(request, header::IF_MATCH)
            || tag.is_some_and(|tag| {
                EntityTag::list(request, header::IF_MATCH).any(|listed| listed.strongly_equals(&tag))
            })
    } else {
        match (date::from_headers(request, header::IF_UNMODIFIED_SINCE), modified) {
            (Some(since), Some(modified)) => modified <= since,
            // §13.1.4: ignored if it is no date, or if the response has none.
            _ => true,
        }
    };
    if !assumed {
        return Precondition::Failed;
    }
    let is_read = method == Method::GET || method == Method::HEAD;
    if request.contains_key(header::IF_NONE_MATCH) {
        let held = is_any(request, header::IF_NONE_MATCH)
            || tag.is_some_and(|tag| {
                EntityTag::list(request, header::IF_NONE_MATCH).any(|held| held.weakly_equals(&tag))
            });
        return match (held, is_read) {
            (false, _) => Precondition::Proceed,
            (true, true) => Precondition::NotModified,
            (true, false) => Precondition::Failed,
        };
    }
    // RFC 9111 §4.3.2: `Date` replaces a missing `Last-Modified`.
    let modified = modified.or_else(|| date::from_headers(response, header::DATE));
    match (date::from_headers(request, header::IF_MODIFIED_SINCE), modified) {
        (Some(since), Some(modified)) if is_read && modified <= since => Precondition::NotModified,
        _ => Precondition::Proceed,
    }
}

/// Returns true if the request's `Range` applies to this response (§13.1.5): without `If-Range`, or with a strong
/// validator that is the response's. Otherwise the client gets the whole.
pub fn is_range_applicable(request: &HeaderMap, response: &HeaderMap) -> bool {
    let Some(value) = request.get(header::IF_RANGE) else { return true };
    if let Some(expected) = EntityTag::parse(value.as_bytes()) {
        return EntityTag::from_response(response).is_some_and(|tag| tag.strongly_equals(&expected));
    }
    match (date::parse(value), date::from_headers(response, header::LAST_MODIFIED)) {
        (Some(expected), Some(modified)) => expected == modified && is_last_modified_strong(response),
        _ => false,
    }
}

/// Returns false for a response to `GET` or `HEAD` that its request cannot have asked for: a `304` without a condition,
/// or a `206` without `Range` or without the range that it has. Neither is the object (RFC 9110 §15.3.7, §15.4.5).
pub fn is_requested(method: &Method, request: &HeaderMap, status: StatusCode, response: &HeaderMap) -> bool {
    let is_read = method == Method::GET || method == Method::HEAD;
    match status {
        StatusCode::NOT_MODIFIED if is_read => {
            request.contains_key(header::IF_NONE_MATCH) || request.contains_key(header::IF_MODIFIED_SINCE)
        }
        StatusCode::PARTIAL_CONTENT if is_read => {
            let content_type = response.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
            request.contains_key(header::RANGE)
                && (response.contains_key(header::CONTENT_RANGE)
                    || content_type.is_some_and(|is| {
                        is.get(..MULTIPART.len()).is_some_and(|is| is.eq_ignore_ascii_case(MULTIPART))
                    }))
        }
        _ => true,
    }
}

fn is_any(request: &HeaderMap, name: header::HeaderName) -> bool {
    field::members(request, name).eq([b"*"])
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const T1: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const T2: &str = "Sun, 06 Nov 1994 08:49:39 GMT";

    #[test]
    fn only_a_fitting_request_asks_for_206_or_304() {
        let part = "content-range: bytes 0-9/100";
        for (method, request, status, response, expected) in [
            ("GET", "", 200, "", true),
            ("GET", "", 404, "", true),
            ("GET", "", 206, part, false),
            ("GET", "range: bytes=0-9", 206, part, true),
            ("GET", "range: bytes=0-9", 206, "", false),
            ("GET", "range: bytes=0-1,5-6", 206, "content-type: Multipart/ByteRanges; boundary=x", true),
            ("GET", "", 206, "content-type: multipart/byteranges; boundary=x", false),
            ("HEAD", "", 206, part, false),
            ("GET", "", 304, "", false),
            ("HEAD", "range: bytes=0-9", 304, "", false),
            ("GET", "if-none-match: \"a\"", 304, "", true),
            ("HEAD", "if-modified-since: T0", 304, "", true),
            ("GET", "if-match: \"a\"", 304, "", false),
            ("POST", "", 304, "", true),
            ("REPORT", "", 206, "", true),
        ] {
            let (method, status) = (method.parse().unwrap(), StatusCode::from_u16(status).unwrap());
            let is = is_requested(&method, &headers(request), status, &headers(response));
            assert_eq!(is, expected, "{method} {request} {status} {response}");
        }
    }

    fn headers(text: &str) -> HeaderMap {
        let text = text.replace("T0", T0).replace("T1", T1).replace("T2", T2);
        field::parse_lines(&text)
    }

    #[test]
    fn preconditions_follow_rfc_9110_section_13() {
        use Precondition::{Failed, NotModified, Proceed};
        let tagged = "etag: \"a\"|last-modified: T1|date: T2";
        let weak = "etag: W/\"a\"|last-modified: T1|date: T2";
        let bare = "date: T1";
        for (request, response, expected) in [
            ("", tagged, Proceed),
            // 13.1.1
            ("if-match: \"x\", \"a\"", tagged, Proceed),
            ("if-match: \"x\"|if-match: \"a\"", tagged, Proceed),
            ("if-match: \"x\"", tagged, Failed),
            ("if-match: W/\"a\"", tagged, Failed),
            ("if-match: \"a\"", weak, Failed),
            ("if-match: *", bare, Proceed),
            ("if-match: \"a\"", bare, Failed),
            // 13.1.2
            ("if-none-match: \"x\", W/\"a\"", tagged, NotModified),
            ("if-none-match: \"a\"", weak, NotModified),
            ("if-none-match: \"x\"", tagged, Proceed),
            ("if-none-match: a", tagged, Proceed),
            ("if-none-match: *", bare, NotModified),
            ("if-none-match: \"*\"", tagged, Proceed),
            // 13.1.3
            ("if-modified-since: T0", tagged, Proceed),
            ("if-modified-since: T1", tagged, NotModified),
            ("if-modified-since: T2", tagged, NotModified),
            ("if-modified-since: soon", tagged, Proceed),
            ("if-modified-since: T0", bare, Proceed),
            ("if-modified-since: T1", bare, NotModified),
            // 13.1.4
            ("if-unmodified-since: T0", tagged, Failed),
            ("if-unmodified-since: T1", tagged, Proceed),
            ("if-unmodified-since: soon", tagged, Proceed),
            ("if-unmodified-since: T0", bare, Proceed),
            // 13.2.2: the order
            ("if-match: \"a\"|if-unmodified-since: T0", tagged, Proceed),
            ("if-match: \"x\"|if-none-match: \"a\"", tagged, Failed),
            ("if-match: \"a\"|if-none-match: \"a\"", tagged, NotModified),
            ("if-none-match: \"x\"|if-modified-since: T2", tagged, Proceed),
            ("if-none-match: \"a\"|if-modified-since: T0", tagged, NotModified),
            ("if-unmodified-since: T1|if-modified-since: T1", tagged, NotModified),
        ] {
            let evaluated = evaluate(&Method::GET, &headers(request), StatusCode::OK, &headers(response));
            assert_eq!(evaluated, expected, "{request} against {response}");
        }
    }

    #[test]
    fn unsafe_method_fails_where_a_read_is_not_modified() {
        for (method, expected) in
            [(Method::HEAD, Precondition::NotModified), (Method::PUT, Precondition::Failed)]
        {
            let request = headers("if-none-match: *");
            assert_eq!(evaluate(&method, &request, StatusCode::OK, &headers("")), expected);
        }
        let since = headers("if-modified-since: T1");
        let evaluated = evaluate(&Method::PUT, &since, StatusCode::OK, &headers("last-modified: T1"));
        assert_eq!(evaluated, Precondition::Proceed);
    }

    #[test]
    fn preconditions_do_not_apply_to_errors() {
        for request in ["if-match: \"x\"", "if-none-match: *"] {
            let evaluated = evaluate(&Method::GET, &headers(request), StatusCode::NOT_FOUND, &headers(""));
            assert_eq!(evaluated, Precondition::Proceed);
        }
    }

    #[test]
    fn range_applies_only_to_identical_bytes() {
        let tagged = "etag: \"a\"|last-modified: T0|date: T2";
        for (request, response, expected) in [
            ("", tagged, true),
            ("if-range: \"a\"", tagged, true),
            ("if-range: \"b\"", tagged, false),
            ("if-range: W/\"a\"", tagged, false),
            ("if-range: W/\"a\"", "etag: W/\"a\"", false),
            ("if-range: \"a\"", "last-modified: T0|date: T2", false),
            ("if-range: T0", tagged, true),
            ("if-range: Sunday, 06-Nov-94 08:49:37 GMT", tagged, true),
            ("if-range: T1", tagged, false),
            ("if-range: T0", "last-modified: T0|date: T0", false),
            ("if-range: T0", "last-modified: T0", false),
            ("if-range: a", tagged, false),
        ] {
            assert_eq!(
                is_range_applicable(&headers(request), &headers(response)),
                expected,
                "{request} against {response}"
            );
        }
    }
}
