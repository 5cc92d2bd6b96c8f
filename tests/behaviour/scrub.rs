//! A relay finds what has rotted on its disk by itself, and its clients never see it.

use std::fs;
use std::time::Duration;

use crate::support::{PAYLOAD, Resource, Site, bytes};

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_found_by_the_scrub_and_fetched_again() {
    let mut site = Site::with(|config| config.store.scrub_period = None);
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 1_500_000)));
    site.get(PAYLOAD).await.whole();
    site.stored(PAYLOAD).await;
    site.stop();
    let shelves = fs::read_dir(site.store().join("blobs")).unwrap().map(|shelf| shelf.unwrap().path());
    let file = shelves.flat_map(|shelf| fs::read_dir(shelf).unwrap()).next().unwrap().unwrap().path();
    let mut rotten = fs::read(&file).unwrap();
    rotten[1_400_000] ^= 1;
    fs::write(&file, rotten).unwrap();

    site.config.store.scrub_period = Some(Duration::from_millis(1));
    site.restart();
    site.counts("gupd_store_scrub_damaged_blobs_total", 1.0).await;
    site.counts("gupd_store_objects", 0.0).await;
    let response = site.get(PAYLOAD).await;
    assert!(response.cache_status().contains("fwd=uri-miss"), "{}", response.cache_status());
    assert!(response.whole() == bytes(1, 1_500_000));
    assert_eq!(site.manager.requests(PAYLOAD), 2);
    assert!(site.metric("gupd_store_scrubbed_bytes_total").await > 0.0);
    assert!(site.metric("gupd_store_scrub_completed_timestamp_seconds").await > 0.0);
}
