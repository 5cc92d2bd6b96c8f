//! Memory stays bounded for any readers, and concurrent readers share one disk read. An entry that leaves memory leaves
//! its last use.

use super::*;
use gupd_cache::Cache;
use gupd_config::Config;
use gupd_http::{SelectingRequest, VaryFields};
use gupd_store::{BLOCK, CHUNK, PIECES_MAX, PINNED_MAX};

/// Returns a store with an empty cache, and a body that is only on disk.
async fn cold(site: &Site, len: u64) -> (Arc<Store>, CommittedObject, Bytes) {
    let body = body(1, len);
    drop(super::store(&site.open(), "key", &body).await.unwrap());
    let store = site.open();
    let committed = super::store(&store, "other", &body).await.unwrap();
    assert!(committed.deduplicated);
    drop(store);
    (site.open(), committed, body)
}

#[test]
fn concurrent_readers_of_a_cold_chunk_share_one_disk_read() {
    let site = Site::new();
    run(async {
        let (store, committed, body) = cold(&site, CHUNK).await;
        let start = Arc::new(tokio::sync::Barrier::new(200));
        let readers: Vec<_> = (0..200u64)
            .map(|reader| {
                let (store, source, start) = (store.clone(), committed.source.clone(), start.clone());
                tokio::spawn(async move {
                    start.wait().await;
                    (reader * 5000, store.read(&source, reader * 5000).await.unwrap())
                })
            })
            .collect();
        for reader in readers {
            let (position, bytes) = reader.await.unwrap();
            assert_eq!(bytes, body.slice(usize::try_from(position).unwrap()..));
        }
        assert_eq!(store.stats().disk_reads, 1);
    });
}

#[tokio::test]
async fn reads_above_the_limit_get_pieces_and_all_are_freed() {
    let site = Site::with(|config| config.memory = 0);
    let (store, committed, body) = cold(&site, 2 * CHUNK).await;
    let memory = store.chunk_memory();
    let read = async |position: u64| {
        let bytes = store.read(&committed.source, position).await.unwrap();
        assert!(body.slice(usize::try_from(position).unwrap()..).starts_with(&bytes));
        bytes
    };
    let position = CHUNK + 2 * BLOCK + 100;
    assert_eq!(read(position).await.len() as u64, CHUNK - 2 * BLOCK - 100, "the rest of the chunk");
    let pins = memory.charge(PINNED_MAX + 1);
    assert!(memory.is_over_limit());
    let mut pieces = Vec::new();
    while memory.held_bytes() + BLOCK <= PINNED_MAX + 1 + PIECES_MAX {
        pieces.push(read(position).await);
        assert_eq!(pieces.last().unwrap().len() as u64, BLOCK - 100, "the rest of the block");
    }
    pieces.push(read(position).await);
    assert_eq!(pieces.last().unwrap().len(), 16 << 10);
    pieces.push(read(CHUNK + 3 * BLOCK - 1).await);
    assert_eq!(pieces.last().unwrap().len(), 1);
    drop((pins, pieces));
    assert_eq!(memory.held_bytes(), 0);
    assert!(!memory.is_over_limit());
}

#[test]
fn stalled_readers_stay_within_the_memory_bound() {
    let site = Site::with(|config| config.memory = 4 * MIB);
    run(async {
        let (store, committed, _) = cold(&site, 96 * MIB).await;
        let mut held = Vec::new();
        for reader in 0..3000 {
            held.push(store.read(&committed.source, reader * 33_000 % (96 * MIB)).await.unwrap());
        }
        let bound = 4 * MIB + PINNED_MAX + PIECES_MAX + 3000 * (16 << 10);
        assert!(store.stats().memory_bytes <= bound, "{}", store.stats().memory_bytes);
        drop(held);
        assert!(
            store.stats().memory_bytes <= 5 * MIB,
            "only the cache is left: {}",
            store.stats().memory_bytes
        );
    });
}

#[tokio::test]
async fn last_use_of_an_entry_that_left_memory_is_recorded() {
    let site = Site::new();
    let store = site.open();
    let committed = super::store(&store, "key", &body(1, BLOCK)).await.unwrap();
    let rules = Config::for_upstreams(&["http://manager:8014"]).unwrap().cache;
    let cache = Cache::new(rules.clone(), store.clone(), site.clock.clone());
    let entry = cache.insert(committed.object, VaryFields::default(), payload());
    entry.touch(NOW + 1000);
    cache.reconfigure(rules);
    drop(entry);
    let fields = HeaderMap::new();
    let request = SelectingRequest { headers: &fields, target: "/other" };
    // The map of hot entries drops removed ones behind later lookups.
    while store.lookup("key").await.unwrap()[0].last_used() != NOW + 1000 {
        assert!(cache.find_hot("other", request).is_none());
        cache.record_uses().await.unwrap();
    }
}
