//! The scrub finds damage before a client requests it, and a restart costs little.

use super::*;
use gupd_store::{CHUNK, Scrub};
use std::os::unix::fs::FileExt;

const HOUR: Duration = Duration::from_secs(3600);

/// Runs until a pass has ended, and returns the damaged blobs.
async fn pass(store: &Store, scrub: &mut Scrub) -> Vec<BlobId> {
    let mut damaged = Vec::new();
    loop {
        tokio::select! {
            blob = scrub.next_damaged() => {
                damaged.push(blob);
                store.discard_blob(blob).await.unwrap();
            }
            () = async { while store.stats().scrub_completed == 0 { tokio::task::yield_now().await } } => break,
        }
    }
    damaged
}

async fn three_blobs(store: &Arc<Store>) -> Vec<BlobId> {
    let mut ids = Vec::new();
    for seed in 0..3 {
        let len = CHUNK * (seed + 1) + 7;
        ids.push(super::store(store, &seed.to_string(), &body(seed, len)).await.unwrap().object.blob);
    }
    ids.sort();
    ids
}

/// Writes the progress of a scrub that began an hour ago and stopped after the blob `last`.
fn leave_progress(site: &Site, last: &str) {
    let line = format!("gupd-scrub-1 {} 0 {last}\n", NOW - 3_600_000);
    fs::write(site.config.dir.join("scrub"), line).unwrap();
}

#[test]
fn late_scrub_runs_at_once_and_finds_all_damage() {
    let site = Site::new();
    run(async {
        let store = site.open();
        let ids = three_blobs(&store).await;
        fs::File::options().write(true).open(site.blob(ids[0])).unwrap().write_all_at(b"rot", CHUNK).unwrap();
        fs::remove_file(site.blob(ids[2])).unwrap();
        leave_progress(&site, "-");
        let found = pass(&store, &mut store.scrub(HOUR, 1 << 40)).await;
        assert_eq!(found, [ids[0], ids[2]]);
        let stats = store.stats();
        assert_eq!((stats.scrub_damaged, stats.scrub_completed, stats.objects), (2, NOW, 1));
    });
}

#[test]
fn restarted_scrub_continues_after_the_last_blob() {
    let site = Site::new();
    run(async {
        let store = site.open();
        let ids = three_blobs(&store).await;
        let len = fs::metadata(site.blob(ids[2])).unwrap().len() / CHUNK * CHUNK + 7;
        leave_progress(&site, &ids[1].to_string());
        assert!(pass(&store, &mut store.scrub(HOUR, 1 << 40)).await.is_empty());
        assert_eq!(store.stats().scrubbed_bytes, len);
        drop(store);
        let store = site.open();
        let _scrub = store.scrub(HOUR, 1 << 40);
        assert_eq!(store.stats().scrub_completed, NOW, "the last pass survives a restart");
    });
}

#[test]
fn scrub_on_time_waits_for_each_blob() {
    let site = Site::new();
    run(async {
        let store = site.open();
        three_blobs(&store).await;
        let mut scrub = store.scrub(365 * 24 * HOUR, 1 << 40);
        // The file is written when the scrub waits for the first blob.
        tokio::select! {
            blob = scrub.next_damaged() => panic!("{blob} is sound"),
            () = async { while !site.config.dir.join("scrub").exists() { tokio::task::yield_now().await } } => {}
        }
        assert_eq!(store.stats().scrubbed_bytes, 0);
    });
}

#[tokio::test(start_paused = true)]
async fn scrub_reads_no_faster_than_its_rate() {
    let site = Site::new();
    let store = site.open();
    three_blobs(&store).await;
    leave_progress(&site, "-");
    let begun = tokio::time::Instant::now();
    let mut scrub = store.scrub(HOUR, CHUNK);
    // The paused clock advances only while all tasks are idle.
    let done = async {
        while store.stats().scrub_completed == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        blob = scrub.next_damaged() => panic!("{blob} is sound"),
        () = done => {}
    }
    let bytes = store.stats().scrubbed_bytes;
    let least = Duration::from_secs(bytes / CHUNK - 1);
    assert!(begun.elapsed() >= least && begun.elapsed() < 2 * least, "{:?} for {bytes}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn unmounted_store_is_not_reported_as_damaged() {
    let site = Site::new();
    let store = site.open();
    three_blobs(&store).await;
    leave_progress(&site, "-");
    let mut scrub = store.scrub(HOUR, 1 << 40);
    let (blobs, away) = (site.config.dir.join("blobs"), site.config.dir.join("away"));
    fs::rename(&blobs, &away).unwrap();
    // Longer than three blobs with a pause of a minute after each failure, on the paused clock.
    let found = tokio::time::timeout(Duration::from_secs(300), scrub.next_damaged()).await;
    assert!(found.is_err(), "{found:?}");
    let stats = store.stats();
    assert_eq!((stats.objects, stats.scrub_damaged, stats.scrub_completed), (3, 0, 0));
    fs::rename(&away, &blobs).unwrap();
    let found = tokio::time::timeout(2 * HOUR, scrub.next_damaged()).await;
    assert!(found.is_err() && store.stats().scrub_completed == NOW, "{found:?}");
}
