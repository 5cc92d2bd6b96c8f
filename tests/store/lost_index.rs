//! Loss of and damage to the index: its journal and the blobs restore every object with its head, and never a
//! wrong one. Only last uses are lost.

use super::*;
use gupd_store::{BLOCK, Object};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// A key, its variant, its expected head and its body.
type Known = (&'static str, &'static str, HeaderMap, Bytes);

fn headers(etag: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static(etag))])
}

async fn put(store: &Arc<Store>, key: &str, selecting: &str, etag: &'static str, body: &Bytes) -> Object {
    let mut writer = InOrder::begin(store, Some(body.len() as u64)).await.unwrap();
    writer.write(vec![body.clone()]).await.unwrap();
    let new = NewObject { selecting: selecting.to_owned(), headers: headers(etag), ..response(key) };
    writer.commit(new).await.unwrap().object
}

/// Stores one object of each kind: a shared blob, a refreshed head, variants, a replaced and a removed object.
async fn fill(store: &Arc<Store>) -> Vec<Known> {
    let (one, two, three) = (body(1, BLOCK + 9), body(2, 10), body(3, 300));
    put(store, "first", "", "\"a\"", &one).await;
    put(store, "shares", "", "\"b\"", &one).await;
    let refreshed = put(store, "refreshed", "", "\"old\"", &two).await;
    store.refresh(&refreshed, &headers("\"new\""), NOW + 1, NOW + 2).await.unwrap();
    put(store, "variants", "a=1", "\"1\"", &body(4, 40)).await;
    put(store, "variants", "a=2", "\"2\"", &body(5, 50)).await;
    put(store, "replaced", "", "\"x\"", &body(6, 60)).await;
    put(store, "replaced", "", "\"y\"", &three).await;
    put(store, "removed", "", "\"z\"", &body(7, 70)).await;
    store.remove("removed").await.unwrap();
    vec![
        ("first", "", headers("\"a\""), one.clone()),
        ("shares", "", headers("\"b\""), one),
        ("refreshed", "", headers("\"new\""), two),
        ("variants", "a=1", headers("\"1\""), body(4, 40)),
        ("variants", "a=2", headers("\"2\""), body(5, 50)),
        ("replaced", "", headers("\"y\""), three),
    ]
}

async fn assert_has(store: &Store, known: &[Known]) {
    for (key, selecting, headers, body) in known {
        let found = store.lookup(key).await.unwrap();
        let object = found.iter().find(|object| object.selecting == *selecting);
        let object = object.unwrap_or_else(|| unreachable!("{key} {selecting} is lost: {found:?}"));
        assert_eq!(object.headers, *headers, "{key}");
        let source = BodySource::Blob { id: object.blob, len: object.len };
        assert_eq!(read_from(store, &source, 0, object.len).await.unwrap(), *body, "{key}");
    }
    assert!(store.lookup("removed").await.unwrap().is_empty());
    assert_eq!(store.stats().objects, known.len() as u64);
}

fn index(site: &Site) -> PathBuf {
    site.config.dir.join("index.db")
}

fn journal(site: &Site) -> PathBuf {
    site.config.dir.join("index.journal")
}

fn filled() -> (Site, Vec<Known>) {
    let site = Site::new();
    let known = run(async { fill(&site.open()).await });
    (site, known)
}

/// Asserts that two successive starts find all objects.
fn survives(site: &Site, known: &[Known]) {
    for _start in 0..2 {
        run(async { assert_has(&site.open(), known).await });
    }
}

#[test]
fn flipped_bit_in_the_index_costs_nothing() {
    let (site, known) = filled();
    let sound = fs::read(index(&site)).unwrap();
    let flipped = |bit: usize| {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(index(&site), bytes).unwrap();
        run(async { assert_has(&site.open(), &known).await });
    };
    // The header of the first page describes all others.
    (0..100 * 8).step_by(7).chain(16 * 8..32 * 8).for_each(flipped);
    let anywhere = any::<proptest::sample::Index>();
    let flips = |at: proptest::sample::Index| {
        flipped(at.index(sound.len() * 8));
        Ok(())
    };
    TestRunner::new(ProptestConfig::with_cases(100)).run(&anywhere, flips).unwrap();
}

#[test]
fn truncated_or_missing_index_costs_nothing() {
    let (site, known) = filled();
    let sound = fs::read(index(&site)).unwrap();
    for len in [0, 1, 15, 100, 4095, 4096, 8192, sound.len() - 4096, sound.len() - 1] {
        fs::write(index(&site), &sound[..len]).unwrap();
        survives(&site, &known);
    }
    for garbage in [&b"not a database at all"[..], &[0xff; 100_000], &[0; 100_000]] {
        fs::write(index(&site), garbage).unwrap();
        survives(&site, &known);
    }
    fs::remove_file(index(&site)).unwrap();
    survives(&site, &known);
}

#[test]
fn damaged_index_is_kept_aside_until_the_next_one() {
    let (site, known) = filled();
    let damaged = |site: &Site| -> Vec<Vec<u8>> {
        let entries = fs::read_dir(&site.config.dir).unwrap().map(|entry| entry.unwrap().path());
        let names = entries.filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("index.damaged-") && !name.ends_with("-wal") && !name.ends_with("-shm")
        });
        names.map(|path| fs::read(path).unwrap()).collect()
    };
    for garbage in ["one", "two"] {
        site.clock.advance(Duration::from_secs(1));
        fs::write(index(&site), garbage).unwrap();
        survives(&site, &known);
        let kept = damaged(&site);
        assert!(kept.len() == 1 && kept[0].starts_with(garbage.as_bytes()), "{} files", kept.len());
    }
}

/// Overwrites the index in place, as a failing disk does, except for the header, which is in memory by now.
fn overwrite_index(site: &Site) {
    let file = fs::File::options().write(true).open(index(site)).unwrap();
    let rot = vec![0x5a; usize::try_from(file.metadata().unwrap().len()).unwrap() - 4096];
    std::os::unix::fs::FileExt::write_all_at(&file, &rot, 4096).unwrap();
}

#[test]
fn index_damaged_while_serving_is_rebuilt() {
    let (site, known) = filled();
    run(async {
        let store = site.open();
        overwrite_index(&site);
        let first = store.lookup("first").await;
        assert!(matches!(first, Err(StoreError::IndexDamaged { .. })), "{first:?}");
        // Queued after the rebuild on the index thread.
        store.record_use(vec![]).await.unwrap();
        assert_has(&store, &known).await;
        put(&store, "later", "", "\"l\"", &body(9, 10)).await;
        store.remove("later").await.unwrap();
    });
    survives(&site, &known);
}

#[test]
fn damage_found_by_a_write_is_repaired() {
    let (site, known) = filled();
    run(async {
        let store = site.open();
        overwrite_index(&site);
        // The writing connection has cached all pages at the start; this one makes it drop them.
        let other = rusqlite::Connection::open(index(&site)).unwrap();
        drop(other.execute_batch("PRAGMA user_version = 4"));
        drop(other);
        assert!(store.remove("removed").await.is_err());
        put(&store, "removed", "", "\"l\"", &body(9, 10)).await;
        store.remove("removed").await.unwrap();
        assert_has(&store, &known).await;
    });
    survives(&site, &known);
}

#[test]
fn lost_index_and_journal_are_restored_from_blobs() {
    let (site, known) = filled();
    let disk = run(async { site.open().stats().disk_bytes });
    // Objects that were the first of their blobs.
    let first: Vec<Known> = known.iter().filter(|known| known.0 != "shares").cloned().collect();
    fs::remove_file(index(&site)).unwrap();
    fs::remove_file(journal(&site)).unwrap();
    drop(site.open());
    let mut full = site;
    full.config.quota = disk + 8 * BLOCK;
    run(async {
        let store = full.open();
        assert!(store.lookup("first").await.unwrap().is_empty());
        let refused = store.begin_blob(Some(16 * BLOCK)).await;
        assert!(refused.is_err(), "files without a row keep their room");
        store.maintain().await.unwrap();
        for (key, ..) in &first {
            assert!(!store.lookup(key).await.unwrap().is_empty(), "{key}");
        }
        assert_eq!(store.lookup("refreshed").await.unwrap()[0].headers, headers("\"old\""));
        assert_eq!((store.stats().disk_bytes, store.stats().objects), (disk, first.len() as u64));
        drop(store);
        // The journal has them now.
        fs::remove_file(index(&full)).unwrap();
        assert_eq!(full.open().stats().objects, first.len() as u64);
    });
}

#[test]
fn invalid_files_are_removed_after_index_loss() {
    let (site, known) = filled();
    fs::remove_file(index(&site)).unwrap();
    let (junk, misnamed) = (BlobId::from([1; 32]), BlobId::from([2; 32]));
    fs::write(site.blob(junk), "rot").unwrap();
    let any = site.files().len() - 1;
    let sound = run(async { site.open().lookup("first").await.unwrap()[0].blob });
    fs::remove_file(index(&site)).unwrap();
    fs::copy(site.blob(sound), site.blob(misnamed)).unwrap();
    run(async {
        let store = site.open();
        store.maintain().await.unwrap();
        assert_has(&store, &known).await;
    });
    assert_eq!(site.files().len(), any);
    assert!(!site.blob(junk).exists() && !site.blob(misnamed).exists());
}

#[test]
fn lost_or_damaged_journal_is_rewritten() {
    for damage in [None, Some(0), Some(50)] {
        let (site, known) = filled();
        match damage {
            None => fs::remove_file(journal(&site)).unwrap(),
            Some(len) => fs::File::options().write(true).open(journal(&site)).unwrap().set_len(len).unwrap(),
        }
        run(async {
            let store = site.open();
            assert_has(&store, &known).await;
            store.maintain().await.unwrap();
            put(&store, "removed", "", "\"l\"", &body(9, 10)).await;
            store.remove("removed").await.unwrap();
        });
        fs::remove_file(index(&site)).unwrap();
        survives(&site, &known);
    }
}

#[test]
fn flipped_bit_in_the_journal_costs_at_most_one_entry() {
    let (site, known) = filled();
    let sound = fs::read(journal(&site)).unwrap();
    for bit in (0..sound.len() * 8).step_by(sound.len() * 8 / 20) {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(journal(&site), bytes).unwrap();
        run(async { assert_has(&site.open(), &known).await });
        fs::remove_file(index(&site)).unwrap();
        run(async {
            let store = site.open();
            let mut found = 0;
            for (key, selecting, _, body) in &known {
                let objects = store.lookup(key).await.unwrap();
                let Some(object) = objects.iter().find(|object| object.selecting == *selecting) else {
                    continue;
                };
                found += 1;
                let source = BodySource::Blob { id: object.blob, len: object.len };
                assert_eq!(read_from(&store, &source, 0, object.len).await.unwrap(), *body, "{key}");
            }
            assert!(found + 1 >= known.len(), "bit {bit}");
        });
        // Back to what it was, for the next bit.
        fs::write(journal(&site), &sound).unwrap();
        fs::remove_file(index(&site)).unwrap();
        run(async { assert_has(&site.open(), &known).await });
    }
}

#[test]
fn index_behind_its_journal_is_brought_up_to_date() {
    let site = Site::new();
    let store = site.open();
    let early = run(async {
        put(&store, "early", "", "\"e\"", &body(8, 10)).await;
        // An index as a power failure may leave it: without its last transactions.
        let early = site.crashed();
        fill(&store).await;
        store.remove("early").await.unwrap();
        early
    });
    let known = run(async { fill(&store).await });
    drop(store);
    for name in ["index.db", "index.db-wal"] {
        fs::copy(early.config.dir.join(name), site.config.dir.join(name)).unwrap();
    }
    run(async {
        let store = site.open();
        assert_has(&store, &known).await;
        assert!(store.lookup("early").await.unwrap().is_empty());
    });
}

#[test]
fn lost_or_damaged_wal_costs_nothing() {
    let site = Site::new();
    let store = site.open();
    let known = run(fill(&store));
    for damage in [0, 100, 5000] {
        let crashed = site.crashed();
        let wal = crashed.config.dir.join("index.db-wal");
        let mut bytes = fs::read(&wal).unwrap();
        bytes[damage] ^= 1;
        fs::write(&wal, bytes).unwrap();
        survives(&crashed, &known);
        let crashed = site.crashed();
        fs::remove_file(crashed.config.dir.join("index.db-wal")).unwrap();
        survives(&crashed, &known);
    }
}

#[test]
fn object_without_file_or_pack_is_not_restored() {
    for is_packed in [false, true] {
        let (site, known) = filled();
        let blob = run(async { site.open().lookup("first").await.unwrap()[0].blob });
        fs::remove_file(if is_packed { site.config.dir.join("packs/1") } else { site.blob(blob) }).unwrap();
        fs::remove_file(index(&site)).unwrap();
        let in_file = |known: &Known| ["first", "shares"].contains(&known.0);
        let remaining: Vec<Known> = known.into_iter().filter(|known| in_file(known) == is_packed).collect();
        survives(&site, &remaining);
    }
}

/// Gives each packed blob a file of its own, as versions without packs had.
fn unpack(site: &Site) {
    let index = rusqlite::Connection::open(index(site)).unwrap();
    let mut select = index.prepare("SELECT hash, pack, at, size FROM blobs WHERE pack IS NOT NULL").unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        Ok((
            BlobId::from(row.get::<_, [u8; 32]>(0)?),
            [1, 2, 3].map(|column| row.get::<_, u32>(column).unwrap()),
        ))
    };
    for record in select.query_map([], row).unwrap() {
        let (id, [pack, at, size]) = record.unwrap();
        let pack = fs::read(site.config.dir.join("packs").join(pack.to_string())).unwrap();
        fs::write(site.blob(id), &pack[at as usize..(at + size) as usize]).unwrap();
    }
    fs::remove_dir_all(site.config.dir.join("packs")).unwrap();
}

#[test]
fn index_of_version_1_is_migrated() {
    let (site, known) = filled();
    unpack(&site);
    let new = site.config.dir.join("new.db");
    fs::rename(index(&site), &new).unwrap();
    fs::remove_file(journal(&site)).unwrap();
    let old = rusqlite::Connection::open(index(&site)).unwrap();
    old.execute_batch(include_str!("../fixtures/index_v1.sql")).unwrap();
    old.execute_batch(&format!(
        "ATTACH '{}' AS new;
         INSERT INTO blobs SELECT id, hash, len, disk FROM new.blobs;
         INSERT INTO objects SELECT id, key, selecting, status, headers, content_type, upstream, request_time,
             response_time, last_used, blob FROM new.objects;",
        new.display()
    ))
    .unwrap();
    drop(old);
    run(async {
        let store = site.open();
        assert_has(&store, &known).await;
        // Version 1 had no journal: it is written now.
        store.maintain().await.unwrap();
    });
    fs::remove_file(index(&site)).unwrap();
    survives(&site, &known);
}
