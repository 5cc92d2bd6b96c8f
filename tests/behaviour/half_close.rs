//! Clients that close their sending side behind a request (RFC 9112 §9.6). They get the response; clients that have gone
//! keep neither a place in a queue nor a request upstream.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Gate, PAYLOAD, Resource, Site, bytes};

const PRIVATE: &str = "/secars/secars.dll";

/// Sends these bytes and closes the sending side.
async fn send(site: &Site, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(site.address()).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    stream
}

/// Reads everything until the end of the connection.
async fn read(mut stream: TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.unwrap();
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_client_gets_its_response() {
    let site = Site::new();
    let body = bytes(1, 300_000);
    let delay = Duration::from_millis(200);
    let large = || Resource::new(body.clone());
    let (cold, generic) = (PAYLOAD.replace("001/", "002/"), "/generic".to_owned());
    site.manager.put(PAYLOAD, large());
    site.wait_until_stored(PAYLOAD).await;
    site.manager.put(&cold, large().delayed(delay));
    site.manager.put(&generic, large().chunked().delayed(delay));
    site.manager.put("/secars/slow", large().delayed(delay));
    site.manager.put("/secars/rest", large().paused(100_000, gupd_site::Pause::For(delay)));
    site.manager.put("/secars/echo", Resource::echo().delayed(delay));
    let (close, keep) = ("Connection: close\r\n", "");
    for (case, request, expected) in [
        ("stored", format!("GET {PAYLOAD} HTTP/1.1\r\nHost: a\r\n{close}\r\n"), &body[..]),
        ("stored, kept", format!("GET {PAYLOAD} HTTP/1.1\r\nHost: a\r\n{keep}\r\n"), &body),
        ("cold", format!("GET {cold} HTTP/1.1\r\nHost: a\r\n{close}\r\n"), &body),
        ("private", format!("GET /secars/slow HTTP/1.1\r\nHost: a\r\n{close}\r\n"), &body),
        ("private, kept", format!("GET /secars/slow HTTP/1.1\r\nHost: a\r\n{keep}\r\n"), &body),
        ("pause in the body", format!("GET /secars/rest HTTP/1.1\r\nHost: a\r\n{close}\r\n"), &body),
        ("HTTP/1.0", format!("GET /secars/slow HTTP/1.0\r\n{keep}\r\n"), &body),
        ("HTTP/1.0, open-ended", format!("GET {generic} HTTP/1.0\r\n\r\n"), &body),
        (
            "POST",
            "POST /secars/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody".to_owned(),
            b"body",
        ),
        ("missing", "GET /secars/none HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), b"nothing here\n"),
    ] {
        let response = read(send(&site, &request).await).await;
        assert!(response.starts_with(b"HTTP/1."), "{case}");
        assert!(response.ends_with(expected), "{case}: {} bytes", response.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_client_gets_all_pipelined_responses() {
    let site = Site::new();
    site.manager.put(PRIVATE, Resource::new("first").delayed(Duration::from_millis(100)));
    site.manager.put("/secars/second", Resource::new("second").delayed(Duration::from_millis(100)));
    let requests =
        format!("GET {PRIVATE} HTTP/1.1\r\nHost: a\r\n\r\nGET /secars/second HTTP/1.1\r\nHost: a\r\n\r\n");
    let responses = String::from_utf8(read(send(&site, &requests).await).await).unwrap();
    assert_eq!(responses.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{responses}");
    assert!(responses.contains("\r\n\r\nfirstHTTP/1.1") && responses.ends_with("second"), "{responses}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_client_leaves_the_queue_with_503() {
    let site = Site::with_config(|config| config.lan.max_downloads = Some(1));
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 100_000)).stalled(50_000, &gate));
    let request = format!("GET {PAYLOAD} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut first = TcpStream::connect(site.address()).await.unwrap();
    first.write_all(request.as_bytes()).await.unwrap();
    site.manager.wait_for_requests(PAYLOAD, 1).await;
    let refused = String::from_utf8(read(send(&site, &request).await).await).unwrap();
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("Retry-After: "), "{refused}");
    assert_eq!(site.metric("gupd_queued_requests").await, 0.0);
    gate.open();
    read(first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_is_gone_ends_its_request_after_the_stall_timeout() {
    let site = Site::with_config(|config| config.server.stall_timeout = Duration::from_secs(1));
    let gate = Gate::default();
    site.manager.put(PRIVATE, Resource::new("late").held(&gate));
    drop(send(&site, &format!("GET {PRIVATE} HTTP/1.1\r\nHost: a\r\n\r\n")).await);
    site.manager.wait_for_requests(PRIVATE, 1).await;
    site.wait_for_metric("gupd_connections", 0.0).await;
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_leaves_in_the_body_ends_its_request() {
    let site = Site::new();
    let gate = Gate::default();
    site.manager.put(PRIVATE, Resource::new(bytes(1, 200_000)).stalled(100_000, &gate));
    let mut stream = TcpStream::connect(site.address()).await.unwrap();
    stream.write_all(format!("GET {PRIVATE} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    stream.read_exact(&mut vec![0; 100_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    site.wait_for_metric("gupd_connections", 0.0).await;
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_client_ends_its_request_at_once() {
    let site = Site::new();
    let gate = Gate::default();
    site.manager.put(PRIVATE, Resource::new("late").held(&gate));
    let mut stream = TcpStream::connect(site.address()).await.unwrap();
    stream.write_all(format!("GET {PRIVATE} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    site.manager.wait_for_requests(PRIVATE, 1).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    site.wait_for_metric("gupd_connections", 0.0).await;
    gate.open();
}
