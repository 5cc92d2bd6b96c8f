//! How far a request may go: requests about the relay itself, and `Max-Forwards` (RFC 9110 §7.6.2). Knows nothing of
//! routes; what ends here asks nobody.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use gupd_http::field;

const MAX_FORWARDS: HeaderName = HeaderName::from_static("max-forwards");

/// Whether a request's final recipient is the relay: an `OPTIONS` about the server as a whole, or one that may go no
/// further.
pub fn is_final_recipient(method: &Method, target: &Uri, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && (target.path() == "*" || max_forwards(headers) == Some(0))
}

/// Counts this forwarding, where the method counts them.
pub fn decrement_max_forwards(method: &Method, headers: &mut HeaderMap) {
    if let (&Method::OPTIONS, Some(left)) = (method, max_forwards(headers)) {
        headers.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

fn max_forwards(headers: &HeaderMap) -> Option<u64> {
    field::decimal(headers.get(MAX_FORWARDS)?.as_bytes())
}
