//! Waits of clients and their ends, in paused time: what a busy machine takes for its work is not measured.

use std::time::Duration;

use futures_util::future::join_all;
use gupd_site::{Gate, OriginServer, Resource, bytes};
use tokio::time::Instant;

use crate::network::Net;
use crate::site::{End, Site};

const PATH: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/full.zip";

/// Interval of the clock's steps: time that may pass while a fill waits for the index.
const TICK: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn followers_are_woken_not_polled() {
    const DELAY: Duration = Duration::from_millis(300);
    let (net, body) = (Net::calm(), bytes(1, 20_000));
    let resource = Resource::tagged(body.clone(), "\"1\"").delayed(DELAY);
    let manager = OriginServer::computed(move |_| Some(resource.clone()));
    net.put("manager", &manager);
    let site = Site::with_tick(&net, &["manager"], TICK, |_| {});
    let began = Instant::now();
    for end in join_all((0..50).map(|_| site.get(PATH))).await {
        assert!(matches!(end, End::Whole(received) if received == body));
    }
    let took = began.elapsed();
    assert!(took >= DELAY && took < DELAY + DELAY / 10, "{took:?}");
    assert_eq!(manager.total_requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn upstream_tries_end_within_total_timeout() {
    const TOTAL: Duration = Duration::from_millis(1_500);
    const NAMES: [&str; 2] = ["one", "two"];
    let (net, never) = (Net::calm(), Gate::default());
    let managers = NAMES.map(|_| {
        let resource = Resource::new("never").held(&never);
        OriginServer::computed(move |_| Some(resource.clone()))
    });
    NAMES.iter().zip(&managers).for_each(|(name, manager)| net.put(name, manager));
    let site = Site::with_tick(&net, &NAMES, TICK, |config| {
        config.fill.head_timeout = Duration::from_secs(1);
        config.fill.total_timeout = TOTAL;
    });
    let began = Instant::now();
    assert!(matches!(site.get(PATH).await, End::Refused(_)));
    let took = began.elapsed();
    assert!(took >= TOTAL && took < TOTAL + Duration::from_millis(50), "{took:?}");
    // The second upstream got a request with a shortened timeout.
    let requests = |name| site.metrics.net.upstream.requests.with_label_values(&[name, "head-timeout"]).get();
    assert_eq!(NAMES.map(requests), [1, 1]);
}
