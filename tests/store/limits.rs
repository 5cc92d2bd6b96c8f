//! The limits: the quota holds at every moment, unused objects are evicted first, and unused objects expire.

use super::*;
use gupd_store::{BLOCK, EvictionReason, StoreLimit};
use proptest::prelude::*;

/// Bytes on disk of a stored body of one block: the block and a small trailer, in units of 4 KiB.
const STORED: u64 = BLOCK + (4 << 10);

/// Room for the rows and the journal of a few objects, which count too.
const INDEX: u64 = 16 << 10;

/// Bytes that its fill reserves, including the largest response head.
const RESERVED: u64 = 2 * BLOCK + (4 << 10);

#[derive(Clone, Debug)]
enum Step {
    Begin { expected: Option<u64> },
    Write { writer: usize, len: u64 },
    Commit { writer: usize, key: u8 },
    Drop { writer: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        proptest::option::of(0..600_000u64).prop_map(|expected| Step::Begin { expected }),
        (0..4usize, 0..400_000u64).prop_map(|(writer, len)| Step::Write { writer, len }),
        (0..4usize, 0..6u8).prop_map(|(writer, key)| Step::Commit { writer, key }),
        (0..4usize).prop_map(|writer| Step::Drop { writer }),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn quota_is_never_exceeded(steps in steps()) {
        let site = Site::with(|config| config.quota = 2 * MIB);
        run(async {
            let store = site.open();
            let mut writers = Vec::new();
            for (seed, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Begin { expected } if writers.len() < 4 => writers.extend(InOrder::begin(&store, expected).await.ok()),
                    Step::Write { writer, len } if writer < writers.len() => {
                        let refused = writers[writer].write(vec![body(seed as u64, len)]).await.is_err();
                        drop(refused.then(|| writers.remove(writer)));
                    }
                    Step::Commit { writer, key } if writer < writers.len() => {
                        // A body shorter than its declared length is refused.
                        drop(writers.remove(writer).commit(response(&key.to_string())).await);
                    }
                    Step::Drop { writer } if writer < writers.len() => drop(writers.remove(writer)),
                    _ => {}
                }
                let used: u64 = site.files().iter().map(|size| size.next_multiple_of(4096)).sum();
                assert!(used <= 2 * MIB, "{used} bytes");
            }
            drop(writers);
            let on_disk: u64 = store.stats().disk_bytes;
            drop(store);
            assert_eq!(site.open().stats().disk_bytes, on_disk);
        });
    }
}

#[tokio::test]
async fn unused_objects_are_evicted_first() {
    let site = Site::with(|config| config.quota = 3 * STORED + RESERVED);
    let store = site.open();
    let mut ids = Vec::new();
    for key in ["a", "b", "c", "d"] {
        ids.push(super::store(&store, key, &body(key.as_bytes()[0].into(), BLOCK)).await.unwrap().object.id);
        site.clock.advance(Duration::from_secs(1));
    }
    store.record_use(vec![(ids[0], NOW + 60_000), (ids[2], NOW + 50_000)]).await.unwrap();
    let present = async || {
        let mut present = String::new();
        for key in ["a", "b", "c", "d", "e"] {
            if !store.lookup(key).await.unwrap().is_empty() {
                present += key;
            }
        }
        present
    };
    assert_eq!(present().await, "abcd");
    let first = store.begin_blob(Some(BLOCK)).await.unwrap();
    assert_eq!(present().await, "acd", "b was not used and is evicted");
    let second = store.begin_blob(Some(BLOCK)).await.unwrap();
    assert_eq!(present().await, "c", "then d, and a, which entered before c");
    drop((first, second));
    assert_eq!(store.stats().evicted[EvictionReason::Quota as usize].objects, 3);
    let mut removed = store.maintain().await.unwrap();
    removed.sort();
    assert_eq!(removed, ["a".into(), "b".into(), "d".into()], "including evictions by begin_blob");
}

#[tokio::test]
async fn body_larger_than_quota_is_refused_and_evicts_nothing() {
    let site = Site::with(|config| config.quota = 4 * RESERVED);
    let store = site.open();
    super::store(&store, "a", &body(1, BLOCK)).await.unwrap();
    assert!(matches!(store.begin_blob(Some(4 * RESERVED)).await, Err(StoreError::TooLarge { .. })));
    assert!(matches!(store.begin_blob(Some(u64::MAX)).await, Err(StoreError::TooLarge { .. })));
    assert_eq!(store.lookup("a").await.unwrap().len(), 1);
    let _most = store.begin_blob(Some(4 * RESERVED - 2 * BLOCK)).await.unwrap();
    let refused = store.begin_blob(Some(BLOCK)).await;
    assert!(matches!(refused, Err(StoreError::NoRoom { limit: StoreLimit::Quota, .. })));
}

#[tokio::test]
async fn body_of_unknown_length_is_refused_when_it_exceeds_quota() {
    let site = Site::with(|config| config.quota = MIB);
    let store = site.open();
    let mut writer = InOrder::begin(&store, None).await.unwrap();
    writer.write(vec![body(1, MIB / 2)]).await.unwrap();
    let refused = writer.write(vec![body(1, MIB / 2)]).await;
    assert!(matches!(refused, Err(StoreError::NoRoom { .. })), "{refused:?}");
}

#[tokio::test]
async fn blob_evicted_for_min_free_is_closed() {
    let mut site = Site::new();
    super::store(&site.open(), "a", &body(1, BLOCK)).await.unwrap();
    site.config.min_free = u64::MAX / 2;
    let store = site.open();
    let object = store.lookup("a").await.unwrap().remove(0);
    let source = BodySource::Blob { id: object.blob, len: object.len };
    read_from(&store, &source, 0, object.len).await.unwrap();
    assert_eq!(store.stats().open_files, 1);
    assert!(store.begin_blob(Some(BLOCK)).await.is_err());
    assert_eq!(store.stats().open_files, 0);
}

#[tokio::test]
async fn min_free_refuses_a_fill_when_eviction_does_not_help() {
    let site = Site::with(|config| config.min_free = u64::MAX / 2);
    let store = site.open();
    let refused = store.begin_blob(Some(1)).await;
    assert!(matches!(refused, Err(StoreError::NoRoom { limit: StoreLimit::MinFree, .. })));
}

#[tokio::test]
async fn unused_objects_expire_and_used_ones_stay() {
    let site = Site::new();
    let store = site.open();
    let used = super::store(&store, "used", &body(1, 10)).await.unwrap();
    super::store(&store, "unused", &body(2, 10)).await.unwrap();
    assert_eq!(store.maintain().await.unwrap(), []);
    site.clock.advance(Duration::from_secs(3601));
    used.object.touch(site.clock.now());
    store.record_use(vec![(used.object.id, used.object.last_used())]).await.unwrap();
    assert_eq!(store.maintain().await.unwrap(), ["unused".into()]);
    assert_eq!((site.files().len(), store.stats().objects), (1, 1));
    assert_eq!(store.stats().evicted[EvictionReason::Unused as usize].objects, 1);
}

#[tokio::test]
async fn lowered_quota_takes_effect_at_next_maintenance() {
    let mut site = Site::new();
    let store = site.open();
    for key in 0..10 {
        super::store(&store, &key.to_string(), &body(key, BLOCK)).await.unwrap();
    }
    drop(store);
    site.config.quota = 3 * STORED;
    let store = site.open();
    assert!(!store.maintain().await.unwrap().is_empty());
    assert!(store.stats().disk_bytes <= 3 * STORED);
    assert!(store.stats().objects > 0);
}

#[tokio::test]
async fn reconfigured_quota_applies_to_the_open_store() {
    let site = Site::new();
    let store = site.open();
    for key in 0..20 {
        super::store(&store, &key.to_string(), &body(key, BLOCK)).await.unwrap();
    }
    for (quota, kept) in [(20, 20), (19, 19), (12, 12), (500, 12), (3, 3), (0, 0), (9, 0)] {
        let quota = quota * STORED + quota.min(1) * INDEX;
        store.reconfigure(&config::StoreSettings { quota, ..site.config.clone() });
        store.wait_until_reconfigured().await;
        assert_eq!(store.quota(), quota);
        store.maintain().await.unwrap();
        let used: u64 = site.files().iter().map(|size| size.next_multiple_of(4096)).sum();
        assert_eq!((store.stats().objects, used), (kept, kept * STORED), "quota {quota}");
    }
    super::store(&store, "again", &body(1, BLOCK)).await.unwrap();
}

#[tokio::test]
async fn lowered_quota_spares_the_running_fill() {
    let site = Site::new();
    let store = site.open();
    super::store(&store, "stored", &body(1, BLOCK)).await.unwrap();
    let mut fill = InOrder::begin(&store, Some(MIB)).await.unwrap();
    fill.write(vec![body(2, MIB / 2)]).await.unwrap();
    store.reconfigure(&config::StoreSettings { quota: MIB / 2, ..site.config.clone() });
    assert_eq!(store.maintain().await.unwrap(), ["stored".into()]);
    let refused = store.begin_blob(Some(BLOCK)).await;
    assert!(matches!(refused, Err(StoreError::NoRoom { limit: StoreLimit::Quota, .. })));
    fill.write(vec![body(3, MIB / 2)]).await.unwrap();
    fill.commit(response("filled")).await.unwrap();
    assert_eq!(store.maintain().await.unwrap(), ["filled".into()], "larger than the new quota");
    super::store(&store, "next", &body(4, BLOCK)).await.unwrap();
}

#[tokio::test]
async fn reconfigured_min_free_and_max_unused_apply() {
    let site = Site::new();
    let store = site.open();
    super::store(&store, "a", &body(1, BLOCK)).await.unwrap();
    site.clock.advance(Duration::from_secs(1800));
    assert_eq!(store.maintain().await.unwrap(), []);
    let max_unused = Duration::from_secs(1799);
    store.reconfigure(&config::StoreSettings { max_unused, ..site.config.clone() });
    assert_eq!(store.maintain().await.unwrap(), ["a".into()]);
    store.reconfigure(&config::StoreSettings { min_free: u64::MAX / 2, ..site.config.clone() });
    let refused = store.begin_blob(Some(1)).await;
    assert!(matches!(refused, Err(StoreError::NoRoom { limit: StoreLimit::MinFree, .. })));
    store.reconfigure(&site.config);
    assert!(store.begin_blob(Some(1)).await.is_ok());
}

#[tokio::test]
async fn copies_are_neither_evicted_nor_expired() {
    let mut site = Site::with(|config| config.quota = 4 * STORED + RESERVED);
    let store = site.open();
    for (key, seed) in [("original", 1), ("a", 2), ("b", 3)] {
        super::store(&store, key, &body(seed, BLOCK)).await.unwrap();
    }
    publish_copy(&store, "original").await;
    // A newer response replaces the copy, and the index is lost.
    super::store(&store, "original", &body(4, BLOCK)).await.unwrap();
    publish_copy(&store, "original").await;
    drop(store);
    fs::remove_file(site.config.dir.join("index.db")).unwrap();
    let store = site.open();
    site.clock.advance(Duration::from_secs(3601));
    assert_eq!(store.maintain().await.unwrap().len(), 3);
    assert_eq!(store.lookup("@1 original").await.unwrap().len(), 1);
    drop(store);
    site.config.quota = 1;
    let store = site.open();
    assert_eq!(store.maintain().await.unwrap(), [], "only the copy is left");
    let removed = vec!["@1 original".into()];
    store.publish(Publication { removed, ..Publication::default() }).await.unwrap();
    assert_eq!((store.stats().objects, store.stats().disk_bytes), (0, 0));
}

#[tokio::test]
async fn lookups_and_changes_proceed_during_eviction() {
    let mut site = Site::new();
    let store = site.open();
    for key in 0..600 {
        super::store(&store, &key.to_string(), &body(key, 10)).await.unwrap();
    }
    drop(store);
    site.config.quota = 1;
    let store = site.open();
    let evicting = store.clone();
    let evicting = tokio::spawn(async move { evicting.maintain().await.unwrap() });
    let mut rounds = 0;
    while !evicting.is_finished() {
        store.lookup("599").await.unwrap();
        store.record_use(vec![(0, NOW)]).await.unwrap();
        rounds += 1;
    }
    assert!(rounds > 2, "a change waits for at most one batch: {rounds} rounds in between");
    assert!(evicting.await.unwrap().len() >= 580);
}

#[tokio::test]
async fn keys_and_heads_count_against_the_quota() {
    // Many objects with one body: only their rows, keys and heads take room.
    for (name, key_bytes, head_bytes) in [
        ("long keys", 8_000, 0),
        ("large heads", 20, 8_000),
        ("both", 4_000, 4_000),
        ("keys of a search", 300, 0),
        ("short keys", 20, 0),
    ] {
        const QUOTA: u64 = 512 << 10;
        let site = Site::with(|config| config.quota = QUOTA);
        let store = site.open();
        for number in 0..200 {
            let mut new = response(&format!("{number} {}", "k".repeat(key_bytes)));
            let field = HeaderValue::from_str(&"h".repeat(head_bytes)).unwrap();
            new.headers.insert("x-field", field);
            let mut writer = InOrder::begin(&store, Some(10)).await.unwrap();
            writer.write(vec![body(1, 10)]).await.unwrap();
            writer.commit(new).await.unwrap();
        }
        let kept = store.stats().objects;
        drop(store);
        let size = |name| fs::metadata(site.config.dir.join(name)).unwrap().len();
        let bytes = size("index.db") + size("index.journal");
        assert!(bytes <= QUOTA * 5 / 4, "{name}: {bytes} bytes of index and journal");
        assert!(kept >= 5, "{name}: {kept} objects are kept");
    }
}
