//! Pinned objects do not expire. They are evicted only when nothing else is left, and that eviction is reported.

use super::*;
use gupd_store::{BLOCK, EvictionReason};

/// Bytes on disk of a stored body of one block: the block and a small trailer, in units of 4 KiB.
const STORED: u64 = BLOCK + (4 << 10);

async fn set_pinned(store: &Store, keys: &[&str], pinned: bool) {
    let pins = keys.iter().map(|key| ((*key).into(), pinned)).collect();
    store.publish(Publication { pins, ..Publication::default() }).await.unwrap();
}

/// Stores objects of one block each, each used a second after the one before.
async fn fill(site: &Site, store: &Arc<Store>, keys: &[&str]) {
    for key in keys {
        super::store(store, key, &body(key.as_bytes()[0].into(), BLOCK)).await.unwrap();
        site.clock.advance(Duration::from_secs(1));
    }
}

/// Opens the store with a quota for `objects` objects and evicts the rest.
async fn open_with_quota_for(site: &mut Site, objects: u64) -> Arc<Store> {
    // And a little for the rows and the journal.
    site.config.quota = objects * STORED + (16 << 10);
    let store = site.open();
    store.maintain().await.unwrap();
    store
}

async fn present(store: &Store, keys: &[&str]) -> String {
    let mut present = String::new();
    for key in keys {
        if !store.lookup(key).await.unwrap().is_empty() {
            present += key;
        }
    }
    present
}

const KEYS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "@1 d"];

#[tokio::test]
async fn pinned_objects_are_evicted_last_and_least_recent_first() {
    let mut site = Site::new();
    let store = site.open();
    fill(&site, &store, &KEYS[..6]).await;
    set_pinned(&store, &["a", "b", "c", "nothing"], true).await;
    publish_copy(&store, "d").await;
    let a = store.lookup("a").await.unwrap().remove(0);
    store.record_use(vec![(a.id, NOW + 60_000)]).await.unwrap();
    drop(store);

    let store = open_with_quota_for(&mut site, 4).await;
    assert_eq!(present(&store, &KEYS).await, "abc@1 d", "the rest is evicted");
    assert_eq!((store.take_evicted_pins(), store.stats().evicted_pins.objects), (Vec::new(), 0));
    drop(store);

    let store = open_with_quota_for(&mut site, 2).await;
    assert_eq!(present(&store, &KEYS).await, "a@1 d");
    assert_eq!(store.take_evicted_pins(), [("b".into(), BLOCK), ("c".into(), BLOCK)]);
    assert_eq!(store.take_evicted_pins(), [], "reported once");
    let stats = store.stats();
    assert_eq!((stats.evicted_pins.objects, stats.evicted_pins.bytes), (2, 2 * BLOCK));
    assert_eq!(stats.evicted[EvictionReason::Quota as usize].objects, 2, "counted as evictions too");
    drop(store);

    let store = open_with_quota_for(&mut site, 0).await;
    assert_eq!(present(&store, &KEYS).await, "@1 d", "copies stay");
}

#[tokio::test]
async fn pinned_objects_do_not_expire_after_index_loss_or_replacement() {
    let site = Site::new();
    let store = site.open();
    fill(&site, &store, &KEYS[..6]).await;
    set_pinned(&store, &["a", "b"], true).await;
    super::store(&store, "a", &body(99, BLOCK)).await.unwrap();
    drop(store);
    fs::remove_file(site.config.dir.join("index.db")).unwrap();
    let store = site.open();
    site.clock.advance(Duration::from_secs(3601));
    assert_eq!(store.maintain().await.unwrap().len(), 4);
    assert_eq!(present(&store, &KEYS).await, "ab");
    set_pinned(&store, &["a"], false).await;
    assert_eq!(store.maintain().await.unwrap(), ["a".into()], "an unpinned object keeps its age");
}

#[tokio::test]
async fn copy_that_was_pinned_and_unpinned_does_not_expire() {
    let site = Site::new();
    let store = site.open();
    fill(&site, &store, &["d"]).await;
    publish_copy(&store, "d").await;
    store.remove("d").await.unwrap();
    for pinned in [true, false] {
        set_pinned(&store, &["@1 d"], pinned).await;
        site.clock.advance(Duration::from_secs(3601));
        assert_eq!(store.maintain().await.unwrap(), []);
    }
    assert_eq!(present(&store, &KEYS).await, "@1 d");
}

#[tokio::test]
async fn fill_evicts_pinned_object_when_nothing_else_is_left() {
    let site = Site::with(|config| config.quota = 4 * STORED);
    let store = site.open();
    fill(&site, &store, &["a", "b"]).await;
    set_pinned(&store, &["a", "b"], true).await;
    let writer = store.begin_blob(Some(2 * BLOCK)).await.unwrap();
    assert_eq!(present(&store, &KEYS).await, "b");
    assert_eq!(store.take_evicted_pins(), [("a".into(), BLOCK)]);
    drop(writer);
}

#[tokio::test]
async fn pinning_a_pinned_object_writes_no_journal_entry() {
    let site = Site::new();
    let store = site.open();
    fill(&site, &store, &["a"]).await;
    let journal = || fs::metadata(site.config.dir.join("index.journal")).unwrap().len();
    let before = journal();
    set_pinned(&store, &["a"], true).await;
    let pinned = journal();
    assert!(pinned > before);
    set_pinned(&store, &["a"], true).await;
    assert_eq!(journal(), pinned);
}
