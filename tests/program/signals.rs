//! SIGHUP reloads the configuration and drops no request. SIGTERM lets running downloads finish, up to the drain
//! timeout.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{Relay, gupd, serve};
use crate::support::{Ending, Gate, Manager, PAYLOAD, Request, Resource, Response, WireClient, bytes, get};

const LENGTH: usize = 3_000_000;

/// A download that is stalled until its gate opens.
struct Download {
    client: WireClient,
    head: Response,
}

impl Download {
    async fn begin(relay: &Relay, manager: &Manager) -> (Self, Gate) {
        let gate = Gate::default();
        manager.put(PAYLOAD, Resource::new(bytes(1, LENGTH)).stalled(1_000_000, &gate));
        let mut client = WireClient::connect(relay.address).await;
        client.write_request(&Request::get(PAYLOAD)).await.unwrap();
        let mut head = client.read_head().await.unwrap();
        head.body = client.read_bytes(1_000_000).await.unwrap();
        (Self { client, head }, gate)
    }

    async fn end(mut self) -> Response {
        self.client.read_rest("GET", &mut self.head).await;
        self.head
    }
}

/// `gupd serve` with this file.
fn serve_file(file: &Path, text: &str, store: &Path) -> Command {
    fs::write(file, text).unwrap();
    let mut command = gupd(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]);
    command.arg(file).arg("--store").arg(store).env("GUPD_STORE_MIN_FREE", "0");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_applies_upstreams_and_rules_without_drops() {
    let (old, new, folder) = (Manager::start(), Manager::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("gupd.toml");
    let upstream = |manager: &Manager| format!("[[upstream]]\nurl = \"{}\"\n", manager.url());
    let mut relay = Relay::start(&mut serve_file(&file, &upstream(&old), &folder.path().join("store")));
    old.put("/x", Resource::new("old"));
    new.put("/x", Resource::new("new"));
    assert_eq!(relay.get("/x").await.expect_body(), b"old");
    let mut kept = WireClient::connect(relay.address).await;
    assert_eq!(kept.send(&Request::get("/x")).await.unwrap().expect_body(), b"old");
    let (download, gate) = Download::begin(&relay, &old).await;

    let text = upstream(&new) + "[[rule]]\npattern = \"/x\"\nclass = \"private\"\n";
    fs::write(&file, text).unwrap();
    relay.process.signal("HUP");
    relay.process.wait_for_log("configuration reloaded");
    let private = kept.send(&Request::get("/x")).await.unwrap();
    assert_eq!(private.cache_status(), "gupd; fwd=bypass");
    assert_eq!(private.expect_body(), b"new");
    gate.open();
    assert!(download.end().await.expect_body() == bytes(1, LENGTH));
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_of_invalid_file_keeps_old_configuration() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("gupd.toml");
    let good = format!("[[upstream]]\nurl = \"{}\"\n", manager.url());
    let mut relay = Relay::start(&mut serve_file(&file, &good, &folder.path().join("store")));
    manager.put(PAYLOAD, Resource::new("content"));

    fs::write(&file, format!("{good}[cahce]\n[[rule]]\npattern = \"/**\"\nclass = \"private\"\n")).unwrap();
    relay.process.signal("HUP");
    let refused = relay.process.wait_for_log("reload refused; the old configuration stays in force");
    assert!(refused["problem"].as_str().unwrap().contains("gupd.toml:3: cahce: "), "{refused}");
    assert_eq!(refused["level"], "ERROR");
    assert_eq!(relay.get(PAYLOAD).await.cache_status(), "gupd; fwd=uri-miss; stored");

    fs::write(&file, format!("{good}[store]\nmemory = \"64MiB\"\n")).unwrap();
    relay.process.signal("HUP");
    let partly = relay.process.wait_for_log("configuration reloaded; some sections need a restart");
    assert_eq!(partly["sections"], "[\"store\"]");
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_applies_limits_of_the_store() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("gupd.toml");
    let upstream = format!("[[upstream]]\nurl = \"{}\"\n", manager.url());
    let mut relay = Relay::start(&mut serve_file(&file, &upstream, &folder.path().join("store")));
    for (settings, quota) in [
        ("quota = \"1GiB\"", 1 << 30),
        ("quota = \"64MiB\"\nmax_unused = \"1h\"", 64 << 20),
        ("", 40_u64 << 30),
    ] {
        fs::write(&file, format!("{upstream}[store]\n{settings}\n")).unwrap();
        relay.process.signal("HUP");
        relay.process.wait_for_log("configuration reloaded");
        let line = format!("gupd_store_quota_bytes {quota}\n");
        assert!(relay.metrics().await.contains(&line), "{settings}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_finishes_downloads_and_accepts_none() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let mut relay = Relay::start(&mut serve(&manager, folder.path()));
    let (download, gate) = Download::begin(&relay, &manager).await;
    let mut idle = WireClient::connect(relay.address).await;
    assert_eq!(idle.send(&Request::get("/missing")).await.unwrap().status, 404);

    relay.process.signal("TERM");
    relay.process.wait_for_log("draining");
    relay.wait_until_refusing().await;
    assert!(idle.is_closed().await);
    assert_eq!(get(relay.admin, "/readyz").await.status, 503);
    assert_eq!(get(relay.admin, "/healthz").await.status, 200);
    gate.open();
    assert!(download.end().await.expect_body() == bytes(1, LENGTH));
    let ended = relay.process.wait_for_exit();
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");

    // Objects are stored if their fill ended during the drain.
    let again = Relay::start(&mut serve(&manager, folder.path()));
    assert!(again.get(PAYLOAD).await.cache_status().starts_with("gupd; hit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn second_signal_stops_at_once() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let mut relay = Relay::start(&mut serve(&manager, folder.path()));
    let (download, _gate) = Download::begin(&relay, &manager).await;
    relay.process.signal("TERM");
    relay.process.wait_for_log("draining");
    relay.process.signal("INT");
    let ended = relay.process.wait_for_exit();
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
    assert_eq!(download.end().await.ending, Ending::Broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_waits_for_no_fill_without_a_client() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    // The fill would go on until the drain timeout.
    let (download, gate) = Download::begin(&relay, &manager).await;
    drop(download);
    relay.process.signal("TERM");
    let ended = relay.process.wait_for_exit();
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
    assert!(ended.lines.iter().all(|line| !line.contains("drain_timeout expired")), "{ended:#?}");
    gate.open();
    // What had arrived is kept.
    let again = Relay::start(&mut serve(&manager, folder.path()));
    assert!(again.get(PAYLOAD).await.expect_body() == bytes(1, LENGTH));
    let resumed = manager.requests_for(PAYLOAD);
    assert!(resumed.last().unwrap().header("range").is_some(), "{resumed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_ends_at_its_timeout() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let mut command = serve(&manager, folder.path());
    let mut relay = Relay::start(command.env("GUPD_SERVER_DRAIN_TIMEOUT", "100ms"));
    let (download, _gate) = Download::begin(&relay, &manager).await;
    relay.process.signal("TERM");
    relay.process.wait_for_log("server.drain_timeout expired; dropping running downloads");
    let ended = relay.process.wait_for_exit();
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
    assert_eq!(download.end().await.ending, Ending::Broken);
}
