//! Peers: relays of one site request content from each other before the manager. Content crosses the line once, and no
//! request waits for itself.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use gupd_config::RateSchedule;
use gupd_config::units::Rate;

use crate::support::{
    Ending, Gate, Manager, PAYLOAD, RefusingPort, Request, Resource, Site, Wan, WireClient, bytes, get,
};

/// Two relays of one manager, each a peer of the other.
fn peer_pair() -> (Site, Site) {
    let mut one = Site::new();
    let mut other = Site::with_upstreams(&[one.manager.address()]);
    one.set_peers(&[other.address()]);
    other.set_peers(&[one.address()]);
    (one, other)
}

/// A relay that has `body` stored, and its peer, which reaches it over `wire`.
async fn filled_pair(manager: Manager, body: &[u8]) -> (Site, Wan, Site) {
    manager.put(PAYLOAD, Resource::new(body));
    let one = Site::for_manager(manager, |_| {});
    one.get(PAYLOAD).await;
    one.wait_until_stored(PAYLOAD).await;
    let wire = Wan::unlimited(one.address());
    let mut other = Site::with_upstreams(&[one.manager.address()]);
    other.set_peers(&[wire.address()]);
    (one, wire, other)
}

fn delta(at: u64) -> String {
    PAYLOAD.replace("full.zip", &format!("{at}.dax"))
}

async fn peer_bytes(site: &Site) -> f64 {
    let peer = site.config.peers[0].name.clone();
    site.metric(&format!("gupd_peer_received_bytes_total{{peer=\"{peer}\"}}")).await
}

async fn manager_bytes(site: &Site) -> f64 {
    let upstream = site.config.upstreams[0].name.clone();
    site.metric(&format!("gupd_upstream_received_bytes_total{{upstream=\"{upstream}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_content_bypasses_wan_limits_and_counters() {
    let body = bytes(1, 1 << 20);
    let (one, _wire, mut other) = filled_pair(Manager::start(), &body).await;
    other.config.wan.limit = RateSchedule::from_rate(Rate(1 << 10));
    other.config.upstreams[0].limit = RateSchedule::from_rate(Rate(1 << 10));
    let config = other.config.clone();
    other.relay_mut().reload(config).unwrap();
    let begun = Instant::now();
    let response = other.get(PAYLOAD).await;
    assert_eq!(response.cache_status(), "gupd; fwd=uri-miss; stored");
    assert!(response.expect_body() == body);
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "the WAN limit was applied: it would take a quarter of an hour"
    );
    other.wait_until_stored(PAYLOAD).await;
    assert_eq!((peer_bytes(&other).await, manager_bytes(&other).await), (body.len() as f64, 0.0));
    assert_eq!(one.manager.request_count(PAYLOAD), 1);
    let part = &delta(1);
    one.manager.put(part, Resource::new(body.clone()));
    one.get(part).await;
    one.wait_until_stored(part).await;
    let response = other.send(Request::get(part).range("600000-600009")).await;
    assert!(response.status == 206 && response.expect_body() == body[600_000..600_010]);
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_peers_cross_the_line_once() {
    let (one, other) = peer_pair();
    let bodies: Vec<_> = (0..40).map(|at| (delta(at), bytes(at, 100_000))).collect();
    for (target, body) in &bodies {
        one.manager.put(target, Resource::new(body.clone()));
    }
    // Few at once: each head comes well within the peer timeout of the test sites.
    for some in bodies.chunks(5) {
        let begun = Instant::now();
        let clients = some.iter().flat_map(|(target, body)| {
            [&one, &other, &one, &other]
                .map(|site| async move { assert!(site.get(target).await.expect_body() == *body) })
        });
        join_all(clients).await;
        assert!(begun.elapsed() < Duration::from_secs(20), "the peers waited for each other");
    }
    let crossed: Vec<_> = bodies.iter().map(|(target, _)| one.manager.request_count(target)).collect();
    for (target, _) in &bodies {
        let seen = one.manager.requests_for(target);
        assert!((1..=2).contains(&seen.len()), "{seen:#?}");
    }
    // Two requests occur only if a refusal by a peer takes longer than the other one waits before its second look.
    assert!(crossed.iter().sum::<usize>() <= bodies.len() + bodies.len() / 4, "{crossed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_fill_is_streamed_to_peer() {
    let (one, other) = peer_pair();
    let (body, gate) = (bytes(2, 2 << 20), Gate::default());
    one.manager.put(PAYLOAD, Resource::new(body.clone()).stalled(1 << 20, &gate));
    let first = tokio::spawn(get(one.address(), PAYLOAD));
    one.manager.wait_for_requests(PAYLOAD, 1).await;
    let (mut second, mut response) = other.start_download(PAYLOAD, 900_000).await;
    gate.open();
    second.read_rest("GET", &mut response).await;
    assert!(response.expect_body() == body && first.await.unwrap().expect_body() == body);
    assert_eq!(one.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_line_is_crossed_once_despite_peer_timeout() {
    let (one, other) = peer_pair();
    let gate = Gate::default();
    let bodies = [(delta(1), bytes(1, 50_000)), (delta(2), bytes(2, 500_000))];
    let mut clients = Vec::new();
    for (target, body) in &bodies {
        one.manager.put(target, Resource::new(body.clone()).stalled(1_000, &gate));
        for site in [&one, &other] {
            let (address, asked) = (site.address(), target.clone());
            clients.push(tokio::spawn(async move { get(address, &asked).await }));
            one.manager.wait_for_requests(target, 1).await;
        }
    }
    let peer = &other.config.peers[0].name;
    other
        .wait_for_metric(&format!("gupd_peer_requests_total{{outcome=\"served\",peer=\"{peer}\"}}"), 2.0)
        .await;
    gate.open();
    for (client, at) in clients.into_iter().zip([0, 0, 1, 1]) {
        let (target, body) = &bodies[at];
        assert!(client.await.unwrap().expect_body() == *body);
        assert_eq!(one.manager.request_count(target), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_fed_fill_is_not_offered_to_peers() {
    let (one, two) = peer_pair();
    let mut three = Site::with_upstreams(&[one.manager.address()]);
    three.set_peers(&[two.address()]);
    let (body, gate) = (bytes(3, 2 << 20), Gate::default());
    one.manager.put(PAYLOAD, Resource::new(body.clone()).stalled(1 << 20, &gate));
    let first = tokio::spawn(get(one.address(), PAYLOAD));
    one.manager.wait_for_requests(PAYLOAD, 1).await;
    let mut second = WireClient::connect(two.address()).await;
    second.write_request(&Request::get(PAYLOAD)).await.unwrap();
    second.read_head().await.unwrap();
    let third = tokio::spawn(get(three.address(), PAYLOAD));
    one.manager.wait_for_requests(PAYLOAD, 2).await;
    gate.open();
    assert!(first.await.unwrap().expect_body() == body && third.await.unwrap().expect_body() == body);
    assert_eq!((peer_bytes(&three).await, manager_bytes(&three).await), (0.0, body.len() as f64));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_if_cached_is_never_forwarded() {
    let (one, other) = peer_pair();
    for (target, method) in [(PAYLOAD, "GET"), (PAYLOAD, "HEAD"), ("/secars/x", "GET"), ("/generic", "GET")] {
        one.manager.put(target, Resource::new("content"));
        let asked = Request::new(method, target).header("Cache-Control", "only-if-cached");
        assert_eq!(one.send(asked).await.status, 504, "{method} {target}");
        assert_eq!(one.manager.request_count(target), 0);
    }
    assert_eq!(other.metric("gupd_connections_total").await, 0.0, "a peer got a request");
    // A client that is no relay is answered from the store, not from a running fill (RFC 9111 §5.2.1.7).
    let gate = Gate::default();
    one.manager.put(PAYLOAD, Resource::new(bytes(4, 200_000)).stalled(100_000, &gate));
    let first = tokio::spawn(get(one.address(), PAYLOAD));
    one.manager.wait_for_requests(PAYLOAD, 1).await;
    let asked = Request::get(PAYLOAD).header("Cache-Control", "only-if-cached");
    assert_eq!(one.send(asked).await.status, 504);
    gate.open();
    first.await.unwrap().expect_body();
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_asked_only_for_shared_content() {
    let (one, other) = peer_pair();
    let missing = &*delta(0);
    for target in ["/minitri.flg", "/secars/x", missing] {
        if target != missing {
            one.manager.put(target, Resource::new("content"));
        }
        one.get(target).await;
        other.get(target).await;
        assert_eq!(one.manager.request_count(target), 2, "{target}");
    }
    let generic = "/generic";
    one.manager.put(generic, Resource::new("content").header("Cache-Control", "max-age=60"));
    for site in [&one, &other] {
        assert_eq!(site.get(generic).await.expect_body(), b"content");
        site.wait_until_stored(generic).await;
    }
    assert_eq!(one.manager.request_count(generic), 1);
    for site in [&one, &other] {
        site.clock.advance(Duration::from_secs(61));
    }
    other.get(generic).await;
    assert_eq!(one.manager.request_count(generic), 2, "revalidation goes to the manager");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_peer_costs_one_wait_and_dead_peer_none() {
    let mut site = Site::with_config(|config| config.fill.peer_timeout = Duration::from_secs(1));
    // The peer's backlog accepts connections, and nothing serves them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (unheard, down) = (silent.local_addr().unwrap(), RefusingPort::new());
    site.set_peers(&[unheard, down.address()]);
    let own = site.address();
    for at in 0..20 {
        let target = delta(at);
        site.manager.put(&target, Resource::new("content"));
        assert_eq!(site.get(&target).await.status, 200);
    }
    // Each once: the nineteen requests after the first did not wait for them.
    for peer in [unheard, down.address()] {
        let asked = format!("gupd_peer_requests_total{{outcome=\"failed\",peer=\"{peer}\"}}");
        assert_eq!(site.metric(&asked).await, 1.0);
    }
    // The relays of a site share one peer list, in which each names itself too.
    site.set_peers(&[own]);
    for at in 20..25 {
        site.get(&delta(at)).await;
    }
    let asked = format!("gupd_peer_requests_total{{outcome=\"itself\",peer=\"{own}\"}}");
    assert_eq!(site.metric(&asked).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_peer_transfer_resumes_at_the_manager() {
    let body = bytes(5, 3 << 20);
    let (one, wire, other) = filled_pair(Manager::start(), &body).await;
    wire.damage().break_at(2 << 20);
    let response = other.get(PAYLOAD).await;
    assert!(response.expect_body() == body);
    let resumed = one.manager.requests_for(PAYLOAD).pop().unwrap();
    assert!(resumed.header("range").is_some() && resumed.header("if-range").is_some());
    other.wait_until_stored(PAYLOAD).await;
    let (peers, managers) = (peer_bytes(&other).await, manager_bytes(&other).await);
    assert!(peers >= f64::from(1 << 20) && managers <= f64::from(2 << 20), "{peers} {managers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_bytes_never_mix_with_other_content() {
    let body = bytes(6, 3 << 20);
    let (one, wire, other) = filled_pair(Manager::start(), &body).await;
    let new = bytes(7, 3 << 20);
    one.manager.put(PAYLOAD, Resource::new(new.clone()));
    wire.damage().break_at(2 << 20);
    assert_eq!(other.get(PAYLOAD).await.ending, Ending::Broken);
    other.wait_until_stored(PAYLOAD).await;
    assert!(other.get(PAYLOAD).await.expect_body() == new);
}

#[tokio::test(flavor = "multi_thread")]
async fn bit_flipped_between_peers_is_found() {
    let body = bytes(8, 50_000);
    let (one, wire, other) = filled_pair(Manager::start(), &body).await;
    wire.damage().flip(30_000);
    assert!(other.get(PAYLOAD).await.expect_body() == body);
    assert_eq!(wire.damage().flipped(), 1);
    assert_eq!(one.manager.request_count(PAYLOAD), 2, "the second request goes to the manager");
}
