//! Bodies are read back as written, from memory and disk, during the fill and after it. Equal bodies are stored
//! once.

use super::*;
use gupd_store::{BLOCK, CHUNK};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::os::unix::fs::{MetadataExt, chown};

fn sizes() -> impl Strategy<Value = u64> {
    let edges = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5];
    prop_oneof![proptest::sample::select(edges.to_vec()), 0..4 * CHUNK]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn body_in_any_frames_reads_back_from_any_position(
        len in sizes(), known: bool, memory in prop_oneof![Just(0), Just(64 * MIB)],
        frames in proptest::collection::vec(prop_oneof![1u64..100, 1u64..300_000], 1..12), group in 1usize..4,
        at in proptest::collection::vec(any::<proptest::sample::Index>(), 3),
    ) {
        let site = Site::with(|config| config.memory = memory);
        let body = body(len, len);
        run(async {
            let store = site.open();
            let mut writer = InOrder::begin(&store, known.then_some(len)).await.unwrap();
            let partial = BodySource::Partial(writer.partial().clone());
            // Few small frames: a body of small ones takes too long.
            let mut cuts = frames.iter().chain([&100_000]).cycle();
            let mut rest = body.clone();
            while !rest.is_empty() {
                let call: Vec<Bytes> = (0..group)
                    .map(|_| rest.split_to(rest.len().min(usize::try_from(*cuts.next().unwrap()).unwrap())))
                    .collect();
                let readable = writer.write(call).await.unwrap();
                let written = len - rest.len() as u64;
                assert_eq!(readable, if known && written == len { len } else { written / BLOCK * BLOCK });
                let from = readable.saturating_sub(BLOCK + 7);
                let seen = read_from(&store, &partial, from, readable).await.unwrap();
                assert_eq!(seen, body.slice(usize::try_from(from).unwrap()..usize::try_from(readable).unwrap()));
                let beyond = store.read(&partial, readable).await;
                assert!(matches!(beyond, Err(ReadError::OutOfRange { .. })), "unfinished bytes are not readable");
            }
            assert_eq!(writer.end(), len);
            assert_eq!(read_from(&store, &partial, 0, len).await.unwrap(), body);
            let committed = writer.commit(response("key")).await.unwrap();
            assert_eq!(committed.object.len, len);
            assert_eq!(*committed.object.blob.as_bytes(), <[u8; 32]>::from(Sha256::digest(&body)));
            for at in at {
                let from = at.index(body.len() + 1) as u64;
                for source in [&partial, &committed.source] {
                    let seen = read_from(&store, source, from, len).await.unwrap();
                    assert_eq!(seen, body.slice(usize::try_from(from).unwrap()..));
                }
            }
            let end = store.read(&committed.source, len).await;
            assert!(matches!(end, Err(ReadError::OutOfRange { .. })));
            drop(store);
            let store = site.open();
            assert_eq!(read_from(&store, &committed.source, 0, len).await.unwrap(), body);
        });
    }
}

#[tokio::test]
async fn committed_chunks_stay_cached_under_the_blob_name() {
    let site = Site::new();
    let store = site.open();
    let body = body(1, 2 * CHUNK + 100);
    let committed = super::store(&store, "key", &body).await.unwrap();
    for position in [0, 5, CHUNK, 2 * CHUNK + 99] {
        let hot = store.read_cached(&committed.source, position).expect("hot");
        assert!(body.slice(usize::try_from(position).unwrap()..).starts_with(&hot));
    }
    assert_eq!(store.read_cached(&committed.source, 2 * CHUNK + 100), None);
    assert_eq!(store.stats().disk_reads, 0);
}

#[tokio::test]
async fn equal_bodies_share_a_blob_and_count_as_deduplicated() {
    let site = Site::new();
    let store = site.open();
    let body = body(1, 3 * BLOCK);
    let first = super::store(&store, "one", &body).await.unwrap();
    let second = super::store(&store, "two", &body).await.unwrap();
    assert!(!first.deduplicated && second.deduplicated);
    assert_eq!(site.files().len(), 1);
    let stats = store.stats();
    assert_eq!((stats.objects, stats.blobs, stats.deduplicated_bytes), (2, 1, 3 * BLOCK));
    store.remove("one").await.unwrap();
    assert_eq!(read_from(&store, &second.source, 0, 3 * BLOCK).await.unwrap(), body);
    store.remove("two").await.unwrap();
    assert_eq!(site.files().len(), 0);
    assert_eq!(store.stats().disk_bytes, 0);
}

#[tokio::test]
async fn missing_blob_file_is_restored_by_the_next_fill() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let body = body(1, 3 * BLOCK);
    let first = super::store(&store, "one", &body).await.unwrap();
    fs::remove_file(site.blob(first.object.blob)).unwrap();
    assert!(matches!(store.read(&first.source, 0).await, Err(ReadError::Gone { .. })));
    let second = super::store(&store, "two", &body).await.unwrap();
    assert!(!second.deduplicated);
    assert_eq!(read_from(&store, &first.source, 0, 3 * BLOCK).await.unwrap(), body);
}

#[test]
fn dropped_writer_leaves_no_file_and_no_clean_end() {
    let site = Site::new();
    run(async {
        let store = site.open();
        let mut writer = InOrder::begin(&store, None).await.unwrap();
        writer.write(vec![body(1, CHUNK + 5)]).await.unwrap();
        let partial = writer.partial().clone();
        drop(writer);
        assert_eq!(partial.length(), None);
        assert_eq!(store.stats().objects, 0);
    });
    assert!(site.files().is_empty());
}

#[tokio::test]
async fn reader_of_a_removed_blob_continues() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let body = body(1, 2 * CHUNK);
    let committed = super::store(&store, "one", &body).await.unwrap();
    let first = store.read(&committed.source, 0).await.unwrap();
    store.remove("one").await.unwrap();
    let rest = read_from(&store, &committed.source, first.len() as u64, 2 * CHUNK).await.unwrap();
    assert_eq!([first, rest].concat(), body);
}

#[test]
fn concurrent_store_and_remove_never_lose_an_indexed_body() {
    let site = Site::with(|config| config.memory = 0);
    let body = body(1, 3 * BLOCK);
    run(async {
        let store = site.open();
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let (store, body) = (store.clone(), body.clone());
                tokio::spawn(async move {
                    for round in 0..15 {
                        let key = format!("{}", (task + round) % 3);
                        super::store(&store, &key, &body).await.unwrap();
                        store.remove(&format!("{}", (task * round) % 3)).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let mut objects = 0;
        for key in ["0", "1", "2"] {
            for object in store.lookup(key).await.unwrap() {
                objects += 1;
                assert!(site.blob(object.blob).exists());
            }
        }
        assert_eq!(site.files().len(), usize::from(objects > 0), "one file for all, none without an object");
        let last = super::store(&store, "last", &body).await.unwrap();
        assert_eq!(read_from(&store, &last.source, 0, 3 * BLOCK).await.unwrap(), body);
    });
}

#[tokio::test]
async fn blob_stored_by_root_belongs_to_the_folder_owner() {
    const SERVICE: u32 = 65_534;
    let site = Site::new();
    let store = site.open();
    if chown(&site.config.dir, Some(SERVICE), Some(SERVICE)).is_err() {
        return println!("not run: only root can make a folder another user's");
    }
    let committed = super::store(&store, "key", &body(1, BLOCK)).await.unwrap();
    super::store(&store, "small", &body(1, 9)).await.unwrap();
    for file in [site.blob(committed.object.blob), site.config.dir.join("packs/1")] {
        assert_eq!(fs::metadata(file).unwrap().uid(), SERVICE);
    }
}
