//! The relay under faults, for minutes: 300 clients, managers that stall, break off, send wrong bytes and go down,
//! changing content, worker kills, a small store, reloads. Each complete response is right, no resource leaks, and the
//! line carries little more than the content.
//!
//!     cargo test --release --test chaos -- --ignored            # two minutes
//!     CHAOS_SECONDS=3600 CHAOS_SEED=7 cargo test --release --test chaos -- --ignored

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test ends by a panic, and this one prints its measurements"
)]

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "a test bed offers more than one test uses")]
mod support;

#[path = "../program/process.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of the program")]
mod process;

mod clients;
mod content;
mod managers;
mod worker;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gupd_site::{Manager, Random, Request, get, mix};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::clients::{Received, SiteClient, Tally};
use self::content::Published;
use self::managers::Managers;
use self::process::{PATIENCE, Relay, gupd};
use self::worker::WorkerProbe;

const CLIENTS: u64 = 300;

/// Store quota: more than the content that clients ask for at any moment, less than all content of two minutes.
const QUOTA: &str = "448MiB";

/// `store.memory` in MiB, and the additional memory that the relay may use.
const MEMORY: (u64, u64) = (64, 150);

/// Idle connections that all upstream pools together may keep.
const POOLED: usize = 64;

/// Time between two events.
const PAUSE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes"]
async fn chaos() {
    let seed = setting("CHAOS_SEED").unwrap_or(0x6775_7064);
    let length = Duration::from_secs(setting("CHAOS_SECONDS").unwrap_or(120));
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={}", length.as_secs());
    let published = Arc::new(Published::new(seed));
    let managers = Managers::new(published.clone(), seed);
    let (first, second) = (managers.start(0), managers.start(1));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    configure(&file, folder.path(), [&first, &second], 0);
    let relay =
        Relay::start(gupd(["serve", "--guard", "--config"]).arg(&file).env("GUPD_LOG_ACCESS", "false"));
    let worker = WorkerProbe::new(&relay.process);
    let before = worker.now();
    let tally = Arc::<Tally>::default();
    let client = || SiteClient { relay: relay.address, published: published.clone(), tally: tally.clone() };
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client().run(Random::new(mix(seed ^ number))));
    }
    let mut random = Random::new(mix(!seed));
    let (end, mut events) = (Instant::now() + length, [0_u32; 5]);
    while Instant::now() < end {
        tokio::select! {
            () = sleep(PAUSE) => {}
            // A client that received wrong bytes panics.
            Some(ended) = clients.join_next() => ended.unwrap(),
        }
        let event = random.below(5) as usize;
        events[event] += 1;
        match event {
            0 => worker.kill_worker(),
            1 => {
                configure(&file, folder.path(), [&first, &second], events[1]);
                relay.process.signal("HUP");
            }
            2 => take_down(&[&first]).await,
            3 => take_down(&[&first, &second]).await,
            _ => relay.process.signal("USR2"),
        }
    }
    println!("events: {events:?} of kill, reload, one manager away, all away, upgrade");
    managers.end_faults();
    // Waiting clients now get responses without faults.
    sleep(PAUSE).await;
    clients.abort_all();
    while let Some(ended) = clients.join_next().await {
        assert!(!ended.is_err_and(|error| error.is_panic()), "a client received wrong bytes");
    }
    println!("{tally:?}");
    let (bytes, unique) = (first.body_bytes() + second.body_bytes(), managers.distinct_bytes());
    println!("{} MiB crossed for {} MiB of content", bytes >> 20, unique >> 20);
    // All content that clients ask for is available in full.
    let client = client();
    for number in published.wanted() {
        let object = published.object(number);
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Killed workers take a moment to restart, and the guard redirects clients meanwhile.
            let received = client.send(Request::get(&object.path()), object, u64::MAX, false).await;
            if matches!(received, Received::Bytes(_, range) if range == (0..object.length)) {
                break;
            }
            assert!(Instant::now() < deadline, "{} is not available", object.path());
            sleep(Duration::from_millis(100)).await;
        }
    }
    relay.wait_for_fills().await;
    let after = worker.wait_until_idle(|now| now.sockets <= before.sockets + POOLED).await;
    println!("descriptors and memory: {before:?}, then {after:?}");
    assert_ledger_equals_metrics(relay.admin).await;
    assert_eq!(after.half_written, 0);
    assert!(after.resident >> 20 <= MEMORY.0 + MEMORY.1, "{after:?}");
    assert!(tally.lock().unwrap()["complete"] > CLIENTS, "{tally:?}");
    assert!(bytes as f64 <= unique as f64 * 1.3, "{bytes} bytes crossed for {unique}");
}

/// The ledger of the present worker has every byte that it received.
async fn assert_ledger_equals_metrics(admin: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = String::from_utf8(get(admin, "/metrics").await.expect_body()).unwrap();
        let received = metrics.lines().filter(|line| line.starts_with("gupd_upstream_received_bytes_total{"));
        let received: u64 =
            received.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        let report = get(admin, "/api/v1/traffic?since=1d").await.expect_body();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        // Health checks go on.
        if report["process_received"] == received {
            return;
        }
        assert!(Instant::now() < deadline, "{received} bytes received: {report:#}");
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

async fn take_down(managers: &[&Manager]) {
    managers.iter().for_each(|manager| manager.set_down(true));
    sleep(Duration::from_secs(2)).await;
    managers.iter().for_each(|manager| manager.set_down(false));
}

/// Writes another configuration each time: the WAN limit changes, and the order of the upstreams.
fn configure(file: &Path, folder: &Path, managers: [&Manager; 2], times: u32) {
    let urls = managers.map(|manager| manager.url());
    let (one, other) = if times.is_multiple_of(2) { (&urls[0], &urls[1]) } else { (&urls[1], &urls[0]) };
    let limit = ["unlimited", "40MiB/s", "20MiB/s"][times as usize % 3];
    let store = folder.join("store");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [store]\ndir = {store:?}\nquota = \"{QUOTA}\"\nmin_free = \"0B\"\nmemory = \"{}MiB\"\n\
         [fill]\nidle_timeout = \"1s\"\nconnect_timeout = \"1s\"\n\
         [health]\nretry = \"1s\"\nretry_max = \"2s\"\n[guard]\nanswer = \"redirect\"\nrestart_max = \"2s\"\n[wan]\nlimit = \"{limit}\"\n[refresh]\nschedule = \"off\"\n\
         [[upstream]]\nurl = \"{one}\"\n[[upstream]]\nurl = \"{other}\"\n",
        MEMORY.0
    );
    fs::write(file, text).unwrap();
}
