//! Relays in a loop: no request waits for itself, and content of an upstream behind the loop is found.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, Site, bytes, get};

/// Half of the default `fill.head_timeout`: a loop that only a timeout ends takes longer.
const HALF_A_TIMEOUT: Duration = Duration::from_secs(30);

/// Two relays, each the first upstream of the other. The first one's second upstream is `manager`.
fn looped_pair(manager: Option<&Manager>) -> (Site, Site) {
    let mut one = Site::new();
    let other = Site::with_upstreams(&[one.address()]);
    let behind: Vec<_> = [other.address()].into_iter().chain(manager.map(Manager::address)).collect();
    one.set_upstreams(&behind);
    (one, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn looped_request_is_refused() {
    let (one, other) = looped_pair(None);
    for target in [PAYLOAD, "/secars/secars.dll", "/generic?x"] {
        for site in [&one, &other] {
            let begun = Instant::now();
            let response = site.get(target).await;
            assert_eq!(response.status, 508, "{target}");
            assert!(begun.elapsed() < HALF_A_TIMEOUT, "the loop is detected from the marks of the request");
        }
    }
    let refused = r#"gupd_refused_total{reason="loop"}"#;
    assert!(one.metric(refused).await + other.metric(refused).await >= 6.0);
    assert_eq!(one.get("/secars/secars.dll").await.status, 508);
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_as_its_own_upstream_refuses_the_loop() {
    let mut site = Site::new();
    let own = site.address();
    site.set_upstreams(&[own]);
    assert_eq!(site.get(PAYLOAD).await.status, 508);
    assert_eq!(site.send(Request::new("POST", "/upload").body("x")).await.status, 508);
}

#[tokio::test(flavor = "multi_thread")]
async fn looped_miss_reaches_the_upstream_behind_the_loop() {
    let manager = Manager::start();
    let body = bytes(1, 100_000);
    manager.put(PAYLOAD, Resource::new(body.clone()));
    let (one, other) = looped_pair(Some(&manager));
    assert!(other.get(PAYLOAD).await.expect_body() == body);
    assert!(one.get(PAYLOAD).await.expect_body() == body);
    assert_eq!(manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mutually_waiting_fills_are_detected() {
    let (one, other) = looped_pair(None);
    // Some of these fills start on both relays at once and follow each other.
    for round in 0..4 {
        let targets: Vec<String> = (0..20).map(|at| format!("/content/{round}-{at}.dax")).collect();
        let begun = Instant::now();
        let clients = targets.iter().flat_map(|target| [&one, &other].map(|site| site.get(target)));
        for response in join_all(clients).await {
            assert_eq!(response.status, 508);
        }
        assert!(begun.elapsed() < HALF_A_TIMEOUT, "only a timeout ended the loop");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loop_of_three_relays_ends_where_no_upstream_is_left() {
    let manager = Manager::start();
    let (body, kept) = (bytes(7, 70_000), "/content/kept.dax");
    manager.put(kept, Resource::new(body.clone()));
    let mut one = Site::new();
    let three = Site::with_upstreams(&[one.address()]);
    let two = Site::with_upstreams(&[three.address()]);
    for (behind, status) in [(vec![two.address()], 508), (vec![two.address(), manager.address()], 200)] {
        one.set_upstreams(&behind);
        let begun = Instant::now();
        for response in join_all([&one, &two, &three].map(|site| site.get(kept))).await {
            assert_eq!(response.status, status);
        }
        assert!(begun.elapsed() < HALF_A_TIMEOUT, "only a timeout ended the loop");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looped_relays_serve_content_of_upstream_behind() {
    let manager = Manager::start();
    let bodies: Vec<_> = (0..20).map(|at| (format!("/content/{at}.dax"), bytes(at, 70_000))).collect();
    for (target, body) in &bodies {
        manager.put(target, Resource::new(body.clone()));
    }
    let (one, other) = looped_pair(Some(&manager));
    let clients = bodies.iter().flat_map(|(target, body)| {
        [&one, &other]
            .map(|site| async move { assert!(site.get(target).await.expect_body() == *body, "{target}") })
    });
    join_all(clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_of_looped_request_is_not_refused() {
    let (site, gate) = (Site::new(), Gate::default());
    site.manager.put(PAYLOAD, Resource::new("").status(508).held(&gate));
    let comes_round = Request::get(PAYLOAD).header("CDN-Loop", "gupd; id=0123456789abcdef");
    let address = site.address();
    let first = tokio::spawn(async move { comes_round.send(address).await });
    site.manager.wait_for_requests(PAYLOAD, 1).await;
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    let follower = tokio::spawn(get(address, PAYLOAD));
    site.wait_for_metric("gupd_connections_total", 2.0).await;
    gate.open();
    assert_eq!(first.await.unwrap().status, 508);
    assert_eq!(follower.await.unwrap().expect_body(), b"definitions");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_upstream_is_not_mistaken_for_a_loop() {
    let region = Site::new();
    let gate = Gate::default();
    let body = bytes(2, 10_000);
    region.manager.put(PAYLOAD, Resource::new(body.clone()).held(&gate));
    let floors = [Site::with_upstreams(&[region.address()]), Site::with_upstreams(&[region.address()])];
    let clients = floors.each_ref().map(|floor| tokio::spawn(get(floor.address(), PAYLOAD)));
    // The second request checks for a loop, because an upstream that has never responded might be a relay.
    region.manager.wait_for_requests(PAYLOAD, 2).await;
    assert!(region.manager.requests_for(PAYLOAD).iter().any(|seen| seen.method == "HEAD"));
    gate.open();
    for client in clients {
        assert!(client.await.unwrap().expect_body() == body);
    }
    let gets = region.manager.requests_for(PAYLOAD).into_iter().filter(|seen| seen.method == "GET");
    assert_eq!(gets.count(), 1);
    // The upstream is now known to be a manager.
    let (gate, other) = (Gate::default(), "/content/other.dax");
    region.manager.put(other, Resource::new(body.clone()).delayed(Duration::from_millis(2500)).held(&gate));
    gate.open();
    let clients = floors.each_ref().map(|floor| tokio::spawn(get(floor.address(), other)));
    for client in clients {
        assert!(client.await.unwrap().expect_body() == body);
    }
    assert_eq!(region.manager.request_count(other), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_carry_all_marks_and_long_chains_are_refused() {
    let region = Site::new();
    region.manager.put(PAYLOAD, Resource::new("content"));
    let floor = Site::with_upstreams(&[region.address()]);
    let asked =
        Request::get(PAYLOAD).header("CDN-Loop", "cdn.example; x=\"a, b\"").header("Via", "1.1 other");
    assert_eq!(floor.send(asked).await.status, 200);
    let seen = region.manager.requests_for(PAYLOAD).remove(0);
    let marks: Vec<&str> = seen.header("cdn-loop").unwrap().split(", gupd; id=").collect();
    let [first, floors, regions] = marks[..] else { panic!("{marks:?}") };
    assert_eq!((first, floors.len(), regions.len()), ("cdn.example; x=\"a, b\"", 16, 16));
    assert_ne!(floors, regions);
    let via = format!("1.1 other, 1.1 gupd-{floors}, 1.1 gupd-{regions}");
    assert_eq!(seen.header("via"), Some(&*via));

    let chain = |relays: usize| vec!["gupd; id=0123456789abcdef"; relays].join(", ");
    for (relays, status) in [(16, 200), (17, 508)] {
        let asked = Request::get(PAYLOAD).header("CDN-Loop", &chain(relays));
        assert_eq!(region.send(asked).await.status, status, "{relays}");
    }
    for (name, mark) in [("CDN-Loop", format!("gupd; id={regions}")), ("Via", format!("1.1 gupd-{regions}"))]
    {
        assert_eq!(region.send(Request::get(PAYLOAD).header(name, &mark)).await.status, 508, "{name}");
    }
}
