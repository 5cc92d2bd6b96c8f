//! Negative entries: responses without content are kept in memory, within a bound for all and for each client, and never
//! take the room of content.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::support::{PAYLOAD, Request, Resource, Site, WireClient, bytes};

const CONTENT: &str = "/files/setup.msi";
const HIT: &str = "gupd; hit";

/// Returns the bytes in a store's folder without its ledger, which has a bound of its own and grows each minute.
fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with("ledger.db"))
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => size_of(&entry.path()),
            false => entry.metadata().map_or(0, |file| file.len()),
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_names_take_no_disk_and_evict_no_content() {
    let site = Site::with_config(|config| config.store.quota = 1 << 20);
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 600_000)));
    site.get(PAYLOAD).await.expect_body();
    site.wait_until_stored(PAYLOAD).await;
    let before = size_of(site.store());
    for number in 0..300 {
        let absent = format!("/content/{number}/{}.dax", "x".repeat(7000));
        assert_eq!(site.get(&absent).await.status, 404);
    }
    site.wait_for_fills().await;
    assert!(size_of(site.store()) <= before + 4096, "{} bytes of {before}", size_of(site.store()));
    assert_eq!(site.metric("gupd_store_objects").await, 1.0);
    assert_eq!(site.get(PAYLOAD).await.cache_status(), HIT);
}

#[tokio::test(flavor = "multi_thread")]
async fn response_without_content_is_served_from_memory() {
    for (status, path) in [
        (404, CONTENT),
        (404, PAYLOAD),
        (404, "/minitri.flg"),
        (410, CONTENT),
        (414, CONTENT),
        (501, CONTENT),
    ] {
        let mut site = Site::new();
        let answer = Resource::new("none").status(status).header("Cache-Control", "max-age=60");
        site.manager.put(path, answer);
        assert_eq!(site.get(path).await.status, status, "{path}");
        site.wait_for_fills().await;
        let hit = site.get(path).await;
        assert_eq!((hit.status, hit.cache_status()), (status, HIT), "{path}");
        assert_eq!(hit.body, b"none", "{status} {path}");
        assert_eq!(site.metric("gupd_store_objects").await, 0.0, "{status} {path}");
        // A reload keeps it, a restart does not.
        let config = site.config.clone();
        site.relay_mut().reload(config).unwrap();
        assert_eq!(site.get(path).await.cache_status(), HIT, "{status} {path}");
        assert_eq!(site.manager.request_count(path), 1, "{status} {path}");
        site.restart();
        site.manager.put(path, Resource::new("content").header("Cache-Control", "max-age=60"));
        assert_eq!(site.get(path).await.expect_body(), b"content", "{status} {path}");
        site.wait_until_stored(path).await;
        assert_eq!(site.metric("gupd_store_objects").await, 1.0, "{status} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn negative_entry_takes_the_place_of_stored_content() {
    let mut site = Site::new();
    site.manager.put(CONTENT, Resource::new("content").header("Cache-Control", "max-age=60"));
    site.wait_until_stored(CONTENT).await;
    site.clock.advance(Duration::from_secs(61));
    site.manager.put(CONTENT, Resource::new("none").status(404).header("Cache-Control", "max-age=60"));
    assert_eq!(site.get(CONTENT).await.status, 404);
    site.wait_for_fills().await;
    assert_eq!(site.get(CONTENT).await.cache_status(), HIT);
    site.wait_for_metric("gupd_store_objects", 0.0).await;
    site.restart();
    assert_eq!(site.get(CONTENT).await.status, 404, "the content does not return from the disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_displaces_its_own_negative_entries_only() {
    let site = Site::new();
    let mut clients = Vec::new();
    for last in [2, 3] {
        let address = IpAddr::from([127, 0, 0, last]);
        clients.push(WireClient::connect_from(address, site.address()).await);
    }
    let [first, flood] = &mut clients[..] else { unreachable!() };
    assert_eq!(first.send(&Request::get("/content/first.dax")).await.unwrap().status, 404);
    for number in 0..400 {
        let absent = format!("/content/{number}/{}.dax", "x".repeat(7000));
        assert_eq!(flood.send(&Request::get(&absent)).await.unwrap().status, 404);
    }
    site.wait_for_fills().await;
    let kept = first.send(&Request::get("/content/first.dax")).await.unwrap();
    assert_eq!((kept.status, kept.cache_status()), (404, HIT));
    // The first names of the other client filled its part; later ones are not kept.
    let early = format!("/content/0/{}.dax", "x".repeat(7000));
    assert_eq!(flood.send(&Request::get(&early)).await.unwrap().cache_status(), HIT);
    let late = format!("/content/399/{}.dax", "x".repeat(7000));
    assert_ne!(flood.send(&Request::get(&late)).await.unwrap().cache_status(), HIT);
}
