//! Storability of responses: RFC 9111 §3 as a shared cache, with class rules for content whose name says more than
//! its headers. Decides on heads; [`check_length`], the one rule about bodies, is checked again once a length is
//! known.

use http::{HeaderMap, StatusCode, header};

use super::control::{CacheControl, Directive};
use super::unstorable::UnstorableReason;
use super::vary::{SelectingRequest, VaryFields};
use super::{field, update};
use gupd_config::{self as config, Class};

/// Checks whether the response to a `GET` may be stored.
///
/// A payload's or catalog's `200`, and a negative response of either, need no permission. Managers serve them as
/// static files, with validators and either no `Cache-Control` or a `no-cache`, `max-age=0` or session cookie meant
/// for the whole web server. Their name or the relay's schedule decides their lifetime, and their `Set-Cookie` is
/// dropped. Protection is never overruled: `no-store` of either side, `private`, credentials, `Vary: *`. Their other
/// responses are not stored, however long the response permits it. The client should get the object with its next
/// attempt, and one redirect by an attacker on the line must not last.
pub fn check_storable(
    request: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
    class: Class,
    rules: &config::CacheSettings,
) -> Result<(), UnstorableReason> {
    let control = CacheControl::for_shared_cache(response, &rules.targeted_fields);
    let refused = [
        (class == Class::Private, UnstorableReason::ClassPrivate),
        (status == StatusCode::PARTIAL_CONTENT, UnstorableReason::Partial),
        (NEVER_SHARED.contains(&status.as_u16()), UnstorableReason::Status),
        (
            control.has(Directive::MustUnderstand) && !UNDERSTOOD.contains(&status.as_u16()),
            UnstorableReason::Status,
        ),
        (class != Class::Generic && !is_ruled_by_class(status, class), UnstorableReason::Status),
        (CacheControl::from_request(request).has(Directive::NoStore), UnstorableReason::RequestNoStore),
        // §5.2.2.3: a cache that understands the status ignores a `no-store` meant for others.
        (
            control.has(Directive::NoStore) && !control.has(Directive::MustUnderstand),
            UnstorableReason::NoStore,
        ),
        (control.has(Directive::Private), UnstorableReason::Private),
        (
            request.contains_key(header::AUTHORIZATION) && !is_shareable_with_credentials(&control),
            UnstorableReason::Authorization,
        ),
        (!can_be_selected(status, response, request, class), UnstorableReason::Vary),
    ];
    if let Some((_, reason)) = refused.iter().find(|(applies, _)| *applies) {
        return Err(*reason);
    }
    let length = response.get(header::CONTENT_LENGTH).and_then(|value| field::decimal(value.as_bytes()));
    if let Some(length) = length {
        check_length(status, length, class)?;
    }
    if is_ruled_by_class(status, class) {
        return Ok(());
    }
    // RFC 9111 §7.3 leaves this to the cache. Such a response may be for one session, like its cookie. A `max-age` alone
    // may be meant for the browser that has the session.
    let has_explicit_freshness = has_explicit_freshness(&control, response);
    let is_for_all = addresses_shared_caches(&control) || (rules.store_set_cookie && has_explicit_freshness);
    if update::has_cookies(response) && !is_for_all {
        return Err(UnstorableReason::SetCookie);
    }
    if has_explicit_freshness
        || (is_heuristically_cacheable(status, &control) && is_reusable(request, status, response, &control))
    {
        Ok(())
    } else {
        Err(UnstorableReason::NotCacheable)
    }
}

fn can_be_selected(status: StatusCode, response: &HeaderMap, request: &HeaderMap, class: Class) -> bool {
    let request = SelectingRequest { headers: request, target: "" };
    VaryFields::from_response(status, response, request, class).is_some()
}

/// Checks whether a body of `length` bytes may be stored: a payload must not be empty, a negative response may be. A
/// fill whose response had no `Content-Length` checks at its end.
pub fn check_length(status: StatusCode, length: u64, class: Class) -> Result<(), UnstorableReason> {
    if length == 0 && class == Class::Payload && status == StatusCode::OK {
        Err(UnstorableReason::EmptyPayload)
    } else {
        Ok(())
    }
}

/// Returns true for a negative status: the heuristically cacheable errors.
pub fn is_negative(status: StatusCode) -> bool {
    matches!(status.as_u16(), 404 | 405 | 410 | 414 | 501)
}

/// Returns true if the class, not `Cache-Control`, decides about storage and lifetime.
pub(super) fn is_ruled_by_class(status: StatusCode, class: Class) -> bool {
    matches!(class, Class::Payload | Class::Catalog) && (status == StatusCode::OK || is_negative(status))
}

/// Returns true if freshness may be estimated (§4.2.2): by the status, or because the response is `public`.
pub(super) fn is_heuristically_cacheable(status: StatusCode, control: &CacheControl) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308)
        || is_negative(status)
        || control.has(Directive::Public)
}

// Status codes that answer one request, whatever freshness they claim: by its credentials, conditions, body, range or
// rate, or by the connection. RFC 6585 forbids to store 428, 429, 431 and 511. 304 completes another response.
const NEVER_SHARED: [u16; 18] =
    [304, 401, 407, 408, 411, 412, 413, 415, 416, 417, 421, 425, 426, 428, 429, 431, 508, 511];

// Status codes with known caching requirements (§5.2.2.3). Others are stored by explicit freshness or `public` alone.
const UNDERSTOOD: [u16; 14] = [200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501];

/// Returns true if a response says that all clients of a shared cache may have it: by `public`, `s-maxage` or the
/// lifetime of a targeted field (RFC 9213).
fn addresses_shared_caches(control: &CacheControl) -> bool {
    control.has(Directive::Public)
        || control.s_maxage.is_some()
        || (control.is_targeted && control.max_age.is_some())
}

fn is_shareable_with_credentials(control: &CacheControl) -> bool {
    control.has(Directive::Public) || control.has(Directive::MustRevalidate) || control.s_maxage.is_some()
}

/// Returns true if a response without freshness information is useful to others: it can be validated, or is negative
/// and so good for a short time. A response to a request with a cookie counts as personal: a stale copy must not be
/// served to others while the manager is down.
fn is_reusable(
    request: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
    control: &CacheControl,
) -> bool {
    control.has(Directive::Public)
        || is_negative(status)
        || (!request.contains_key(header::COOKIE)
            && (response.contains_key(header::ETAG) || response.contains_key(header::LAST_MODIFIED)))
}

fn has_explicit_freshness(control: &CacheControl, response: &HeaderMap) -> bool {
    control.s_maxage.is_some()
        || control.max_age.is_some()
        || (!control.is_targeted && response.contains_key(header::EXPIRES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::field::parse_lines as headers;
    use http::HeaderName;

    const RULES: config::CacheSettings = config::CacheSettings {
        catalog_fresh: Duration::ZERO,
        catalog_negative: Duration::ZERO,
        payload_negative: Duration::ZERO,
        generic_negative: Duration::ZERO,
        heuristic_max: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        targeted_fields: Vec::new(),
        store_set_cookie: false,
        verify_content_md5: true,
    };

    fn get(request: &str, status: u16, response: &str, class: Class) -> Result<(), UnstorableReason> {
        let status = StatusCode::from_u16(status).unwrap();
        check_storable(&headers(request), status, &headers(response), class, &RULES)
    }

    #[test]
    fn generic_content_follows_rfc_9111_section_3() {
        use UnstorableReason::*;
        for (request, status, response, expected) in [
            ("", 200, "cache-control: no-cache|etag: \"a\"", Ok(())),
            ("", 200, "cache-control: no-store", Err(NoStore)),
            ("", 200, "cache-control: no-store, must-understand|etag: \"a\"", Ok(())),
            ("", 299, "cache-control: max-age=9, must-understand", Err(Status)),
            ("", 200, "cache-control: max-age=9, private=\"x\"", Err(Private)),
            ("cache-control: no-store", 200, "", Err(RequestNoStore)),
            ("pragma: no-cache", 200, "etag: \"a\"", Ok(())),
            ("authorization: x", 200, "cache-control: max-age=9", Err(Authorization)),
            ("authorization: x", 200, "cache-control: s-maxage=0", Ok(())),
            ("authorization: x", 200, "cache-control: must-revalidate|etag: \"a\"", Ok(())),
            ("authorization: x", 200, "cache-control: public", Ok(())),
            ("authorization: x", 200, "cache-control: proxy-revalidate", Err(Authorization)),
            ("", 200, "vary: accept, *", Err(Vary)),
            ("", 200, "vary: accept|etag: \"a\"", Ok(())),
            ("", 200, "set-cookie: a=b|cache-control: max-age=9", Err(SetCookie)),
            ("", 200, "set-cookie: a=b|cache-control: public", Ok(())),
            ("", 206, "cache-control: max-age=9", Err(Partial)),
            ("", 304, "cache-control: max-age=9", Err(Status)),
            ("", 503, "", Err(NotCacheable)),
            ("", 503, "last-modified: Sun, 06 Nov 1994 08:32:57 GMT", Err(NotCacheable)),
            ("", 599, "cache-control: no-store, max-age=9, must-understand", Err(Status)),
            ("", 599, "cache-control: public|last-modified: Sun, 06 Nov 1994 08:32:57 GMT", Ok(())),
            ("", 400, "etag: \"a\"", Err(NotCacheable)),
            ("", 400, "cdn-cache-control: max-age=9", Err(NotCacheable)),
            ("", 302, "", Err(NotCacheable)),
            ("", 302, "cache-control: max-age=0", Ok(())),
            ("", 302, "expires: 0", Ok(())),
            ("", 302, "cache-control: public", Ok(())),
            ("", 301, "", Err(NotCacheable)),
            ("", 301, "last-modified: Sun, 06 Nov 1994 08:32:57 GMT", Ok(())),
            ("", 404, "", Ok(())),
            ("", 410, "", Ok(())),
            ("", 200, "content-length: 0|etag: \"a\"", Ok(())),
            ("", 200, "", Err(NotCacheable)),
            ("cookie: a=b", 200, "etag: \"a\"", Err(NotCacheable)),
            ("cookie: a=b", 200, "cache-control: public", Ok(())),
        ] {
            assert_eq!(
                get(request, status, response, Class::Generic),
                expected,
                "{request} {status} {response}"
            );
        }
    }

    #[test]
    fn final_status_is_stored_with_explicit_freshness() {
        for status in
            [200, 201, 203, 204, 226, 299, 300, 301, 307, 400, 403, 404, 418, 451, 499, 500, 501, 503, 599]
        {
            for response in ["cache-control: max-age=9", "cache-control: s-maxage=9", "expires: 0"] {
                assert_eq!(get("", status, response, Class::Generic), Ok(()), "{status} {response}");
            }
            let is_negative = is_negative(StatusCode::from_u16(status).unwrap());
            for class in [Class::Payload, Class::Catalog] {
                let stored = get("", status, "cache-control: max-age=9", class).is_ok();
                assert_eq!(stored, status == 200 || is_negative, "{class:?} {status}");
            }
        }
        for status in NEVER_SHARED {
            let stored = get("", status, "cache-control: max-age=9", Class::Generic);
            assert_eq!(stored, Err(UnstorableReason::Status), "{status}");
        }
    }

    #[test]
    fn targeted_field_decides_storage_for_every_class() {
        let fields = vec![HeaderName::from_static("cdn-cache-control")];
        let rules = config::CacheSettings { targeted_fields: fields, ..RULES };
        for class in [Class::Payload, Class::Catalog, Class::Generic] {
            for (response, expected) in [
                ("cdn-cache-control: max-age=9|cache-control: no-store", Ok(())),
                ("cdn-cache-control: max-age=9|cache-control: private", Ok(())),
                ("cdn-cache-control: no-store|cache-control: max-age=9", Err(UnstorableReason::NoStore)),
                ("cdn-cache-control: private|cache-control: max-age=9", Err(UnstorableReason::Private)),
                ("cdn-cache-control: no-store, &|cache-control: max-age=9", Ok(())),
                ("cdn-cache-control: &|cache-control: no-store", Err(UnstorableReason::NoStore)),
            ] {
                let stored = check_storable(&headers(""), StatusCode::OK, &headers(response), class, &rules);
                assert_eq!(stored, expected, "{class:?} {response}");
            }
        }
        let ignored = headers("cdn-cache-control: must-revalidate|expires: 0");
        let stored = check_storable(&headers(""), StatusCode::OK, &ignored, Class::Generic, &rules);
        assert_eq!(
            stored,
            Err(UnstorableReason::NotCacheable),
            "beside a targeted field, `Expires` does not count"
        );
    }

    #[test]
    fn response_with_cookie_is_stored_if_it_addresses_shared_caches() {
        let targeted_fields = vec![HeaderName::from_static("cdn-cache-control")];
        let defaults = config::CacheSettings { targeted_fields, ..RULES };
        let rules = config::CacheSettings { store_set_cookie: true, ..defaults.clone() };
        for (response, by_default, on_request) in [
            ("set-cookie: a=b|cache-control: max-age=9", false, true),
            ("set-cookie: a=b|cache-control: s-maxage=9", true, true),
            ("set-cookie: a=b|cdn-cache-control: max-age=9", true, true),
            ("set-cookie: a=b|cdn-cache-control: private, max-age=9", false, false),
            ("set-cookie: a=b|cdn-cache-control: must-revalidate|cache-control: max-age=9", false, false),
            ("set-cookie: a=b|cache-control: must-revalidate, max-age=9", false, true),
            ("set-cookie: a=b|set-cookie: c=d|cache-control: max-age=9", false, true),
            ("set-cookie2: a=b|cache-control: max-age=9", false, true),
            ("set-cookie2: a=b|cache-control: s-maxage=9", true, true),
            ("set-cookie: a=b|cache-control: immutable, max-age=9", false, true),
            ("set-cookie: a=b|cache-control: public, private, max-age=9", false, false),
            ("set-cookie: a=b|expires: 0", false, true),
            ("set-cookie: a=b|etag: \"a\"", false, false),
            ("set-cookie: a=b", false, false),
            ("set-cookie: a=b|cache-control: private, max-age=9", false, false),
            ("set-cookie: a=b|cache-control: public", true, true),
        ] {
            let is_stored = |rules| {
                check_storable(&headers(""), StatusCode::OK, &headers(response), Class::Generic, rules)
                    .is_ok()
            };
            assert_eq!((is_stored(&defaults), is_stored(&rules)), (by_default, on_request), "{response}");
        }
    }

    #[test]
    fn payloads_and_catalogs_are_stored_with_any_freshness() {
        for class in [Class::Payload, Class::Catalog] {
            for response in [
                "",
                "cache-control: no-cache|pragma: no-cache|expires: -1",
                "cache-control: max-age=0, must-revalidate",
                "set-cookie: ASPSESSIONID=x",
                "vary: User-Agent",
            ] {
                for status in [200, 404, 410] {
                    assert_eq!(get("", status, response, class), Ok(()), "{class:?} {status} {response}");
                }
            }
        }
    }

    #[test]
    fn protection_holds_for_every_class() {
        for class in [Class::Payload, Class::Catalog, Class::Generic] {
            for (request, response, expected) in [
                ("", "cache-control: no-store", UnstorableReason::NoStore),
                ("cache-control: no-store", "", UnstorableReason::RequestNoStore),
                ("", "cache-control: private", UnstorableReason::Private),
                ("authorization: x", "", UnstorableReason::Authorization),
                ("", "vary: *", UnstorableReason::Vary),
            ] {
                assert_eq!(
                    get(request, 200, response, class),
                    Err(expected),
                    "{class:?} {request} {response}"
                );
            }
        }
    }

    #[test]
    fn empty_payload_is_never_stored() {
        assert_eq!(get("", 200, "content-length: 0", Class::Payload), Err(UnstorableReason::EmptyPayload));
        assert_eq!(check_length(StatusCode::OK, 0, Class::Payload), Err(UnstorableReason::EmptyPayload));
        assert_eq!(check_length(StatusCode::OK, 1, Class::Payload), Ok(()));
        assert_eq!(
            get("", 404, "content-length: 0", Class::Payload),
            Ok(()),
            "a negative response may be empty"
        );
        assert_eq!(
            get("", 200, "content-length: 0", Class::Catalog),
            Ok(()),
            "presence alone says something"
        );
    }

    #[test]
    fn redirect_of_payload_or_catalog_is_not_stored() {
        for class in [Class::Payload, Class::Catalog] {
            for status in [301, 302, 307, 308] {
                for response in ["", "cache-control: public, max-age=9", "expires: 0"] {
                    let stored = get("", status, response, class);
                    assert_eq!(stored, Err(UnstorableReason::Status), "{class:?} {status} {response}");
                }
            }
        }
    }

    #[test]
    fn private_path_is_never_stored() {
        assert_eq!(
            get("", 200, "cache-control: public", Class::Private),
            Err(UnstorableReason::ClassPrivate)
        );
    }
}
