//! `gupd status` and `GET /api/v1/status` against a running relay.

use std::time::Instant;

use serde_json::Value;

use crate::process::{Ended, PATIENCE, Process, Relay, gupd, serve};
use crate::support::{Manager, PAYLOAD, RefusingPort, Resource, bytes, get};

fn status(relay: &Relay, flags: &[&str]) -> Ended {
    let mut command = gupd(["status", "--admin", &relay.admin.to_string()]);
    Process::start(command.args(flags)).wait_for_exit()
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_relay_is_one_screen_with_nothing_to_do() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    manager.put(PAYLOAD, Resource::new(bytes(1, 3 << 20)));
    let mut command = serve(&manager, folder.path());
    let relay = Relay::start(command.args(["--wan-limit", "800Mbit/s"]));
    relay.wait_until_stored(PAYLOAD).await;
    let ended = status(&relay, &[]);
    assert!(ended.status.success(), "{ended:#?}");
    let text = ended.lines.join("\n");
    for words in
        ["serving", "% busy; nothing to do", "800 Mbit/s", "3.00 MiB", "healthy", "store    well: 1 object"]
    {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    assert!(ended.lines.len() <= 24 && ended.lines.iter().all(|line| line.chars().count() <= 100), "{text}");
    let ended = status(&relay, &["--json"]);
    let report: Value = serde_json::from_str(&ended.lines.join("\n")).unwrap();
    assert_eq!(report["savings"]["today"]["wan_received"], 3 << 20, "{report:#}");
    assert_eq!(report["upstreams"][0]["is_healthy"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_upstream_is_the_one_thing_to_do() {
    let (refusing, folder) = (RefusingPort::new(), tempfile::tempdir().unwrap());
    let mut command = gupd(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--store"]);
    command.arg(folder.path()).args(["--upstream", &refusing.url()]).env("GUPD_STORE_MIN_FREE", "0");
    let relay = Relay::start(command.env("GUPD_HEALTH_INTERVAL", "1s").env("GUPD_HEALTH_FAILURES", "1"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ended = status(&relay, &[]);
        if ended.lines.iter().any(|line| line.contains("no upstream answers")) {
            return;
        }
        assert!(Instant::now() < deadline, "{ended:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_refuses_foreign_hosts_and_absent_relays() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    assert_eq!(get(relay.admin, "/api/v1/status").await.status, 200);
    let request = crate::support::Request::get("/api/v1/status").header("Host", "rebound.example");
    assert_eq!(request.send(relay.admin).await.status, 421);
    let refusing = RefusingPort::new();
    let address = refusing.address().to_string();
    Process::start(&mut gupd(["status", "--admin", &address]))
        .wait_for_exit()
        .assert_error(1, &["start the relay"]);
}
