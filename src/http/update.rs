//! Stored header fields, and their update by a `304` (RFC 9111 §3.1, §3.2). After an update the caller checks
//! `storable` and freshness again: a `304` may say `no-store`.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, header};

use super::{date, field, internal};
use gupd_config::Class;
use gupd_config::clock::UnixMillis;

/// Removes hop-by-hop fields (RFC 9110 §7.6.1): those named by `Connection` and the known ones, including credentials
/// and challenges between a client and its proxy (§11.7). For forwarded messages in both directions, and the first half
/// of [`remove_unstored`].
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // RFC 9112 §6.3: the coding delimits the body; a length beside it is wrong or an attack.
        headers.remove(header::CONTENT_LENGTH);
    }
    let named: Vec<_> = field::members(headers, header::CONNECTION)
        .filter_map(|member| HeaderName::from_bytes(member).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Removes response fields that are not stored: hop-by-hop ones (§3.1), and the cookies of payloads and catalogs, since
/// those are stored in spite of them.
pub fn remove_unstored(headers: &mut HeaderMap, class: Class) {
    remove_hop_by_hop(headers);
    internal::remove(headers);
    if matches!(class, Class::Payload | Class::Catalog) {
        take_cookies(headers);
    }
}

/// Removes and returns the cookies of a response, which are for one client.
pub fn take_cookies(headers: &mut HeaderMap) -> HeaderMap {
    let mut cookies = HeaderMap::new();
    for name in COOKIES.iter().filter(|name| headers.contains_key(*name)) {
        for cookie in headers.get_all(name) {
            cookies.append(name, cookie.clone());
        }
    }
    COOKIES.iter().for_each(|name| drop(headers.remove(name)));
    cookies
}

/// Returns true if a response sets a cookie (RFC 6265), also by the obsolete field of RFC 2965.
pub(super) fn has_cookies(headers: &HeaderMap) -> bool {
    COOKIES.iter().any(|name| headers.contains_key(name))
}

/// Updates stored fields from a `304` that [`matches_stored`](super::validator::matches_stored): each of its fields
/// replaces those of the same name. Fields that describe the stored bytes stay. Cookies of a `304` are for one client
/// only.
///
/// `Date` and `Age` of the old message are removed even without replacement: freshness then counts from the arrival.
pub fn apply_not_modified(stored: &mut HeaderMap, mut not_modified: HeaderMap, class: Class) {
    remove_unstored(&mut not_modified, class);
    for name in CONTENT_FIELDS.iter().chain(&COOKIES) {
        not_modified.remove(name);
    }
    stored.remove(header::DATE);
    stored.remove(header::AGE);
    for name in not_modified.keys() {
        stored.remove(name);
    }
    for (name, value) in &not_modified {
        stored.append(name, value.clone());
    }
}

/// Adds a `Date` of the arrival if the origin sent none, or an invalid one (RFC 9110 §6.6.1): served later, the
/// response must not seem new.
pub fn add_date(headers: &mut HeaderMap, response_time: UnixMillis) {
    if date::from_headers(headers, header::DATE).is_some() {
        return;
    }
    let since = Duration::from_millis(u64::try_from(response_time).unwrap_or(0));
    // Beyond the system's times only if the clock is far off.
    let arrived = UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH);
    headers.insert(header::DATE, field::composed(httpdate::fmt_http_date(arrived)));
}

static COOKIES: [HeaderName; 2] = [header::SET_COOKIE, HeaderName::from_static("set-cookie2")];

pub(super) static HOP_BY_HOP: [HeaderName; 11] = [
    header::CONNECTION,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

// §3.2 excepts Content-Length and permits others that describe the stored bytes: coding, range, digests. Content-Type
// is replaced, as §3.2 requires.
const CONTENT_FIELDS: [HeaderName; 6] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("repr-digest"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::parse_lines as headers;

    #[test]
    fn not_modified_replaces_its_fields_only() {
        let mut stored =
            headers("etag: \"a\"|x-a: 1|x-a: 2|x-b: 3|content-type: a/b|cache-control: max-age=1");
        apply_not_modified(&mut stored, headers("x-a: 4|x-a: 5|content-type: c/d|x-new: 6"), Class::Generic);
        let expected =
            headers("etag: \"a\"|x-b: 3|cache-control: max-age=1|x-a: 4|x-a: 5|content-type: c/d|x-new: 6");
        assert_eq!(stored, expected);
    }

    #[test]
    fn not_modified_keeps_fields_of_the_stored_bytes() {
        let text = "content-length: 9|content-encoding: gzip|content-md5: x|repr-digest: y|content-digest: z";
        let mut stored = headers(text);
        apply_not_modified(
            &mut stored,
            headers(
                "content-length: 0|content-encoding: br|content-range: bytes 0-0/1|content-md5: 0|repr-digest: 0",
            ),
            Class::Generic,
        );
        assert_eq!(stored, headers(text));
    }

    #[test]
    fn not_modified_removes_the_old_age() {
        let mut stored = headers("age: 999|date: Sun, 06 Nov 1994 08:49:37 GMT|etag: \"a\"");
        apply_not_modified(&mut stored, headers("server: x"), Class::Catalog);
        assert_eq!(stored, headers("etag: \"a\"|server: x"));
    }

    #[test]
    fn not_modified_adds_no_cookie_or_hop_by_hop_field() {
        for class in [Class::Generic, Class::Catalog] {
            let mut stored = headers("etag: \"a\"");
            let not_modified = headers(
                "set-cookie: a=b|set-cookie2: c|connection: close, x-hop|x-hop: 1|keep-alive: timeout=5",
            );
            apply_not_modified(&mut stored, not_modified, class);
            assert_eq!(stored, headers("etag: \"a\""));
        }
    }

    #[test]
    fn cookies_are_taken_with_all_their_lines() {
        for (received, cookies) in [
            ("etag: a", ""),
            ("set-cookie: a=b", "set-cookie: a=b"),
            ("set-cookie: a=b|x: y|set-cookie: c=d", "set-cookie: a=b|set-cookie: c=d"),
            ("set-cookie2: a=b|cookie: c=d", "set-cookie2: a=b"),
            ("set-cookie2: a=b|set-cookie: c=d", "set-cookie: c=d|set-cookie2: a=b"),
        ] {
            let mut fields = headers(received);
            assert_eq!(has_cookies(&fields), !cookies.is_empty(), "{received}");
            assert_eq!(take_cookies(&mut fields), headers(cookies), "{received}");
            assert!(!has_cookies(&fields), "{received}");
        }
    }

    #[test]
    fn hop_by_hop_fields_are_not_stored() {
        let received = "connection: X-Hop|connection: close|x-hop: 1|transfer-encoding: chunked|trailer: x|te: x\
                        |upgrade: h2c|proxy-connection: x|keep-alive: x|proxy-authenticate: x|etag: \"a\"\
                        |proxy-authorization: x|proxy-authentication-info: x|http2-settings: x|set-cookie: a=b\
                        |cache-status: up; hit";
        let stored = |class| {
            let mut headers = headers(received);
            remove_unstored(&mut headers, class);
            headers
        };
        let kept = "etag: \"a\"|cache-status: up; hit";
        assert_eq!(stored(Class::Payload), headers(kept));
        assert_eq!(stored(Class::Catalog), headers(kept));
        assert_eq!(stored(Class::Generic), headers(&format!("{kept}|set-cookie: a=b")));
    }
}
