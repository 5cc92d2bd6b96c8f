//! Traces of a relay in a program with the feature `otlp`: a real client, a real manager, and a collector on a socket.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by a panic")]

#[path = "support/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "a test bed offers more than one test uses")]
mod support;

use std::net::SocketAddr;

use support::{PAYLOAD, Resource, Site, bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Starts a collector, and returns its address and the bodies that it gets.
async fn start_collector() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, bodies) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !is_complete(&request) {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the request is cut off");
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (address, bodies)
}

fn is_complete(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    request.len() >= end + 4 + length.parse::<usize>().unwrap()
}

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn request_and_its_fill_are_exported_while_the_relay_runs() {
    let (collector, mut bodies) = start_collector().await;
    let site = Site::with_config(|config| {
        config.traces.endpoint = Some(format!("http://{collector}/v1/traces").parse().unwrap());
        config.traces.ratio = 1.0;
    });
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 100_000)));
    site.get(PAYLOAD).await.expect_body();
    let mut exported = Vec::new();
    while !["gupd.fill.outcome", "http.request.method"].iter().all(|name| contains(&exported, name)) {
        exported.extend(bodies.recv().await.unwrap());
    }
    for text in ["POST /v1/traces", "service.name", "GET", "full.zip", "payload", "miss", "stored"] {
        assert!(contains(&exported, text), "{text}");
    }
    site.wait_for_metric_at_least("gupd_trace_spans_total{result=\"exported\"}", 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_collector_delays_no_request_and_no_end() {
    // Accepts by its queue alone, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut site = Site::with_config(|config| {
        let endpoint = format!("http://{}/v1/traces", silent.local_addr().unwrap());
        config.traces.endpoint = Some(endpoint.parse().unwrap());
        config.traces.ratio = 1.0;
        config.log.access = false;
    });
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 1_000)));
    // More than the queue and two batches hold.
    for _ in 0..4_000 {
        site.get(PAYLOAD).await.expect_body();
    }
    assert!(site.metric("gupd_trace_spans_total{result=\"dropped\"}").await > 0.0);
    let started = std::time::Instant::now();
    tokio::task::block_in_place(|| site.stop());
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
}
