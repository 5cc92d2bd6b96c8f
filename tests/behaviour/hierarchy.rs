//! A chain of relays: region, site, floor. Content crosses each hop once, each relay adds its `Cache-Status`, and
//! damage between two relays is found by the next one.

use futures_util::future::join_all;

use crate::support::site::read_clock;
use crate::support::{PAYLOAD, Request, Resource, Site, Wan, bytes};

/// A catalog, which is revalidated, unlike payloads.
const CATALOG: &str = "/minitri.flg";

struct Chain {
    region: Site,
    site: Site,
    floor: Site,
}

impl Chain {
    fn new() -> Self {
        let region = Site::new();
        let site = Site::with_upstreams(&[region.address()]);
        let floor = Site::with_upstreams(&[site.address()]);
        Self { region, site, floor }
    }

    fn relays(&self) -> [&Site; 3] {
        [&self.region, &self.site, &self.floor]
    }
}

/// Body bytes that the relay received from its upstream.
async fn received_bytes(relay: &Site) -> f64 {
    let upstream = relay.config.upstreams[0].name.clone();
    relay.metric(&format!("gupd_upstream_received_bytes_total{{upstream=\"{upstream}\"}}")).await
}

fn cache_status_members(response: &crate::support::Response) -> Vec<String> {
    let all = response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("cache-status"));
    all.flat_map(|(_, value)| value.split(", ").map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_three_tiers_cost_one_fetch_per_hop() {
    let region = Site::new();
    let site = Site::with_upstreams(&[region.address()]);
    let floors = [(); 3].map(|()| Site::with_upstreams(&[site.address()]));
    let body = bytes(1, 3 << 20);
    region.manager.put(PAYLOAD, Resource::new(body.clone()));
    let clients = floors.iter().flat_map(|floor| (0..10).map(move |_| floor.get(PAYLOAD)));
    for response in join_all(clients).await {
        assert!(response.expect_body() == body);
    }
    for relay in floors.iter().chain([&site, &region]) {
        relay.wait_until_stored(PAYLOAD).await;
        assert_eq!(received_bytes(relay).await, body.len() as f64);
    }
    assert_eq!(region.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_status_lists_relays_nearest_manager_first() {
    let chain = Chain::new();
    chain.region.manager.put(PAYLOAD, Resource::new("payload").header("Cache-Status", "origin; hit"));
    let miss = "gupd; fwd=uri-miss; stored";
    let first = chain.floor.get(PAYLOAD).await;
    assert_eq!(cache_status_members(&first), ["origin; hit", miss, miss, miss]);
    for relay in chain.relays() {
        relay.wait_until_stored(PAYLOAD).await;
    }
    // The other members describe the request that filled this relay.
    let hit = chain.floor.get(PAYLOAD).await;
    assert_eq!(cache_status_members(&hit), ["origin; hit", miss, miss, "gupd; hit"]);
    let again = Site::with_upstreams(&[chain.site.address()]);
    assert_eq!(cache_status_members(&again.get(PAYLOAD).await), ["origin; hit", miss, "gupd; hit", miss]);
    assert_eq!(hit.header("via"), Some("1.1 gupd, 1.1 gupd, 1.1 gupd"));
}

#[tokio::test(flavor = "multi_thread")]
async fn revalidation_lists_each_relay_in_cache_status() {
    let chain = Chain::new();
    chain.region.manager.put(CATALOG, Resource::new("catalog"));
    assert_eq!(chain.floor.get(CATALOG).await.status, 200);
    for relay in chain.relays() {
        relay.wait_until_stored(CATALOG).await;
        relay.clock.advance(std::time::Duration::from_secs(3600));
    }
    chain.region.manager.set_clock(read_clock(&chain.region.clock));
    let validated = "gupd; fwd=stale; fwd-status=304";
    assert_eq!(cache_status_members(&chain.floor.get(CATALOG).await), [validated, validated, validated]);
    assert_eq!(cache_status_members(&chain.floor.get(CATALOG).await), [validated, validated, "gupd; hit"]);
    assert_eq!(chain.region.manager.request_count(CATALOG), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_sends_digest_of_stored_content_on_request() {
    let chain = Chain::new();
    let body = bytes(2, 200_000);
    chain.region.manager.put(PAYLOAD, Resource::new(body.clone()));
    chain.region.get(PAYLOAD).await;
    chain.region.wait_until_stored(PAYLOAD).await;
    assert_eq!(
        chain.region.get(PAYLOAD).await.header("repr-digest"),
        None,
        "the client did not send Want-Repr-Digest"
    );
    let part = Request::get(PAYLOAD).range("5-9").header("Want-Repr-Digest", "sha-256=1");
    let part = chain.region.send(part).await;
    let digest = part.header("repr-digest").unwrap().to_owned();
    assert_eq!(part.status, 206);
    // The next relays treat it like the origin's digest.
    let response = chain.floor.get(PAYLOAD).await;
    assert_eq!(response.header("repr-digest"), Some(&*digest));
    assert!(response.expect_body() == body);
    let seen = chain.region.manager.requests_for(PAYLOAD).remove(0);
    assert_eq!(seen.header("want-repr-digest"), Some("sha-256=10"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bit_flip_between_relays_is_found_and_never_served() {
    for at in [10, 90_000, 199_999] {
        let region = Site::new();
        let wire = Wan::unlimited(region.address());
        let site = Site::with_upstreams(&[wire.address()]);
        let floor = Site::with_upstreams(&[site.address()]);
        let body = bytes(3, 200_000);
        region.manager.put(PAYLOAD, Resource::new(body.clone()));
        region.get(PAYLOAD).await;
        region.wait_until_stored(PAYLOAD).await;

        wire.damage().flip(at);
        let mut response = floor.get(PAYLOAD).await;
        assert_eq!(wire.damage().flipped(), 1);
        if response.ending == crate::support::Ending::Broken {
            // Only the end of the body is held back until it is verified. Damage before it breaks the transfer, and
            // the client tries again.
            response = floor.get(PAYLOAD).await;
        }
        assert!(response.expect_body() == body, "damaged at {at}");
        for relay in [&site, &floor] {
            relay.wait_until_stored(PAYLOAD).await;
            assert!(relay.get(PAYLOAD).await.expect_body() == body);
        }
        let counted = r#"gupd_digest_mismatches_total{by="repr-digest",then="fetched-again"}"#;
        assert_eq!(site.metric(counted).await, 1.0);
        assert_eq!(region.manager.request_count(PAYLOAD), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn origin_digest_is_checked_at_each_cold_hop() {
    let region = Site::new();
    let wire = Wan::unlimited(region.address());
    let site = Site::with_upstreams(&[wire.address()]);
    let body = bytes(4, 50_000);
    let digest = sha256(&body);
    region.manager.put(PAYLOAD, Resource::new(body.clone()).header("Repr-Digest", &digest));
    wire.damage().flip(25_000);
    let response = site.get(PAYLOAD).await;
    assert_eq!(wire.damage().flipped(), 1);
    assert_eq!(response.header("repr-digest"), Some(&*digest));
    assert!(response.expect_body() == body, "the client gets the right bytes");
    assert_eq!(region.manager.request_count(PAYLOAD), 1, "the second request is a hit at the region");
}

fn sha256(body: &[u8]) -> String {
    use base64::Engine;
    use sha2::Digest;
    let hash = sha2::Sha256::digest(body);
    format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(hash))
}
