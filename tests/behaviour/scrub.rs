//! Scrub: the relay finds and repairs damage on its disk, and clients never see it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use gupd_config::Config;

use crate::support::{Manager, PAYLOAD, RefusingPort, Resource, Site, bytes};

const LENGTH: usize = 1_500_000;
const MIB: u64 = 1 << 20;
const REPAIRED: &str = "gupd_store_repaired_bytes_total";

/// A site with the payload stored, and the path of its blob.
async fn site_with_stored_payload() -> (Site, PathBuf) {
    let site = Site::with_config(|config| config.store.scrub_period = None);
    site.manager.put(PAYLOAD, Resource::new(bytes(1, LENGTH)));
    site.get(PAYLOAD).await.expect_body();
    site.wait_until_stored(PAYLOAD).await;
    let shelves = fs::read_dir(site.store().join("blobs")).unwrap().map(|shelf| shelf.unwrap().path());
    let file = shelves.flat_map(|shelf| fs::read_dir(shelf).unwrap()).next().unwrap().unwrap().path();
    (site, file)
}

fn flip(file: &PathBuf, at: u64) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Restarts the relay with a scrub that runs continuously.
fn scrub(site: &mut Site) {
    site.config.store.scrub_period = Some(Duration::from_millis(1));
    site.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn scrub_finds_flipped_bit_and_refetches_one_block() {
    let (mut site, file) = site_with_stored_payload().await;
    let before = site.manager.body_bytes();
    flip(&file, 1_400_000);
    scrub(&mut site);
    site.wait_for_metric(REPAIRED, 65_536.0).await;
    assert_eq!(fs::read(&file).unwrap()[..LENGTH], bytes(1, LENGTH));
    let response = site.get(PAYLOAD).await;
    assert_eq!(response.cache_status(), "gupd; hit");
    assert!(response.expect_body() == bytes(1, LENGTH));
    let again = site.manager.requests_for(PAYLOAD).split_off(1);
    let ranges: Vec<_> = again.iter().map(|seen| seen.header("range").unwrap()).collect();
    assert_eq!(ranges, ["bytes=1376256-1441791"]);
    assert!(site.manager.body_bytes() - before <= MIB);
    assert_eq!(site.metric("gupd_store_scrub_damaged_blobs_total").await, 1.0);
    assert_eq!(site.metric("gupd_store_objects").await, 1.0);
    assert!(site.metric("gupd_store_scrubbed_bytes_total").await > 0.0);
    site.wait_for_metric_at_least("gupd_store_scrub_completed_timestamp_seconds", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scrub_repairs_damage_in_every_chunk() {
    let (mut site, file) = site_with_stored_payload().await;
    for at in [0, 1_000_000, 1_100_000] {
        flip(&file, at);
    }
    scrub(&mut site);
    // The repair of the first chunk covers the range from its first to its last damaged block.
    site.wait_for_metric(REPAIRED, 1_048_576.0 + 65_536.0).await;
    let response = site.get(PAYLOAD).await;
    assert_eq!(response.cache_status(), "gupd; hit");
    assert!(response.expect_body() == bytes(1, LENGTH));
    assert_eq!(site.manager.request_count(PAYLOAD), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_gone_upstream_is_removed_and_fetched_anew() {
    let (mut site, file) = site_with_stored_payload().await;
    site.manager.put(PAYLOAD, Resource::new(bytes(2, LENGTH)));
    flip(&file, 1_400_000);
    scrub(&mut site);
    site.wait_for_metric("gupd_store_objects", 0.0).await;
    let response = site.get(PAYLOAD).await;
    assert!(response.cache_status().contains("fwd=uri-miss"), "{}", response.cache_status());
    assert!(response.expect_body() == bytes(2, LENGTH));
    assert_eq!(site.metric(REPAIRED).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_waits_for_upstream_and_is_repaired_later() {
    const DAMAGED: &str = "gupd_store_scrub_damaged_blobs_total";
    let (mut site, file) = site_with_stored_payload().await;
    let config = site.config.clone();
    flip(&file, 1_400_000);
    // The manager is down, then returns an error, then breaks off its response.
    let away = RefusingPort::new();
    site.config.upstreams = Config::for_upstreams(&[&away.url()]).unwrap().upstreams;
    scrub(&mut site);
    site.wait_for_metric_at_least(DAMAGED, 2.0).await;
    tokio::task::block_in_place(|| site.relay_mut().reload(config)).unwrap();
    for resource in [Resource::new("busy").status(500), Resource::new(bytes(1, LENGTH)).cut(1000, usize::MAX)]
    {
        let asked = site.manager.request_count(PAYLOAD);
        site.manager.put(PAYLOAD, resource);
        // The second pass repairs the remaining damage.
        site.manager.wait_for_requests(PAYLOAD, asked + 3).await;
    }
    assert_eq!(site.metric("gupd_store_objects").await, 1.0);
    assert_eq!(site.metric(REPAIRED).await, 0.0);
    site.manager.put(PAYLOAD, Resource::new(bytes(1, LENGTH)));
    site.wait_for_metric(REPAIRED, 65_536.0).await;
    let response = site.get(PAYLOAD).await;
    assert_eq!(response.cache_status(), "gupd; hit");
    assert!(response.expect_body() == bytes(1, LENGTH));
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_with_bad_checksums_is_removed_and_refetched() {
    let (mut site, file) = site_with_stored_payload().await;
    flip(&file, fs::metadata(&file).unwrap().len() - 20);
    scrub(&mut site);
    site.wait_for_metric("gupd_store_objects", 0.0).await;
    assert_eq!(site.manager.request_count(PAYLOAD), 1, "blocks without checksums cannot be repaired");
    assert!(site.get(PAYLOAD).await.expect_body() == bytes(1, LENGTH));
    site.wait_until_stored(PAYLOAD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_asks_upstreams_of_current_generation() {
    let (mut site, file) = site_with_stored_payload().await;
    scrub(&mut site);
    let other = Manager::start();
    other.put(PAYLOAD, Resource::new(bytes(1, LENGTH)));
    let mut config = site.config.clone();
    config.upstreams = Config::for_upstreams(&[&other.url()]).unwrap().upstreams;
    tokio::task::block_in_place(|| site.relay_mut().reload(config)).unwrap();
    flip(&file, 1_400_000);
    site.wait_for_metric(REPAIRED, 65_536.0).await;
    assert_eq!((site.manager.request_count(PAYLOAD), other.request_count(PAYLOAD)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_requests_the_stored_variant() {
    let mut site = Site::with_config(|config| config.store.scrub_period = None);
    let page = Resource::new(bytes(1, LENGTH)).header("Vary", "Accept-Language");
    site.manager.put("/page", page.header("Cache-Control", "max-age=86400"));
    let in_german = || crate::support::Request::get("/page").header("Accept-Language", "de");
    site.send(in_german()).await.expect_body();
    site.wait_for_fills().await;
    let shelves = fs::read_dir(site.store().join("blobs")).unwrap().map(|shelf| shelf.unwrap().path());
    let file = shelves.flat_map(|shelf| fs::read_dir(shelf).unwrap()).next().unwrap().unwrap().path();
    flip(&file, 0);
    scrub(&mut site);
    site.wait_for_metric(REPAIRED, 65_536.0).await;
    let asked = site.manager.requests_for("/page");
    assert_eq!(asked.last().unwrap().header("accept-language"), Some("de"));
    assert_eq!(site.send(in_german()).await.cache_status(), "gupd; hit");
}
