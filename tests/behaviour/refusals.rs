//! Refused requests: each refusal has its status and counter, and other connections are unaffected.

use std::time::Duration;

use gupd_config::Config;

use crate::support::{Ending, PATIENCE, PAYLOAD, Request, Resource, Site, WireClient, bytes};

/// Timeout of the relay, with room for a client that gets no processor time for a while.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn malformed_request_is_refused_and_counted() {
    let long_field = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(100_000));
    let many_fields = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200));
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(9_000));
    let cases: &[(&str, u16, &str)] = &[
        // Oversized heads.
        (&long_field, 431, "head-too-large"),
        (&many_fields, 431, "head-too-large"),
        (&long_target, 414, "uri-too-long"),
        // Paths that the manager could interpret differently.
        ("GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "dot-segment"),
        ("GET /a/%2e%2E/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "dot-segment"),
        ("GET /a/.%2e HTTP/1.1\r\nHost: a\r\n\r\n", 400, "dot-segment"),
        ("GET /a/..\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "dot-segment"),
        ("GET /secars%5c..%5cb HTTP/1.1\r\nHost: a\r\n\r\n", 400, "dot-segment"),
        ("GET /a%00.zip HTTP/1.1\r\nHost: a\r\n\r\n", 400, "control-character"),
        ("GET /a%0d%0aX?b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "control-character"),
        ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "control-character"),
        ("GET /a%5Cb HTTP/1.1\r\nHost: a\r\n\r\n", 400, "control-character"),
        ("GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "percent-encoding"),
        // Host (RFC 9112, 3.2).
        ("GET / HTTP/1.1\r\n\r\n", 400, "host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "host"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "host"),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, "host"),
        // Malformed lines and fields.
        ("GET\r\n\r\n", 400, "malformed"),
        ("GET /\r\n\r\n", 400, "malformed"),
        ("GET / HTTP/3.7\r\nHost: a\r\n\r\n", 400, "malformed"),
        ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed"),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "malformed"),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400, "malformed"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400, "malformed"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400, "malformed"),
        // Ambiguous body framing (RFC 9112 §6.1 to §6.3).
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
            400,
            "malformed",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 5\r\n\r\nabcde", 400, "malformed"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400, "malformed"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", 400, "malformed"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\nabc", 400, "malformed"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n", 400, "malformed"),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "malformed"),
        ("GET //minitri.flg HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ambiguous-spelling"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
            "transfer-coding",
        ),
    ];
    let site = Site::new();
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    site.wait_until_stored(PAYLOAD).await;
    let mut other = WireClient::connect(site.address()).await;
    for &(request, status, reason) in cases {
        let counter = format!("gupd_refused_total{{reason=\"{reason}\"}}");
        let counted = site.metric(&counter).await;
        let mut client = WireClient::connect(site.address()).await;
        client.write(request.as_bytes()).await.unwrap();
        let response = client.read_head().await.unwrap_or_else(|error| panic!("{request:.60}: {error}"));
        assert_eq!(response.status, status, "{request:.60}");
        if reason == "malformed" || reason == "head-too-large" {
            let mut response = response;
            client.read_rest("GET", &mut response).await;
            assert!(client.is_closed().await, "{request:.60}");
        }
        site.wait_for_metric(&counter, counted + 1.0).await;
        assert_eq!(other.send(&Request::get(PAYLOAD)).await.unwrap().expect_body(), b"definitions");
    }
    assert_eq!((site.manager.request_count(PAYLOAD), site.manager.request_count("/")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn body_with_two_framings_is_forwarded_with_one() {
    let site = Site::new();
    site.manager.put("/", Resource::echo());
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for lengths in
        ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        let mut client = WireClient::connect(site.address()).await;
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{lengths}\r\n\r\n0\r\n\r\n{smuggled}");
        client.write(request.as_bytes()).await.unwrap();
        let mut response = client.read_head().await.unwrap();
        client.read_rest("POST", &mut response).await;
        assert_eq!(response.status, 200);
        // The rest of the connection is not read (RFC 9112 §6.1).
        assert!(client.is_closed().await);
    }
    let seen = site.manager.requests_for("/");
    assert!(seen.iter().all(|seen| seen.header("content-length").is_none() && seen.body.is_empty()));
    assert_eq!((seen.len(), site.manager.request_count("/smuggled")), (2, 0));
    // Equal duplicate lengths count as one.
    let mut client = WireClient::connect(site.address()).await;
    client
        .write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc")
        .await
        .unwrap();
    assert_eq!(client.read_head().await.unwrap().status, 200);
    let lengths = site.manager.requests_for("/")[2]
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .count();
    assert_eq!(lengths, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unexpected_body_is_the_last_of_its_upstream_connection() {
    let site = Site::new();
    site.manager.put("/files/a", Resource::echo());
    for (method, is_last) in [("GET", true), ("HEAD", true), ("POST", false)] {
        let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        assert_eq!(site.send(Request::new(method, "/files/a").body(smuggled)).await.status, 200, "{method}");
        let sent = site.manager.requests_for("/files/a");
        let connection = sent.last().and_then(|request| request.header("connection"));
        assert_eq!(connection == Some("close"), is_last, "{method}: {connection:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_reaches_client_that_is_still_sending() {
    let site = Site::new();
    let body = bytes(1, 8 << 20);
    for (target, status) in [("http://foreign.example/", 421), ("/a/../b", 400)] {
        let mut client = WireClient::connect(site.address()).await;
        let request = Request::new("POST", target).body(body.clone());
        let sent = tokio::time::timeout(PATIENCE, client.send(&request)).await.unwrap();
        assert_eq!(sent.unwrap().status, status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_request_head_is_408() {
    let site = Site::with_config(|config| config.server.header_timeout = SOON);
    let mut client = WireClient::connect(site.address()).await;
    client.write(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    assert_eq!(client.read_head().await.unwrap().status, 408);
    assert!(client.is_closed().await);
    site.wait_for_metric("gupd_refused_total{reason=\"slow-head\"}", 1.0).await;
    // The same for the second request on a kept connection.
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    let mut client = WireClient::connect(site.address()).await;
    client.send(&Request::get(PAYLOAD)).await.unwrap();
    client.write(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    assert_eq!(client.read_head().await.unwrap().status, 408);
    // The same where the head began behind the request before it.
    let mut client = WireClient::connect(site.address()).await;
    let request = format!("GET {PAYLOAD} HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHo");
    client.write(request.as_bytes()).await.unwrap();
    let mut response = client.read_head().await.unwrap();
    client.read_rest("GET", &mut response).await;
    assert_eq!(response.expect_body(), b"definitions");
    assert_eq!(client.read_head().await.unwrap().status, 408);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connection_is_closed_without_a_response() {
    let site = Site::with_config(|config| config.server.header_timeout = SOON);
    site.manager.put("/", Resource::echo());
    let mut unused = WireClient::connect(site.address()).await;
    let mut kept = WireClient::connect(site.address()).await;
    kept.write_request(&Request::new("POST", "/").header("Content-Length", "4")).await.unwrap();
    site.manager.wait_for_connections(1).await;
    // The body follows later, after the head.
    kept.write(b"body").await.unwrap();
    let mut response = kept.read_head().await.unwrap();
    kept.read_rest("POST", &mut response).await;
    assert_eq!(response.expect_body(), b"body");
    assert!(kept.is_closed().await && unused.is_closed().await);
    assert_eq!(site.metric("gupd_refused_total{reason=\"slow-head\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_client_is_dropped_and_slow_client_is_not() {
    // A socket accepts more only when a third of its buffer, several MB, is free. The slow client has to read at least
    // that often.
    let stall = 2 * SOON;
    let site = Site::with_config(|config| config.server.stall_timeout = stall);
    let body = bytes(2, 40 << 20);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    site.wait_until_stored(PAYLOAD).await;
    let mut stalled = WireClient::connect(site.address()).await;
    stalled.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut head = stalled.read_head().await.unwrap();
    let let_go = "gupd_broken_transfers_total{by=\"client\"}";
    let mut slow = WireClient::connect(site.address()).await;
    slow.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut slow_head = slow.read_head().await.unwrap();
    // Each pause is much shorter than the stall timeout; their sum is longer.
    let mut reads = tokio::time::interval(stall / 16);
    while site.metric(let_go).await < 1.0 {
        reads.tick().await;
        slow_head.body.extend(slow.read_bytes(1 << 19).await.unwrap());
    }
    stalled.read_rest("GET", &mut head).await;
    assert_eq!(head.ending, Ending::Broken);
    slow.read_rest("GET", &mut slow_head).await;
    assert!(slow_head.expect_body() == body);
    assert_eq!(site.metric(let_go).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_limit_refuses_and_frees_slot_on_close() {
    let site = Site::with_config(|config| config.server.max_connections = 2);
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    let (mut first, mut second) =
        (WireClient::connect(site.address()).await, WireClient::connect(site.address()).await);
    for client in [&mut first, &mut second] {
        assert_eq!(client.send(&Request::get(PAYLOAD)).await.unwrap().status, 200);
    }
    let mut third = WireClient::connect(site.address()).await;
    third.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let refused = third.read_head().await.unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("10")));
    assert!(third.is_closed().await);
    assert_eq!(site.metric("gupd_refused_total{reason=\"too-many-connections\"}").await, 1.0);
    assert_eq!(first.send(&Request::get(PAYLOAD)).await.unwrap().status, 200);
    drop(second);
    site.wait_for_metric("gupd_connections", 1.0).await;
    assert_eq!(site.get(PAYLOAD).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn path_without_a_route_is_404_from_the_relay() {
    let site = Site::with_config(|config| {
        let url = config.upstreams[0].url.to_string();
        let text = format!("[[upstream]]\nurl = \"{url}\"\n[[route]]\nprefix = \"/content\"\n");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gupd.toml");
        std::fs::write(&file, text).unwrap();
        let routed = Config::load(&gupd_config::Overrides::default(), Some(&file), std::iter::empty());
        config.routes = routed.unwrap().routes;
    });
    assert_eq!(site.get("/contents/x").await.status, 404);
    assert_eq!(site.metric("gupd_refused_total{reason=\"no-route\"}").await, 1.0);
    assert_eq!(site.manager.connections(), 0);
}
