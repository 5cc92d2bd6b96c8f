//! Spelling of field names: names of forwarded messages keep it, all others are sent as `Title-Case`.

use crate::support::connection_auth::{ConnectionAuthServer, log_in};
use crate::support::{PAYLOAD, Request, Resource, Response, Site, WireClient};

const PRIVATE: &str = "/secars/secars.dll";

/// Unusual names that a client sends.
const SENT: [&str; 6] = ["X-ClieNT-ID", "x-lower", "X-UPPER", "SOAPAction", "x_under.Score", "user-AGENT"];

/// Unusual names that a manager sends.
const RECEIVED: [&str; 7] =
    ["ETag", "X-SEPM-Version", "x-lower", "X-UPPER", "content-TYPE", "WWW-Authenticate", "Content-MD5x"];

fn names(headers: &[(String, String)]) -> Vec<&str> {
    headers.iter().map(|(name, _)| name.as_str()).collect()
}

fn assert_has(names: &[&str], expected: &[&str], case: &str) {
    for name in expected {
        assert!(names.contains(name), "{case}: {name} is not among {names:?}");
    }
}

/// Asserts that each name is that of a known spelling, or `Title-Case`.
fn assert_title_case(names: &[&str], known: &[&str], case: &str) {
    for name in names.iter().filter(|name| !known.contains(name)) {
        let is_title = name.split('-').all(|word| {
            let (first, rest) = word.split_at(1);
            first == first.to_ascii_uppercase() && rest == rest.to_ascii_lowercase()
        });
        assert!(is_title, "{case}: {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_request_reach_the_manager_as_spelled() {
    let site = Site::new();
    for path in [PRIVATE, PAYLOAD, "/minitri.flg", "/generic", "/alone"] {
        site.manager.put(path, Resource::new("content"));
    }
    for (path, request) in [
        (PRIVATE, Request::get(PRIVATE)),
        (PRIVATE, Request::head(PRIVATE)),
        (PRIVATE, Request::new("POST", PRIVATE).body("report")),
        (PRIVATE, Request::get(PRIVATE).http10()),
        (PAYLOAD, Request::get(PAYLOAD)),
        ("/minitri.flg", Request::get("/minitri.flg")),
        ("/generic", Request::get("/generic")),
        ("/alone", Request::get("/alone").header("CACHE-control", "no-store")),
    ] {
        site.send(SENT.iter().fold(request, |request, name| request.header(name, "v"))).await;
        let seen = site.manager.requests_for(path).pop().unwrap();
        // Fills of payloads and catalogs send few fields.
        let expected = if [PAYLOAD, "/minitri.flg"].contains(&path) { &SENT[5..] } else { &SENT };
        assert_has(&names(&seen.headers), expected, path);
        assert_has(&names(&seen.headers), &["Host", "Via"], path);
        assert_title_case(&names(&seen.headers), &[&SENT[..], &["CACHE-control"]].concat(), path);
    }
    site.send(Request::get(PRIVATE).header("X-Twice", "1").header("x-tWICE", "2")).await;
    let seen = site.manager.requests_for(PRIVATE).pop().unwrap();
    assert_has(&names(&seen.headers), &["X-Twice", "x-tWICE"], "twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_passed_response_reach_the_client_as_spelled() {
    let site = Site::new();
    let resource =
        || RECEIVED.iter().fold(Resource::new("content"), |resource, name| resource.header(name, "v"));
    for path in [PRIVATE, "/generic", PAYLOAD] {
        site.manager.put(path, resource().header("Cache-Control", "no-store"));
    }
    site.manager.put("/secars/401", resource().status(401));
    site.manager.put("/secars/chunked", resource().chunked());
    site.manager.put("/generic/401", resource().status(401));
    for (case, request) in [
        ("private", Request::get(PRIVATE)),
        ("HEAD", Request::head(PRIVATE)),
        ("POST", Request::new("POST", PRIVATE).body("report")),
        ("HTTP/1.0", Request::get(PRIVATE).http10()),
        ("refused", Request::get("/secars/401")),
        ("chunked", Request::get("/secars/chunked")),
        ("not stored", Request::get("/generic")),
        ("refused to a fill", Request::get("/generic/401")),
        ("no-store", Request::get(PAYLOAD)),
    ] {
        let response = site.send(request).await;
        assert_has(&names(&response.headers), &RECEIVED, case);
        assert_has(&names(&response.headers), &["Via", "Cache-Status"], case);
        assert_title_case(&names(&response.headers), &RECEIVED, case);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_stored_and_own_responses_are_title_case() {
    let site = Site::new();
    site.manager
        .put(PAYLOAD, Resource::tagged("content", "\"a\"").header("x-lower", "v").header("X-UPPER", "v"));
    site.wait_until_stored(PAYLOAD).await;
    for (case, request, expected) in [
        ("hit", Request::get(PAYLOAD), &["Etag", "Content-Length", "X-Lower", "X-Upper"][..]),
        ("HEAD", Request::head(PAYLOAD), &["Etag", "Content-Length", "Cache-Status", "Date"]),
        ("range", Request::get(PAYLOAD).range("0-2"), &["Content-Range", "Accept-Ranges", "Age", "Via"]),
        ("304", Request::get(PAYLOAD).header("If-None-Match", "\"a\""), &["Etag", "Date"]),
        ("refusal", Request::get("/../etc"), &["Content-Type", "Content-Length"]),
        ("405", Request::new("CONNECT", "a:443"), &["Allow"]),
        ("OPTIONS", Request::new("OPTIONS", "*"), &["Allow"]),
        ("closed", Request::get(PAYLOAD).header("connection", "close"), &["Connection"]),
        ("HTTP/1.0", Request::get(PAYLOAD).http10().header("Connection", "keep-alive"), &["Connection"]),
    ] {
        let response: Response = site.send(request).await;
        assert_has(&names(&response.headers), expected, case);
        assert_title_case(&names(&response.headers), &[], case);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_on_a_pinned_connection_keep_their_spelling() {
    let server = ConnectionAuthServer::start().await;
    let site = Site::with_upstreams(&[server.address]);
    let mut client = WireClient::connect(site.address()).await;
    let challenged = client.send(&Request::get(PRIVATE)).await.unwrap();
    assert_has(&names(&challenged.headers), &["WWW-Authenticate"], "pooled");
    log_in(&mut client, PRIVATE, "NTLM", "alice").await;
    let challenged = client.send(&Request::get(PRIVATE).header("Authorization", "NTLM begin")).await.unwrap();
    assert_has(&names(&challenged.headers), &["WWW-Authenticate"], "pinned");
}
