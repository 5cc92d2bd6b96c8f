//! Payloads of a manager in a rollout: the first request of a new number announces a revision, each client gets the
//! payload at its scheduled start, and payloads of kept revisions stay in the store.

use std::net::IpAddr;
use std::time::Duration;

use super::{
    BRANCH, DAY, GROUPS, HOUR, OTHER, PILOT, all, get, hold, newest, order, pass, publish_and_refresh, send,
    settled, site, site_of,
};
use crate::support::{Gate, PAYLOAD, Request, Resource, Response, Site, WireClient, bytes};

const RINGS: &str = "[[ring]]\nname = \"first\"\ngroups = \"pilot\"\n\
     [[ring]]\nname = \"second\"\ngroups = \"branch\"\ndelay = \"24h\"\nspread = \"4h\"\n\
     [[ring]]\nname = \"last\"\ngroups = \"default\"\ndelay = \"2h\"\n";

fn numbered(number: u64) -> String {
    PAYLOAD.replace("261121001", &number.to_string())
}

/// The manager has this number of the content.
fn put(site: &Site, number: u64) -> String {
    let path = numbered(number);
    site.manager.put(&path, Resource::new(bytes(number, 50_000)));
    path
}

fn retry_after(response: &Response) -> u64 {
    assert_eq!(response.status, 503, "{:?}", response.headers);
    response.header("retry-after").unwrap().parse().unwrap()
}

/// All clients have this number, and it is announced.
async fn everybody_has(site: &Site, number: u64) {
    let path = put(site, number);
    for client in [PILOT, BRANCH, OTHER] {
        assert_eq!(get(site, client, &path).await.expect_body(), bytes(number, 50_000));
    }
    site.wait_until_stored(&path).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_payload_is_deferred_in_last_ring_and_served_to_pilot() {
    let site = site(RINGS);
    everybody_has(&site, 261_121_001).await;
    let next = put(&site, 261_121_002);
    assert_eq!(retry_after(&get(&site, OTHER, &next).await), 3600, "the end of the ring before is not known");
    assert_eq!(retry_after(&get(&site, BRANCH, &next).await), 24 * 3600);
    assert_eq!(get(&site, PILOT, &next).await.expect_body(), bytes(261_121_002, 50_000));
    assert_eq!(site.manager.request_count(&next), 1, "the payload of the announcement was stored");
    for client in [BRANCH, OTHER] {
        assert_eq!(get(&site, client, PAYLOAD).await.status, 200, "the visible number");
        let older = put(&site, 261_121_000);
        assert_eq!(get(&site, client, &older).await.status, 200, "and older numbers");
        assert_eq!(send(&site, client, &Request::get(&next).range("0-99")).await.status, 503);
    }
    pass(&site, DAY - Duration::from_secs(1)).await;
    assert_eq!(retry_after(&get(&site, BRANCH, &next).await), 1);
    pass(&site, Duration::from_secs(1)).await;
    // From here on the scheduled start of the client is known.
    let own = retry_after(&get(&site, BRANCH, &next).await);
    assert!((1..=4 * 3600).contains(&own), "{own}");
    pass(&site, Duration::from_secs(own - 1)).await;
    assert_eq!(retry_after(&get(&site, BRANCH, &next).await), 1);
    pass(&site, Duration::from_secs(1)).await;
    assert_eq!(get(&site, BRANCH, &next).await.status, 200);
    pass(&site, 4 * HOUR).await;
    pass(&site, 2 * HOUR).await;
    assert_eq!(get(&site, OTHER, &next).await.expect_body(), bytes(261_121_002, 50_000));
    assert_eq!(site.manager.request_count(&next), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_no_manager_has_and_failures_announce_nothing() {
    let site = site(RINGS);
    everybody_has(&site, 261_121_001).await;
    let before = newest(&site);
    for number in [261_121_002, 999_999_999, u64::MAX] {
        assert_eq!(get(&site, OTHER, &numbered(number)).await.status, 404);
    }
    let failing = numbered(261_121_003);
    site.manager.put(&failing, Resource::new("busy").status(500));
    assert!(get(&site, OTHER, &failing).await.status >= 500);
    assert_eq!(send(&site, OTHER, &Request::head(&numbered(261_121_004))).await.status, 404);
    assert_eq!(newest(&site), before);
    let next = put(&site, 261_121_005);
    assert_eq!(get(&site, OTHER, &next).await.status, 503);
    assert_eq!(newest(&site), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_announced_together_form_one_revision() {
    let site = site(RINGS);
    let other = |number: u64| numbered(number).replace("535CB6A4", "535CB6A5");
    everybody_has(&site, 261_121_001).await;
    site.manager.put(&other(7), Resource::new("seven"));
    assert_eq!(get(&site, OTHER, &other(7)).await.status, 200, "the first number of a content is no news");
    pass(&site, HOUR).await;
    let before = newest(&site);
    let next = put(&site, 261_121_002);
    site.manager.put(&other(8), Resource::new("eight"));
    assert_eq!(get(&site, OTHER, &next).await.status, 503);
    pass(&site, Duration::from_secs(600)).await;
    assert_eq!(get(&site, OTHER, &other(8)).await.status, 503);
    assert_eq!(newest(&site), before + 1);
    pass(&site, Duration::from_secs(600)).await;
    site.manager.put(&other(9), Resource::new("nine"));
    assert_eq!(get(&site, OTHER, &other(9)).await.status, 503);
    assert_eq!(newest(&site), before + 2);
    assert_eq!(get(&site, PILOT, &other(9)).await.expect_body(), b"nine");
}

/// Fills the store with other objects, requested again and again.
async fn crowd_out(site: &Site, count: u64) {
    for at in 0..count {
        let path = format!("/news/{at}.txt");
        let body = Resource::new(bytes(at, 400_000)).header("Cache-Control", "max-age=86400000");
        site.manager.put(&path, body);
        // Each is requested more often than the payload that must stay.
        for _ in 0..4 {
            get(site, OTHER, &path).await.expect_body();
            site.wait_for_fills().await;
        }
    }
    settled(site).await;
}

/// A site with room in its store for ten payloads of 400 kB.
fn small() -> Site {
    let mut site = site_of(&format!("{GROUPS}{RINGS}[rollout]\nkeep = 2\n"));
    site.config.store.quota = 4 << 20;
    site.restart();
    site
}

async fn takes(site: &Site, client: IpAddr, number: u64) -> String {
    let path = numbered(number);
    site.manager.put(&path, Resource::new(bytes(number, 400_000)));
    assert_eq!(get(site, client, &path).await.expect_body().len(), 400_000);
    site.wait_for_fills().await;
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_of_kept_revision_are_evicted_last() {
    let mut site = small();
    assert_eq!(all(&site).await, [1, 1, 1]);
    let path = takes(&site, OTHER, 261_121_001).await;
    order(&site, hold("default", "1")).await;
    pass(&site, HOUR).await;
    crowd_out(&site, 20).await;
    assert_eq!(get(&site, OTHER, &path).await.cache_status(), "gupd; hit");
    site.restart();
    for version in 2..=5 {
        publish_and_refresh(&site, version).await;
        pass(&site, DAY).await;
    }
    crowd_out(&site, 20).await;
    assert_eq!(get(&site, OTHER, &path).await.cache_status(), "gupd; hit", "a held group may need it");
    assert_eq!(site.manager.request_count(&path), 1);
    // Once its revision is removed, the payload may go.
    order(&site, super::release(None, true)).await;
    pass(&site, DAY).await;
    publish_and_refresh(&site, 6).await;
    order(&site, super::release(None, true)).await;
    pass(&site, 40 * DAY).await;
    let first = site.relay().rollouts().snapshot().state.revisions().next().unwrap().number;
    assert!(first > 2.into(), "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_takes_long_to_come_is_kept_once_it_is_there() {
    let site = small();
    assert_eq!(all(&site).await, [1, 1, 1]);
    let (path, gate) = (numbered(261_121_001), Gate::default());
    site.manager.put(&path, Resource::new(bytes(1, 400_000)).stalled(100_000, &gate));
    let mut client = WireClient::connect_from(OTHER, site.address()).await;
    client.write_request(&Request::get(&path)).await.unwrap();
    let mut head = client.read_head().await.unwrap();
    for _ in 0..3 {
        pass(&site, HOUR).await;
    }
    gate.open();
    client.read_rest("GET", &mut head).await;
    assert_eq!(head.expect_body().len(), 400_000);
    site.wait_until_stored(&path).await;
    pass(&site, HOUR).await;
    settled(&site).await;
    crowd_out(&site, 20).await;
    assert_eq!(get(&site, OTHER, &path).await.cache_status(), "gupd; hit");
    assert_eq!(site.manager.request_count(&path), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_reports_evicted_payloads() {
    let site = small();
    assert_eq!(all(&site).await, [1, 1, 1]);
    for number in 1..=14 {
        takes(&site, PILOT, 261_121_000 + number).await;
        pass(&site, Duration::from_secs(60)).await;
    }
    pass(&site, HOUR).await;
    settled(&site).await;
    let done = order(&site, hold("pilot", "1")).await;
    assert!(done.warnings.iter().any(|line| line.starts_with("1 payload of revision 1 ")), "{done:?}");
}
