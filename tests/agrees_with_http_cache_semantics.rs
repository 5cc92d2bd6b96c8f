//! Storability and freshness of generic content, compared with the `http-cache-semantics` crate on generated
//! messages. The two agree except for the `DIFFERENCES`, each with its reason and an example.

#![allow(clippy::unwrap_used, reason = "the messages are written in this file")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gupd_config as config;
use gupd_config::Class;
use gupd_http::control::CacheControl;
use gupd_http::freshness::{Freshness, Verdict};
use gupd_http::storable::check_storable;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_cache_semantics::{CacheOptions, CachePolicy};
use proptest::prelude::*;

/// Arrival of every response in this file, in seconds: Sun, 06 Nov 1994 08:49:37 GMT.
const ARRIVED: u64 = 784_111_777;

/// Default settings: only the RFC applies.
const CONFIG: config::CacheSettings = config::CacheSettings {
    catalog_fresh: Duration::ZERO,
    catalog_negative: Duration::ZERO,
    payload_negative: Duration::ZERO,
    generic_negative: Duration::ZERO,
    heuristic_max: Duration::MAX,
    stale_if_error: Duration::ZERO,
    targeted_fields: Vec::new(),
    store_set_cookie: false,
    verify_content_md5: true,
};

/// A request, its response, and a later request of the same resource.
#[derive(Clone, Debug, Default)]
struct CacheCase {
    request: String,
    status: u16,
    response: String,
    later: String,
    after: u64,
}

/// Returns whether the response is stored, and whether it answers the later request without validation.
#[derive(Debug, PartialEq)]
struct Decision {
    stored: bool,
    reused: bool,
}

/// A reason for a difference, a predicate for the cases that can show it, and an example that does.
type IntendedDifference = (&'static str, fn(&CacheCase) -> bool, fn() -> CacheCase);

const DIFFERENCES: [IntendedDifference; 16] = [
    (
        "any final status with an explicit lifetime is stored (§3), also one without a lifetime of its own",
        |c| ![200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501].contains(&c.status),
        || case(500, "cache-control: max-age=60"),
    ),
    (
        "a response that sets a cookie is not stored, or stored without it, rather than stored with no lifetime",
        |c| c.response.contains("set-cookie"),
        || case(200, "set-cookie: a=b|cache-control: max-age=60"),
    ),
    (
        "a response that varies by everything is not stored at all, rather than stored with no lifetime",
        |c| c.response.contains("vary: *"),
        || case(200, "vary: *|cache-control: max-age=60"),
    ),
    (
        "must-understand lifts no-store for a status that is understood (RFC 9111 §5.2.2.3)",
        |c| c.response.contains("must-understand"),
        || case(200, "cache-control: no-store, must-understand, max-age=60"),
    ),
    (
        "proxy-revalidate forbids staleness, not freshness (§5.2.2.8)",
        |c| c.response.contains("proxy-revalidate"),
        || case(200, "cache-control: proxy-revalidate, max-age=60"),
    ),
    (
        "s-maxage forbids staleness as proxy-revalidate does (§5.2.2.10)",
        |c| c.response.contains("s-maxage") && c.later.contains("max-stale"),
        || CacheCase {
            later: "cache-control: max-stale".into(),
            after: 70,
            ..case(200, "cache-control: s-maxage=60")
        },
    ),
    (
        "no-cache forbids staleness (§4.2.4), and is not only a lifetime of 0",
        |c| c.response.contains("no-cache") && c.later.contains("max-stale"),
        || CacheCase { later: "cache-control: max-stale".into(), ..case(200, "cache-control: no-cache") },
    ),
    (
        "immutable alone gives no lifetime (RFC 8246 §2)",
        |c| c.response.contains("immutable"),
        || case(200, "cache-control: immutable"),
    ),
    (
        "a repeated number or date reads as the smallest, not as the first (RFC 9111 §4.2.1 allows either)",
        |c| {
            let repeated = |text: &str, what| text.matches(what).count() > 1;
            repeated(&c.response, "max-age=")
                || repeated(&c.response, "expires")
                || repeated(&c.later, "max-stale")
        },
        || CacheCase { after: 30, ..case(200, "cache-control: max-age=60, max-age=10") },
    ),
    (
        "max-age without a number is stale, not absent (§4.2.1)",
        |c| c.response.contains("max-age,"),
        || case(200, "cache-control: max-age, x|expires: Sun, 06 Nov 1994 08:50:37 GMT"),
    ),
    (
        "a Date in the past makes the response older (§4.2.3, apparent_age)",
        |c| c.response.contains("date: Sun, 06 Nov 1994 08:48:57 GMT"),
        || CacheCase {
            after: 30,
            ..case(200, "cache-control: max-age=60|date: Sun, 06 Nov 1994 08:48:57 GMT")
        },
    ),
    (
        "the first member of a list in Age counts (§5.1)",
        |c| c.response.contains("age: 40, 90"),
        || CacheCase { after: 30, ..case(200, "cache-control: max-age=60|age: 40, 90") },
    ),
    (
        "errors without explicit freshness are believed as long as the settings say from their arrival",
        |c| {
            let timed = c.response.contains("last-modified") || c.response.contains("age: ");
            matches!(c.status, 404 | 405 | 410 | 414 | 501) && timed
        },
        || case(404, "last-modified: Sun, 06 Nov 1994 08:32:57 GMT"),
    ),
    (
        "what says nothing of freshness and cannot be validated is of no use to anyone else, and not stored",
        |c| {
            let lasting = ["max-age", "s-maxage", "expires", "public", "last-modified", "etag"];
            !matches!(c.status, 404 | 405 | 410 | 414 | 501)
                && !lasting.iter().any(|field| c.response.contains(field))
        },
        || case(200, ""),
    ),
    (
        "Pragma means nothing in a response (§5.4)",
        |c| c.response.contains("pragma"),
        || case(200, "pragma: no-cache|expires: Sun, 06 Nov 1994 08:50:37 GMT"),
    ),
    (
        "Pragma means nothing in a request with Cache-Control (§5.4)",
        |c| c.later.contains("pragma") && c.later.contains("cache-control"),
        || CacheCase {
            later: "pragma: no-cache|cache-control: max-age=60".into(),
            ..case(200, "cache-control: max-age=60")
        },
    ),
];

fn case(status: u16, response: &str) -> CacheCase {
    CacheCase { status, response: response.into(), after: 1, ..CacheCase::default() }
}

fn headers(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in text.split('|').filter_map(|line| line.split_once(": ")) {
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn ours(case: &CacheCase) -> Decision {
    let (request, response) = (headers(&case.request), headers(&case.response));
    let status = StatusCode::from_u16(case.status).unwrap();
    let arrived = i64::try_from(ARRIVED * 1000).unwrap();
    let now = arrived + i64::try_from(case.after * 1000).unwrap();
    let stored = check_storable(&request, status, &response, Class::Generic, &CONFIG).is_ok();
    let freshness = Freshness::new(status, &response, arrived, arrived, Class::Generic, &CONFIG);
    let verdict = freshness.evaluate(now, &CacheControl::from_request(&headers(&case.later)));
    Decision { stored, reused: stored && verdict == Verdict::Fresh }
}

fn theirs(case: &CacheCase) -> Decision {
    let request = |text: &str| {
        let mut request = Request::get("http://manager/x").body(()).unwrap();
        *request.headers_mut() = headers(text);
        request
    };
    let mut response = Response::builder().status(case.status).body(()).unwrap();
    *response.headers_mut() = headers(&case.response);
    let arrived: SystemTime = UNIX_EPOCH + Duration::from_secs(ARRIVED);
    let policy =
        CachePolicy::new_options(&request(&case.request), &response, arrived, CacheOptions::default());
    let later = policy.before_request(&request(&case.later), arrived + Duration::from_secs(case.after));
    let stored = policy.is_storable();
    Decision { stored, reused: stored && later.satisfies_without_revalidation() }
}

/// Returns some of the given fields or directives, in order, joined.
fn some_of(choices: &'static [&'static str], separator: &'static str) -> impl Strategy<Value = String> {
    prop::sample::subsequence(choices, 0..=choices.len().min(4))
        .prop_map(move |chosen| chosen.join(separator))
}

fn cases() -> impl Strategy<Value = CacheCase> {
    let directives = some_of(
        &[
            "no-store",
            "no-cache",
            "private",
            "public",
            "must-revalidate",
            "proxy-revalidate",
            "must-understand",
            "immutable",
            "max-age=0",
            "max-age=60",
            "max-age=x",
            "max-age,",
            "s-maxage=30",
            "s-maxage=90",
            "x=\"y\"",
        ],
        ", ",
    );
    let fields = some_of(
        &[
            "expires: Sun, 06 Nov 1994 08:50:37 GMT",
            "expires: 0",
            "date: Sun, 06 Nov 1994 08:49:37 GMT",
            "date: Sun, 06 Nov 1994 08:48:57 GMT",
            "last-modified: Sun, 06 Nov 1994 08:32:57 GMT",
            "age: 40",
            "age: 40, 90",
            "age: x",
            "pragma: no-cache",
            "set-cookie: a=b",
            "vary: accept",
            "vary: *",
        ],
        "|",
    );
    let request = some_of(&["authorization: x", "cache-control: no-store", "accept: a"], "|");
    let later = some_of(
        &[
            "pragma: no-cache",
            "cache-control: no-cache",
            "cache-control: max-age=30",
            "cache-control: min-fresh=20",
            "cache-control: max-stale",
            "cache-control: max-stale=25",
        ],
        "|",
    );
    let status = prop::sample::select(vec![200, 200, 200, 203, 206, 301, 302, 404, 410, 500, 503]);
    // No staleness of exactly 25 s: the RFC leaves open whether max-stale includes its number.
    let after = (0_u64..200).prop_map(|s| if s % 5 == 0 { s + 1 } else { s });
    (request, status, directives, fields, later, after).prop_map(
        |(request, status, directives, fields, later, after)| {
            let accept = if request.contains("accept") { "|accept: a" } else { "" };
            CacheCase {
                response: format!("cache-control: {directives}|{fields}").replace("cache-control: |", ""),
                later: format!("{later}{accept}"),
                request,
                status,
                after,
            }
        },
    )
}

proptest! {
    // Four in five cases fall under an intended difference.
    #![proptest_config(ProptestConfig {
        cases: 4096,
        max_global_rejects: 100_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn implementations_agree_without_intended_difference(case in cases()) {
        let intended = DIFFERENCES.iter().any(|(_, shows, _)| shows(&case));
        prop_assume!(!intended);
        prop_assert_eq!(ours(&case), theirs(&case));
    }
}

#[test]
fn intended_differences_show_in_their_examples() {
    for (reason, shows, example) in DIFFERENCES {
        let example = example();
        assert!(shows(&example), "the predicate misses its own example: {reason}");
        assert_ne!(ours(&example), theirs(&example), "no difference any more: {reason}");
    }
}
