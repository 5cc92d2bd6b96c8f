//! Freshness of a stored response: age against lifetime (RFC 9111 §4.2), staleness (§4.2.4, RFC 5861), and the class
//! rules that replace them. Headers are read once, when a response is stored or loaded; afterwards a verdict is
//! arithmetic on a `Copy` value. Relies on `storable` having admitted the response.

use http::{HeaderMap, StatusCode, header};

use super::control::{CacheControl, Directive};
use super::date;
use super::lifetime::{self, FOREVER, LifetimeInput, millis, seconds};
use super::storable::is_ruled_by_class;
use gupd_config::clock::UnixMillis;
use gupd_config::{self as config, Class};

/// Maximum step back of the clock, in milliseconds, after which a response still counts as just received.
const CLOCK_STEP: i64 = 60_000;

/// How a stored response may be used for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Serve it: it is fresh, or no staler than the request's `max-stale` accepts.
    Fresh,
    /// Serve it and validate it meanwhile.
    StaleWhileRevalidate,
    /// Validate it first.
    Revalidate(RevalidationReason),
}

/// Reason for validation; the same distinction as `fwd` in RFC 9211 §2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevalidationReason {
    /// The response is stale, or its `no-cache` requires validation always.
    Stale,
    /// The response is fresh, but not as fresh as the request requires.
    Request,
}

/// Times of one stored response in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    received: UnixMillis,
    initial_age: i64,
    // Age up to which it is fresh; `FOREVER` is never reached.
    lifetime: i64,
    // Time past `lifetime` in which it may be used in the two cases of RFC 5861.
    stale_while_revalidate: i64,
    stale_if_error: i64,
    demands: Demands,
}

impl Freshness {
    /// Reads a response's times. `headers` are the stored ones, after a `304` the updated ones; `request_time` and
    /// `response_time` are when the request was sent and the (validating) response's head arrived.
    ///
    /// By class: a payload is fresh forever, a catalog for `catalog_fresh`, a negative response of either for its
    /// class's time. These count from `response_time`, so that neither a manager's wrong clock nor a parent relay's
    /// `Age` shortens the relay's schedule. Everything else follows the response, then heuristics.
    ///
    /// `must-revalidate` and `proxy-revalidate` hold for catalogs too: they declare stale content wrong. A stale
    /// negative payload is never served: "no such delta" makes a client fetch a full package, while an error makes it
    /// retry. Nor is a stale server error: the present error of the upstream says more.
    pub fn new(
        status: StatusCode,
        headers: &HeaderMap,
        request_time: UnixMillis,
        response_time: UnixMillis,
        class: Class,
        config: &config::CacheSettings,
    ) -> Self {
        let control = CacheControl::for_shared_cache(headers, &config.targeted_fields);
        let date = date::from_headers(headers, header::DATE).unwrap_or(response_time);
        let initial_age = lifetime::initial_age(headers, date, request_time, response_time);
        let by_class = is_ruled_by_class(status, class);
        let input = LifetimeInput { status, headers, control: &control, date, initial_age, class };
        let lifetime = input.lifetime(config);
        let forbids_stale = control.has(Directive::MustRevalidate) || control.has(Directive::ProxyRevalidate);
        let (stale_while_revalidate, stale_if_error) = match class {
            _ if forbids_stale || status.is_server_error() => (0, 0),
            Class::Payload if by_class => (0, 0),
            Class::Catalog if by_class => (0, millis(config.stale_if_error)),
            _ => (
                control.stale_while_revalidate.map_or(0, seconds),
                // §5.2.2.10: `s-maxage` forbids staleness as `proxy-revalidate` does. An origin that permits
                // staleness in the same response means it, as CDNs read it; the administrator's default does not
                // apply.
                control.stale_if_error.map(seconds).unwrap_or(match control.s_maxage {
                    Some(_) => 0,
                    None => millis(config.stale_if_error),
                }),
            ),
        };
        let demands = Demands {
            requires_validation: control.has(Directive::NoCache) && !by_class,
            never_stale: forbids_stale || control.s_maxage.is_some(),
            ignores_request: class == Class::Payload && by_class,
        };
        Self {
            received: response_time,
            initial_age,
            lifetime,
            stale_while_revalidate,
            stale_if_error,
            demands,
        }
    }

    /// Returns the seconds for the `Age` field (§5.1). A clock set back to before the arrival adds nothing.
    pub fn age(&self, now: UnixMillis) -> u64 {
        u64::try_from(self.current_age(now) / 1000).unwrap_or(0)
    }

    /// Decides how the response may be used for a request with these directives.
    ///
    /// Payloads and their negative responses ignore the request: otherwise clients that send `no-cache` with every
    /// request would each cross the WAN. The cache lets one of them through now and then.
    pub fn evaluate(&self, now: UnixMillis, request: &CacheControl) -> Verdict {
        if self.is_from_future(now) {
            return Verdict::Revalidate(RevalidationReason::Stale);
        }
        let age = self.current_age(now);
        let fresh_for = self.lifetime.saturating_sub(age);
        if self.demands.requires_validation {
            return Verdict::Revalidate(RevalidationReason::Stale);
        }
        let refused = !self.demands.ignores_request
            && (request.has(Directive::NoCache)
                || request.max_age.is_some_and(|limit| age > seconds(limit))
                || request.min_fresh.is_some_and(|least| fresh_for < seconds(least)));
        if fresh_for > 0 {
            return if refused { Verdict::Revalidate(RevalidationReason::Request) } else { Verdict::Fresh };
        }
        let stale_by = fresh_for.saturating_neg();
        if refused {
            Verdict::Revalidate(RevalidationReason::Stale)
        } else if self.accepts_stale(request, stale_by) {
            Verdict::Fresh
        } else if stale_by < self.stale_while_revalidate {
            Verdict::StaleWhileRevalidate
        } else {
            Verdict::Revalidate(RevalidationReason::Stale)
        }
    }

    /// Returns true if the response may be used because validation failed: no upstream answered, or with a `5xx`.
    ///
    /// A fresh response may be used even if the client required validation: better than an error. A request's
    /// `stale-if-error` can shorten the permitted time, never lengthen it.
    pub fn is_usable_on_error(&self, now: UnixMillis, request: &CacheControl) -> bool {
        let fresh_for = self.lifetime.saturating_sub(self.current_age(now));
        let allowed =
            request.stale_if_error.map_or(self.stale_if_error, |s| seconds(s).min(self.stale_if_error));
        !self.demands.requires_validation && (fresh_for > 0 || fresh_for.saturating_neg() < allowed)
    }

    /// Returns true for a response stored while the clock was ahead (a machine without a battery, before NTP). It
    /// would stay fresh until the clock is there again. Responses without expiry are exempt.
    fn is_from_future(&self, now: UnixMillis) -> bool {
        self.lifetime != FOREVER && self.received.saturating_sub(now) > CLOCK_STEP
    }

    /// `current_age` of §4.2.3.
    fn current_age(&self, now: UnixMillis) -> i64 {
        self.initial_age.saturating_add(now.saturating_sub(self.received).max(0))
    }

    fn accepts_stale(&self, request: &CacheControl, stale_by: i64) -> bool {
        !self.demands.ignores_request
            && !self.demands.never_stale
            && request.max_stale.is_some_and(|limit| limit == u32::MAX || stale_by <= seconds(limit))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Demands {
    // `no-cache`: never without validation.
    requires_validation: bool,
    // `must-revalidate`, `proxy-revalidate`, `s-maxage`: the request cannot accept it stale.
    never_stale: bool,
    // Ignores the request's directives.
    ignores_request: bool,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::field::parse_lines as headers;
    use crate::lifetime::FOREVER;
    use proptest::prelude::*;

    // Sun, 06 Nov 1994 08:49:37 GMT
    const NOW: UnixMillis = 784_111_777_000;
    const DATE: &str = "date: Sun, 06 Nov 1994 08:49:37 GMT";

    const CONFIG: config::CacheSettings = config::CacheSettings {
        catalog_fresh: Duration::from_secs(300),
        catalog_negative: Duration::from_secs(120),
        payload_negative: Duration::from_secs(5),
        generic_negative: Duration::from_secs(30),
        heuristic_max: Duration::from_secs(86_400),
        stale_if_error: Duration::from_secs(1000),
        targeted_fields: Vec::new(),
        store_set_cookie: false,
        verify_content_md5: true,
    };

    fn received(status: u16, response: &str, class: Class) -> Freshness {
        let status = StatusCode::from_u16(status).unwrap();
        Freshness::new(status, &headers(response), NOW, NOW, class, &CONFIG)
    }

    fn asks(directives: &str) -> CacheControl {
        CacheControl::from_request(&headers(&format!("cache-control: {directives}")))
    }

    fn plain() -> CacheControl {
        CacheControl::default()
    }

    /// Seconds after `NOW` in which the response is fresh, found by asking.
    fn fresh_seconds(freshness: &Freshness) -> i64 {
        let is_fresh = |s: &i64| freshness.evaluate(NOW + s * 1000, &plain()) == Verdict::Fresh;
        (0..200_000).position(|s| !is_fresh(&s)).map_or(FOREVER, |s| i64::try_from(s).unwrap())
    }

    #[test]
    fn class_decides_lifetime_of_payloads_and_catalogs() {
        for response in
            ["", "cache-control: no-cache, max-age=0|expires: 0", "cache-control: max-age=99999|age: 9999"]
        {
            for (class, status, expected) in [
                (Class::Payload, 200, FOREVER),
                (Class::Payload, 404, 5),
                (Class::Payload, 410, 5),
                (Class::Catalog, 200, 300),
                (Class::Catalog, 404, 120),
            ] {
                assert_eq!(fresh_seconds(&received(status, response, class)), expected, "{class:?} {status}");
            }
        }
    }

    #[test]
    fn age_is_corrected_by_section_4_2_3() {
        for (response, delay, expected) in [
            ("", 0, 0),
            (DATE, 0, 0),
            ("date: Sun, 06 Nov 1994 08:49:27 GMT", 0, 10),
            ("date: Sun, 06 Nov 1994 08:59:37 GMT", 0, 0),
            ("age: 40", 2, 42),
            ("age: 40, 90", 0, 40),
            ("age: -4", 2, 2),
            ("age: 99999999999999", 0, 1 << 31),
            ("date: Sun, 06 Nov 1994 08:49:27 GMT|age: 4", 2, 10),
        ] {
            let sent = NOW - delay * 1000;
            let freshness =
                Freshness::new(StatusCode::OK, &headers(response), sent, NOW, Class::Generic, &CONFIG);
            assert_eq!(freshness.age(NOW), expected, "{response} {delay}");
            assert_eq!(freshness.age(NOW + 3999), expected + 3, "{response} {delay}");
            assert_eq!(freshness.age(NOW - 3_600_000), expected, "a clock set back adds nothing");
        }
    }

    #[test]
    fn wrong_clock_of_manager_does_not_shorten_lifetime() {
        let hour_slow = received(200, "date: Sun, 06 Nov 1994 07:49:37 GMT", Class::Catalog);
        assert_eq!((fresh_seconds(&hour_slow), hour_slow.age(NOW)), (300, 3600));
    }

    #[test]
    fn request_can_require_fresher_or_accept_staler() {
        use Verdict::*;
        let freshness = received(200, "cache-control: max-age=60", Class::Generic);
        for (directives, after, expected) in [
            ("", 59, Fresh),
            ("", 60, Revalidate(RevalidationReason::Stale)),
            ("no-cache", 1, Revalidate(RevalidationReason::Request)),
            ("no-cache", 60, Revalidate(RevalidationReason::Stale)),
            ("max-age=5", 5, Fresh),
            ("max-age=5", 6, Revalidate(RevalidationReason::Request)),
            ("min-fresh=10", 50, Fresh),
            ("min-fresh=10", 51, Revalidate(RevalidationReason::Request)),
            ("max-stale", 100_000, Fresh),
            ("max-stale=5", 65, Fresh),
            ("max-stale=5", 66, Revalidate(RevalidationReason::Stale)),
            ("max-stale, max-age=62", 63, Revalidate(RevalidationReason::Stale)),
            ("max-stale, no-cache", 63, Revalidate(RevalidationReason::Stale)),
        ] {
            let request = if directives.is_empty() { plain() } else { asks(directives) };
            assert_eq!(
                freshness.evaluate(NOW + after * 1000, &request),
                expected,
                "{directives} after {after} s"
            );
        }
    }

    #[test]
    fn payload_ignores_request_directives_catalog_does_not() {
        for directives in ["no-cache", "max-age=0", "min-fresh=99999"] {
            let judged = |status, class| received(status, "", class).evaluate(NOW + 1000, &asks(directives));
            assert_eq!(judged(200, Class::Payload), Verdict::Fresh);
            assert_eq!(judged(404, Class::Payload), Verdict::Fresh);
            assert_eq!(judged(200, Class::Catalog), Verdict::Revalidate(RevalidationReason::Request));
        }
        let gone_stale = received(404, "", Class::Payload).evaluate(NOW + 6000, &asks("max-stale"));
        assert_eq!(gone_stale, Verdict::Revalidate(RevalidationReason::Stale));
    }

    #[test]
    fn no_cache_is_always_validated_never_used_on_error() {
        let freshness =
            received(200, "cache-control: no-cache, max-age=60, stale-if-error=60", Class::Generic);
        for request in [plain(), asks("max-stale")] {
            assert_eq!(freshness.evaluate(NOW, &request), Verdict::Revalidate(RevalidationReason::Stale));
            assert!(!freshness.is_usable_on_error(NOW, &request));
        }
    }

    #[test]
    fn staleness_follows_rfc_5861_and_prohibitions() {
        // (class, status, Cache-Control, seconds stale while revalidating, seconds stale on error, max-stale heard)
        for (class, status, control, revalidating, on_error, max_stale) in [
            (Class::Generic, 200, "max-age=60", 0, 1000, true),
            (Class::Generic, 200, "max-age=60, stale-if-error=5", 0, 5, true),
            (Class::Generic, 200, "max-age=60, stale-if-error=x", 0, 0, true),
            (Class::Generic, 200, "max-age=60, stale-while-revalidate=7", 7, 1000, true),
            (Class::Generic, 200, "s-maxage=60", 0, 0, false),
            (Class::Generic, 200, "s-maxage=60, stale-if-error=5, stale-while-revalidate=7", 7, 5, false),
            (Class::Generic, 200, "max-age=60, must-revalidate, stale-if-error=5", 0, 0, false),
            (Class::Generic, 200, "max-age=60, proxy-revalidate, stale-while-revalidate=7", 0, 0, false),
            (Class::Generic, 404, "max-age=60", 0, 1000, true),
            (Class::Catalog, 200, "no-cache, stale-while-revalidate=7, stale-if-error=5", 0, 1000, true),
            (Class::Catalog, 404, "x", 0, 1000, true),
            (Class::Catalog, 200, "must-revalidate", 0, 0, false),
            (Class::Payload, 404, "stale-if-error=5", 0, 0, false),
        ] {
            let freshness = received(status, &format!("cache-control: {control}"), class);
            let end = NOW + fresh_seconds(&freshness) * 1000;
            let until = |holds: &dyn Fn(i64) -> bool| (0..2000).position(|s| !holds(end + s * 1000));
            let while_revalidating = |at| freshness.evaluate(at, &plain()) == Verdict::StaleWhileRevalidate;
            assert_eq!(until(&while_revalidating), Some(revalidating), "{class:?} {control}");
            assert_eq!(
                until(&|at| freshness.is_usable_on_error(at, &plain())),
                Some(on_error),
                "{class:?} {control}"
            );
            let heard = freshness.evaluate(end, &asks("max-stale")) == Verdict::Fresh;
            assert_eq!(heard, max_stale, "{class:?} {control}");
            assert!(
                freshness.is_usable_on_error(end - 1000, &asks("no-cache")),
                "while it is fresh it is better than 504"
            );
        }
    }

    #[test]
    fn a_request_can_shorten_stale_if_error_only() {
        let freshness = received(200, "cache-control: max-age=0, stale-if-error=50", Class::Generic);
        assert!(freshness.is_usable_on_error(NOW + 49_000, &asks("stale-if-error=900")));
        assert!(!freshness.is_usable_on_error(NOW + 51_000, &asks("stale-if-error=900")));
        assert!(!freshness.is_usable_on_error(NOW + 11_000, &asks("stale-if-error=10")));
    }

    proptest! {
        #[test]
        fn any_times_are_safe_and_time_only_ages_a_response(
            (sent, arrived, now, later) in any::<(i64, i64, i64, i64)>(),
            (age, lifetime) in any::<(u32, u32)>(),
            class in prop::sample::select(vec![Class::Payload, Class::Catalog, Class::Generic]),
            status in prop::sample::select(vec![200, 404]),
        ) {
            let response = headers(&format!("{DATE}|age: {age}|cache-control: max-age={lifetime}"));
            let status = StatusCode::from_u16(status).unwrap();
            let freshness = Freshness::new(status, &response, sent, arrived, class, &CONFIG);
            let (now, later) = (now.min(later), now.max(later));
            prop_assert!(freshness.age(now) <= freshness.age(later));
            let fresh = |at| freshness.evaluate(at, &plain()) == Verdict::Fresh;
            prop_assert!(fresh(now) || !fresh(later), "a stale response does not become fresh");
            prop_assert!(!fresh(now) || freshness.is_usable_on_error(now, &plain()));
        }
    }
}
