//! Stored fields of the relay's own: statements about a stored response that are kept beside its fields. No message has
//! them, in either direction: an upstream must not be able to make one.

use http::{HeaderMap, HeaderName};

use crate::spelling;

/// Stored field with the proof of the content.
pub const PROOF: HeaderName = HeaderName::from_static("gupd-proof");

/// Stored field with the reason for which the content is held.
pub const HELD: HeaderName = HeaderName::from_static("gupd-held");

/// Stored field of a payload that has changed under its name: it is revalidated like a catalog.
pub const MUTABLE: HeaderName = HeaderName::from_static("gupd-mutable");

/// Removes all of them: from a received message, and for one that is sent.
pub fn remove(headers: &mut HeaderMap) {
    spelling::remove_target(headers);
    for name in [PROOF, HELD, MUTABLE] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn no_internal_field_remains() {
        let names = ["gupd-proof", "gupd-held", "gupd-mutable", "gupd-request-target"];
        let mut headers: HeaderMap = names
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("listed")))
            .into_iter()
            .collect();
        headers.insert("etag", HeaderValue::from_static("\"a\""));
        remove(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
