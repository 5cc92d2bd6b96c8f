//! The two numbers of freshness in milliseconds: the age at arrival (RFC 9111 §4.2.3) and the lifetime (§4.2.1,
//! §4.2.2). Read from headers once. Arithmetic saturates, because the times come from other machines' clocks.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::control::CacheControl;
use super::storable::{is_heuristically_cacheable, is_negative, is_ruled_by_class};
use super::{date, field};
use gupd_config::{self as config, Class};

/// Lifetime of a response that never becomes stale.
pub(super) const FOREVER: i64 = i64::MAX;

/// End of 2 January 1970 in milliseconds: the epoch in any time zone is before it.
const UNDATED: i64 = 2 * 86_400_000;

/// Returns `corrected_initial_age` of §4.2.3; `date` is the response's `Date`, or else its arrival.
pub(super) fn initial_age(headers: &HeaderMap, date: i64, request_time: i64, response_time: i64) -> i64 {
    // §5.1: the first member counts; an invalid one is ignored.
    let age_value =
        field::members(headers, header::AGE).next().and_then(field::delta_seconds).map_or(0, seconds);
    let apparent_age = response_time.saturating_sub(date).max(0);
    let response_delay = response_time.saturating_sub(request_time).max(0);
    apparent_age.max(age_value.saturating_add(response_delay))
}

/// The facts of a response that decide its lifetime.
pub(super) struct LifetimeInput<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    pub(super) control: &'a CacheControl,
    /// `Date`, or else the arrival.
    pub(super) date: i64,
    pub(super) initial_age: i64,
    pub(super) class: Class,
}

impl LifetimeInput<'_> {
    /// Returns the age up to which the response is fresh. Times from the settings count from its arrival, so
    /// `initial_age` is added.
    pub(super) fn lifetime(&self, config: &config::CacheSettings) -> i64 {
        let Self { status, headers, control, date, initial_age, class } = *self;
        if is_ruled_by_class(status, class) {
            by_class(status, class, config).saturating_add(initial_age)
        } else if let Some(lifetime) = explicit(control, headers, date) {
            lifetime
        } else if is_negative(status) {
            millis(config.generic_negative).saturating_add(initial_age)
        } else if is_heuristically_cacheable(status, control) {
            heuristic(headers, date).min(millis(config.heuristic_max))
        } else {
            0
        }
    }
}

pub(super) fn seconds(seconds: u32) -> i64 {
    i64::from(seconds).saturating_mul(1000)
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(FOREVER)
}

fn by_class(status: StatusCode, class: Class, config: &config::CacheSettings) -> i64 {
    match (class, status) {
        (Class::Payload, StatusCode::OK) => FOREVER,
        (Class::Payload, _) => millis(config.payload_negative),
        (Class::Catalog, StatusCode::OK) => millis(config.catalog_fresh),
        (Class::Catalog, _) => millis(config.catalog_negative),
        (Class::Private | Class::Generic, _) => 0,
    }
}

/// Explicit lifetime (§4.2.1). Of several `Expires` the earliest counts; an invalid one is in the past (§5.3). Beside a
/// targeted field, `Expires` does not count (RFC 9213 §2.2).
fn explicit(control: &CacheControl, headers: &HeaderMap, date: i64) -> Option<i64> {
    let expires = || {
        let times = headers.get_all(header::EXPIRES).iter();
        times.map(|value| date::parse(value).map_or(0, |at| at.saturating_sub(date).max(0))).min()
    };
    control.s_maxage.or(control.max_age).map(seconds).or_else(|| expires().filter(|_| !control.is_targeted))
}

/// Heuristic lifetime (§4.2.2): a tenth of the time since the last modification. A date at the epoch is that of a
/// file without one, as archives and reproducible builds leave it, and says nothing.
fn heuristic(headers: &HeaderMap, date: i64) -> i64 {
    date::from_headers(headers, header::LAST_MODIFIED)
        .filter(|modified| *modified >= UNDATED)
        .map_or(0, |modified| date.saturating_sub(modified).max(0) / 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn lifetime_follows_the_order_of_rfc_9111_section_4_2_1() {
        const DATE: i64 = 784_111_777_000; // Sun, 06 Nov 1994 08:49:37 GMT
        let config = config::CacheSettings {
            catalog_fresh: Duration::ZERO,
            catalog_negative: Duration::ZERO,
            payload_negative: Duration::ZERO,
            generic_negative: Duration::from_secs(30),
            heuristic_max: Duration::from_secs(86_400),
            stale_if_error: Duration::ZERO,
            targeted_fields: vec![header::HeaderName::from_static("cdn-cache-control")],
            store_set_cookie: false,
            verify_content_md5: true,
        };
        let expires = "expires: Sun, 06 Nov 1994 08:50:37 GMT"; // 60 s later
        let modified = "last-modified: Sun, 06 Nov 1994 08:32:57 GMT"; // 1,000 s before
        for (status, text, expected) in [
            (200, format!("cache-control: max-age=10, s-maxage=20|{expires}"), 20),
            (200, format!("cache-control: max-age=10|{expires}"), 10),
            (200, format!("{expires}|{modified}"), 60),
            (200, format!("{expires}|expires: 0"), 0),
            (200, "expires: Sun, 06 Nov 1994 08:49:36 GMT".to_owned(), 0),
            (200, format!("cache-control: max-age=x|{expires}"), 0),
            (200, modified.to_owned(), 100),
            (200, "last-modified: Sun, 06 Nov 1994 09:49:37 GMT".to_owned(), 0),
            (200, "last-modified: Tue, 06 Nov 1984 08:49:37 GMT".to_owned(), 86_400),
            (200, "last-modified: Thu, 01 Jan 1970 00:00:00 GMT".to_owned(), 0),
            (200, "last-modified: Thu, 01 Jan 1970 00:00:01 GMT".to_owned(), 0),
            (200, "last-modified: Thu, 01 Jan 1970 14:00:00 GMT".to_owned(), 0),
            (200, "last-modified: Thursday, 01-Jan-70 00:00:00 GMT".to_owned(), 0),
            (200, "last-modified: Thu Jan  1 00:00:00 1970".to_owned(), 0),
            (404, "last-modified: Thu, 01 Jan 1970 00:00:00 GMT".to_owned(), 30),
            (200, "last-modified: Sat, 03 Jan 1970 00:00:00 GMT".to_owned(), 86_400),
            (200, "last-modified: never".to_owned(), 0),
            (200, format!("{expires}|cdn-cache-control: max-age=7"), 7),
            (200, format!("{expires}|cdn-cache-control: public"), 0),
            (200, format!("{expires}|{modified}|cdn-cache-control: public"), 100),
            (200, format!("{expires}|cdn-cache-control: &"), 60),
            (200, format!("cache-control: s-maxage=9|{expires}|cdn-cache-control: max-age=7"), 7),
            (503, "cache-control: max-age=7".to_owned(), 7),
            (299, modified.to_owned(), 0),
            (599, format!("{modified}|cache-control: public"), 100),
            (302, modified.to_owned(), 0),
            (302, format!("{modified}|cache-control: public"), 100),
            (404, modified.to_owned(), 30),
            (404, "cache-control: max-age=7".to_owned(), 7),
            (200, String::new(), 0),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in text.split('|').filter_map(|line| line.split_once(": ")) {
                headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let (status, control) = (
                StatusCode::from_u16(status).unwrap(),
                CacheControl::for_shared_cache(&headers, &config.targeted_fields),
            );
            let (headers, control, class) = (&headers, &control, Class::Generic);
            let input = LifetimeInput { status, headers, control, date: DATE, initial_age: 0, class };
            assert_eq!(input.lifetime(&config), expected * 1000, "{status} {text}");
        }
    }
}
