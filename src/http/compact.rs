//! Copies of received header fields. The values of a received message are parts of the buffer that it was read into,
//! several times their size. The invariant: a copy keeps no such buffer alive.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

/// Copies header fields, with all values in one allocation.
pub fn compact(headers: &HeaderMap) -> HeaderMap {
    let mut values = Vec::with_capacity(headers.values().map(HeaderValue::len).sum());
    headers.values().for_each(|value| values.extend_from_slice(value.as_bytes()));
    let mut rest = Bytes::from(values);
    let mut copies = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let bytes = rest.split_to(value.len());
        // A part of a copy of valid values is valid.
        if let Ok(mut copy) = HeaderValue::from_maybe_shared(bytes) {
            copy.set_sensitive(value.is_sensitive());
            copies.append(name.clone(), copy);
        }
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_is_equal_and_shares_no_byte_with_the_original() {
        let received = Bytes::from_static(
            b"GET / HTTP/1.1\r\netag: \"a\"\r\nset-cookie: one\r\nset-cookie: \xfftwo\r\n\r\n",
        );
        let part = |range| HeaderValue::from_maybe_shared(received.slice(range)).unwrap();
        let mut headers = HeaderMap::new();
        headers.append("etag", part(22..25));
        headers.append("set-cookie", part(39..42));
        headers.append("x-empty", HeaderValue::from_static(""));
        headers.append("set-cookie", part(56..60));
        headers.get_mut("etag").unwrap().set_sensitive(true);
        let copy = compact(&headers);
        assert_eq!(copy, headers);
        let cookies = |headers: &HeaderMap| headers.get_all("set-cookie").iter().cloned().collect::<Vec<_>>();
        assert_eq!(cookies(&copy), cookies(&headers), "order");
        assert!(copy["etag"].is_sensitive());
        let original = received.as_ptr_range();
        assert!(
            copy.values().all(|value| value.is_empty() || !original.contains(&value.as_bytes().as_ptr()))
        );
    }
}
