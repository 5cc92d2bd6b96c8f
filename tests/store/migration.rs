//! What an earlier gupd stored is there after an upgrade. Its first version is in `lost_index`.

use super::*;
use gupd::store::{BLOCK, Publication};

/// As a gupd of version 2 left it: its index, and its journal, whose frames have not changed.
fn of_version_2(site: &Site) {
    let dir = &site.config.dir;
    fs::rename(dir.join("index.db"), dir.join("new.db")).unwrap();
    let old = rusqlite::Connection::open(dir.join("index.db")).unwrap();
    old.execute_batch(include_str!("../fixtures/index_v2.sql")).unwrap();
    old.execute_batch(&format!(
        "ATTACH '{}' AS new;
         INSERT INTO blobs SELECT * FROM new.blobs;
         INSERT INTO objects SELECT * FROM new.objects;
         UPDATE totals SET journal = (SELECT journal FROM new.totals);",
        dir.join("new.db").display()
    ))
    .unwrap();
}

#[test]
fn an_index_of_version_2_is_brought_up_to_date_and_what_is_pinned_stays_pinned() {
    let mut site = Site::new();
    run(async {
        let store = site.open();
        for key in ["pinned", "kept", "other"] {
            super::store(&store, key, &body(key.len() as u64, BLOCK)).await.unwrap();
        }
        store.pin("pinned").await.unwrap();
    });
    of_version_2(&site);
    run(async {
        let store = site.open();
        assert_eq!((store.facts().objects, store.facts().blobs), (3, 3));
        let change = Publication {
            kept: vec![("kept".into(), true)],
            records: vec![("rings".to_owned(), Some(b"open".to_vec()))],
            ..Publication::default()
        };
        store.publish(change).await.unwrap();
        store.save_clients(vec![("client".to_owned(), Some(b"seen".to_vec()))]).await.unwrap();
    });
    // Checked whole at this start, and made anew at the next: what the old journal says is still there.
    site.config.quota = 2 * (BLOCK + (4 << 10));
    run(async {
        let store = site.open();
        assert_eq!(store.clients("").await.unwrap().len(), 1);
        assert_eq!(store.maintain().await.unwrap(), ["other".into()]);
    });
    fs::remove_file(site.config.dir.join("index.db")).unwrap();
    site.config.quota = 1;
    run(async {
        let store = site.open();
        assert_eq!(store.records("").await.unwrap(), [("rings".to_owned(), b"open".to_vec())]);
        assert_eq!(store.maintain().await.unwrap(), ["kept".into()]);
        assert_eq!(store.lookup("pinned").await.unwrap().len(), 1);
    });
}
