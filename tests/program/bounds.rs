//! Memory and disk usage stay within their configured bounds under any load of clients and managers.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use tokio::task::JoinSet;

use crate::process::{Relay, serve};
use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, WireClient, bytes};

const MIB: usize = 1 << 20;

/// `store.memory` of the relays here.
const MEMORY: u64 = 32 << 20;

/// Additional memory that a relay may use: code, stacks, connections, bytes under way.
const BESIDES: u64 = 150 << 20;

fn path(number: usize) -> String {
    PAYLOAD.replace("261121001", &format!("{}", 261_121_001 + number))
}

fn serve_with_small_memory(manager: &Manager, store: &Path) -> Command {
    let mut command = serve(manager, store);
    command.env("GUPD_STORE_MEMORY", MEMORY.to_string());
    command
}

fn assert_memory_bound(relay: &Relay) {
    let peak = relay.process.peak_memory();
    println!(
        "peak resident memory: {} MiB beyond store.memory of {} MiB",
        (peak - MEMORY) >> 20,
        MEMORY >> 20
    );
    assert!(peak < MEMORY + BESIDES, "{} MiB", peak >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_large_content_stay_within_memory() {
    const OBJECTS: usize = 8;
    const SIZE: usize = 25 * MIB;
    const SLOW: usize = 300;
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let random = bytes(1, SIZE);
    let body = |number: usize| {
        let mut body = random.clone();
        body[0] = u8::try_from(number).unwrap();
        body
    };
    let relay = Relay::start(&mut serve_with_small_memory(&manager, folder.path()));
    for number in 0..OBJECTS {
        manager.put(&path(number), Resource::new(body(number)));
        assert_eq!(relay.get(&path(number)).await.expect_body().len(), SIZE);
        relay.wait_until_stored(&path(number)).await;
    }
    let mut slow = Vec::new();
    for reader in 0..SLOW {
        let from = SIZE / SLOW * reader;
        let mut client = WireClient::connect(relay.address).await;
        client
            .write_request(&Request::get(&path(reader % OBJECTS)).range(&format!("{from}-")))
            .await
            .unwrap();
        let mut head = client.read_head().await.unwrap();
        head.body = client.read_bytes(1000).await.unwrap();
        slow.push((from, client, head));
    }
    let mut fast = JoinSet::new();
    for number in 0..OBJECTS {
        let address = relay.address;
        fast.spawn(async move { (number, Request::get(&path(number)).send(address).await.expect_body()) });
    }
    while let Some(read) = fast.join_next().await {
        let (number, got) = read.unwrap();
        assert!(got == body(number), "object {number}");
    }
    assert_memory_bound(&relay);
    // A slow client that continues still gets the right bytes.
    let (from, mut client, mut head) = slow.pop().unwrap();
    client.read_rest("GET", &mut head).await;
    assert!(head.expect_body() == body((SLOW - 1) % OBJECTS)[from..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_stalled_fills_stay_within_memory() {
    /// Below the permits for other content than catalogs.
    const FILLS: usize = 220;
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&mut serve_with_small_memory(&manager, folder.path()));
    let gate = Gate::default();
    let body = bytes(1, MIB);
    let mut clients = JoinSet::new();
    for number in 0..FILLS {
        let mut body = body.clone();
        body[..8].copy_from_slice(&number.to_le_bytes());
        manager.put(&path(number), Resource::new(body.clone()).stalled(1_000_000, &gate));
        let address = relay.address;
        // No client may hold all permits.
        let own = Ipv4Addr::new(127, 0, 1, u8::try_from(number % 20).unwrap() + 1);
        clients.spawn(async move {
            let mut client = WireClient::connect_from(own.into(), address).await;
            client.write_request(&Request::get(&path(number))).await.unwrap();
            let mut head = client.read_head().await.unwrap();
            head.body = client.read_bytes(1_000_000).await.unwrap();
            (client, head, body)
        });
    }
    let standing = clients.join_all().await;
    assert_memory_bound(&relay);
    gate.open();
    for (mut client, mut head, body) in standing {
        client.read_rest("GET", &mut head).await;
        assert!(head.expect_body() == body);
    }
    assert_memory_bound(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_object_takes_little_memory_beside_its_body() {
    /// Objects in each of three batches. The first one fills the memory for bodies, the second one the index's caches.
    const BATCH: usize = 3_200;
    /// Resident memory of the head of an object, in bytes, with the allocator's holes. The buffer that it was read into
    /// has 8 KiB more.
    const EACH: u64 = 8 << 10;
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let mut command = serve(&manager, folder.path());
    command.env("GUPD_STORE_MEMORY", (16 << 20).to_string());
    let relay = Relay::start(&mut command);
    let mut before = 0;
    for batch in 0..3 {
        let mut clients = JoinSet::new();
        for client in 0..16 {
            let first = batch * BATCH + client * (BATCH / 16);
            let numbers = first..first + BATCH / 16;
            for number in numbers.clone() {
                manager.put(&path(number), Resource::new(format!("{number:4096}")));
            }
            let address = relay.address;
            // No client may ask for all names.
            let own = Ipv4Addr::new(127, 0, 1, u8::try_from(client).unwrap() + 1);
            clients.spawn(async move {
                let mut client = WireClient::connect_from(own.into(), address).await;
                for number in numbers {
                    let response = client.send(&Request::get(&path(number))).await.unwrap();
                    assert_eq!(response.expect_body().len(), 4096);
                }
            });
        }
        clients.join_all().await;
        relay.wait_for_fills().await;
        if batch == 1 {
            before = relay.process.resident_memory();
        }
    }
    let each = relay.process.resident_memory().saturating_sub(before) / BATCH as u64;
    println!("resident memory of the head of a small object: {each} bytes");
    assert!(each < EACH, "{each} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_hold_little_memory() {
    const BATCH: usize = 500;
    /// Resident memory of an idle connection, in bytes: its task and its stream.
    const EACH: u64 = 8 << 10;
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(&path(0), Resource::new("definitions"));
    let relay = Relay::start(&mut serve_with_small_memory(&manager, folder.path()));
    let mut clients = Vec::new();
    let mut before = 0;
    // The first batch leaves the memory that active connections need; the next ones use it again.
    for batch in 1..=4 {
        for _ in 0..BATCH {
            let mut client = WireClient::connect(relay.address).await;
            assert_eq!(client.send(&Request::get(&path(0))).await.unwrap().expect_body(), b"definitions");
            clients.push(client);
        }
        let idle = format!("gupd_idle_connections {}\n", batch * BATCH);
        while !relay.metrics().await.contains(&idle) {
            tokio::task::yield_now().await;
        }
        if batch == 1 {
            before = relay.process.resident_memory();
        }
    }
    let each = (relay.process.resident_memory() - before) / (3 * BATCH as u64);
    println!("{each} bytes for each idle connection");
    assert!(each <= EACH, "{each} bytes");
    // An idle connection is still served.
    for client in &mut clients {
        assert_eq!(client.send(&Request::get(&path(0))).await.unwrap().expect_body(), b"definitions");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_holds_and_the_oldest_object_is_evicted() {
    const QUOTA: usize = 64 * MIB;
    const SIZE: usize = 5 * MIB;
    const OBJECTS: usize = 20;
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let mut command = serve_with_small_memory(&manager, folder.path());
    let relay = Relay::start(command.env("GUPD_STORE_QUOTA", QUOTA.to_string()));
    let on_disk = || -> u64 {
        let kept = ["blobs", "packs", "partial"].map(|name| folder.path().join(name));
        let du = Command::new("du").args(["-s", "-c", "--block-size=1"]).args(kept).output().unwrap();
        let total = String::from_utf8(du.stdout).unwrap();
        // The folders themselves do not count as content: 256 shelves and three.
        let folders = 259 * 4096;
        total.lines().last().unwrap().split('\t').next().unwrap().parse::<u64>().unwrap() - folders
    };
    for number in 0..OBJECTS {
        let body = bytes(number as u64, SIZE);
        manager.put(&path(number), Resource::new(body.clone()));
        assert!(relay.get(&path(number)).await.expect_body() == body);
        relay.wait_until_stored(&path(number)).await;
        assert!(on_disk() <= QUOTA as u64, "{} MiB after {number}", on_disk() >> 20);
    }
    let newest = relay.get(&path(OBJECTS - 1)).await;
    assert!(newest.cache_status().starts_with("gupd; hit"));
    let oldest = relay.get(&path(0)).await;
    assert_eq!(oldest.cache_status(), "gupd; fwd=uri-miss; stored");
    assert!(oldest.expect_body() == bytes(0, SIZE));
    assert!(on_disk() >= (QUOTA - 2 * SIZE) as u64, "no more goes than must");
    assert!(!relay.metrics().await.contains("gupd_store_evicted_objects_total{reason=\"quota\"} 0\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn object_larger_than_quota_is_passed_through_and_annotated() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let mut command = serve_with_small_memory(&manager, folder.path());
    let mut relay = Relay::start(command.env("GUPD_STORE_QUOTA", "64MiB"));
    let (kept, large) = (bytes(1, MIB), bytes(2, 65 * MIB));
    manager.put(&path(0), Resource::new(kept.clone()));
    manager.put(&path(1), Resource::new(large.clone()));
    relay.get(&path(0)).await.expect_body();
    relay.wait_until_stored(&path(0)).await;
    let passed = relay.get(&path(1)).await;
    assert!(!passed.cache_status().contains("stored"), "{}", passed.cache_status());
    assert!(passed.expect_body() == large);
    let warning = relay.process.wait_for_log("passing through uncached");
    assert!(warning.to_string().contains("store.quota"), "{warning}");
    assert!(
        relay.get(&path(0)).await.cache_status().starts_with("gupd; hit"),
        "it costs nothing else its place"
    );
}
