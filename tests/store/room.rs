//! The limits hold: quota at every moment, what was not used goes first, the unused expire.

use super::*;
use gupd::store::{BLOCK, Eviction, Limit};
use proptest::prelude::*;

/// What a stored body of one block takes: itself and a small trailer, in whole 4 KiB.
const STORED: u64 = BLOCK + (4 << 10);

/// What its fill reserves: room for the largest head, too.
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
    fn the_quota_is_never_exceeded(steps in steps()) {
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
                        // One shorter than it was to be is refused.
                        drop(writers.remove(writer).commit(response(&key.to_string())).await);
                    }
                    Step::Drop { writer } if writer < writers.len() => drop(writers.remove(writer)),
                    _ => {}
                }
                let used: u64 = site.files().iter().map(|size| size.next_multiple_of(4096)).sum();
                assert!(used <= 2 * MIB, "{used} bytes");
            }
            drop(writers);
            let on_disk: u64 = store.facts().disk_bytes;
            drop(store);
            assert_eq!(site.open().facts().disk_bytes, on_disk);
        });
    }
}

#[tokio::test]
async fn what_nobody_used_gives_way_first() {
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
    let first = store.begin(Some(BLOCK)).await.unwrap();
    assert_eq!(present().await, "acd", "b, not used since, makes room enough");
    let second = store.begin(Some(BLOCK)).await.unwrap();
    assert_eq!(present().await, "c", "then d, and a, which was there before c");
    drop((first, second));
    assert_eq!(store.facts().evicted[Eviction::Quota as usize].objects, 3);
    let mut told = store.maintain().await.unwrap();
    told.sort();
    assert_eq!(told, ["a".into(), "b".into(), "d".into()], "the caller is told of what begin evicted");
}

#[tokio::test]
async fn what_cannot_fit_is_refused_and_evicts_nothing() {
    let site = Site::with(|config| config.quota = 4 * RESERVED);
    let store = site.open();
    super::store(&store, "a", &body(1, BLOCK)).await.unwrap();
    assert!(matches!(store.begin(Some(4 * RESERVED)).await, Err(StoreError::TooLarge { .. })));
    assert!(matches!(store.begin(Some(u64::MAX)).await, Err(StoreError::TooLarge { .. })));
    assert_eq!(store.lookup("a").await.unwrap().len(), 1);
    let _most = store.begin(Some(4 * RESERVED - 2 * BLOCK)).await.unwrap();
    let refused = store.begin(Some(BLOCK)).await;
    assert!(matches!(refused, Err(StoreError::NoRoom { limit: Limit::Quota, .. })));
}

#[tokio::test]
async fn a_body_that_outgrows_the_quota_is_refused_on_the_way() {
    let site = Site::with(|config| config.quota = MIB);
    let store = site.open();
    let mut writer = InOrder::begin(&store, None).await.unwrap();
    writer.write(vec![body(1, MIB / 2)]).await.unwrap();
    let refused = writer.write(vec![body(1, MIB / 2)]).await;
    assert!(matches!(refused, Err(StoreError::NoRoom { .. })), "{refused:?}");
}

#[tokio::test]
async fn what_gave_way_to_min_free_is_not_kept_open_and_on_the_disk() {
    let mut site = Site::new();
    super::store(&site.open(), "a", &body(1, BLOCK)).await.unwrap();
    site.config.min_free = u64::MAX / 2;
    let store = site.open();
    let object = store.lookup("a").await.unwrap().remove(0);
    let source = Source::Blob { id: object.blob, len: object.len };
    read_from(&store, &source, 0, object.len).await.unwrap();
    assert_eq!(store.facts().open_files, 1);
    assert!(store.begin(Some(BLOCK)).await.is_err());
    assert_eq!(store.facts().open_files, 0);
}

#[tokio::test]
async fn min_free_refuses_a_fill_when_eviction_does_not_help() {
    let site = Site::with(|config| config.min_free = u64::MAX / 2);
    let store = site.open();
    let refused = store.begin(Some(1)).await;
    assert!(matches!(refused, Err(StoreError::NoRoom { limit: Limit::MinFree, .. })));
}

#[tokio::test]
async fn objects_nobody_used_expire_and_used_ones_stay() {
    let site = Site::new();
    let store = site.open();
    let used = super::store(&store, "used", &body(1, 10)).await.unwrap();
    super::store(&store, "unused", &body(2, 10)).await.unwrap();
    assert_eq!(store.maintain().await.unwrap(), []);
    site.clock.advance(Duration::from_secs(3601));
    used.object.touch(site.clock.now());
    store.record_use(vec![(used.object.id, used.object.last_used())]).await.unwrap();
    assert_eq!(store.maintain().await.unwrap(), ["unused".into()]);
    assert_eq!((site.files().len(), store.facts().objects), (1, 1));
    assert_eq!(store.facts().evicted[Eviction::Unused as usize].objects, 1);
}

#[tokio::test]
async fn a_lowered_quota_takes_effect_with_the_next_upkeep() {
    let mut site = Site::new();
    let store = site.open();
    for key in 0..10 {
        super::store(&store, &key.to_string(), &body(key, BLOCK)).await.unwrap();
    }
    drop(store);
    site.config.quota = 3 * STORED;
    let store = site.open();
    assert!(!store.maintain().await.unwrap().is_empty());
    assert!(store.facts().disk_bytes <= 3 * STORED);
    assert!(store.facts().objects > 0);
}

#[tokio::test]
async fn what_is_pinned_is_neither_evicted_nor_expired_and_stays_pinned() {
    let mut site = Site::with(|config| config.quota = 4 * STORED + RESERVED);
    let store = site.open();
    for (key, seed) in [("pinned", 1), ("a", 2), ("b", 3)] {
        super::store(&store, key, &body(seed, BLOCK)).await.unwrap();
    }
    assert_eq!(store.pin("pinned").await.unwrap(), 1);
    assert_eq!(store.pin("nothing").await.unwrap(), 0);
    // A newer response in its place, and an index that was lost.
    super::store(&store, "pinned", &body(4, BLOCK)).await.unwrap();
    drop(store);
    fs::remove_file(site.config.dir.join("index.db")).unwrap();
    let store = site.open();
    site.clock.advance(Duration::from_secs(3601));
    assert_eq!(store.maintain().await.unwrap().len(), 2);
    assert_eq!(store.lookup("pinned").await.unwrap().len(), 1);
    drop(store);
    site.config.quota = 1;
    let store = site.open();
    assert_eq!(store.maintain().await.unwrap(), [], "nothing else is there to go");
    assert_eq!(store.unpin("pinned").await.unwrap(), 1);
    assert_eq!(store.maintain().await.unwrap(), ["pinned".into()]);
    assert!(store.lookup("pinned").await.unwrap().is_empty());
}

#[tokio::test]
async fn look_ups_and_commits_go_on_while_much_is_evicted() {
    let mut site = Site::new();
    let store = site.open();
    for key in 0..600 {
        super::store(&store, &key.to_string(), &body(key, 10)).await.unwrap();
    }
    drop(store);
    site.config.quota = 64 << 10;
    let store = site.open();
    let evicting = store.clone();
    let evicting = tokio::spawn(async move { evicting.maintain().await.unwrap() });
    let mut seen = 0;
    while !evicting.is_finished() {
        store.lookup("599").await.unwrap();
        let pinned = store.pin("none").await.unwrap();
        seen += 1 + pinned;
    }
    assert!(seen > 2, "a change waits for a batch at most: {seen} came in between");
    assert!(evicting.await.unwrap().len() >= 580);
}
