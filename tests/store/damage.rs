//! Damaged files are never served: after a flipped bit, truncation or a swap of files, reads report damage.

use super::*;
use gupd_store::{BLOCK, CHUNK, EvictionReason};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::os::unix::fs::FileExt;

#[test]
fn flipped_bit_in_a_blob_is_never_returned() {
    let site = Site::with(|config| config.memory = 0);
    let stored = run(async {
        let store = site.open();
        let mut stored = Vec::new();
        for len in [BLOCK, BLOCK + 1, CHUNK + 3 * BLOCK + 7] {
            stored.push(super::store(&store, &len.to_string(), &body(len, len)).await.unwrap());
        }
        stored
    });
    let flips = (0..stored.len(), any::<proptest::sample::Index>());
    let flipped = |(which, at): (usize, proptest::sample::Index)| {
        let CommittedObject { object, source, .. } = &stored[which];
        let file = fs::File::options().read(true).write(true).open(site.blob(object.blob)).unwrap();
        let bit = at.index(usize::try_from(file.metadata().unwrap().len() * 8).unwrap()) as u64;
        let flip = || {
            let mut byte = [0];
            file.read_exact_at(&mut byte, bit / 8).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8).unwrap();
        };
        let whole = || run(async { read_from(&site.open(), source, 0, object.len).await });
        flip();
        prop_assert!(matches!(whole(), Err(ReadError::Damaged { .. })), "bit {bit} of {} bytes", object.len);
        flip();
        prop_assert!(whole().is_ok());
        Ok(())
    };
    TestRunner::new(ProptestConfig::with_cases(200)).run(&flips, flipped).unwrap();
}

#[tokio::test]
async fn damaged_read_is_counted() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let committed = super::store(&store, "key", &body(1, BLOCK)).await.unwrap();
    fs::write(site.blob(committed.object.blob), "rot").unwrap();
    assert!(store.read(&committed.source, 0).await.is_err());
    assert_eq!(store.stats().verification_failures, 1);
}

#[tokio::test]
async fn truncated_file_is_damaged_at_every_length() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let committed = super::store(&store, "key", &body(3, BLOCK + 9)).await.unwrap();
    drop(store);
    let file = fs::File::options().write(true).open(site.blob(committed.object.blob)).unwrap();
    let size = file.metadata().unwrap().len();
    for cut in [size - 1, BLOCK + 9, BLOCK, 47, 1, 0] {
        file.set_len(cut).unwrap();
        let store = site.open();
        let seen = store.read(&committed.source, 0).await;
        assert!(matches!(seen, Err(ReadError::Damaged { .. })), "cut to {cut}: {seen:?}");
    }
}

#[tokio::test]
async fn valid_file_under_another_name_is_damaged() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let one = super::store(&store, "one", &body(1, BLOCK)).await.unwrap();
    let two = super::store(&store, "two", &body(2, BLOCK)).await.unwrap();
    fs::copy(site.blob(one.object.blob), site.blob(two.object.blob)).unwrap();
    assert!(matches!(store.read(&two.source, 0).await, Err(ReadError::Damaged { .. })));
}

#[tokio::test]
async fn damaged_partial_file_is_not_readable() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let mut writer = InOrder::begin(&store, None).await.unwrap();
    writer.write(vec![body(1, CHUNK)]).await.unwrap();
    let file = fs::read_dir(site.config.dir.join("partial")).unwrap().next().unwrap().unwrap().path();
    fs::File::options().write(true).open(file).unwrap().write_all_at(b"rot", 100).unwrap();
    let seen = store.read(&BodySource::Partial(writer.partial().clone()), 0).await;
    assert!(matches!(seen, Err(ReadError::Damaged { .. })));
}

#[tokio::test]
async fn refetched_chunk_is_not_invalidated_by_an_earlier_reader() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let mut writer = store.begin_blob(Some(CHUNK)).await.unwrap();
    writer.begin_segment(0).write(vec![body(1, CHUNK)]).await.unwrap();
    let partial = writer.partial().clone();
    let losses = partial.loss_count();
    partial.invalidate_chunk(70_000, losses);
    assert_eq!(partial.first_gap(0..CHUNK), Some(0..CHUNK));
    writer.begin_segment(0).write(vec![body(1, CHUNK)]).await.unwrap();
    partial.invalidate_chunk(70_000, losses);
    assert_eq!(partial.first_gap(0..CHUNK), None);
    partial.invalidate_chunk(70_000, partial.loss_count());
    assert_eq!(partial.first_gap(0..CHUNK), Some(0..CHUNK));
}

#[tokio::test]
async fn fill_that_paused_within_a_block_is_finished() {
    let (site, length) = (Site::new(), 3_000_000);
    let (store, body) = (site.open(), body(1, length));
    for paused_at in [70_000, 900_000, CHUNK + 1, length - 1] {
        let mut writer = store.begin_blob(Some(length)).await.unwrap();
        let mut segment = writer.begin_segment(0);
        segment.write(vec![body.slice(..paused_at as usize)]).await.unwrap();
        writer.return_segment(segment);
        // A chunk at a time.
        for _ in 0..4 {
            let Err(missing) = writer.finish().await.unwrap() else { break };
            let mut segment = writer.begin_segment(missing.start);
            segment.write(vec![body.slice(missing.start as usize..missing.end as usize)]).await.unwrap();
            writer.return_segment(segment);
        }
        let committed = writer.commit(super::response(&paused_at.to_string())).await.unwrap();
        assert_eq!(read_from(&store, &committed.source, 0, length).await.unwrap(), body);
    }
}

#[tokio::test]
async fn discarded_blob_removes_all_objects_and_can_be_refilled() {
    let site = Site::with(|config| config.memory = 0);
    let store = site.open();
    let body = body(1, CHUNK);
    let one = super::store(&store, "one", &body).await.unwrap();
    super::store(&store, "two", &body).await.unwrap();
    let file = fs::File::options().write(true).open(site.blob(one.object.blob)).unwrap();
    file.write_all_at(b"rot", 70_000).unwrap();
    assert!(matches!(store.read(&one.source, 0).await, Err(ReadError::Damaged { .. })));
    let mut keys = store.discard_blob(one.object.blob).await.unwrap();
    keys.sort();
    assert_eq!(keys, ["one".into(), "two".into()]);
    assert!(store.lookup("one").await.unwrap().is_empty());
    assert_eq!(store.stats().evicted[EvictionReason::Damaged as usize].objects, 2);
    let again = super::store(&store, "one", &body).await.unwrap();
    assert_eq!(read_from(&store, &again.source, 0, CHUNK).await.unwrap(), body);
}
