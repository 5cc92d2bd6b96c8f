//! Upgrades: objects stored by an earlier gupd survive. The first index version is tested in `lost_index`.

use super::*;
use gupd_store::BLOCK;

/// Replaces the index with one of schema version 2. The journal's frames have not changed since.
fn downgrade_to_version_2(site: &Site) {
    let dir = &site.config.dir;
    fs::rename(dir.join("index.db"), dir.join("new.db")).unwrap();
    let old = rusqlite::Connection::open(dir.join("index.db")).unwrap();
    old.execute_batch(include_str!("../fixtures/index_v2.sql")).unwrap();
    old.execute_batch(&format!(
        "ATTACH '{}' AS new;
         INSERT INTO blobs SELECT id, hash, len, disk FROM new.blobs;
         INSERT INTO objects SELECT * FROM new.objects;
         UPDATE totals SET journal = (SELECT journal FROM new.totals);",
        dir.join("new.db").display()
    ))
    .unwrap();
}

#[test]
fn index_of_version_2_is_migrated_with_its_copies() {
    let mut site = Site::new();
    run(async {
        let store = site.open();
        for key in ["original", "pinned", "other"] {
            super::store(&store, key, &body(key.len() as u64, BLOCK)).await.unwrap();
        }
        publish_copy(&store, "original").await;
        store.remove("original").await.unwrap();
    });
    downgrade_to_version_2(&site);
    run(async {
        let store = site.open();
        assert_eq!((store.stats().objects, store.stats().blobs), (3, 3));
        let change = Publication {
            pins: vec![("pinned".into(), true)],
            records: vec![("rings".to_owned(), Some(b"open".to_vec()))],
            ..Publication::default()
        };
        store.publish(change).await.unwrap();
        store.save_clients(vec![("client".to_owned(), Some(b"seen".to_vec()))]).await.unwrap();
    });
    // This start checks the whole index; the next one rebuilds it from the old journal.
    site.config.quota = 2 * (BLOCK + (4 << 10));
    run(async {
        let store = site.open();
        assert_eq!(store.load_clients("").await.unwrap().len(), 1);
        assert_eq!(store.maintain().await.unwrap(), ["other".into()]);
    });
    fs::remove_file(site.config.dir.join("index.db")).unwrap();
    site.config.quota = 1;
    run(async {
        let store = site.open();
        assert_eq!(store.records("").await.unwrap(), [("rings".to_owned(), b"open".to_vec())]);
        assert_eq!(store.maintain().await.unwrap(), ["pinned".into()]);
        assert_eq!(store.lookup("@1 original").await.unwrap().len(), 1);
    });
}
