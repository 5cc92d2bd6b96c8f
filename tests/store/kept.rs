//! What is kept does not expire, and goes for room only when nothing else is left; then that is told.

use super::*;
use gupd::store::{BLOCK, Eviction, Publication};

/// What a stored body of one block takes: itself and a small trailer, in whole 4 KiB.
const STORED: u64 = BLOCK + (4 << 10);

async fn keep(store: &Store, keys: &[&str], kept: bool) {
    let kept = keys.iter().map(|key| (Arc::from(*key), kept)).collect();
    store.publish(Publication { kept, ..Publication::default() }).await.unwrap();
}

/// Objects of a block each, each used a second after the one before.
async fn fill(site: &Site, store: &Arc<Store>, keys: &[&str]) {
    for key in keys {
        super::store(store, key, &body(key.as_bytes()[0].into(), BLOCK)).await.unwrap();
        site.clock.advance(Duration::from_secs(1));
    }
}

/// Opens it with room for this many, and has it evict what is too much.
async fn shrunk_to(site: &mut Site, objects: u64) -> Arc<Store> {
    site.config.quota = objects * STORED;
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

const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[tokio::test]
async fn what_is_kept_goes_last_the_longest_unused_first_and_is_told() {
    let mut site = Site::new();
    let store = site.open();
    fill(&site, &store, &KEYS).await;
    keep(&store, &["a", "b", "c", "nothing"], true).await;
    store.pin("d").await.unwrap();
    let a = store.lookup("a").await.unwrap().remove(0);
    store.record_use(vec![(a.id, NOW + 60_000)]).await.unwrap();
    drop(store);

    let store = shrunk_to(&mut site, 4).await;
    assert_eq!(present(&store, &KEYS).await, "abcd", "all else is gone");
    assert_eq!((store.take_given_up(), store.facts().given_up.objects), (Vec::new(), 0));
    drop(store);

    let store = shrunk_to(&mut site, 2).await;
    assert_eq!(present(&store, &KEYS).await, "ad");
    assert_eq!(store.take_given_up(), [("b".into(), BLOCK), ("c".into(), BLOCK)]);
    assert_eq!(store.take_given_up(), [], "told once");
    let facts = store.facts();
    assert_eq!((facts.given_up.objects, facts.given_up.bytes), (2, 2 * BLOCK));
    assert_eq!(facts.evicted[Eviction::Quota as usize].objects, 2, "they are counted with all others");
    drop(store);

    let store = shrunk_to(&mut site, 0).await;
    assert_eq!(present(&store, &KEYS).await, "d", "what is pinned stays");
}

#[tokio::test]
async fn what_is_kept_does_not_expire_and_stays_kept_when_replaced_and_when_the_index_is_lost() {
    let site = Site::new();
    let store = site.open();
    fill(&site, &store, &KEYS).await;
    keep(&store, &["a", "b"], true).await;
    super::store(&store, "a", &body(99, BLOCK)).await.unwrap();
    drop(store);
    fs::remove_file(site.config.dir.join("index.db")).unwrap();
    let store = site.open();
    site.clock.advance(Duration::from_secs(3601));
    assert_eq!(store.maintain().await.unwrap().len(), 4);
    assert_eq!(present(&store, &KEYS).await, "ab");
    keep(&store, &["a"], false).await;
    assert_eq!(store.maintain().await.unwrap(), ["a".into()], "no longer kept, it is as old as it is");
}

#[tokio::test]
async fn a_pin_and_keeping_do_not_end_each_other() {
    let site = Site::new();
    let store = site.open();
    fill(&site, &store, &["a", "b"]).await;
    for key in ["a", "b"] {
        store.pin(key).await.unwrap();
    }
    keep(&store, &["a", "b"], true).await;
    keep(&store, &["a"], false).await;
    store.unpin("b").await.unwrap();
    site.clock.advance(Duration::from_secs(3601));
    assert_eq!(store.maintain().await.unwrap(), []);
    assert_eq!(present(&store, &KEYS).await, "ab");
}

#[tokio::test]
async fn a_fill_takes_the_room_of_what_is_kept_when_there_is_no_other() {
    let site = Site::with(|config| config.quota = 4 * STORED);
    let store = site.open();
    fill(&site, &store, &["a", "b"]).await;
    keep(&store, &["a", "b"], true).await;
    let writer = store.begin(Some(2 * BLOCK)).await.unwrap();
    assert_eq!(present(&store, &KEYS).await, "b");
    assert_eq!(store.take_given_up(), [("a".into(), BLOCK)]);
    drop(writer);
}

#[tokio::test]
async fn keeping_what_is_kept_already_costs_no_journal() {
    let site = Site::new();
    let store = site.open();
    fill(&site, &store, &["a"]).await;
    let journal = || fs::metadata(site.config.dir.join("index.journal")).unwrap().len();
    let before = journal();
    keep(&store, &["a"], true).await;
    let kept = journal();
    assert!(kept > before);
    keep(&store, &["a"], true).await;
    assert_eq!(journal(), kept);
}
