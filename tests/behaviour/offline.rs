//! All upstreams down: stored content is served, other requests fail at once with `Retry-After`, and the returning
//! manager gets one probe instead of all requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use gupd_config::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::{PATIENCE, PAYLOAD, RefusingPort, Request, Resource, Site, WireClient};

const RETRY: Duration = Duration::from_secs(5);
const PRIVATE: &str = "/secars/secars.dll";
const MINITRI: &str = "/minitri.flg";

/// Simultaneous client requests.
const REQUESTS: usize = 5_000;

/// Number of connections within the limit of open files: both ends of each are in this process, besides the relay's
/// files. With a limit of 20,000 it is one per request.
fn connections() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let files: usize = files.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX);
    (files / 2).saturating_sub(200).clamp(100, REQUESTS)
}

/// A site with this listener as its only upstream, so that the test sees each connection.
async fn site_with_listener(change: impl FnOnce(&mut Config)) -> (Site, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let site = Site::with_config(|config| {
        config.upstreams = Config::for_upstreams(&[&url]).unwrap().upstreams;
        change(config);
    });
    (site, listener)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
    accepted.unwrap_or_else(|_| panic!("no connection arrived")).unwrap().0
}

/// Reads a request and answers it with `ok`.
async fn answer(mut connection: TcpStream) -> TcpStream {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(connection.read_u8().await.unwrap());
    }
    connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    connection
}

/// Closes connections without a response until the relay opens the circuit.
async fn fail_until_open(site: &Site, listener: &TcpListener) {
    let name = listener.local_addr().unwrap();
    let healthy = format!("gupd_upstream_healthy{{upstream=\"{name}\"}}");
    let closing = async {
        loop {
            drop(accept(listener).await);
        }
    };
    let asking = async {
        while site.metric(&healthy).await == 1.0 {
            assert!(site.delete_independently().await.iter().all(|status| *status >= 502));
        }
    };
    tokio::select! {
        () = closing => {}
        () = asking => {}
    }
    assert!(listener.accept().now_or_never().is_none());
}

/// Connected clients.
struct Crowd(Vec<WireClient>);

impl Crowd {
    /// Connects one after the other: the accept rate is not under test.
    async fn connect(site: &Site) -> Self {
        let mut clients = Vec::new();
        for _ in 0..connections() {
            let mut client = WireClient::connect(site.address()).await;
            assert_eq!(client.send(&Request::new("OPTIONS", "*")).await.unwrap().status, 204);
            clients.push(client);
        }
        Self(clients)
    }

    /// Sends requests from all clients at once, half of them for distinct paths and half for one path. Each gets an
    /// immediate 504 with this `Retry-After`.
    async fn expect_failures(&mut self, tag: &str, retry_after: &str) {
        let asked = Arc::<AtomicUsize>::default();
        let mut asking = JoinSet::new();
        for mut client in self.0.drain(..) {
            let (asked, tag, retry_after) = (asked.clone(), tag.to_owned(), retry_after.to_owned());
            asking.spawn(async move {
                loop {
                    let number = asked.fetch_add(1, Ordering::Relaxed);
                    if number >= REQUESTS {
                        return client;
                    }
                    let revision = if number % 2 == 0 { format!("{tag}{number:05}") } else { tag.clone() };
                    let request = Request::get(&PAYLOAD.replace("261121001", &revision));
                    let response = client.send(&request).await.unwrap();
                    assert_eq!((response.status, response.header("retry-after")), (504, Some(&*retry_after)));
                }
            });
        }
        self.0 = asking.join_all().await;
    }
}

fn has_no_connection(listener: &TcpListener) -> bool {
    listener.accept().now_or_never().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_clients_cost_one_connection_per_probe() {
    let (site, listener) = site_with_listener(|config| config.server.max_connections = 2 * REQUESTS).await;
    fail_until_open(&site, &listener).await;
    let mut crowd = Crowd::connect(&site).await;
    crowd.expect_failures("1", "5").await;
    assert!(has_no_connection(&listener), "a probe came too early");
    for (wait, retry_after) in [(RETRY, "10"), (2 * RETRY, "20")] {
        site.clock.advance(wait);
        let mut first = WireClient::connect(site.address()).await;
        first.write_request(&Request::get(PAYLOAD)).await.unwrap();
        let probe = accept(&listener).await;
        // No request waits for the running probe.
        if wait == RETRY {
            crowd.expect_failures("2", "5").await;
        }
        drop(probe);
        assert_eq!(first.read_head().await.unwrap().status, 502);
        assert_eq!(site.get(PRIVATE).await.header("retry-after"), Some(retry_after));
        assert!(has_no_connection(&listener), "a second probe");
    }
    // The manager recovers.
    site.clock.advance(4 * RETRY);
    let (response, _probe) = tokio::join!(site.get(PRIVATE), async { answer(accept(&listener).await).await });
    assert_eq!(response.expect_body(), b"ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_probe_passes_to_the_next_client() {
    // A client that closes its side may still read; it counts as gone after this time.
    let stall = |config: &mut Config| config.server.stall_timeout = Duration::from_secs(1);
    let (site, listener) = site_with_listener(stall).await;
    fail_until_open(&site, &listener).await;
    site.clock.advance(RETRY);
    let mut first = WireClient::connect(site.address()).await;
    first.write_request(&Request::get(PRIVATE)).await.unwrap();
    let _probe = accept(&listener).await;
    drop(first);
    let (answered, _next) = tokio::join!(
        async {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let response = site.get(PRIVATE).await;
                if response.status == 200 {
                    return response;
                }
                assert!(Instant::now() < deadline, "no request becomes the probe: {response:?}");
            }
        },
        async { answer(accept(&listener).await).await }
    );
    assert_eq!(answered.expect_body(), b"ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_fill_fails_once_circuit_opens() {
    let (site, listener) = site_with_listener(|config| config.fill.max_concurrent = 1).await;
    let begin = async |path: &str| {
        let mut client = WireClient::connect(site.address()).await;
        client.write_request(&Request::get(path)).await.unwrap();
        client
    };
    // The manager delays the first response. The other requests wait for the connection, one of them as a follower.
    let mut first = begin(PAYLOAD).await;
    let filling = accept(&listener).await;
    let second = PAYLOAD.replace("261121001", "261121002");
    let mut waiting = [begin(&second).await, begin(&second).await];
    fail_until_open(&site, &listener).await;
    for client in &mut waiting {
        let head = client.read_head().await.unwrap();
        assert_eq!((head.status, head.header("retry-after")), (504, Some("5")));
    }
    // The running request continues, and its success closes the circuit.
    let _filling = answer(filling).await;
    let mut head = first.read_head().await.unwrap();
    first.read_rest("GET", &mut head).await;
    assert_eq!(head.expect_body(), b"ok");
    site.wait_for_metric(
        &format!("gupd_upstream_healthy{{upstream=\"{}\"}}", listener.local_addr().unwrap()),
        1.0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_content_is_served_while_all_upstreams_fail() {
    let site = Site::new();
    for path in [PAYLOAD, MINITRI] {
        site.manager.put(path, Resource::new("definitions"));
        site.wait_until_stored(path).await;
    }
    site.clock.advance(Duration::from_secs(3_600));
    site.manager.put(MINITRI, Resource::raw(""));
    site.put_independently(&Resource::raw(""));
    assert_eq!(site.delete_independently().await, [502; 3]);
    assert!(is_circuit_open(&site).await);
    let connections = site.manager.connections();
    for (path, status) in [(PAYLOAD, "gupd; hit"), (MINITRI, "gupd; hit; detail=stale-if-error")] {
        let served = site.get(path).await;
        assert_eq!((served.status, served.cache_status()), (200, status), "{path}");
        assert_eq!((served.header("warning"), served.header("age")), (None, Some("3600")));
        assert_eq!(served.expect_body(), b"definitions");
    }
    let missing = PAYLOAD.replace("261121001", "261121002");
    for request in [Request::get(&missing), Request::get(PRIVATE), Request::new("POST", "/").body("x")] {
        let failed = site.send(request).await;
        assert_eq!((failed.status, failed.header("retry-after")), (504, Some("5")));
        assert_eq!(failed.header("warning"), None);
    }
    // `Retry-After` counts down with the clock.
    site.clock.advance(Duration::from_millis(1_001));
    assert_eq!(site.get(&missing).await.header("retry-after"), Some("4"));
    assert_eq!(site.manager.connections(), connections);
}

async fn is_circuit_open(site: &Site) -> bool {
    site.metric(&format!("gupd_upstream_healthy{{upstream=\"{}\"}}", site.manager.address())).await == 0.0
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_starts_offline_and_serves_stored_content() {
    let mut site = Site::new();
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    site.wait_until_stored(PAYLOAD).await;
    let away = RefusingPort::new();
    site.config.upstreams[0].url = away.url().parse().unwrap();
    site.config.health.interval = Some(Duration::from_secs(10));
    site.restart();
    assert_eq!(site.get(PAYLOAD).await.expect_body(), b"definitions");
    assert_eq!(site.get(PRIVATE).await.status, 504);
    let name = &site.config.upstreams[0].name;
    site.wait_for_metric(
        &format!("gupd_upstream_checks_total{{outcome=\"connect\",upstream=\"{name}\"}}"),
        1.0,
    )
    .await;
}
