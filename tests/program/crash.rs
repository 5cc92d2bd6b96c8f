//! `kill -9` at any moment: the next start is quick and serves all committed objects, and no partial file is served as
//! complete.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use tokio::task::JoinSet;

use crate::process::{Relay, serve};
use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, WireClient, bytes};

fn path(number: usize) -> String {
    PAYLOAD.replace("261121001", &format!("{}", 261_121_001 + number))
}

fn count_partial_files(store: &Path) -> usize {
    std::fs::read_dir(store.join("partial")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_resumes_partial_fills_and_keeps_committed_objects() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let body = |number: usize| bytes(number as u64, 3_000_000);
    let mut relay = Relay::start(&mut serve(&manager, folder.path()));
    let gate = Gate::default();
    for number in 0..6 {
        let resource = Resource::new(body(number));
        let whole = number < 3;
        manager.put(&path(number), if whole { resource } else { resource.stalled(2_500_000, &gate) });
        if whole {
            relay.get(&path(number)).await.expect_body();
            relay.wait_until_stored(&path(number)).await;
        } else {
            let mut client = WireClient::connect(relay.address).await;
            client.write_request(&Request::get(&path(number))).await.unwrap();
            client.read_head().await.unwrap();
            client.read_bytes(2_500_000).await.unwrap();
        }
    }
    // Each partial file has a journal.
    assert_eq!(count_partial_files(folder.path()), 2 * 3);
    relay.process.kill();
    gate.open();

    let relay = Relay::start(&mut serve(&manager, folder.path()));
    assert_eq!(count_partial_files(folder.path()), 2 * 3);
    for number in 0..6 {
        let response = relay.get(&path(number)).await;
        assert_eq!(response.cache_status().starts_with("gupd; hit"), number < 3, "object {number}");
        assert!(response.expect_body() == body(number), "object {number}");
    }
    assert!((0..3).all(|number| manager.request_count(&path(number)) == 1));
    for number in 3..6 {
        let rest = manager.requests_for(&path(number)).pop().unwrap();
        let begin = ["bytes=1048576-", "bytes=2097152-"];
        assert!(
            begin.contains(&rest.header("range").unwrap()),
            "the fill resumes after whole chunks: {rest:?}"
        );
        assert!(rest.header("if-range").is_some());
    }
    for number in 3..6 {
        relay.wait_until_stored(&path(number)).await;
    }
    assert_eq!(count_partial_files(folder.path()), 0);
}

/// The link breaks every 3 MB, and the relay is killed three times.
#[tokio::test(flavor = "multi_thread")]
async fn bad_link_and_three_crashes_cost_few_extra_bytes() {
    const LENGTH: usize = 60 << 20;
    // A busy relay leaves all that a connection brings in its sockets.
    const CONNECTION: usize = 3_000_000;
    // One chunk is incomplete, one is being written.
    const IN_MEMORY: usize = 2 << 20;
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let body = bytes(9, LENGTH);
    let cut = Resource::new(body.clone()).cut(CONNECTION, usize::MAX);
    manager.put(PAYLOAD, cut.rate(150 << 20));
    for killed_at in [10_000_000, 25_000_000, 45_000_000] {
        let mut relay = Relay::start(&mut serve(&manager, folder.path()));
        let mut client = WireClient::connect(relay.address).await;
        client.write_request(&Request::get(PAYLOAD)).await.unwrap();
        client.read_head().await.unwrap();
        assert!(client.read_bytes(killed_at).await.unwrap() == body[..killed_at]);
        relay.process.kill();
    }
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    assert!(relay.get(PAYLOAD).await.expect_body() == body);
    relay.wait_until_stored(PAYLOAD).await;
    let ratio = manager.body_bytes() as f64 / LENGTH as f64;
    println!("upstream bytes: {ratio:.3} times the payload's");
    // Each crash loses these, for any size of the payload.
    assert!(manager.body_bytes() <= (LENGTH + 3 * (CONNECTION + IN_MEMORY)) as u64, "{ratio}");
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_among_commits_leaves_only_whole_objects() {
    const OBJECTS: usize = 60;
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let body = |number: usize| bytes(number as u64, 20_000 + number * 1000);
    for number in 0..OBJECTS {
        manager.put(&path(number), Resource::new(body(number)));
    }
    let mut hits = 0;
    for killed_after in [1, 10, 25] {
        let mut relay = Relay::start(&mut serve(&manager, folder.path()));
        let mut clients = JoinSet::new();
        for number in 0..OBJECTS {
            let address = relay.address;
            clients.spawn(async move {
                let mut client = WireClient::connect(address).await;
                client.send(&Request::get(&path(number))).await.map(|response| (number, response))
            });
        }
        for _ in 0..killed_after {
            let (number, response) = clients.join_next().await.unwrap().unwrap().unwrap();
            assert!(response.expect_body() == body(number), "object {number}");
        }
        relay.process.kill();
        drop(clients);

        let relay = Relay::start(&mut serve(&manager, folder.path()));
        assert_eq!(count_partial_files(folder.path()), 0, "small fills leave no partial files");
        for number in 0..OBJECTS {
            let response = relay.get(&path(number)).await;
            hits += usize::from(response.cache_status().starts_with("gupd; hit"));
            assert!(response.expect_body() == body(number), "object {number}");
        }
    }
    assert!(hits > OBJECTS, "later rounds hit the objects of earlier ones: {hits} hits");
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_thousand_objects_are_served_a_second_after_a_crash() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new(bytes(1, 100_000)));
    let mut relay = Relay::start(&mut serve(&manager, folder.path()));
    relay.get(PAYLOAD).await.expect_body();
    relay.wait_until_stored(PAYLOAD).await;
    relay.process.kill();
    // The rest of the content exists only in the index: copies of the one row under other keys. The index has version
    // 1, whose rows have no checksums; a first start migrates it.
    let folder = folder.path();
    std::fs::rename(folder.join("index.db"), folder.join("old.db")).unwrap();
    std::fs::rename(folder.join("index.db-wal"), folder.join("old.db-wal")).unwrap();
    std::fs::remove_file(folder.join("index.db-shm")).unwrap();
    let index = Connection::open(folder.join("index.db")).unwrap();
    index.execute_batch(include_str!("../fixtures/index_v1.sql")).unwrap();
    index
        .execute_batch(&format!(
            "ATTACH '{}' AS old;
             BEGIN;
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
             INSERT INTO main.blobs (hash, len, disk)
                 SELECT hash, len, disk FROM old.blobs UNION ALL
                 SELECT unhex(printf('%064x', i)), len, 4096 FROM n, old.blobs;
             INSERT INTO main.objects (key, selecting, status, headers, content_type, upstream, request_time,
                     response_time, last_used, blob)
                 SELECT iif(b.id = 1, key, key || '/' || b.id), selecting, status, headers, content_type, upstream,
                     request_time, response_time, last_used, b.id
                 FROM main.blobs b, old.objects;
             COMMIT;",
            folder.join("old.db").display()
        ))
        .unwrap();
    drop(index);
    Relay::start(serve(&manager, folder).env("GUPD_STORE_SCRUB_PERIOD", "off")).process.kill();

    // The scrub would find that the other rows have no blobs.
    let relay = Relay::start(serve(&manager, folder).env("GUPD_STORE_SCRUB_PERIOD", "off"));
    let response = relay.get(PAYLOAD).await;
    let took = relay.process.processor_time();
    println!("from the start of the process to the end of the first hit: {took:?} of processor time");
    assert_eq!(response.cache_status(), "gupd; hit");
    assert!(response.expect_body() == bytes(1, 100_000));
    assert!(relay.metrics().await.contains("gupd_store_objects 100001\n"));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_index_is_logged_and_rebuilt_while_serving() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let body = |number: usize| bytes(number as u64, 30_000);
    for number in 0..20 {
        manager.put(&path(number), Resource::new(body(number)));
    }
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    for number in 0..20 {
        relay.get(&path(number)).await.expect_body();
        relay.wait_until_stored(&path(number)).await;
    }
    relay.process.signal("TERM");
    relay.process.wait_for_exit();

    // After a start no row is cached; rows outside the first page and the WAL are read on demand.
    let index = Connection::open(folder.path().join("index.db")).unwrap();
    index.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(index);
    let mut relay = Relay::start(&mut serve(&manager, folder.path()));
    let index = std::fs::File::options().write(true).open(folder.path().join("index.db")).unwrap();
    let rot = vec![0x5a; usize::try_from(index.metadata().unwrap().len()).unwrap() - 4096];
    std::os::unix::fs::FileExt::write_all_at(&index, &rot, 4096).unwrap();
    assert!(relay.get(&path(0)).await.expect_body() == body(0), "the request is passed through");
    let error = relay.process.wait_for_line(|line| line.contains("index damaged; rebuilding it")).unwrap();
    assert!(error.contains("ERROR"), "{error}");
    relay.process.wait_for_log("index rebuilt from its journal");
    for number in 0..20 {
        relay.wait_until_stored(&path(number)).await;
        assert!(relay.get(&path(number)).await.expect_body() == body(number), "object {number}");
    }
    let asked: usize = (0..20).map(|number| manager.request_count(&path(number))).sum();
    assert!(asked <= 20 + 3, "{asked} requests: only those during the rebuild went upstream");
}
