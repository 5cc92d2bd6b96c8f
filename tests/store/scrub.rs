//! The scrub finds what has rotted before anybody asks for it, and a restart costs it little.

use super::*;
use gupd_store::{CHUNK, Scrub};
use std::os::unix::fs::FileExt;

const HOUR: Duration = Duration::from_secs(3600);

/// Runs until a pass has ended; gives what it found.
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

/// As a scrub that began a pass an hour ago and was stopped behind this blob left it.
fn leave_progress(site: &Site, last: &str) {
    let line = format!("gupd-scrub-1 {} 0 {last}\n", NOW - 3_600_000);
    fs::write(site.config.dir.join("scrub"), line).unwrap();
}

#[test]
fn a_scrub_that_is_late_verifies_everything_at_once_and_finds_each_damage() {
    let site = Site::new();
    run(async {
        let store = site.open();
        let ids = three_blobs(&store).await;
        fs::File::options().write(true).open(site.blob(ids[0])).unwrap().write_all_at(b"rot", CHUNK).unwrap();
        fs::remove_file(site.blob(ids[2])).unwrap();
        leave_progress(&site, "-");
        let found = pass(&store, &mut store.scrub(HOUR, 1 << 40)).await;
        assert_eq!(found, [ids[0], ids[2]]);
        let facts = store.stats();
        assert_eq!((facts.scrub_damaged, facts.scrub_completed, facts.objects), (2, NOW, 1));
    });
}

#[test]
fn a_scrub_goes_on_behind_the_blob_it_had_come_to() {
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
        assert_eq!(store.stats().scrub_completed, NOW, "the last pass is known after a restart");
    });
}

#[test]
fn a_scrub_that_is_in_time_waits_for_each_blobs_turn() {
    let site = Site::new();
    run(async {
        let store = site.open();
        three_blobs(&store).await;
        let mut scrub = store.scrub(365 * 24 * HOUR, 1 << 40);
        // The file is written when the first blob's turn is waited for.
        tokio::select! {
            blob = scrub.next_damaged() => panic!("{blob} is sound"),
            () = async { while !site.config.dir.join("scrub").exists() { tokio::task::yield_now().await } } => {}
        }
        assert_eq!(store.stats().scrubbed_bytes, 0);
    });
}

#[tokio::test(start_paused = true)]
async fn a_scrub_reads_no_faster_than_its_rate() {
    let site = Site::new();
    let store = site.open();
    three_blobs(&store).await;
    leave_progress(&site, "-");
    let begun = tokio::time::Instant::now();
    let mut scrub = store.scrub(HOUR, CHUNK);
    // In the paused clock's time, which goes on only while nobody has anything to do.
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
async fn a_store_that_is_pulled_away_is_not_taken_for_a_damaged_one() {
    let site = Site::new();
    let store = site.open();
    three_blobs(&store).await;
    leave_progress(&site, "-");
    let mut scrub = store.scrub(HOUR, 1 << 40);
    let (blobs, away) = (site.config.dir.join("blobs"), site.config.dir.join("away"));
    fs::rename(&blobs, &away).unwrap();
    // Longer than three blobs take at a pause of a minute after each failure, in the paused clock's time.
    let found = tokio::time::timeout(Duration::from_secs(300), scrub.next_damaged()).await;
    assert!(found.is_err(), "{found:?}");
    let facts = store.stats();
    assert_eq!((facts.objects, facts.scrub_damaged, facts.scrub_completed), (3, 0, 0));
    fs::rename(&away, &blobs).unwrap();
    let found = tokio::time::timeout(2 * HOUR, scrub.next_damaged()).await;
    assert!(found.is_err() && store.stats().scrub_completed == NOW, "{found:?}");
}
