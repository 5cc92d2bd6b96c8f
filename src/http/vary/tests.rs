//! Selecting fields of responses and the requests that match them.

use super::*;
use http::HeaderValue;
use proptest::prelude::*;

const TARGET: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/full.zip";

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::try_from(*name).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn asking(headers: &HeaderMap) -> SelectingRequest<'_> {
    SelectingRequest { headers, target: TARGET }
}

fn select(response: &[(&str, &str)], request: &[(&str, &str)], class: Class) -> Option<VaryFields> {
    VaryFields::from_response(StatusCode::OK, &headers(response), asking(&headers(request)), class)
}

fn selecting(vary: &str, request: &[(&str, &str)]) -> Option<VaryFields> {
    select(&[("vary", vary)], request, Class::Generic)
}

fn matches(stored: &VaryFields, request: &[(&str, &str)]) -> bool {
    stored.matches(asking(&headers(request)))
}

#[test]
fn request_matches_by_listed_fields_only() {
    let stored = selecting("X-Tags, X-A", &[("x-tags", "one, two"), ("x-b", "1")]).unwrap();
    for (request, expected) in [
        (&[("x-tags", "one, two")][..], true),
        (&[("x-tags", "one ,\ttwo"), ("x-b", "2")], true),
        (&[("x-tags", "one"), ("x-tags", "two")], true),
        (&[("x-tags", "two, one")], false),
        (&[("x-tags", "one, two, x")], false),
        (&[("x-tags", "one, two"), ("x-a", "")], false),
        (&[], false),
    ] {
        assert_eq!(matches(&stored, request), expected, "{request:?}");
    }
}

#[test]
fn added_fields_select_like_listed_ones() {
    let request = headers(&[("user-agent", "a"), ("x-a", "1")]);
    let (agent, own) = (header::USER_AGENT, HeaderName::from_static("x-a"));
    let stored = selecting("x-a", &[("x-a", "1")]).unwrap();
    let stored = stored.with_fields(&[agent.clone(), own], &request).unwrap();
    assert!(stored.matches(asking(&request)));
    for other in [&[("user-agent", "b"), ("x-a", "1")][..], &[("x-a", "1")], &[("user-agent", "a")]] {
        assert!(!matches(&stored, other), "{other:?}");
    }
    assert_eq!(VaryFields::decode(&stored.encode()), Some(stored));
    let long = headers(&[("user-agent", &"v".repeat(MAX_VALUE_BYTES + 1))]);
    assert_eq!(VaryFields::default().with_fields(&[agent], &long), None);
    assert!(VaryFields::default().with_fields(&[], &long).unwrap().is_empty());
}

#[test]
fn absent_field_differs_from_an_empty_one() {
    let absent = selecting("x-a", &[]).unwrap();
    let empty = selecting("x-a", &[("x-a", "")]).unwrap();
    assert_ne!(absent, empty);
    assert!(matches(&absent, &[]) && !matches(&empty, &[]));
    assert!(matches(&empty, &[("x-a", " ")]) && !matches(&absent, &[("x-a", "")]));
}

#[test]
fn response_without_vary_allocates_nothing() {
    let none = select(&[], &[("accept", "x")], Class::Generic).unwrap();
    assert!(none.is_empty() && none.fields.capacity() == 0 && matches(&none, &[]));
    assert_eq!(none.encode(), "");
}

#[test]
fn star_invalid_name_or_excess_matches_no_request() {
    assert_eq!(selecting("accept, *", &[]), None);
    assert_eq!(selecting("cookie, *", &[]), None);
    assert_eq!(selecting("a b", &[]), None);
    let names = |count: usize| (0..count).map(|i| format!("x-{i}")).collect::<Vec<_>>().join(",");
    assert!(selecting(&names(MAX_NAMES), &[]).is_some());
    assert_eq!(selecting(&names(MAX_NAMES + 1), &[]), None);
    assert!(selecting("x-a", &[("x-a", &"v".repeat(MAX_VALUE_BYTES))]).is_some());
    assert_eq!(selecting("x-a", &[("x-a", &"v".repeat(MAX_VALUE_BYTES + 1))]), None);
}

#[test]
fn order_case_and_repetition_make_no_new_variant() {
    let request = [("x-a", "1"), ("x-b", "2")];
    assert_eq!(selecting("X-A, x-b", &request), selecting("x-b, x-a, X-B", &request));
}

#[test]
fn fields_that_fills_do_not_send_select_nothing() {
    for name in [
        "Range",
        "If-Range",
        "If-Match",
        "If-None-Match",
        "If-Modified-Since",
        "If-Unmodified-Since",
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Real-IP",
        "X-Original-URL",
        "Proxy-Authorization",
        "Proxy-Connection",
        "Connection",
        "TE",
        "Host",
        "Want-Repr-Digest",
    ] {
        for class in [Class::Payload, Class::Catalog, Class::Generic] {
            let stored = select(&[("vary", name)], &[(name, "1")], class).unwrap();
            assert!(stored.is_empty(), "{name} {class:?}");
        }
    }
}

#[test]
fn cookie_and_user_agent_select_only_generic_content() {
    for (name, value) in [("user-agent", "c2Vj"), ("cookie", "BIGipServerpool=1")] {
        for (class, selects) in [(Class::Generic, true), (Class::Payload, false), (Class::Catalog, false)] {
            let stored = select(&[("vary", name)], &[(name, value)], class).unwrap();
            assert_eq!(!stored.is_empty(), selects, "{name} {class:?}");
        }
    }
}

#[test]
fn uncoded_content_satisfies_every_accept_encoding() {
    for response in
        [&[("vary", "Accept-Encoding")][..], &[("content-encoding", "identity"), ("vary", "accept-encoding")]]
    {
        let stored = select(response, &[("accept-encoding", "gzip")], Class::Generic).unwrap();
        assert!(stored.is_empty(), "{response:?}");
    }
}

#[test]
fn coded_content_is_selected_by_requested_coding() {
    for response in
        [&[("content-encoding", "gzip")][..], &[("content-encoding", "gzip"), ("vary", "Accept-Encoding")]]
    {
        let stored = select(response, &[("accept-encoding", "gzip, deflate")], Class::Payload).unwrap();
        for (accepted, expected) in [
            (Some("gzip"), true),
            (Some("br;q=0.9, gzip;q=0.1"), true),
            (Some("*"), true),
            (Some("br"), false),
            (Some("identity"), false),
            (Some("gzip;q=0"), false),
            (Some(""), false),
            (None, false),
        ] {
            let request: Vec<_> = accepted.iter().map(|accepted| ("accept-encoding", *accepted)).collect();
            assert_eq!(matches(&stored, &request), expected, "{response:?} {accepted:?}");
        }
        let without = stored.for_request(asking(&HeaderMap::new()));
        assert!(matches(&without, &[]) && !matches(&without, &[("accept-encoding", "gzip")]));
    }
}

#[test]
fn coding_that_was_not_requested_is_not_stored() {
    for (accepted, coding, is_stored) in [
        ("gzip", "gzip", true),
        ("gzip, br", "br", false),
        ("gzip", "gzip, br", false),
        ("br", "gzip", false),
        ("identity", "gzip", true),
    ] {
        let stored =
            select(&[("content-encoding", coding)], &[("accept-encoding", accepted)], Class::Generic);
        assert_eq!(stored.is_some(), is_stored, "{accepted} {coding}");
    }
}

#[test]
fn unsuccessful_response_is_for_equal_requests() {
    let sent = headers(&[("accept", "*/*"), ("x-request-id", "1"), ("user-agent", "a")]);
    for (status, class) in [
        (StatusCode::NOT_FOUND, Class::Generic),
        (StatusCode::GONE, Class::Generic),
        (StatusCode::MOVED_PERMANENTLY, Class::Generic),
        (StatusCode::NOT_FOUND, Class::Payload),
    ] {
        let stored = VaryFields::from_response(status, &HeaderMap::new(), asking(&sent), class).unwrap();
        assert_eq!(VaryFields::decode(&stored.encode()).as_ref(), Some(&stored));
        assert!(stored.matches(asking(&sent)));
        assert!(stored.is_sufficient(status, &HeaderMap::new()));
        assert!(!VaryFields::default().is_sufficient(status, &HeaderMap::new()));
        for target in [&TARGET.replace("4e8a", "4E8A"), &TARGET.replace('{', "%7B"), &format!("{TARGET}?")] {
            let spelled = SelectingRequest { headers: &sent, target };
            assert!(!stored.matches(spelled), "{target}");
            assert!(stored.for_request(spelled).matches(spelled), "{target}");
        }
        let other = |name: &str, value: &str| {
            let mut other = sent.clone();
            other.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
            stored.matches(asking(&other))
        };
        assert!(other("x-request-id", "2") && other("range", "bytes=0-1"));
        assert!(!other("accept", "x") && !other("accept-language", "x"), "{status} {class:?}");
        for name in ["origin", "referer"] {
            assert_eq!(other(name, "x"), class == Class::Payload, "{name} {status} {class:?}");
        }
        assert_eq!(
            (other("user-agent", "b"), other("cookie", "b")),
            match class {
                Class::Generic => (false, false),
                _ => (true, true),
            }
        );
    }
}

#[test]
fn invalid_encoding_is_rejected() {
    for text in ["x-a", "\n", ":v\n", "x a:v\n", "x-a:\u{100}\n", "x-a:v\n\n"] {
        assert_eq!(VaryFields::decode(text), None, "{text:?}");
    }
}

proptest! {
    #[test]
    fn encoded_fields_decode_and_match_their_request(
        values in prop::collection::vec(prop::option::of(prop::collection::vec(
            any::<u8>().prop_filter("field octet", |b| *b >= 0x20 && *b != 0x7f), 0..20)), 0..6),
        status in prop::sample::select(vec![StatusCode::OK, StatusCode::NOT_FOUND])
    ) {
        let (mut request, mut vary) = (HeaderMap::new(), String::new());
        for (i, value) in values.iter().enumerate() {
            let name = HeaderName::try_from(format!("x-{i}")).unwrap();
            vary += &format!("{name},");
            if let Some(value) = value {
                request.insert(name, HeaderValue::from_bytes(value).unwrap());
            }
        }
        let response = headers(&[("vary", &vary)]);
        let stored = VaryFields::from_response(status, &response, asking(&request), Class::Generic).unwrap();
        prop_assert!(stored.matches(asking(&request)));
        prop_assert_eq!(VaryFields::decode(&stored.encode()), Some(stored));
    }
}
