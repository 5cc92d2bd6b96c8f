//! Spelling of a request target beside its stored response. Keys are in normal form; a manager whose files are
//! case-sensitive knows only the spelling of its clients. The relay's own requests for the object repeat it. It is kept
//! as a field among the stored ones, which never leaves the relay.

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::key;

/// Stored field with the target as it was sent upstream. No message has it.
const REQUEST_TARGET: HeaderName = HeaderName::from_static("gupd-request-target");

/// Adds the target to the fields of a response to be stored under `key`, unless the key gives the same target.
pub fn keep_target(headers: &mut HeaderMap, key: &str, target: &PathAndQuery) {
    headers.remove(REQUEST_TARGET);
    let is_derived = key::request_target(key::split_key(key).target).as_ref() == Some(target);
    if !is_derived && let Ok(target) = HeaderValue::from_str(target.as_str()) {
        headers.insert(REQUEST_TARGET, target);
    }
}

/// Removes the target from stored fields, for a message.
pub fn remove_target(headers: &mut HeaderMap) {
    headers.remove(REQUEST_TARGET);
}

/// Returns the target that requests the object of a key again, as it was sent upstream.
pub fn stored_target(headers: &HeaderMap, key: &str) -> Option<PathAndQuery> {
    let kept = || headers.get(REQUEST_TARGET)?.to_str().ok()?.parse().ok();
    kept().or_else(|| key::request_target(key::split_key(key).target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_spelling_that_the_key_does_not_give_is_kept() {
        let key = "/ /content/{07b590b3-9282-482f-bbaa-6d515d385869}/1/full.zip";
        let derived = "/content/%7B07b590b3-9282-482f-bbaa-6d515d385869%7D/1/full.zip";
        for (target, is_kept) in [
            (derived, false),
            ("/content/{07B590B3-9282-482f-BBAA-6D515D385869}/1/full.zip", true),
            ("/content/%7B07B590B3-9282-482f-BBAA-6D515D385869%7D/1/full.zip", true),
            ("/content/{07b590b3-9282-482f-bbaa-6d515d385869}/1/full%2Ezip", true),
        ] {
            let mut headers = HeaderMap::new();
            // An upstream cannot set it.
            headers.insert(REQUEST_TARGET, HeaderValue::from_static("/elsewhere"));
            keep_target(&mut headers, key, &target.parse().unwrap());
            assert_eq!(headers.len(), usize::from(is_kept), "{target}");
            assert_eq!(stored_target(&headers, key).unwrap(), target);
            remove_target(&mut headers);
            assert_eq!(stored_target(&headers, key).unwrap(), derived);
        }
    }
}
