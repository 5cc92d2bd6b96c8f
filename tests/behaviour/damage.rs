//! Damaged disks: clients get the right bytes, and a damaged chunk is fetched again, replaced and reported.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};

use crate::support::{Ending, PAYLOAD, Request, Resource, Site, WireClient, bytes};

const MIB: usize = 1 << 20;

/// Files of all blobs.
fn blobs(store: &Path) -> Vec<PathBuf> {
    let shelves = fs::read_dir(store.join("blobs")).unwrap().map(|shelf| shelf.unwrap().path());
    shelves.flat_map(|shelf| fs::read_dir(shelf).unwrap().map(|file| file.unwrap().path())).collect()
}

fn flip(file: &Path, bit: u64) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8).unwrap();
}

/// Stored object that is read from the disk on each request.
async fn stored(body: &[u8]) -> Site {
    let site = Site::with_config(|config| config.store.memory = 0);
    site.manager.put(PAYLOAD, Resource::new(body));
    site.get(PAYLOAD).await.expect_body();
    site.wait_until_stored(PAYLOAD).await;
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_chunk_is_refetched_unseen_by_client() {
    let body = bytes(1, 5 * MIB + 77);
    let site = stored(&body).await;
    let file = blobs(site.store()).remove(0);
    for bit in [8 * 3_000_000, 8 * 3_100_000, 8 * (body.len() as u64 - 1), 0] {
        flip(&file, bit);
    }
    let response = site.get(PAYLOAD).await;
    assert_eq!(response.cache_status(), "gupd; hit");
    assert!(response.expect_body() == body);
    assert!(fs::read(&file).unwrap()[..body.len()] == body, "the damaged bytes are replaced");
    let again = site.manager.requests_for(PAYLOAD).split_off(1);
    let ranges: Vec<_> = again.iter().map(|seen| seen.header("range").unwrap()).collect();
    assert_eq!(ranges, ["bytes=0-65535", "bytes=2949120-3145727", "bytes=5242880-5242956"]);
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    assert_eq!(site.manager.request_count(PAYLOAD), 4, "once repaired, it stays so");
    let repaired = 65_536.0 + 196_608.0 + 77.0;
    assert_eq!(site.metric("gupd_store_repaired_bytes_total").await, repaired);
    assert!(site.metric("gupd_store_verification_failures_total").await >= 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_one_damaged_chunk_have_it_fetched_once() {
    let body = bytes(2, 2 * MIB);
    let site = stored(&body).await;
    flip(&blobs(site.store())[0], 8 * 1_500_000);
    let readers = (0..20).map(|_| site.get(PAYLOAD));
    for response in futures_util::future::join_all(readers).await {
        assert!(response.expect_body() == body);
    }
    assert_eq!(site.manager.request_count(PAYLOAD), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_damaged_object_are_right() {
    let body = bytes(3, 3 * MIB);
    let site = stored(&body).await;
    flip(&blobs(site.store())[0], 8 * 2_500_000);
    let part = site.send(Request::get(PAYLOAD).range("2400000-2600000")).await;
    assert!(part.expect_body() == body[2_400_000..=2_600_000]);
    flip(&blobs(site.store())[0], 8 * 1_500_000);
    let several = site.send(Request::get(PAYLOAD).range("0-9,1499990-1500010")).await;
    assert!(several.expect_body().windows(21).any(|bytes| *bytes == body[1_499_990..=1_500_010]));
}

#[tokio::test(flavor = "multi_thread")]
async fn irreparable_damage_breaks_transfer_and_drops_object() {
    let body = bytes(4, 3 * MIB);
    let site = stored(&body).await;
    flip(&blobs(site.store())[0], 8 * 2_500_000);
    let new = bytes(5, 3 * MIB);
    site.manager.put(PAYLOAD, Resource::new(new.clone()));
    let mut client = WireClient::connect(site.address()).await;
    client.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut response = client.read_head().await.unwrap();
    client.read_rest("GET", &mut response).await;
    assert_ne!(response.ending, Ending::Complete);
    assert!(response.body == body[..response.body.len()], "contents are never mixed");
    assert!(site.get(PAYLOAD).await.expect_body() == new);
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_lost_in_mid_read_continues_from_upstream() {
    let body = bytes(6, 4 * MIB);
    let mut site = stored(&body).await;
    // Only the first chunk is in memory, and the file is not open.
    site.config.store.memory = 2 << 20;
    site.restart();
    site.send(Request::get(PAYLOAD).range("0-9")).await.expect_body();
    site.restart();
    let mut client = WireClient::connect(site.address()).await;
    client.write_request(&Request::get(PAYLOAD).range("0-9")).await.unwrap();
    client.read_head().await.unwrap();
    for file in blobs(site.store()) {
        flip(&file, 8 * (fs::metadata(&file).unwrap().len() - 20));
    }
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    assert!(site.get(PAYLOAD).await.expect_body() == body);
}

/// A bit of a blob's file flips while it is served or between requests. No client gets a wrong byte, and each gets all
/// bytes.
#[test]
fn every_flipped_bit_is_repaired() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let body = bytes(7, 2 * MIB + 100_000);
    let site = runtime.block_on(stored(&body));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() });
    runner
        .run(&(any::<prop::sample::Index>(), 0..body.len()), |(at, from)| {
            runtime.block_on(async {
                let file = blobs(site.store()).remove(0);
                let bits = fs::metadata(&file).unwrap().len() * 8;
                let reading = site.send(Request::get(PAYLOAD).range(&format!("{from}-")));
                let flipping = async { flip(&file, at.index(usize::try_from(bits).unwrap()) as u64) };
                let (response, ()) = futures_util::future::join(reading, flipping).await;
                assert!(response.expect_body() == body[from..]);
                assert!(site.get(PAYLOAD).await.expect_body() == body);
                site.wait_until_stored(PAYLOAD).await;
            });
            Ok(())
        })
        .unwrap();
}
