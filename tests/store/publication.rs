//! Publications are applied completely or not at all, and survive the loss of the index. Copies keep their
//! content whatever happens to their originals.

use super::*;
use gupd_store::bundle::{ExportSummary, export};
use gupd_store::{BLOCK, CHUNK, Inventory, Object, ObjectKey, RepairError};
use sha2::{Digest, Sha256};

/// Published records, and copies with their blobs.
type Published = (Vec<(String, Vec<u8>)>, Vec<(ObjectKey, BlobId)>);

fn record(name: &str, value: &str) -> (String, Option<Vec<u8>>) {
    (name.to_owned(), Some(value.as_bytes().to_vec()))
}

fn blob_of(body: &Bytes) -> BlobId {
    BlobId::from(<[u8; 32]>::from(Sha256::digest(body)))
}

fn copy_of(object: &Object, since: u64) -> ObjectCopy {
    let key = format!("@{since} {}", object.key).into();
    ObjectCopy { object: object.id, blob: object.blob, key, last_used: NOW }
}

async fn publish(store: &Store, change: impl FnOnce(&mut Publication)) -> Result<(), StoreError> {
    let mut publication = Publication::default();
    change(&mut publication);
    store.publish(publication).await.map(drop)
}

/// Publishes two revisions of two catalogs, one of which did not change.
async fn two_revisions(store: &Arc<Store>) {
    let first = super::store(store, "all /a", &body(1, 2 * BLOCK)).await.unwrap().object;
    let other = super::store(store, "all /b", &body(2, 100)).await.unwrap().object;
    publish(store, |change| {
        change.copies = vec![copy_of(&first, 1), copy_of(&other, 1)];
        change.records = vec![record("revision/1", "a b"), record("rings", "waiting")];
    })
    .await
    .unwrap();
    let newer = super::store(store, "all /a", &body(3, 300)).await.unwrap().object;
    publish(store, |change| {
        change.copies = vec![copy_of(&newer, 2)];
        change.records = vec![record("revision/2", "a"), record("rings", "open"), ("none".to_owned(), None)];
    })
    .await
    .unwrap();
}

async fn published(store: &Store) -> Published {
    let mut copies = Vec::new();
    for key in store.copies().await.unwrap() {
        let object = store.lookup(&key).await.unwrap().remove(0);
        assert_eq!(object.headers["etag"].as_bytes(), b"\"1\"");
        let source = BodySource::Blob { id: object.blob, len: object.len };
        let body = read_from(store, &source, 0, object.len).await.unwrap();
        copies.push((key, blob_of(&body)));
    }
    (store.records("").await.unwrap(), copies)
}

fn expected() -> Published {
    let records = [("revision/1", "a b"), ("revision/2", "a"), ("rings", "open")];
    let copies =
        [("@1 all /a", body(1, 2 * BLOCK)), ("@1 all /b", body(2, 100)), ("@2 all /a", body(3, 300))];
    (
        records.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).into(),
        copies.map(|(key, body)| (key.into(), blob_of(&body))).into(),
    )
}

fn filled() -> Site {
    let site = Site::new();
    run(async { two_revisions(&site.open()).await });
    site
}

fn survives(site: &Site) {
    for _start in 0..2 {
        assert_eq!(run(async { published(&site.open()).await }), expected());
    }
}

#[test]
fn publication_survives_restart_and_index_loss() {
    let site = filled();
    survives(&site);
    fs::remove_file(site.config.dir.join("index.db")).unwrap();
    survives(&site);
    let journal = site.config.dir.join("index.journal");
    // The journal is rewritten from the index, as by a compaction.
    fs::remove_file(&journal).unwrap();
    run(async { site.open().maintain().await.unwrap() });
    fs::remove_file(site.config.dir.join("index.db")).unwrap();
    survives(&site);
}

#[test]
fn flipped_bit_in_the_index_costs_no_record_or_copy() {
    let site = filled();
    let index = site.config.dir.join("index.db");
    let sound = fs::read(&index).unwrap();
    for bit in (0..sound.len() * 8).step_by(sound.len() / 20 + 1) {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&index, bytes).unwrap();
        assert_eq!(run(async { published(&site.open()).await }), expected(), "bit {bit}");
    }
}

#[test]
fn corrupt_record_marks_the_index_damaged() {
    let site = filled();
    let index = rusqlite::Connection::open(site.config.dir.join("index.db")).unwrap();
    index.execute("UPDATE records SET value = x'00' WHERE name = 'rings'", []).unwrap();
    drop(index);
    survives(&site);
}

#[test]
fn copy_of_a_changed_object_is_refused_completely() {
    let site = filled();
    run(async {
        let store = site.open();
        let there = store.lookup("all /b").await.unwrap().remove(0);
        let gone = ObjectCopy { object: 77, ..copy_of(&there, 3) };
        let changed = ObjectCopy { blob: BlobId::from([1; 32]), ..copy_of(&there, 3) };
        for wrong in [gone, changed] {
            let refused = publish(&store, |change| {
                change.copies = vec![ObjectCopy { key: "@3 else".into(), ..copy_of(&there, 3) }, wrong];
                change.records = vec![record("revision/3", "b")];
                change.removed = vec!["@1 all /a".into()];
                change.pins = vec![("all /b".into(), true)];
            });
            let refused = refused.await;
            assert!(
                matches!(&refused, Err(StoreError::NotCopied { key }) if &**key == "@3 all /b"),
                "{refused:?}"
            );
            assert_eq!(published(&store).await, expected());
        }
    });
    fs::remove_file(site.config.dir.join("index.db")).unwrap();
    survives(&site);
}

#[tokio::test]
async fn records_are_read_by_prefix_and_bounded_in_size() {
    let site = Site::new();
    let store = site.open();
    let large = vec![7; (512 << 10) - 3];
    publish(&store, |change| {
        change.records = vec![record("b", "2"), record("a/2", "1"), ("a/1".to_owned(), Some(large.clone()))];
    })
    .await
    .unwrap();
    let names = |records: Vec<(String, Vec<u8>)>| {
        records.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(store.records("").await.unwrap()), "a/1 a/2 b");
    assert_eq!(names(store.records("a/").await.unwrap()), "a/1 a/2");
    assert_eq!(names(store.records("c").await.unwrap()), "");
    let larger = publish(&store, |change| change.records = vec![("a/11".to_owned(), Some(large.clone()))]);
    let larger = larger.await;
    assert!(matches!(&larger, Err(StoreError::RecordTooLarge { name, .. }) if name == "a/11"), "{larger:?}");
    publish(&store, |change| change.records = vec![("a/2".to_owned(), None)]).await.unwrap();
    drop(store);
    fs::remove_file(site.config.dir.join("index.db")).unwrap();
    let store = site.open();
    assert_eq!(store.records("a").await.unwrap(), [("a/1".to_owned(), large)]);
}

#[tokio::test]
async fn copy_outlives_its_object_until_it_is_removed() {
    let site = Site::new();
    let store = site.open();
    two_revisions(&store).await;
    let disk = store.stats().disk_bytes;
    assert_eq!((store.stats().objects, store.stats().blobs), (5, 3), "each body is stored once");
    for key in ["all /a", "all /b"] {
        store.remove(key).await.unwrap();
        assert!(store.lookup(key).await.unwrap().is_empty());
    }
    site.clock.advance(Duration::from_secs(3601));
    assert_eq!(store.maintain().await.unwrap(), [], "copies do not expire");
    assert_eq!(published(&store).await, expected());
    assert_eq!(store.stats().disk_bytes, disk);

    let removed: Vec<ObjectKey> = ["@1 all /a", "@1 all /b", "@9 all /a"].map(Into::into).into();
    publish(&store, |change| change.removed = removed.clone()).await.unwrap();
    assert_eq!(store.take_removed_keys(), removed, "reported for invalidation of cached entries");
    assert_eq!(store.copies().await.unwrap(), ["@2 all /a".into()]);
    assert_eq!((store.stats().blobs, site.files().len()), (1, 1));
}

#[test]
fn copy_is_listed_but_in_no_page_or_bundle() {
    let site = filled();
    let pages = run(async { site.open().page(0).await.unwrap() });
    assert_eq!(pages.iter().map(|object| &*object.key).collect::<Vec<_>>(), ["all /b", "all /a"]);
    let inventory = Inventory::open(&site.config.dir).unwrap();
    let copied: Vec<_> = inventory.objects().map(|object| object.unwrap()).filter(Object::is_copy).collect();
    let copied: Vec<_> = copied.iter().map(Object::copy_mark).collect();
    assert_eq!(copied, [("@1", "all /a"), ("@1", "all /b"), ("@2", "all /a")]);
    let bundle = site.dir.path().join("bundle");
    let exported = export(&inventory, 0, NOW, &bundle, |_| {}).unwrap();
    assert_eq!(exported, ExportSummary { objects: 2, blobs: 2, bytes: 400, damaged: Vec::new() });
}

#[tokio::test]
async fn damaged_blob_of_a_copy_is_discarded_with_it() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let object = super::store(&store, "all /a", &body(1, CHUNK)).await.unwrap().object;
    publish(&store, |change| change.copies = vec![copy_of(&object, 1)]).await.unwrap();
    store.remove("all /a").await.unwrap();
    let file = fs::File::options().write(true).open(site.blob(object.blob)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", 9).unwrap();
    let no_upstream = async |asked: Arc<Object>, _| {
        assert_eq!(&*asked.key, "@1 all /a");
        Err::<Bytes, _>(RepairError::NotOffered(Arc::from("no upstream")))
    };
    let repaired = store.repair_blob(object.blob, no_upstream).await;
    assert!(matches!(repaired, Err(RepairError::NotOffered(_))), "{repaired:?}");
    assert_eq!(store.discard_blob(object.blob).await.unwrap(), ["@1 all /a".into()]);
    assert!(store.copies().await.unwrap().is_empty());
}

#[tokio::test]
async fn damaged_blob_is_refetched_by_object_key_before_copy_key() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let whole = body(1, CHUNK);
    let object = super::store(&store, "all /a", &whole).await.unwrap().object;
    publish(&store, |change| change.copies = (1..9).map(|since| copy_of(&object, since)).collect())
        .await
        .unwrap();
    let file = fs::File::options().write(true).open(site.blob(object.blob)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", 9).unwrap();
    let manager = async |asked: Arc<Object>, range: std::ops::Range<u64>| {
        assert_eq!(&*asked.key, "all /a");
        Ok::<_, RepairError>(whole.slice(range.start as usize..range.end as usize))
    };
    assert_eq!(store.repair_blob(object.blob, manager).await.unwrap(), BLOCK);
}

#[test]
fn failed_commit_does_not_return_after_a_rebuild() {
    let site = filled();
    run(async {
        let store = site.open();
        // Fails at the end of the transaction, as a failing disk may.
        let other = rusqlite::Connection::open(site.config.dir.join("index.db")).unwrap();
        let fail =
            "CREATE TRIGGER fail BEFORE UPDATE OF journal ON totals BEGIN SELECT RAISE(ABORT, 'no'); END";
        other.execute_batch(fail).unwrap();
        let refused = publish(&store, |change| change.records = vec![record("revision/3", "a b")]).await;
        assert!(matches!(refused, Err(StoreError::Index { .. })), "{refused:?}");
        other.execute_batch("DROP TRIGGER fail").unwrap();
        assert!(store.probe().await);
        publish(&store, |change| change.records = vec![record("rings", "open")]).await.unwrap();
        assert_eq!(published(&store).await, expected());
    });
    survives(&site);
    fs::remove_file(site.config.dir.join("index.db")).unwrap();
    survives(&site);
}

#[test]
fn publish_fails_while_degraded_or_released() {
    let site = filled();
    run(async {
        let store = site.open();
        let away = site.dir.path().join("away");
        fs::rename(&site.config.dir, &away).unwrap();
        assert!(store.begin_blob(Some(BLOCK)).await.is_err());
        let refused = publish(&store, |change| change.records = vec![record("rings", "x")]).await;
        assert!(matches!(refused, Err(StoreError::Degraded { .. })), "{refused:?}");
        let refused = store.save_clients(vec![record("10.0.0.1", "x")]).await;
        assert!(matches!(refused, Err(StoreError::Degraded { .. })), "{refused:?}");
        fs::rename(&away, &site.config.dir).unwrap();
        assert!(store.probe().await);
        store.release().await;
        let refused = publish(&store, |change| change.records = vec![record("rings", "x")]).await;
        assert!(matches!(refused, Err(StoreError::Released)), "{refused:?}");
        assert_eq!(published(&store).await, expected(), "stored content is still read");
    });
    survives(&site);
}
