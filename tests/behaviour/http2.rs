//! Requests over HTTP/2: they go through the same pipeline as those of HTTP/1.1, and count with them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gupd_config::{CertificateFiles, ClientCertificates, Config, ListenerTls};
use tokio::net::TcpSocket;
use tokio::task::{JoinSet, block_in_place};

use crate::support::http2::{
    END_HEADERS, END_STREAM, FrameClient, Http2Client, TlsClient, block, frame, get_block, get_frame, kind,
};
use crate::support::{Authority, Gate, Identity, PAYLOAD, Request, Resource, Site, bytes};

const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

/// A site with TLS for its clients, and their authority.
fn site(change: impl FnOnce(&mut Config)) -> (Site, Authority) {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let (cert, key) = authority.issue("localhost").write_files(folder.path());
    let site = Site::with_config(|config| {
        config.server.tls = Some(CertificateFiles { cert, key }.into());
        change(config);
    });
    (site, authority)
}

async fn connect(site: &Site, authority: &Authority) -> Http2Client {
    Http2Client::connect(site.address(), &TlsClient::new(authority.certificate())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_filled_once_and_then_a_hit() {
    let (site, authority) = site(|_| {});
    let body = bytes(1, 3_000_000);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    let client = connect(&site, &authority).await;
    for expected in ["gupd; fwd=uri-miss; stored", "gupd; hit"] {
        let response = client.get(PAYLOAD).await.unwrap();
        assert_eq!((response.status(), response.header("cache-status")), (200, expected));
        assert_eq!(response.header("content-length"), body.len().to_string());
        assert!(response.body == body);
        site.wait_for_fills().await;
    }
    let range = client.send(client.request("GET", PAYLOAD, &[("range", "bytes=5-9")]), b"").await.unwrap();
    assert_eq!((range.status(), &range.body[..]), (206, &body[5..10]));
    let head = client.send(client.request("HEAD", PAYLOAD, &[]), b"").await.unwrap();
    assert_eq!((head.status(), head.body.len()), (200, 0));
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
    assert_eq!(site.metric("gupd_protocol_requests_total{protocol=\"HTTP/2\"}").await, 4.0);
    assert_eq!(site.metric("gupd_protocol_requests_total{protocol=\"HTTP/1.1\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn manager_gets_an_http_1_request_that_names_http_2() {
    let (site, authority) = site(|_| {});
    let client = connect(&site, &authority).await;
    let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")];
    let response =
        client.send(client.request("POST", "/secars/secars.dll", &fields), b"content").await.unwrap();
    assert_eq!(response.status(), 404);
    let seen = site.manager.requests_for("/secars/secars.dll").pop().unwrap();
    assert!(seen.header("via").unwrap().starts_with("2.0 gupd-"), "{seen:?}");
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.header("te"), None);
    assert_eq!(seen.header("host"), Some(&*site.manager.address().to_string()));
    assert_eq!(seen.body, b"content");
    assert_eq!(response.header("connection"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn authority_selects_route_as_host_does() {
    let (site, authority) = site(|config| {
        let mut own = config.routes[0].clone();
        (own.host, own.name) = (Some("updates.example".to_owned()), "updates.example/".to_owned());
        config.routes = vec![own];
    });
    site.manager.put(PAYLOAD, Resource::new("content"));
    let client = connect(&site, &authority).await;
    for (uri, status) in [
        (format!("https://updates.example{PAYLOAD}"), 200),
        (format!("https://Updates.Example:8443{PAYLOAD}"), 200),
        (format!("http://updates.example{PAYLOAD}"), 200),
        (format!("https://other.example{PAYLOAD}"), 404),
    ] {
        let request = http::Request::builder().uri(&uri).version(http::Version::HTTP_2).body(()).unwrap();
        assert_eq!(client.send(request, b"").await.unwrap().status(), status, "{uri}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contradicting_host_is_refused() {
    let (site, authority) = site(|_| {});
    site.manager.put(PAYLOAD, Resource::new("content"));
    let client = connect(&site, &authority).await;
    for (fields, status) in [
        (&[("host", "other.example")][..], 400),
        (&[("host", "localhost"), ("host", "localhost")], 400),
        (&[("host", "")], 400),
        (&[], 200),
    ] {
        let response = client.send(client.request("GET", PAYLOAD, fields), b"").await.unwrap();
        assert_eq!(response.status(), status, "{fields:?}");
    }
    assert_eq!(site.metric("gupd_refused_total{reason=\"host\"}").await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_request_ends_its_stream_alone() {
    let (site, authority) = site(|_| {});
    site.manager.put(PAYLOAD, Resource::new("content"));
    let tls = TlsClient::new(authority.certificate());
    let mut client = FrameClient::connect(site.address(), &tls, &[]).await;
    let with = |fields: &[(&str, &str)]| get_block(PAYLOAD, fields);
    let cases = [
        with(&[("connection", "close")]),
        with(&[("keep-alive", "1")]),
        with(&[("proxy-connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("upgrade", "h2c")]),
        with(&[("te", "gzip")]),
        with(&[(":path", "/again")]),
        block(&[(":method", "GET"), (":scheme", "https"), (":authority", "localhost")]),
        block(&[(":scheme", "https"), (":authority", "localhost"), (":path", PAYLOAD)]),
    ];
    for (number, block) in cases.iter().enumerate() {
        let stream = 1 + 2 * u32::try_from(number).unwrap();
        assert!(client.write(&frame(kind::HEADERS, END_STREAM | END_HEADERS, stream, block)).await);
        let reset = client.read_until(|frame| frame.kind == kind::RST_STREAM).await;
        let reset = reset.unwrap_or_else(|| panic!("case {number} ends the connection"));
        assert_eq!((reset.stream, &reset.payload[..]), (stream, &PROTOCOL_ERROR[..]), "case {number}");
    }
    assert!(client.write(&get_frame(99, PAYLOAD)).await);
    let served = client.read_until(|frame| frame.kind == kind::DATA && frame.stream == 99).await.unwrap();
    assert_eq!(served.payload, b"content");
    // Names that no field can have end the connection.
    for block in [with(&[("X-Upper", "a")]), with(&[(":unknown", "a")])] {
        let mut client = FrameClient::connect(site.address(), &tls, &[]).await;
        assert!(client.write(&frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &block)).await);
        client.wait_until_closed().await;
    }
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
    site.wait_for_metric("gupd_refused_total{reason=\"malformed\"}", 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_no_proxy_passes_are_refused() {
    let (site, authority) = site(|_| {});
    let client = connect(&site, &authority).await;
    let trace = client.send(client.request("TRACE", "/a", &[]), b"").await.unwrap();
    assert_eq!(trace.status(), 405);
    let connect = http::Request::builder().method("CONNECT").uri("localhost:443").body(()).unwrap();
    assert_eq!(client.send(connect, b"").await.unwrap().status(), 405);
    assert_eq!(site.metric("gupd_refused_total{reason=\"connect\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_count_like_connections() {
    let (site, authority) = site(|config| config.server.max_connections = 4);
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 2_000_000)).stalled(1_000, &gate));
    let client = connect(&site, &authority).await;
    let path = |number: usize| PAYLOAD.replace("261121001", &format!("{}", 261_121_001 + number));
    let mut held = Vec::new();
    for number in 0..4 {
        let resource = Resource::new(bytes(number as u64, 2_000_000));
        site.manager.put(&path(number), resource.stalled(1_000_000, &gate));
        held.push(client.start(client.request("GET", &path(number), &[]), b"").await.unwrap());
    }
    assert!(held.iter().all(|(head, _)| head.status == 200));
    let refused = client.get(&path(0)).await.unwrap();
    assert_eq!((refused.status(), refused.header("retry-after")), (503, "10"));
    assert_eq!(site.metric("gupd_refused_total{reason=\"too-many-connections\"}").await, 1.0);
    // Slots of ended requests are free again.
    drop(held);
    gate.open();
    site.wait_for_fills().await;
    while client.get(&path(0)).await.unwrap().status() != 200 {}
}

#[tokio::test(flavor = "multi_thread")]
async fn extra_requests_count_for_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (server, clients) = (Authority::new(), Authority::new());
    let (cert, key) = server.issue("localhost").write_files(folder.path());
    let client_ca = folder.path().join("ca.pem");
    std::fs::write(&client_ca, clients.pem()).unwrap();
    let site = Site::with_config(|config| {
        config.server.tls = Some(ListenerTls {
            client_certificates: ClientCertificates::Required,
            client_ca: Some(client_ca),
            ..CertificateFiles { cert, key }.into()
        });
        // Six are plenty; of the last two no client gets one that has two.
        config.server.max_connections = 8;
        config.server.max_client_connections = 2;
    });
    let gate = Gate::default();
    let path = |number: u64| PAYLOAD.replace("261121001", &format!("{}", 261_121_001 + number));
    for number in 0..8 {
        let resource = Resource::new(bytes(number, 2_000_000));
        site.manager.put(&path(number), resource.stalled(1_000_000, &gate));
    }
    let [one, two] = [clients.issue("one.example"), clients.issue("two.example")];
    let connect = async |identity: &Identity| {
        let tls = TlsClient { identity: Some(identity), ..TlsClient::new(server.certificate()) };
        Http2Client::connect(site.address(), &tls).await.unwrap()
    };
    let (greedy, modest) = (connect(&one).await, connect(&two).await);
    let start = async |client: &Http2Client, number: u64| {
        let started = client.start(client.request("GET", &path(number), &[]), b"").await.unwrap();
        (started.0.status.as_u16(), started.1)
    };
    let mut held = Vec::new();
    // Two connections and four more requests.
    for number in 0..5 {
        held.push(start(&greedy, number).await);
    }
    assert_eq!(start(&greedy, 5).await.0, 503, "the client of the certificate has its share");
    // Both come from one address, as behind a NAT.
    for number in 6..8 {
        held.push(start(&modest, number).await);
    }
    assert!(held.iter().all(|(status, _)| *status == 200));
    assert_eq!(site.metric("gupd_refused_total{reason=\"too-many-client-connections\"}").await, 1.0);
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn download_limit_of_a_client_includes_its_streams() {
    let (site, authority) = site(|config| {
        config.lan.client_downloads = Some(2);
        config.lan.queue = 0;
    });
    let body = bytes(1, 8_000_000);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    let (client, other) = (connect(&site, &authority).await, connect(&site, &authority).await);
    while client.get(PAYLOAD).await.unwrap().header("cache-status") != "gupd; hit" {}
    // Neither response fits into the windows of the client, which reads nothing.
    let mut held = Vec::new();
    for client in [&client, &other] {
        held.push(client.start(client.request("GET", PAYLOAD, &[]), b"").await.unwrap());
    }
    assert!(held.iter().all(|(head, _)| head.status == 200));
    for client in [&client, &other] {
        assert_eq!(client.get(PAYLOAD).await.unwrap().status(), 503);
    }
    // A cancelled stream returns its slot; the other streams of the connection go on.
    drop(held.remove(0));
    while client.get(PAYLOAD).await.unwrap().status() != 200 {}
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn far_ranges_on_streams_leave_connections_to_others() {
    let (site, authority) = site(|config| config.fill.max_concurrent = 16);
    let (gate, body) = (Gate::default(), bytes(1, 32 << 20));
    let path = |object: usize| PAYLOAD.replace("261121001", &format!("{}", 261_121_001 + object));
    for object in 0..3 {
        site.manager.put(&path(object), Resource::new(body.clone()).stalled(1, &gate));
    }
    let greedy = Arc::new(connect(&site, &authority).await);
    let mut streams = JoinSet::new();
    // Fewer than the streams that a connection may have: the client does not wait for the settings that say so.
    for (object, chunk) in (0..3).flat_map(|object| (1..=10).map(move |chunk| (object, chunk << 21))) {
        let (greedy, range) = (greedy.clone(), format!("bytes={chunk}-{}", chunk + 9));
        let request = greedy.request("GET", &path(object), &[("range", &range)]);
        streams.spawn(async move { (chunk, greedy.send(request, b"").await.unwrap()) });
    }
    // The permits of all clients, and one of its own.
    site.manager.wait_for_connections(11).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 77], 0).into()).unwrap();
    let stream = socket.connect(site.address()).await.unwrap();
    let stream = TlsClient::new(authority.certificate()).connect_over(stream).await.unwrap();
    let other = Http2Client::over(stream, site.address()).await.unwrap();
    site.manager.put("/content/other.zip", Resource::new("other"));
    assert_eq!(other.get("/content/other.zip").await.unwrap().body, b"other");
    assert!(site.manager.connections() <= 12, "{} connections", site.manager.connections());
    gate.open();
    for (from, response) in streams.join_all().await {
        assert_eq!((response.status(), &response.body[..]), (206, &body[from..from + 10]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_finishes_running_downloads_and_closes_idle_connections() {
    let (mut site, authority) = site(|_| {});
    let body = bytes(1, 8_000_000);
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(body.clone()).stalled(4_000_000, &gate));
    let (busy, idle) = (connect(&site, &authority).await, connect(&site, &authority).await);
    let (_, mut running) = busy.start(busy.request("GET", PAYLOAD, &[]), b"").await.unwrap();
    let reads = tokio::spawn(async move {
        let mut read = Vec::new();
        while let Some(data) = running.data().await {
            let data = data.unwrap();
            running.flow_control().release_capacity(data.len()).unwrap();
            read.extend_from_slice(&data);
        }
        read
    });
    let stop = std::thread::spawn(move || site.stop());
    idle.wait_until_closed().await.unwrap();
    gate.open();
    assert!(reads.await.unwrap() == body);
    block_in_place(|| stop.join().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connection_is_closed_after_header_timeout() {
    let (site, authority) = site(|config| config.server.header_timeout = Duration::from_millis(300));
    site.manager.put(PAYLOAD, Resource::new("content"));
    let client = connect(&site, &authority).await;
    assert_eq!(client.get(PAYLOAD).await.unwrap().status(), 200);
    client.wait_until_closed().await.unwrap();
    site.wait_for_metric("gupd_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_without_http_2_gets_http_1() {
    let (site, authority) = site(|config| config.server.has_http2 = false);
    let tls = TlsClient::new(authority.certificate());
    let stream = tls.connect(site.address()).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_listener_speaks_no_http_2() {
    let site = Site::new();
    let mut client = crate::support::WireClient::connect(site.address()).await;
    client.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 4") || answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    let address: SocketAddr = site.address();
    assert_eq!(Request::get("/none").send(address).await.status, 404);
}
