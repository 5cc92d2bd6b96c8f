//! Restarts and crashes: committed objects survive, uncommitted ones are never served, and a folder has one
//! owner.

use super::*;
use gupd_store::{BLOCK, CHUNK};

#[tokio::test]
async fn crash_keeps_committed_objects_and_drops_partial_files() {
    let site = Site::new();
    let store = site.open();
    let bodies = [body(1, CHUNK + 1), body(2, 10)];
    super::store(&store, "0", &bodies[0]).await.unwrap();
    super::store(&store, "1", &bodies[1]).await.unwrap();
    let mut writer = InOrder::begin(&store, None).await.unwrap();
    writer.write(vec![body(3, 2 * CHUNK)]).await.unwrap();
    let site = site.crashed();
    assert_eq!(site.files().len(), 3);
    let store = site.open();
    assert_eq!(site.files().len(), 2);
    for (key, body) in bodies.iter().enumerate() {
        let object = store.lookup(&key.to_string()).await.unwrap().remove(0);
        let source = BodySource::Blob { id: object.blob, len: object.len };
        assert_eq!(read_from(&store, &source, 0, object.len).await.unwrap(), *body);
    }
    assert_eq!(store.stats().objects, 2);
}

#[tokio::test]
async fn blob_without_row_is_swept() {
    let site = Site::new();
    let store = site.open();
    let kept = super::store(&store, "kept", &body(1, BLOCK)).await.unwrap();
    let orphan = BlobId::from([0xab; 32]);
    fs::copy(site.blob(kept.object.blob), site.blob(orphan)).unwrap();
    store.maintain().await.unwrap();
    assert!(!site.blob(orphan).exists());
    assert!(site.blob(kept.object.blob).exists());
    fs::copy(site.blob(kept.object.blob), site.blob(orphan)).unwrap();
    assert_eq!(store.sweep_orphans().await.unwrap(), 1);
    assert_eq!(site.files().len(), 1);
}

#[tokio::test]
async fn index_without_a_table_is_rebuilt() {
    let site = Site::new();
    drop(site.open());
    let index = rusqlite::Connection::open(site.config.dir.join("index.db")).unwrap();
    index.execute_batch("DROP TABLE totals").unwrap();
    drop(index);
    let store = site.open();
    super::store(&store, "key", &body(1, BLOCK)).await.unwrap();
    assert_eq!(store.stats().objects, 1);
}

#[test]
fn index_of_a_later_version_is_refused_unchanged() {
    let site = Site::new();
    drop(site.open());
    let index = rusqlite::Connection::open(site.config.dir.join("index.db")).unwrap();
    let signature: i64 = index.pragma_query_value(None, "application_id", |row| row.get(0)).unwrap();
    index.pragma_update(None, "user_version", 99).unwrap();
    index.pragma_update(None, "application_id", signature ^ 4 ^ 99).unwrap();
    let refused = Store::open(&site.config, site.clock.clone()).unwrap_err();
    assert!(matches!(refused, StoreError::NewerIndex { found: 99, .. }));
    assert!(refused.to_string().contains("index.db"), "{refused}");
    index.pragma_update(None, "user_version", 4).unwrap();
    index.pragma_update(None, "application_id", signature).unwrap();
    drop(index);
    drop(site.open());
}

#[test]
fn second_store_in_a_folder_is_refused() {
    let site = Site::new();
    let first = site.open();
    let refused = Store::open(&site.config, site.clock.clone()).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { .. }));
    assert!(refused.to_string().contains(site.config.dir.to_str().unwrap()), "{refused}");
    drop(first);
    drop(site.open());
}

#[test]
fn folder_that_cannot_be_created_is_refused_with_its_path() {
    let site = Site::new();
    let file = site.dir.path().join("file");
    fs::write(&file, "").unwrap();
    let config = config::StoreSettings { dir: file.join("store"), ..site.config };
    let refused = Store::open(&config, site.clock).unwrap_err();
    assert!(matches!(refused, StoreError::Folder { .. }));
    assert!(refused.to_string().contains("file/store"), "{refused}");
}
