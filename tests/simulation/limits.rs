//! Limits of the line in paused time: a machine without a free processor lets no background fill take the gaps of a
//! client's fill, and times nothing out.

use std::time::Duration;

use gupd_cache::fill::Joined;
use gupd_config::RateSchedule;
use gupd_config::units::Rate;
use gupd_site::{OriginServer, Resource, bytes};

use crate::network::Net;
use crate::site::{End, SHORT_TICK, Site};

const KIB: usize = 1 << 10;
const LEFT: &str = "/content/left/full.zip";
const WAITED: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/full.zip";

/// A manager with two objects, and a line to it of so many bytes per second.
fn site(net: &Net, left: usize, waited: &[u8], rate: usize) -> (Site, OriginServer) {
    let [left, waited] = [&bytes(1, left), waited].map(|body| Resource::tagged(body, "\"1\""));
    let manager = OriginServer::computed(move |request| {
        Some(if request.target == LEFT { &left } else { &waited }.clone())
    });
    net.put("manager", &manager);
    let site = Site::with_tick(net, &["manager"], SHORT_TICK, |config| {
        config.wan.limit = RateSchedule::from_rate(Rate(rate as u64));
        config.fill.idle_timeout = Duration::from_millis(400);
    });
    (site, manager)
}

#[tokio::test(start_paused = true)]
async fn client_fills_precede_background_fetches() {
    let (net, waited) = (Net::calm(), bytes(2, 300 * KIB));
    let (site, _manager) = site(&net, 4 << 20, &waited, 400 * KIB);
    let received = || site.metrics.net.upstream.received_bytes.with_label_values(&["manager"]).get();
    let Joined::Started(fill, _) = site.fills.join(site.fill_request(LEFT), &site.upstreams) else {
        panic!()
    };
    // The client leaves with the head.
    drop(fill.response().await);
    drop(fill);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = received();
    assert!(matches!(site.get(WAITED).await, End::Whole(body) if body == waited));
    // With equal shares it would be twice the bytes. A twentieth prevents starvation; turns and a piece were under
    // way.
    let came = received() - before;
    assert!(came < waited.len() as u64 * 5 / 4, "{came} bytes came for {}", waited.len());
}

#[tokio::test(start_paused = true)]
async fn fill_delayed_by_a_limit_does_not_time_out() {
    let (net, waited) = (Net::calm(), bytes(2, 40 * KIB));
    let (site, manager) = site(&net, 0, &waited, KIB);
    assert!(matches!(site.get(WAITED).await, End::Whole(body) if body == waited));
    assert_eq!((manager.total_requests(), net.made()), (1, 1));
}
