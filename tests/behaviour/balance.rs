//! Selection among several upstreams: the smallest priority, then the fewest bytes outstanding.

use std::time::{Duration, Instant};

use gupd_config::Config;
use tokio::net::TcpListener;

use crate::support::{Gate, Manager, PATIENCE, PAYLOAD, Request, Resource, Site, WireClient, bytes};

const SIZE: usize = 1 << 20;

/// A site with two upstreams of these priorities: its own manager and `other`.
fn site_with_priorities(other: &Manager, priorities: [u32; 2]) -> Site {
    let manager = Manager::start();
    let both = Config::for_upstreams(&[&manager.url(), &other.url()]).unwrap();
    Site::for_manager(manager, |config| {
        config.upstreams = both.upstreams;
        config.routes = both.routes;
        for (upstream, priority) in config.upstreams.iter_mut().zip(priorities) {
            upstream.priority = Some(priority);
        }
    })
}

fn path(number: usize) -> String {
    PAYLOAD.replace("261121001", &format!("2611210{number:02}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn managers_of_one_priority_share_the_bytes() {
    let other = Manager::start();
    let site = site_with_priorities(&other, [1, 1]);
    let gate = Gate::default();
    let mut clients = Vec::new();
    for number in 0..8 {
        for manager in [&site.manager, &other] {
            // Each response stalls halfway, so its bytes count as outstanding at its manager.
            manager.put(&path(number), Resource::new(bytes(number as u64, SIZE)).stalled(SIZE / 2, &gate));
        }
        let mut client = WireClient::connect(site.address()).await;
        client.write_request(&Request::get(&path(number))).await.unwrap();
        let mut head = client.read_head().await.unwrap();
        assert_eq!(head.status, 200);
        head.body = client.read_bytes(SIZE / 2).await.unwrap();
        clients.push((client, head));
    }
    let asked = |manager: &Manager| (0..8).map(|number| manager.request_count(&path(number))).sum::<usize>();
    assert_eq!((asked(&site.manager), asked(&other)), (4, 4));
    gate.open();
    for (number, (client, head)) in clients.iter_mut().enumerate() {
        client.read_rest("GET", head).await;
        assert!(head.body == bytes(number as u64, SIZE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_upstream_gets_no_request_until_its_bytes_are_sent() {
    const PRIVATE: &str = "/secars/large";
    let other = Manager::start();
    let site = site_with_priorities(&other, [1, 1]);
    let gate = Gate::default();
    let large = || Resource::new(bytes(1, SIZE)).stalled(SIZE / 2, &gate);
    site.manager.put(PRIVATE, large());
    other.put(PRIVATE, large());
    for manager in [&site.manager, &other] {
        manager.put("/secars/small", Resource::new("small"));
    }
    let asked = || [site.manager.request_count("/secars/small"), other.request_count("/secars/small")];
    let mut client = WireClient::connect(site.address()).await;
    client.write_request(&Request::get(PRIVATE)).await.unwrap();
    client.read_head().await.unwrap();
    let busy = usize::from(other.request_count(PRIVATE) == 1);
    for _ in 0..6 {
        assert_eq!(site.get("/secars/small").await.expect_body(), b"small");
    }
    assert_eq!((asked()[busy], asked()[1 - busy]), (0, 6));
    // The client disconnects in the middle of its download.
    drop(client);
    gate.open();
    let deadline = Instant::now() + PATIENCE;
    while asked()[busy] == 0 {
        site.get("/secars/small").await.expect_body();
        assert!(Instant::now() < deadline, "bytes of a dropped download are still counted");
    }
    // Idle upstreams alternate.
    let before = asked();
    for _ in 0..6 {
        site.get("/secars/small").await.expect_body();
    }
    let after = asked();
    assert_eq!([after[0] - before[0], after[1] - before[1]], [3, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn smaller_priority_precedes_list_order() {
    let other = Manager::start();
    let site = site_with_priorities(&other, [2, 1]);
    for number in 0..4 {
        for manager in [&site.manager, &other] {
            manager.put(&path(number), Resource::new("definitions"));
        }
        assert_eq!(site.get(&path(number)).await.status, 200);
        assert_eq!((site.manager.request_count(&path(number)), other.request_count(&path(number))), (0, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn total_timeout_ends_requests_to_silent_upstreams() {
    // Both accept connections and never respond.
    let silent =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let urls = silent.each_ref().map(|listener| format!("http://{}", listener.local_addr().unwrap()));
    let site = Site::with_config(|config| {
        let both = Config::for_upstreams(&[&urls[0], &urls[1]]).unwrap();
        (config.upstreams, config.routes) = (both.upstreams, both.routes);
        config.fill.total_timeout = Duration::from_millis(200);
    });
    // A single attempt would have had a minute.
    let began = Instant::now();
    assert_eq!(site.get(PAYLOAD).await.status, 504);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
