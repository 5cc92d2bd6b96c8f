//! Disk faults of all kinds: clients still get the right bytes, the state is reported once in the log, metrics and
//! `/readyz`, and the store is used again when the fault ends.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::fault_layer::{EIO, ENOSPC, EROFS, FaultLayer, Filler, Mount};
use crate::process::{PATIENCE, Relay, serve};
use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, Response, WireClient, bytes};

/// Revalidated on each request.
const FILE: &str = "/files/setup.msi";
const REVALIDATED: &str = "gupd; fwd=stale; fwd-status=304";

const MIB: usize = 1 << 20;

/// Log messages for the start and the end of a fault.
const FAILS: &str = "store disk degraded; misses are passed through uncached";
const WELL: &str = "store disk healthy again";

fn path(number: usize) -> String {
    PAYLOAD.replace("261121001", &format!("{}", 261_121_001 + number))
}

fn is_hit(response: &Response) -> bool {
    response.cache_status().starts_with("gupd; hit")
}

async fn readyz(relay: &Relay) -> String {
    let response = crate::support::get(relay.admin, "/readyz").await;
    assert_eq!(response.status, 200, "the relay accepts clients");
    String::from_utf8(response.expect_body()).unwrap()
}

/// Waits until `/readyz`, the metric and the log agree on the state of the disk.
async fn wait_for_state(relay: &mut Relay, state: &str) {
    let expected = if state == "well" {
        "serving\n".to_owned()
    } else {
        format!("serving; store: {state}, passing through: ")
    };
    let deadline = Instant::now() + PATIENCE;
    while !readyz(relay).await.starts_with(&expected) {
        assert!(Instant::now() < deadline, "no {state:?} but {}", readyz(relay).await);
    }
    assert!(relay.metrics().await.contains(&format!("gupd_store_condition{{state=\"{state}\"}} 1\n")));
    let message = if state == "well" { WELL } else { FAILS };
    while relay.process.wait_for_log(message)["condition"].as_str().unwrap_or("well") != state {}
}

/// Clients in the middle of a body; the rest of it is held back.
struct Followers {
    /// Connection, response so far, and start of the range.
    clients: Vec<(WireClient, Response, usize)>,
    body: Vec<u8>,
    gate: Gate,
}

impl Followers {
    async fn start(relay: &Relay, manager: &Manager, path: &str, body: Vec<u8>) -> Self {
        let gate = Gate::default();
        manager.put(path, Resource::new(body.clone()).stalled(3 * MIB, &gate));
        let mut clients = Vec::new();
        // The last client is slow: the bytes that it has not read are no longer in memory.
        for read in [2 * MIB, 2 * MIB, 100_000] {
            let mut client = WireClient::connect(relay.address).await;
            client.write_request(&Request::get(path)).await.unwrap();
            let mut head = client.read_head().await.unwrap();
            head.body = client.read_bytes(read).await.unwrap();
            clients.push((client, head, 0));
        }
        // A client of the end of the body, which has a segment of its own.
        manager.put(path, Resource::new(body.clone()).stalled(8 * MIB, &gate));
        let mut client = WireClient::connect(relay.address).await;
        client.write_request(&Request::get(path).range(&format!("{}-", 6 * MIB))).await.unwrap();
        let mut head = client.read_head().await.unwrap();
        assert_eq!(head.status, 206);
        head.body = client.read_bytes(MIB).await.unwrap();
        clients.push((client, head, 6 * MIB));
        Self { clients, body, gate }
    }

    async fn assert_complete(self) {
        self.gate.open();
        let mut reading = JoinSet::new();
        for (mut client, mut head, from) in self.clients {
            reading.spawn(async move {
                client.read_rest("GET", &mut head).await;
                (head, from)
            });
        }
        for (response, from) in reading.join_all().await {
            assert!(response.expect_body() == self.body[from..]);
        }
    }
}

/// Starts a relay over a fault layer, with stored objects that are not in memory.
async fn start_with_faults(manager: &Manager, store: &Path) -> (Relay, FaultLayer, Vec<u8>) {
    let body = bytes(1, 2 * MIB);
    manager.put(PAYLOAD, Resource::new(body.clone()));
    manager.put(FILE, Resource::new("x").header("Cache-Control", "no-cache"));
    let mut first = Relay::start(&mut serve(manager, store));
    for path in [PAYLOAD, FILE] {
        first.get(path).await.expect_body();
    }
    first.wait_until_stored(PAYLOAD).await;
    while first.get(FILE).await.cache_status() != REVALIDATED {}
    first.process.kill();
    let layer = FaultLayer::new(store);
    let relay = Relay::start(layer.add_to(&mut serve(manager, store)));
    (relay, layer, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn hit_is_completed_when_the_disk_fails_halfway() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let store = folder.path().join("store");
    // More than sockets buffer, and nothing in memory.
    let body = bytes(1, 24 * MIB);
    manager.put(PAYLOAD, Resource::new(body.clone()));
    let mut first = Relay::start(&mut serve(&manager, &store));
    first.get(PAYLOAD).await.expect_body();
    first.wait_until_stored(PAYLOAD).await;
    first.process.kill();
    let layer = FaultLayer::new(&store);
    let mut relay = Relay::start(layer.add_to(&mut serve(&manager, &store)));
    let mut client = WireClient::connect(relay.address).await;
    client.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut response = client.read_head().await.unwrap();
    assert!(is_hit(&response));
    response.body = client.read_bytes(100_000).await.unwrap();
    let before = manager.body_bytes();

    layer.fail("r", EIO);
    client.read_rest("GET", &mut response).await;
    assert!(response.expect_body() == body);
    let rest = manager.body_bytes() - before;
    assert!((1..=body.len() as u64).contains(&rest), "{rest} bytes came from the manager");
    wait_for_state(&mut relay, "failing").await;
    layer.end_fault();
    wait_for_state(&mut relay, "well").await;
}

/// While calls of these kinds fail with this error, all responses are complete. Afterwards they are hits again.
async fn assert_served_during_fault(kinds: &str, error: i32, state: &str) {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let store = folder.path().join("store");
    let (mut relay, layer, stored) = start_with_faults(&manager, &store).await;
    let followers = Followers::start(&relay, &manager, &path(1), bytes(2, 12 * MIB)).await;

    layer.fail(kinds, error);
    followers.assert_complete().await;
    for number in 10..30 {
        manager.put(&path(number), Resource::new(bytes(number as u64, 100_000)));
        let response = relay.get(&path(number)).await;
        assert!(!is_hit(&response) && response.expect_body() == bytes(number as u64, 100_000));
    }
    for _ in 0..5 {
        let response = relay.get(PAYLOAD).await;
        assert_eq!(is_hit(&response), !kinds.contains('r'), "readable content is served");
        assert!(response.expect_body() == stored);
        let response = relay.get(FILE).await;
        assert_eq!(
            response.cache_status() == REVALIDATED,
            !kinds.contains('r'),
            "a validation need not be recorded"
        );
        assert_eq!(response.expect_body(), b"x");
    }
    wait_for_state(&mut relay, state).await;

    layer.end_fault();
    wait_for_state(&mut relay, "well").await;
    // Not for each request. SQLite may report an error of its own first, which the probe then reports by its name.
    assert!((1..=2).contains(&relay.process.count_log(FAILS)));
    assert_eq!(relay.process.count_log(WELL), 1);
    let warnings = relay.process.warnings();
    assert!(
        warnings.len() < 10,
        "more than the failed fill and the files that it could not remove: {warnings:#?}"
    );
    let mut files = std::fs::read_dir(&store).unwrap();
    assert!(
        !files.any(|file| file.unwrap().file_name().to_string_lossy().starts_with("index.damaged")),
        "an unreadable index is kept"
    );
    assert!(relay.get(PAYLOAD).await.expect_body() == stored);
    relay.wait_until_stored(PAYLOAD).await;
    relay.wait_until_stored(&path(10)).await;
    relay.wait_until_stored(&path(1)).await;
    assert!(relay.get(&path(1)).await.expect_body() == bytes(2, 12 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn write_errors_cost_no_client_a_byte() {
    assert_served_during_fault("w", EIO, "failing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_and_write_errors_cost_no_client_a_byte() {
    assert_served_during_fault("rw", EIO, "failing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_that_becomes_read_only_serves_hits() {
    assert_served_during_fault("w", EROFS, "read-only").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_out_of_inodes_or_quota_counts_as_full() {
    assert_served_during_fault("w", ENOSPC, "full").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_filled_during_a_fill_costs_no_client_a_byte() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let Some(_mount) = Mount::new_tmpfs(folder.path(), 32) else { return };
    let mut relay = Relay::start(&mut serve(&manager, folder.path()));
    let followers = Followers::start(&relay, &manager, PAYLOAD, bytes(1, 12 * MIB)).await;

    let mut filler = Filler::new(folder.path());
    followers.assert_complete().await;
    assert_eq!(relay.process.wait_for_log(FAILS)["condition"], "full");
    // The partial file has been removed.
    filler.fill_up();
    for number in 10..20 {
        manager.put(&path(number), Resource::new(bytes(number as u64, 100_000)));
        let response = relay.get(&path(number)).await;
        assert!(!is_hit(&response));
        assert!(response.expect_body() == bytes(number as u64, 100_000));
    }
    wait_for_state(&mut relay, "no-room").await;

    drop(filler);
    wait_for_state(&mut relay, "well").await;
    relay.wait_until_stored(PAYLOAD).await;
    assert!(relay.get(PAYLOAD).await.expect_body() == bytes(1, 12 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_evicts_old_content_for_new() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let Some(_mount) = Mount::new_tmpfs(folder.path(), 32) else { return };
    let min_free = (2 * MIB).to_string();
    let relay = Relay::start(serve(&manager, folder.path()).env("GUPD_STORE_MIN_FREE", min_free));
    manager.put(&path(1), Resource::new(bytes(1, 4 * MIB)));
    relay.get(&path(1)).await.expect_body();
    relay.wait_until_stored(&path(1)).await;
    let mut filler = Filler::new(folder.path());
    // The index needs so much for its writes; far less than `min_free`.
    filler.free(MIB / 2);
    manager.put(&path(2), Resource::new(bytes(3, MIB)));
    assert!(relay.get(&path(2)).await.expect_body() == bytes(3, MIB));
    relay.wait_until_stored(&path(2)).await;
    assert_eq!(readyz(&relay).await, "serving\n");
    assert!(!is_hit(&relay.get(&path(1)).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn detached_store_costs_no_client_and_returns_whole() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let (disk, store) = (folder.path().join("disk"), folder.path().join("store"));
    [&disk, &store].into_iter().for_each(|path| std::fs::create_dir(path).unwrap());
    let Some(mount) = Mount::bind(&store, &disk) else { return };
    let objects = 0..4;
    for number in objects.clone() {
        manager.put(&path(number), Resource::new(bytes(number as u64, 100_000)));
    }
    let mut first = Relay::start(&mut serve(&manager, &store));
    for number in objects.clone() {
        first.get(&path(number)).await.expect_body();
        first.wait_until_stored(&path(number)).await;
    }
    first.process.kill();
    let mut relay = Relay::start(&mut serve(&manager, &store));

    mount.detach();
    for number in objects.clone() {
        let response = relay.get(&path(number)).await;
        assert!(!is_hit(&response) && response.expect_body() == bytes(number as u64, 100_000));
    }
    wait_for_state(&mut relay, "gone").await;
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 0, "nothing is written to the mount point");

    let _mount = Mount::bind(&store, &disk).unwrap();
    wait_for_state(&mut relay, "well").await;
    let before = manager.body_bytes();
    for number in objects {
        let response = relay.get(&path(number)).await;
        assert!(
            is_hit(&response) && response.expect_body() == bytes(number as u64, 100_000),
            "object {number}"
        );
    }
    assert_eq!(manager.body_bytes(), before, "all objects are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_files_of_detached_store_are_not_sought_elsewhere() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let (disk, store) = (folder.path().join("disk"), folder.path().join("store"));
    [&disk, &store].into_iter().for_each(|path| std::fs::create_dir(path).unwrap());
    let Some(mount) = Mount::bind(&store, &disk) else { return };
    let mut relay = Relay::start(&mut serve(&manager, &store));
    let followers = Followers::start(&relay, &manager, PAYLOAD, bytes(1, 12 * MIB)).await;
    let partial = store.join("partial");
    let files = std::fs::read_dir(&partial).unwrap().map(|file| file.unwrap().file_name());
    let names: Vec<_> = files.collect();
    assert_eq!(names.len(), 2, "a partial file and its journal");

    mount.detach();
    std::fs::create_dir(&partial).unwrap();
    names.iter().for_each(|name| std::fs::write(partial.join(name), "another's").unwrap());
    followers.assert_complete().await;
    wait_for_state(&mut relay, "gone").await;
    for name in &names {
        assert_eq!(std::fs::read(partial.join(name)).unwrap(), b"another's");
    }
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 1);
    assert_eq!(
        std::fs::read_dir(disk.join("partial")).unwrap().count(),
        2,
        "the partial files are left for the next start"
    );

    let _mount = Mount::bind(&store, &disk).unwrap();
    wait_for_state(&mut relay, "well").await;
    relay.process.kill();
    let relay = Relay::start(&mut serve(&manager, &store));
    let before = manager.body_bytes();
    assert!(relay.get(PAYLOAD).await.expect_body() == bytes(1, 12 * MIB));
    relay.wait_until_stored(PAYLOAD).await;
    assert!(
        manager.body_bytes() - before <= 2 * MIB as u64,
        "the fill resumes after the bytes that had arrived"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_that_returns_as_another_device_is_used_again() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let (disk, store) = (folder.path().join("disk"), folder.path().join("store"));
    std::fs::create_dir(&store).unwrap();
    let Some(mount) = Mount::new_image(&store, &disk, 32) else { return };
    for number in 0..2 {
        manager.put(&path(number), Resource::new(bytes(number as u64, 100_000)));
    }
    let mut relay = Relay::start(&mut serve(&manager, &store));
    relay.get(PAYLOAD).await.expect_body();
    relay.wait_until_stored(PAYLOAD).await;

    mount.detach();
    // The fault is not detected yet: the object is in memory.
    assert!(relay.get(&path(1)).await.expect_body() == bytes(1, 100_000));
    wait_for_state(&mut relay, "gone").await;
    // An identical copy, inode numbers included, on another device.
    assert!(Command::new("sync").status().unwrap().success());
    let copy = folder.path().join("copy");
    std::fs::copy(&disk, &copy).unwrap();
    let _mount = Mount::new_image(&store, &copy, 32).unwrap();
    wait_for_state(&mut relay, "well").await;
    let response = relay.get(PAYLOAD).await;
    assert!(is_hit(&response) && response.expect_body() == bytes(0, 100_000), "all objects are kept");
    relay.wait_until_stored(&path(1)).await;

    relay.process.kill();
    let relay = Relay::start(&mut serve(&manager, &store));
    for number in 0..2 {
        let response = relay.get(&path(number)).await;
        assert!(
            is_hit(&response) && response.expect_body() == bytes(number as u64, 100_000),
            "object {number}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_out_of_descriptors_serves_and_later_accepts_again() {
    const DESCRIPTORS: usize = 64;
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let body = bytes(1, 100_000);
    manager.put(PAYLOAD, Resource::new(body.clone()));
    manager.put("/secars/x", Resource::new("private"));
    let mut first = Relay::start(&mut serve(&manager, folder.path()));
    first.get(PAYLOAD).await.expect_body();
    first.wait_until_stored(PAYLOAD).await;
    first.process.kill();
    let served = serve(&manager, folder.path());
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={DESCRIPTORS}")).arg(served.get_program()).args(served.get_args());
    let mut relay = Relay::start(limited.env("GUPD_STORE_MIN_FREE", "0"));
    let mut client = WireClient::connect(relay.address).await;
    let mut admin = WireClient::connect(relay.admin).await;
    // Opens a connection to the manager, which stays open.
    assert_eq!(client.send(&Request::get("/secars/x")).await.unwrap().expect_body(), b"private");
    assert_eq!(admin.send(&Request::get("/readyz")).await.unwrap().expect_body(), b"serving\n");

    let mut idle = Vec::new();
    for _ in 0..DESCRIPTORS {
        idle.push(WireClient::connect(relay.address).await);
    }
    relay.process.wait_for_log("cannot accept connections; new clients wait");
    let failures = async |admin: &mut WireClient| -> f64 {
        let metrics =
            String::from_utf8(admin.send(&Request::get("/metrics")).await.unwrap().expect_body()).unwrap();
        let failures = metrics.lines().find_map(|line| line.strip_prefix("gupd_accept_failures_total "));
        failures.unwrap().parse().unwrap()
    };
    let deadline = Instant::now() + PATIENCE;
    let (before, since) = (failures(&mut admin).await, Instant::now());
    let response = client.send(&Request::get(PAYLOAD)).await.unwrap();
    assert_eq!(response.cache_status(), "gupd; fwd=uri-miss; detail=store-failed");
    assert!(response.expect_body() == body);
    while !admin
        .send(&Request::get("/readyz"))
        .await
        .unwrap()
        .expect_body()
        .starts_with(b"serving; store: no-desc")
    {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    while failures(&mut admin).await < before + 10.0 {
        assert!(Instant::now() < deadline, "accepting is not retried");
    }
    let often = (failures(&mut admin).await - before) / since.elapsed().as_secs_f64();
    assert!(often < 30.0, "accepting is retried {often} times a second");

    drop(idle);
    wait_for_state(&mut relay, "well").await;
    assert_eq!(relay.process.count_log("cannot accept connections; new clients wait"), 1);
    let response = relay.get(PAYLOAD).await;
    assert!(is_hit(&response) && response.expect_body() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_errors_cost_no_client_a_byte() {
    assert_served_during_fault("r", EIO, "failing").await;
}
