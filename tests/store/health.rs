//! A disk that never returns one block and works otherwise: the store removes that block's blob after a while and
//! is healthy again. A folder in place of the blob's file stands for the block: it can be opened but not read.

use super::*;
use gupd_cache::Cache;
use gupd_config::Config;
use gupd_http::{SelectingRequest, VaryFields};
use gupd_store::{BLOCK, StoreHealth};

/// Number of probes until an unreadable block is given up.
const PROBES: usize = 30;

/// Makes a blob unreadable.
fn withhold(site: &Site, blob: BlobId) -> PathBuf {
    let file = site.blob(blob);
    let away = site.dir.path().join("away");
    fs::rename(&file, &away).unwrap();
    fs::create_dir(&file).unwrap();
    away
}

fn restore(site: &Site, blob: BlobId, away: &Path) {
    fs::remove_dir(site.blob(blob)).unwrap();
    fs::rename(away, site.blob(blob)).unwrap();
}

async fn fails_to_read(store: &Store, committed: &CommittedObject) {
    let read = store.read(&committed.source, 0).await;
    assert!(matches!(read, Err(ReadError::Io { .. })), "{read:?}");
}

fn health(store: &Store) -> StoreHealth {
    store.stats().health
}

#[tokio::test]
async fn permanently_unreadable_block_costs_its_blob_only() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let [lost, kept] = [1, 2].map(|seed| body(seed, 3 * BLOCK));
    let committed = super::store(&store, "lost", &lost).await.unwrap();
    super::store(&store, "kept", &kept).await.unwrap();
    let rules = Config::for_upstreams(&["http://manager:8014"]).unwrap().cache;
    let cache = Cache::new(rules, store.clone(), site.clock.clone());
    let hot = store.lookup("lost").await.unwrap().remove(0);
    cache.insert(hot, VaryFields::default(), payload());

    let fields = HeaderMap::new();
    let request = SelectingRequest { headers: &fields, target: "/lost" };
    withhold(&site, committed.object.blob);
    fails_to_read(&store, &committed).await;
    for probe in 1..PROBES {
        cache.maintain().await.unwrap();
        assert_eq!(health(&store), StoreHealth::Failing, "after {probe} probes");
        assert!(matches!(store.begin_blob(Some(BLOCK)).await, Err(StoreError::Degraded { .. })));
    }
    assert!(cache.find_hot("lost", request).is_some());
    cache.maintain().await.unwrap();
    assert_eq!(health(&store), StoreHealth::Healthy);
    assert!(store.lookup("lost").await.unwrap().is_empty());
    assert!(cache.find_hot("lost", request).is_none(), "no client is sent to the block");
    assert_eq!(store.lookup("kept").await.unwrap().len(), 1);

    let again = super::store(&store, "lost", &lost).await.unwrap();
    assert_eq!(again.object.blob, committed.object.blob);
    assert_eq!(read_from(&store, &again.source, 0, 3 * BLOCK).await.unwrap(), lost);
}

#[tokio::test]
async fn block_readable_again_in_time_costs_nothing() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let committed = super::store(&store, "key", &body(1, BLOCK)).await.unwrap();
    let away = withhold(&site, committed.object.blob);
    fails_to_read(&store, &committed).await;
    for _ in 1..PROBES {
        assert!(!store.probe().await);
    }
    restore(&site, committed.object.blob, &away);
    assert!(store.probe().await);
    assert_eq!(store.lookup("key").await.unwrap().len(), 1);
    assert!(store.read(&committed.source, 0).await.is_ok());
}

#[tokio::test]
async fn block_is_kept_while_the_disk_fails_in_other_ways() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let committed = super::store(&store, "key", &body(1, BLOCK)).await.unwrap();
    let away = withhold(&site, committed.object.blob);
    fails_to_read(&store, &committed).await;
    let (partial, aside) = (site.config.dir.join("partial"), site.dir.path().join("partial"));
    for _ in 0..2 {
        for _ in 1..PROBES {
            assert!(!store.probe().await);
        }
        // It takes no writes for a moment: the count restarts.
        fs::rename(&partial, &aside).unwrap();
        assert!(!store.probe().await);
        fs::rename(&aside, &partial).unwrap();
    }
    restore(&site, committed.object.blob, &away);
    assert!(store.probe().await);
    assert_eq!(store.lookup("key").await.unwrap().len(), 1);
    assert!(store.read(&committed.source, 0).await.is_ok());
}

#[tokio::test]
async fn each_unreadable_block_has_its_own_deadline() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let first = super::store(&store, "first", &body(1, BLOCK)).await.unwrap();
    let second = super::store(&store, "second", &body(2, BLOCK)).await.unwrap();
    withhold(&site, first.object.blob);
    fails_to_read(&store, &first).await;
    for _ in 0..PROBES / 2 {
        assert!(!store.probe().await);
    }
    withhold(&site, second.object.blob);
    fails_to_read(&store, &second).await;
    for _ in 0..PROBES / 2 {
        assert!(!store.probe().await);
    }
    assert!(store.lookup("first").await.unwrap().is_empty());
    assert_eq!(store.lookup("second").await.unwrap().len(), 1);
    for _ in 0..PROBES / 2 {
        store.probe().await;
    }
    assert!(store.lookup("second").await.unwrap().is_empty());
    assert_eq!(health(&store), StoreHealth::Healthy);
}
