//! Forwarding: targets, methods, bodies, fields and connections.

use std::time::Duration;

use gupd_config::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Ending, Gate, Manager, PAYLOAD, Request, Resource, Site, WireClient, bytes};

const PRIVATE: &str = "/secars/secars.dll";

#[tokio::test(flavor = "multi_thread")]
async fn get_is_stored_and_answers_get_and_head() {
    let site = Site::new();
    site.manager.put(PAYLOAD, Resource::new("definitions").header("Content-Type", "application/zip"));
    let miss = site.get(PAYLOAD).await;
    assert_eq!((miss.status, miss.cache_status()), (200, "gupd; fwd=uri-miss; stored"));
    site.wait_until_stored(PAYLOAD).await;
    let head = site.send(Request::head(PAYLOAD)).await;
    assert_eq!((head.status, head.cache_status()), (200, "gupd; hit"));
    for name in ["content-length", "content-type", "etag", "accept-ranges"] {
        assert_eq!(head.header(name), site.get(PAYLOAD).await.header(name), "{name}");
    }
    assert_eq!(head.header("content-length"), Some("11"));
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_on_a_miss_fetches_no_content() {
    let site = Site::new();
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    let mut client = WireClient::connect(site.address()).await;
    let head = client.send(&Request::head(PAYLOAD)).await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("11")));
    assert_eq!(head.cache_status(), "gupd; fwd=uri-miss; detail=method");
    assert_eq!(site.manager.requests_for(PAYLOAD)[0].method, "HEAD");
    assert_eq!(site.manager.body_bytes(), 0);
    // The connection is at the start of the next response.
    assert_eq!(client.send(&Request::get(PAYLOAD)).await.unwrap().expect_body(), b"definitions");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_on_running_fill_is_answered_before_content() {
    let site = Site::new();
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 100_000)).stalled(0, &gate));
    let mut filling = WireClient::connect(site.address()).await;
    filling.write_request(&Request::get(PAYLOAD)).await.unwrap();
    site.manager.wait_for_requests(PAYLOAD, 1).await;
    let head = site.send(Request::head(PAYLOAD)).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("100000")));
    assert_eq!(head.cache_status(), "gupd; fwd=uri-miss; collapsed");
    gate.open();
    let mut response = filling.read_head().await.unwrap();
    filling.read_rest("GET", &mut response).await;
    assert_eq!(response.expect_body().len(), 100_000);
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn absolute_target_names_same_object_as_path() {
    let site = Site::new();
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    site.wait_until_stored(PAYLOAD).await;
    for authority in [site.manager.address().to_string(), site.address().to_string()] {
        // RFC 9112, 3.2.2: the target overrules the Host field.
        let target = format!("http://{authority}{PAYLOAD}");
        let response = site.send(Request::get(&target).header("Host", "elsewhere.example")).await;
        assert_eq!((response.status, response.cache_status()), (200, "gupd; hit"), "{target}");
    }
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_host_and_connect_are_refused() {
    let site = Site::new();
    let elsewhere = Manager::start();
    elsewhere.put("/", Resource::new("internal"));
    let other_port = format!("http://127.0.0.1:{}/", elsewhere.address().port());
    let posing = format!("http://{}@{}/", site.manager.address(), elsewhere.address());
    for target in ["http://foreign.example/", &other_port, &posing, "ftp://127.0.0.1/"] {
        assert_eq!(site.send(Request::get(target)).await.status, 421, "{target}");
    }
    let connect = site.send(Request::new("CONNECT", &elsewhere.address().to_string())).await;
    assert_eq!(connect.status, 405);
    assert!(connect.header("allow").is_some_and(|allowed| allowed.contains("GET")));
    assert_eq!(elsewhere.connections(), 0);
    assert_eq!(site.metric("gupd_refused_total{reason=\"foreign-target\"}").await, 4.0);
    assert_eq!(site.metric("gupd_refused_total{reason=\"connect\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn request_and_response_bodies_pass_unchanged() {
    let site = Site::new();
    let body = bytes(2, 4 << 20);
    for (method, path) in [("POST", PRIVATE), ("PUT", "/upload"), ("POST", PAYLOAD)] {
        site.manager.put(path, Resource::echo());
        let response = site.send(Request::new(method, path).body(body.clone())).await;
        assert_eq!((response.status, response.header("content-length")), (200, Some("4194304")));
        assert_eq!(response.cache_status(), "gupd; fwd=method");
        assert!(response.expect_body() == body);
        let seen = &site.manager.requests_for(path)[0];
        assert_eq!((seen.method.as_str(), seen.header("content-length")), (method, Some("4194304")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_request_body_passes_chunked() {
    let site = Site::new();
    site.manager.put(PRIVATE, Resource::echo());
    let mut client = WireClient::connect(site.address()).await;
    let request = Request::new("POST", PRIVATE).header("Transfer-Encoding", "chunked");
    client.write_request(&request).await.unwrap();
    client.write(b"3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\n\r\n").await.unwrap();
    let mut response = client.read_head().await.unwrap();
    client.read_rest("POST", &mut response).await;
    assert_eq!(response.expect_body(), b"abcdefg");
    let seen = &site.manager.requests_for(PRIVATE)[0];
    assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
    assert_eq!(seen.header("content-length"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn request_and_response_bodies_stream_both_ways() {
    let (site, manager) = site_with_listener().await;
    let mut client = WireClient::connect(site.address()).await;
    let request = Request::new("POST", PRIVATE).header("Content-Length", "8");
    client.write_request(&request).await.unwrap();
    client.write(b"half").await.unwrap();
    let mut at_manager = accept(&manager).await;
    assert!(read_until(&mut at_manager, b"half").await.contains("POST /secars/secars.dll HTTP/1.1\r\n"));
    client.write(b"rest").await.unwrap();
    read_until(&mut at_manager, b"rest").await;
    at_manager.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nfirs").await.unwrap();
    client.read_head().await.unwrap();
    assert_eq!(client.read_bytes(4).await.unwrap(), b"firs");
    at_manager.write_all(b"t...").await.unwrap();
    assert_eq!(client.read_bytes(4).await.unwrap(), b"t...");
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_longer_than_head_timeout_succeeds() {
    let site = Site::with_config(|config| {
        config.fill.head_timeout = Duration::from_secs(2);
        config.fill.total_timeout = Duration::from_secs(2);
    });
    site.manager.put(PRIVATE, Resource::echo());
    let mut client = WireClient::connect(site.address()).await;
    client.write_request(&Request::new("POST", PRIVATE).header("Content-Length", "4")).await.unwrap();
    // A slow line, because the test measures time.
    let mut line = tokio::time::interval(Duration::from_millis(320));
    for byte in b"slow" {
        line.tick().await;
        line.tick().await;
        client.write(&[*byte]).await.unwrap();
    }
    let mut response = client.read_head().await.unwrap();
    client.read_rest("POST", &mut response).await;
    assert_eq!((response.status, response.expect_body()), (200, b"slow".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_request_body_is_408_and_blames_no_upstream() {
    let site = Site::with_config(|config| config.server.stall_timeout = Duration::from_millis(100));
    site.manager.put(PRIVATE, Resource::echo());
    let mut client = WireClient::connect(site.address()).await;
    client.write_request(&Request::new("POST", PRIVATE).header("Content-Length", "8")).await.unwrap();
    client.write(b"half").await.unwrap();
    assert_eq!(client.read_head().await.unwrap().status, 408);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_chunks_of_an_upload_are_400() {
    let site = Site::new();
    site.manager.put(PRIVATE, Resource::echo());
    for chunks in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "-1\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "\r\n",
    ] {
        let mut client = WireClient::connect(site.address()).await;
        let head = format!("POST {PRIVATE} HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.write(format!("{head}{chunks}").as_bytes()).await.unwrap();
        let mut response = client.read_head().await.unwrap();
        client.read_rest("POST", &mut response).await;
        assert_eq!(response.status, 400, "{chunks:?}");
        assert!(response.expect_body().starts_with(b"gupd: the request body broke off"), "{chunks:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn private_path_is_never_stored_and_query_is_unchanged() {
    let site = Site::new();
    let target = "/secars/secars.dll?h=4A%2f%7bx%7d&action=12&&x";
    site.manager.put(PRIVATE, Resource::new("profile").header("Cache-Control", "public, max-age=1000"));
    for _ in 0..2 {
        let response = site.get(target).await;
        assert_eq!((response.status, response.cache_status()), (200, "gupd; fwd=bypass"));
        assert_eq!(response.expect_body(), b"profile");
    }
    let seen = site.manager.requests_for(PRIVATE);
    assert_eq!(seen.iter().map(|seen| seen.target.as_str()).collect::<Vec<_>>(), [target; 2]);
    assert_eq!(site.metric("gupd_store_objects").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn spelling_goes_upstream_unchanged_for_one_object() {
    let spelled = "/content/%7B535CB6A4-441F-4E8A-A897-804CD859100e%7d/261121001/full.zip";
    let site = Site::new();
    site.manager.put(spelled, Resource::new("definitions"));
    site.wait_until_stored(spelled).await;
    assert_eq!(site.manager.requests_for(spelled)[0].target, spelled);
    assert_eq!(site.get(PAYLOAD).await.cache_status(), "gupd; hit");
    // The query is part of the key and goes upstream as the client spelled it.
    site.manager.put("/file", Resource::new("x").header("Cache-Control", "max-age=60"));
    for target in ["/file?a=%7b1", "/file?a=%7B2", "/file"] {
        assert_eq!(site.get(target).await.cache_status(), "gupd; fwd=uri-miss; stored", "{target}");
    }
    let targets: Vec<_> = site.manager.requests_for("/file").into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/file?a=%7b1", "/file?a=%7B2", "/file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_client_gets_whole_content_with_length() {
    let site = Site::new();
    let body = bytes(3, 300_000);
    for (path, resource) in [
        (PAYLOAD.to_owned(), Resource::new(body.clone())),
        (PAYLOAD.replace("001/", "002/"), Resource::new(body.clone()).chunked()),
    ] {
        site.manager.put(&path, resource);
        for _ in 0..2 {
            let response = site.send(Request::get(&path).http10()).await;
            assert_eq!((response.status, response.version.as_str()), (200, "HTTP/1.0"));
            assert_eq!(response.header("transfer-encoding"), None);
            assert_eq!(response.header("content-length"), Some("300000"));
            assert!(response.expect_body() == body);
        }
    }
    let mut client = WireClient::connect(site.address()).await;
    let kept = Request::get(PAYLOAD).http10().header("Connection", "keep-alive");
    for _ in 0..2 {
        let response = client.send(&kept).await.unwrap();
        assert!(response.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("keep-alive")));
    }
    client.send(&Request::get(PAYLOAD).http10()).await.unwrap();
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_client_never_sees_short_body_as_complete() {
    let site = Site::with_config(|config| config.fill.attempts = 1);
    let broken = || Resource::new(bytes(4, 400_000)).chunked().without("ETag").cut(300_000, 9);
    // A fill of unknown length that breaks off is an error.
    site.manager.put(PAYLOAD, broken());
    assert_eq!(site.send(Request::get(PAYLOAD).http10()).await.status, 502);
    // An uncached response has already started, so its connection is reset instead of closed.
    site.manager.put(PRIVATE, broken());
    let passed = site.send(Request::get(PRIVATE).http10()).await;
    assert_eq!((passed.status, passed.ending), (200, Ending::Broken));
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_passthrough_is_broken_for_client() {
    let site = Site::new();
    for resource in [Resource::new(bytes(5, 400_000)), Resource::new(bytes(5, 400_000)).chunked()] {
        site.manager.put(PRIVATE, resource.cut(300_000, 1));
        let broken = site.get(PRIVATE).await;
        assert_eq!((broken.status, broken.ending), (200, Ending::Broken));
        assert!(broken.body == bytes(5, 400_000)[..broken.body.len()]);
        // One upstream request: the part that the client has cannot be taken back.
        assert!(site.get(PRIVATE).await.expect_body().len() == 400_000);
    }
    assert_eq!(site.manager.request_count(PRIVATE), 4);
    site.wait_for_metric("gupd_broken_transfers_total{by=\"upstream\"}", 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let site = Site::new();
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    site.manager.put(PRIVATE, Resource::echo().delayed(Duration::from_millis(30)));
    site.wait_until_stored(PAYLOAD).await;
    let mut client = WireClient::connect(site.address()).await;
    let requests = format!(
        "POST {PRIVATE} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbodyGET {PAYLOAD} HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    );
    client.write(requests.as_bytes()).await.unwrap();
    for (status, body) in [(200, &b"body"[..]), (200, b"definitions"), (404, b"nothing here\n")] {
        let mut response = client.read_head().await.unwrap();
        client.read_rest("GET", &mut response).await;
        assert_eq!((response.status, response.expect_body().as_slice()), (status, body));
    }
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_continue_is_sent_before_body_and_not_on_refusal() {
    let site = Site::new();
    site.manager.put(PRIVATE, Resource::echo());
    let expecting = |target: &str| {
        Request::new("POST", target).header("Expect", "100-continue").header("Content-Length", "4")
    };
    let mut client = WireClient::connect(site.address()).await;
    client.write_request(&expecting(PRIVATE)).await.unwrap();
    assert_eq!(client.read_head().await.unwrap().status, 100);
    client.write(b"body").await.unwrap();
    let mut response = client.read_head().await.unwrap();
    client.read_rest("POST", &mut response).await;
    assert_eq!((response.status, response.expect_body()), (200, b"body".to_vec()));
    let mut refused = WireClient::connect(site.address()).await;
    refused.write_request(&expecting("http://foreign.example/")).await.unwrap();
    assert_eq!(refused.read_head().await.unwrap().status, 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_obeys_max_forwards_and_trace_is_refused() {
    let site = Site::new();
    site.manager.put("/", Resource::new("").header("Allow", "GET, OPTIONS"));
    let options = |forwards: &str| Request::new("OPTIONS", "/").header("Max-Forwards", forwards);
    let passed = site.send(options("2")).await;
    assert_eq!((passed.status, passed.header("allow")), (200, Some("GET, OPTIONS")));
    assert_eq!(site.manager.requests_for("/")[0].header("max-forwards"), Some("1"));
    for last in [options("0"), Request::new("OPTIONS", "*")] {
        let answered = site.send(last).await;
        assert_eq!((answered.status, answered.header("content-length")), (204, None));
        assert!(answered.header("allow").is_some_and(|allowed| allowed.contains("OPTIONS")));
    }
    assert_eq!(site.send(Request::new("TRACE", "/").header("Cookie", "secret")).await.status, 405);
    assert_eq!(site.metric("gupd_refused_total{reason=\"trace\"}").await, 1.0);
    assert_eq!(site.manager.request_count("/"), 1);
}

/// A site with an upstream that the test serves by hand.
async fn site_with_listener() -> (Site, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let site =
        Site::with_config(|config| config.upstreams = Config::for_upstreams(&[&url]).unwrap().upstreams);
    (site, listener)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    listener.accept().await.unwrap().0
}

/// Returns the bytes that arrive, up to and including `end`.
async fn read_until(stream: &mut TcpStream, end: &[u8]) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        read.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(read).unwrap()
}
