//! The guard as a process: its start, signals, end and notifications. `guard` tests the responses to its clients.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use crate::guarded::{guarded, is_running, kill, signal, wait_for_worker, workers};
use crate::process::{PATIENCE, Process, Relay, gupd};
use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, WireClient, bytes};

#[tokio::test(flavor = "multi_thread")]
async fn worker_of_killed_guard_drains_and_exits() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let gate = Gate::default();
    manager.put(PAYLOAD, Resource::new(bytes(1, 3_000_000)).stalled(1_000_000, &gate));
    let mut relay = Relay::start(&mut guarded(&manager, folder.path()));
    let worker = wait_for_worker(&relay).await;
    let mut client = WireClient::connect(relay.address).await;
    client.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut head = client.read_head().await.unwrap();
    relay.process.kill();
    relay.wait_until_refusing().await;
    gate.open();
    client.read_rest("GET", &mut head).await;
    assert!(head.expect_body() == bytes(1, 3_000_000));
    let deadline = Instant::now() + PATIENCE;
    while is_running(worker) {
        assert!(Instant::now() < deadline, "the worker still runs");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_passes_signals_on() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let gate = Gate::default();
    manager.put(PAYLOAD, Resource::new(bytes(1, 3_000_000)).stalled(1_000_000, &gate));
    let mut relay = Relay::start(&mut guarded(&manager, folder.path()));
    relay.process.signal("HUP");
    relay.process.wait_for_line(|line| line.contains("\"configuration reloaded\"")).unwrap();
    let worker = wait_for_worker(&relay).await;
    // The worker ignores signals that a terminal or service manager sends to it directly.
    signal(worker, "TERM");
    signal(worker, "INT");
    let mut client = WireClient::connect(relay.address).await;
    client.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut head = client.read_head().await.unwrap();
    relay.process.signal("TERM");
    relay.process.wait_for_log("draining");
    relay.wait_until_refusing().await;
    gate.open();
    client.read_rest("GET", &mut head).await;
    assert!(head.expect_body() == bytes(1, 3_000_000));
    let ended = relay.process.wait_for_exit();
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
    assert!(!is_running(worker));
}

#[tokio::test(flavor = "multi_thread")]
async fn second_signal_stops_guard_and_worker_at_once() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let gate = Gate::default();
    manager.put(PAYLOAD, Resource::new(bytes(1, 3_000_000)).stalled(1_000_000, &gate));
    let mut relay = Relay::start(&mut guarded(&manager, folder.path()));
    let mut client = WireClient::connect(relay.address).await;
    client.write_request(&Request::get(PAYLOAD)).await.unwrap();
    client.read_head().await.unwrap();
    relay.process.signal("TERM");
    relay.process.wait_for_log("draining");
    relay.process.signal("INT");
    let ended = relay.process.wait_for_exit();
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn service_manager_is_notified_of_guard_and_worker_state() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let wait_for_notification = |prefix: &str| {
        let mut packet = [0; 4096];
        loop {
            let length = socket.recv(&mut packet).unwrap_or_else(|_| panic!("{prefix} was never sent"));
            let text = String::from_utf8_lossy(&packet[..length]).into_owned();
            if text.lines().any(|line| line.starts_with(prefix)) {
                return text;
            }
        }
    };
    let mut command = guarded(&manager, &folder.path().join("store"));
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "500000");
    let relay = Relay::start(&mut command);
    assert!(wait_for_notification("READY=1").contains("STATUS=serving"));
    wait_for_notification("WATCHDOG=1");
    relay.process.signal("HUP");
    assert!(wait_for_notification("RELOADING=1").contains("MONOTONIC_USEC="));
    wait_for_notification("READY=1");
    kill(&relay).await;
    wait_for_notification("STATUS=the guard answers clients: the worker exited; ");
    wait_for_notification("STATUS=serving");
    relay.process.signal("TERM");
    wait_for_notification("STOPPING=1");
    assert!(relay.process.wait_for_exit().status.success());
}

#[test]
fn guard_links_no_store_cache_or_rollout() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut linked, mut next) = (BTreeSet::new(), vec!["guard".to_owned()]);
    while let Some(name) = next.pop() {
        let manifest = fs::read_to_string(root.join(&name).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        let crates = dependencies.lines().filter_map(|line| line.strip_prefix("gupd-"));
        next.extend(crates.map(|line| line.split('.').next().unwrap().to_owned()));
        linked.insert(name);
    }
    assert_eq!(linked.iter().collect::<Vec<_>>(), ["config", "guard", "http", "net"]);
}

#[test]
fn guard_does_not_start_when_relay_cannot() {
    let serve = ["serve", "--guard", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    Process::start(&mut gupd(serve)).wait_for_exit().assert_error(2, &["no upstream"]);
    let mut taken = gupd(["serve", "--guard", "--upstream", "http://manager:1", "--admin", "127.0.0.1:0"]);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    Process::start(taken.args(["--listen", &address]))
        .wait_for_exit()
        .assert_error(1, &["the port is in use"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_has_a_process_group_of_its_own() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&mut guarded(&manager, folder.path()));
    let worker = wait_for_worker(&relay).await;
    assert_eq!(workers(&relay), [worker]);
    let stat = fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
    let group = stat.rsplit(')').next().unwrap().split_whitespace().nth(2).unwrap().to_owned();
    assert_eq!(group, worker.to_string(), "the worker is in another process group");
}
