//! Upgrades: a new program takes over the sockets of the running one, downloads finish, and no client notices.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::guarded::{
    Catalog, Load, exchange, guarded, is_running, kill, signal, suspend, wait_for_worker, workers,
};
use crate::process::{Ended, PATIENCE, Process, Relay, gupd};
use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, WireClient, bytes};

const KIB: usize = 1 << 10;

/// Installs the program in a folder where it can be replaced.
fn install(folder: &Path) -> PathBuf {
    let program = folder.join("gupd");
    let given = env!("CARGO_BIN_EXE_gupd");
    fs::hard_link(given, &program).or_else(|_| fs::copy(given, &program).map(drop)).unwrap();
    program
}

/// Returns `command` run by that program.
fn with_program(program: &Path, command: &Command) -> Command {
    let mut other = Command::new(program);
    other.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}

/// Waits until another worker has replaced this one and is the only one.
async fn wait_for_replacement(relay: &Relay, old: u32) -> u32 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let worker = wait_for_worker(relay).await;
        if worker != old && !is_running(old) {
            return worker;
        }
        assert!(Instant::now() < deadline, "{old} still serves");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_under_load_fails_no_client() {
    const SIZES: [usize; 50] = {
        let mut sizes = [KIB; 50];
        sizes[0] = 100 << 20;
        sizes[1] = 10 << 20;
        sizes[2] = 1 << 20;
        sizes[3] = 1 << 20;
        sizes[4] = 64 * KIB;
        sizes[5] = 64 * KIB;
        sizes
    };
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let program = install(folder.path());
    let catalog = Catalog::publish(&manager, &SIZES);
    let mut command = with_program(&program, &guarded(&manager, &folder.path().join("store")));
    let mut relay = Relay::start(command.env("GUPD_LOG_ACCESS", "false"));
    let mut load = Load::begin(&relay, catalog, 200);
    let begun = Instant::now();
    for _ in 0..3 {
        let old = wait_for_worker(&relay).await;
        relay.process.signal("USR2");
        wait_for_replacement(&relay, old).await;
        relay.process.wait_for_log("replacing the guard");
        load.begin_disturbance();
        load.settle().await;
    }
    let seen = load.end().await;
    println!("three upgrades in {:?}: {seen:?}", begun.elapsed());
    assert!(seen.downloads >= 200, "{seen:?}");
    assert_eq!((seen.broken, seen.redirected), (0, 0), "{seen:?}");
    // The new guard knows its workers and can start others.
    kill(&relay).await;
    wait_for_worker(&relay).await;
    let metrics = relay.metrics().await;
    for line in [
        "gupd_guard_worker_starts_total 5",
        "gupd_guard_worker_ends_total{why=\"handed-over\"} 3",
        "gupd_guard_worker_ends_total{why=\"killed\"} 1",
    ] {
        assert!(metrics.contains(&format!("{line}\n")), "{line} in {metrics}");
    }
    relay.process.signal("TERM");
    let ended = relay.process.wait_for_exit();
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_download_is_finished_by_its_worker() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let gate = Gate::default();
    manager.put(PAYLOAD, Resource::new(bytes(1, 3_000_000)).stalled(1_000_000, &gate));
    manager.put("/other", Resource::new("other"));
    let mut relay = Relay::start(&mut guarded(&manager, folder.path()));
    let old = wait_for_worker(&relay).await;
    let mut client = WireClient::connect(relay.address).await;
    client.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut head = client.read_head().await.unwrap();
    relay.process.signal("USR2");
    relay.process.wait_for_line(|line| line.contains("handed over; finishing running downloads")).unwrap();
    let answered = exchange(relay.address, &Request::get("/other")).await.unwrap();
    assert_eq!((answered.status, answered.expect_body()), (200, b"other".to_vec()));
    assert!(is_running(old) && workers(&relay).len() == 2);
    gate.open();
    client.read_rest("GET", &mut head).await;
    assert!(head.expect_body() == bytes(1, 3_000_000));
    wait_for_replacement(&relay, old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_the_wan_limit() {
    const RATE: u64 = 1 << 20;
    const OTHER: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121002/full.zip";
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new(bytes(1, 16 << 20)));
    manager.put(OTHER, Resource::new(bytes(2, 16 << 20)));
    let mut command = guarded(&manager, folder.path());
    // Downloads that are still running at the end are dropped.
    command.args(["--wan-limit", "1MiB/s"]).env("GUPD_SERVER_DRAIN_TIMEOUT", "20s");
    let mut relay = Relay::start(&mut command);
    let old = wait_for_worker(&relay).await;
    let mut clients = Vec::new();
    for target in [PAYLOAD, OTHER] {
        let mut client = WireClient::connect(relay.address).await;
        client.write_request(&Request::get(target)).await.unwrap();
        client.read_head().await.unwrap();
        clients.push(client);
        if target == PAYLOAD {
            relay.process.signal("USR2");
            relay
                .process
                .wait_for_line(|line| line.contains("handed over; finishing running downloads"))
                .unwrap();
        }
    }
    assert!(is_running(old) && workers(&relay).len() == 2);
    // Socket buffers fill first; after that each further byte has waited for its turn.
    let sent = |more: u64| {
        let enough = manager.body_bytes() + more;
        while manager.body_bytes() < enough {
            std::thread::yield_now();
        }
        Instant::now()
    };
    let (begun, ended) = (sent(RATE), sent(2 * RATE));
    let rate = (2 * RATE) as f64 / (ended - begun).as_secs_f64();
    assert!(rate < 1.1 * RATE as f64, "{rate:.0} bytes a second crossed");
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_to_broken_program_changes_nothing() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let [program, token] = ["gupd", "token"].map(|name| folder.path().join(name));
    crate::support::write_secret(&token, "s3cret-of-the-site\n");
    manager.put(PAYLOAD, Resource::new("content"));
    install(folder.path());
    let mut command = with_program(&program, &guarded(&manager, &folder.path().join("store")));
    let mut relay = Relay::start(command.env("GUPD_SERVER_ADMIN_TOKEN_FILE", &token));
    let old = wait_for_worker(&relay).await;
    let admin = relay.admin;
    let upgrade = || upgrade(admin, Some(&token));
    assert_eq!(upgrade().lines, ["upgrade: the new worker is taking over"]);
    let new = wait_for_replacement(&relay, old).await;

    fs::remove_file(&program).unwrap();
    upgrade().assert_error(1, &["refused", "the old worker keeps serving"]);
    fs::write(&program, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    upgrade().assert_error(1, &["refused", "the old worker keeps serving"]);
    assert_eq!(wait_for_worker(&relay).await, new);
    assert_eq!(relay.get(PAYLOAD).await.expect_body(), b"content");
    relay.process.wait_for_log("upgrade failed");

    fs::remove_file(&program).unwrap();
    install(folder.path());
    assert!(upgrade().status.success());
    wait_for_replacement(&relay, new).await;
}

/// Returns whether a process ignores SIGPIPE, and its number of descriptors.
fn process_state(pid: u32) -> (bool, usize) {
    const SIGPIPE: u64 = 1 << 12;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    (ignored & SIGPIPE > 0, fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_that_cannot_be_replaced_continues() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let program = install(folder.path());
    let mut command = with_program(&program, &guarded(&manager, &folder.path().join("store")));
    // The sandbox hides the descriptors from other users, who may run this test.
    let mut relay = Relay::start(command.env("GUPD_SERVER_SANDBOX", "off"));
    let (old, guard) = (wait_for_worker(&relay).await, relay.process.id());
    let before = process_state(guard);
    // The stopped worker cannot hand over before the program is renamed.
    suspend(old).await;
    relay.process.signal("USR2");
    relay.process.wait_for_log("upgrade: new worker is taking over");
    fs::rename(&program, folder.path().join("away")).unwrap();
    signal(old, "CONT");
    relay.process.wait_for_log("guard could not be replaced; the old one continues");
    wait_for_replacement(&relay, old).await;
    assert_eq!(process_state(guard), before);
    let input = fs::read_link(format!("/proc/{guard}/fd/0")).unwrap();
    assert!(!input.starts_with("socket:"), "{input:?}");

    fs::rename(folder.path().join("away"), &program).unwrap();
    kill(&relay).await;
    wait_for_worker(&relay).await;
    relay.process.signal("TERM");
    assert!(relay.process.wait_for_exit().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_during_guard_replacement_are_kept() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let mut relay = Relay::start(&mut guarded(&manager, folder.path()));
    let guard = relay.process.id();
    wait_for_worker(&relay).await;
    let signal_storm = format!("while kill -USR2 {guard} && kill -HUP {guard}; do :; done");
    let mut signal_storm = Command::new("sh").args(["-c", &signal_storm]).spawn().unwrap();
    relay.process.wait_for_log("replacing the guard");
    relay
        .process
        .wait_for_line(|line| line.contains("guard started") && line.contains("\"replaced\":true"))
        .unwrap();
    signal_storm.kill().unwrap();
    signal_storm.wait().unwrap();
    wait_for_worker(&relay).await;
    relay.process.signal("USR2");
    relay.process.wait_for_log("replacing the guard");
    relay.process.signal("TERM");
    assert!(relay.process.wait_for_exit().status.success());
}

fn upgrade(admin: SocketAddr, token: Option<&Path>) -> Ended {
    let mut command = gupd(["upgrade", "--admin", &admin.to_string()]);
    command.envs(token.map(|token| ("GUPD_SERVER_ADMIN_TOKEN_FILE", token)));
    Process::start(&mut command).wait_for_exit()
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_without_guard_or_token_is_refused_with_reason() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let token = folder.path().join("token");
    crate::support::write_secret(&token, "s3cret-of-the-site\n");
    let mut command = crate::process::serve(&manager, &folder.path().join("store"));
    let relay = Relay::start(command.env("GUPD_SERVER_ADMIN_TOKEN_FILE", &token));
    upgrade(relay.admin, Some(&token)).assert_error(1, &["refused", "no guard", "gupd serve --guard"]);
    upgrade(relay.admin, None).assert_error(2, &["upgrade: no admin token", "--config"]);
}
