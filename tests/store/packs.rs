//! Packs: small bodies cost no file of their own, and keep every promise that files keep.

use super::*;
use gupd_store::{BLOCK, CHUNK};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::os::unix::fs::FileExt;

const KIB: u64 = 1 << 10;

fn count(site: &Site, folder: &str) -> usize {
    fs::read_dir(site.config.dir.join(folder)).unwrap().count()
}

/// Number of blobs with files of their own.
fn blob_files(site: &Site) -> usize {
    let dirs = fs::read_dir(site.config.dir.join("blobs")).unwrap().map(|dir| dir.unwrap().path());
    dirs.map(|dir| fs::read_dir(dir).unwrap().count()).sum()
}

fn packs(site: &Site) -> Vec<PathBuf> {
    let mut packs: Vec<_> =
        fs::read_dir(site.config.dir.join("packs")).unwrap().map(|pack| pack.unwrap().path()).collect();
    packs.sort();
    packs
}

fn used_bytes(site: &Site) -> u64 {
    site.files().iter().map(|size| size.next_multiple_of(4096)).sum()
}

pub(super) async fn read_whole(store: &Store, key: &str) -> Result<Bytes, ReadError> {
    let object = store.lookup(key).await.unwrap().remove(0);
    let source = BodySource::Blob { id: object.blob, len: object.len };
    read_from(store, &source, 0, object.len).await
}

#[test]
fn small_body_costs_no_file_and_reads_back_after_a_restart() {
    let site = Site::with(|config| config.memory = 0);
    let sizes = [0, 1, 10, 4 * KIB, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK, CHUNK + 1];
    run(async {
        let store = site.open();
        for len in sizes {
            let mut writer = InOrder::begin(&store, Some(len)).await.unwrap();
            writer.write(vec![body(len, len)]).await.unwrap();
            assert_eq!(count(&site, "partial"), usize::from(len > CHUNK), "{len} bytes before their commit");
            writer.commit(response(&len.to_string())).await.unwrap();
        }
    });
    assert_eq!(
        (blob_files(&site), count(&site, "packs")),
        (4, 1),
        "only bodies of a block or more have files"
    );
    for _start in 0..2 {
        run(async {
            let store = site.open();
            for len in sizes {
                assert_eq!(
                    read_whole(&store, &len.to_string()).await.unwrap(),
                    body(len, len),
                    "{len} bytes"
                );
            }
        });
        fs::remove_file(site.config.dir.join("index.db")).unwrap();
    }
}

#[tokio::test]
async fn body_that_looks_like_a_record_has_its_own_file() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let magic = b"gupdpack";
    for (number, (before, after)) in
        [(0, 0), (1, 0), (0, 1), (300, 300), (60_000, 4000)].into_iter().enumerate()
    {
        let bytes = Bytes::from([vec![0; before], magic.to_vec(), vec![0; after]].concat());
        let key = number.to_string();
        super::store(&store, &key, &bytes).await.unwrap();
        assert_eq!((blob_files(&site), count(&site, "packs")), (number + 1, 0));
        assert_eq!(read_whole(&store, &key).await.unwrap(), bytes);
    }
    super::store(&store, "other", &Bytes::from_static(b"gupdpac")).await.unwrap();
    assert_eq!(count(&site, "packs"), 1);
}

#[tokio::test]
async fn body_in_memory_moves_to_a_file_when_it_must() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let cases: [(&str, Option<u64>, u64, bool, usize); 6] = [
        ("known and small", Some(BLOCK), BLOCK, false, 0),
        ("known and small, without memory", Some(BLOCK), BLOCK, true, 1),
        ("smaller than a block, without memory", Some(10), 10, true, 0),
        ("a chunk", Some(CHUNK), CHUNK, false, 0),
        ("open-ended and below a chunk", None, CHUNK - 1, false, 0),
        ("open-ended and a chunk", None, CHUNK, false, 1),
    ];
    for (name, declared, len, is_short, files) in cases {
        let charge = is_short.then(|| store.chunk_memory().charge(1 << 30));
        let mut writer = InOrder::begin(&store, declared).await.unwrap();
        writer.write(vec![body(1, len / 2)]).await.unwrap();
        let partial = BodySource::Partial(writer.partial().clone());
        writer.write(vec![body(1, len).slice(usize::try_from(len / 2).unwrap()..)]).await.unwrap();
        assert_eq!(count(&site, "partial"), files, "{name}");
        writer.end();
        let mut expected = body(1, len / 2).to_vec();
        expected.extend_from_slice(&body(1, len)[usize::try_from(len / 2).unwrap()..]);
        assert_eq!(read_from(&store, &partial, 0, len).await.unwrap(), expected, "{name}");
        writer.commit(response(name)).await.unwrap();
        assert_eq!(read_from(&store, &partial, 0, len).await.unwrap(), expected, "{name}: after the commit");
        assert_eq!(read_whole(&store, name).await.unwrap(), expected, "{name}: committed");
        drop(charge);
    }
    assert_eq!(count(&site, "partial"), 0);
}

#[test]
fn flipped_bit_in_a_pack_is_never_returned() {
    let site = Site::with(|config| config.memory = 0);
    let sizes = [1, 300, 5 * KIB];
    run(async {
        let store = site.open();
        for len in sizes {
            super::store(&store, &len.to_string(), &body(len, len)).await.unwrap();
        }
    });
    let pack = packs(&site).remove(0);
    let sound = fs::read(&pack).unwrap();
    let flipped = |at: proptest::sample::Index| {
        let mut bytes = sound.clone();
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&pack, bytes).unwrap();
        run(async {
            let store = site.open();
            let mut damaged = 0;
            for len in sizes {
                match read_whole(&store, &len.to_string()).await {
                    Ok(read) => assert_eq!(read, body(len, len)),
                    Err(error) => {
                        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
                        damaged += 1;
                    }
                }
            }
            assert!(damaged <= 1, "bit {bit}: {damaged} records");
        });
        Ok(())
    };
    let flips = any::<proptest::sample::Index>();
    TestRunner::new(ProptestConfig::with_cases(100)).run(&flips, flipped).unwrap();
}

#[tokio::test]
async fn truncated_or_missing_pack_is_reported_and_refilled() {
    let site = Site::with(|config| config.memory = 0);
    let committed = super::store(&site.open(), "key", &body(3, 5000)).await.unwrap();
    let pack = packs(&site).remove(0);
    let whole = fs::read(&pack).unwrap();
    for cut in [whole.len() - 1, 5000, 47, 24, 0] {
        fs::write(&pack, &whole[..cut]).unwrap();
        let store = site.open();
        let read = store.read(&committed.source, 0).await;
        assert!(matches!(read, Err(ReadError::Damaged { .. })), "cut to {cut}: {read:?}");
    }
    fs::remove_file(&pack).unwrap();
    let store = site.open();
    assert!(matches!(store.read(&committed.source, 0).await, Err(ReadError::Gone { .. })));
    let again = super::store(&store, "other", &body(3, 5000)).await.unwrap();
    assert!(!again.deduplicated);
    assert_eq!(read_whole(&store, "key").await.unwrap(), body(3, 5000));
}

#[tokio::test]
async fn damaged_record_is_repaired_in_place() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    super::store(&store, "first", &body(1, 5000)).await.unwrap();
    let committed = super::store(&store, "second", &body(2, 5000)).await.unwrap();
    let pack = packs(&site).remove(0);
    let end = fs::metadata(&pack).unwrap().len();
    fs::File::options().write(true).open(&pack).unwrap().write_all_at(b"rot", end - 4000).unwrap();
    assert!(matches!(store.read(&committed.source, 0).await, Err(ReadError::Damaged { .. })));
    let (id, whole) = (committed.object.blob, body(2, 5000));
    let fetch = |_, range: std::ops::Range<u64>| {
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let bytes = whole.slice(range);
        async move { Ok::<_, gupd_store::RepairError>(bytes) }
    };
    assert_eq!(store.repair_blob(id, fetch).await.unwrap(), 5000);
    assert_eq!(read_whole(&store, "second").await.unwrap(), whole);
    assert_eq!(read_whole(&store, "first").await.unwrap(), body(1, 5000));
    // The same for a trailer, whose blob gets a file of its own.
    fs::File::options().write(true).open(&pack).unwrap().write_all_at(b"rot", end - 40).unwrap();
    drop(store);
    let store = site.open();
    assert!(matches!(store.read(&committed.source, 0).await, Err(ReadError::Damaged { .. })));
    assert_eq!(store.restore_blob(id, fetch).await.unwrap(), 0, "the body is sound");
    assert_eq!(read_whole(&store, "second").await.unwrap(), whole);
    assert_eq!(blob_files(&site), 1);
}

#[test]
fn compaction_frees_the_room_of_removed_records() {
    let site = Site::with(|config| (config.memory, config.quota) = (0, 64 * MIB));
    let kept = |key: u64| key.is_multiple_of(5);
    run(async {
        let store = site.open();
        for key in 0..2000 {
            super::store(&store, &key.to_string(), &body(key, 4 * KIB)).await.unwrap();
        }
        let before = used_bytes(&site);
        for key in (0..2000).filter(|key| !kept(*key)) {
            store.remove(&key.to_string()).await.unwrap();
        }
        assert!(used_bytes(&site) >= before, "records are not overwritten");
        assert!(store.stats().disk_bytes >= before / 100 * 99, "removed records are charged");
        store.maintain().await.unwrap();
        // A pack that is at least half full stays; the one that is appended to is never compacted.
        assert!(used_bytes(&site) < before * 3 / 5, "{} of {before} bytes are left", used_bytes(&site));
        assert!(store.stats().disk_bytes >= used_bytes(&site));
    });
    for damage in ["", "index.db", "index.journal"] {
        if !damage.is_empty() {
            fs::remove_file(site.config.dir.join(damage)).unwrap();
        }
        run(async {
            let store = site.open();
            store.maintain().await.unwrap();
            for key in 0..2000 {
                match kept(key) {
                    true => {
                        assert_eq!(read_whole(&store, &key.to_string()).await.unwrap(), body(key, 4 * KIB));
                    }
                    false => assert!(store.lookup(&key.to_string()).await.unwrap().is_empty(), "{key}"),
                }
            }
        });
    }
}

#[test]
fn removed_records_stay_removed_without_index_and_journal() {
    let site = Site::with(|config| config.memory = 0);
    run(async {
        let store = site.open();
        for key in 0..50 {
            super::store(&store, &key.to_string(), &body(key, 300)).await.unwrap();
        }
        for key in 0..25 {
            store.remove(&key.to_string()).await.unwrap();
        }
    });
    for file in ["index.db", "index.journal"] {
        fs::remove_file(site.config.dir.join(file)).unwrap();
    }
    run(async {
        let store = site.open();
        store.maintain().await.unwrap();
        assert_eq!(store.stats().objects, 25);
        assert_eq!(read_whole(&store, "30").await.unwrap(), body(30, 300));
    });
}

#[test]
fn quota_holds_with_small_objects_and_is_used() {
    const QUOTA: u64 = 8 * MIB;
    let site = Site::with(|config| (config.memory, config.quota) = (0, QUOTA));
    run(async {
        let store = site.open();
        for key in 0..4000 {
            super::store(&store, &key.to_string(), &body(key, 4 * KIB)).await.unwrap();
            if key % 50 == 0 {
                assert!(used_bytes(&site) <= QUOTA, "{} bytes after {key}", used_bytes(&site));
                assert!(store.stats().disk_bytes <= QUOTA, "{:?}", store.stats());
            }
        }
        let stored = store.stats().objects * 4 * KIB;
        assert!(stored > QUOTA / 2, "only {stored} bytes are stored");
        assert_eq!(read_whole(&store, "3999").await.unwrap(), body(3999, 4 * KIB));
    });
}

#[test]
fn large_piece_is_hashed_off_the_callers_thread() {
    let site = Site::with(|config| config.memory = 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        let store = site.open();
        for (bytes, is_inline) in [(1, true), (BLOCK, true), (BLOCK + 1, false), (CHUNK, false)] {
            let mut writer = InOrder::begin(&store, Some(bytes)).await.unwrap();
            // The only other thread is busy, so whatever is done now is done here.
            let (free, is_free) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || is_free.recv().is_err());
            let mut write = std::pin::pin!(writer.write(vec![body(1, bytes)]));
            let polled = write.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
            assert_eq!(polled.is_ready(), is_inline, "{bytes} bytes");
            drop(free);
            assert!(busy.await.unwrap());
            if !is_inline {
                assert_eq!(write.await.unwrap(), bytes);
            }
        }
    });
}

#[test]
fn compaction_after_a_restart_moves_records_to_another_pack() {
    let site = Site::with(|config| config.memory = 0);
    let put = async |store: &Arc<Store>| {
        for key in 0..50 {
            super::store(store, &key.to_string(), &body(key, 3000)).await.unwrap();
        }
        for key in 0..40 {
            store.remove(&key.to_string()).await.unwrap();
        }
    };
    run(async { put(&site.open()).await });
    let before = used_bytes(&site);
    run(async {
        let store = site.open();
        store.maintain().await.unwrap();
        assert!(used_bytes(&site) < before / 2, "{} of {before} bytes are left", used_bytes(&site));
        for key in 40..50 {
            assert_eq!(read_whole(&store, &key.to_string()).await.unwrap(), body(key, 3000));
        }
    });
}
