//! Commands to a running relay: `gupd reload` and `gupd drain`, with and without a guard.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{Ended, Process, Relay, gupd};
use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, WireClient, bytes, get};

/// `gupd serve` with a configuration file that has settings without flags, and a token.
pub(crate) fn configured(folder: &Path, manager: &Manager, more: &str) -> Command {
    crate::support::write_secret(folder.join("token"), "s3cret-of-the-site\n");
    let file = folder.join("gupd.toml");
    let (token, store) = (folder.join("token"), folder.join("store"));
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nadmin_token_file = {token:?}\n\
         [store]\ndir = {store:?}\nmin_free = \"0B\"\n[[upstream]]\nurl = \"{}\"\n{more}",
        manager.url()
    );
    fs::write(&file, text).unwrap();
    let mut command = gupd(["serve", "--config"]);
    command.arg(file);
    command
}

pub(crate) fn order(relay: &Relay, folder: &Path, arguments: &[&str]) -> Ended {
    let mut command = gupd(arguments);
    command.args(["--admin", &relay.admin.to_string()]);
    command.env("GUPD_SERVER_ADMIN_TOKEN_FILE", folder.join("token"));
    Process::start(&mut command).wait_for_exit()
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_prints_its_result() {
    for guard in [None, Some("--guard")] {
        let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
        let mut command = configured(folder.path(), &manager, "");
        let relay = Relay::start(command.args(guard));
        let reload = || order(&relay, folder.path(), &["reload"]);
        let done = reload();
        assert!(done.status.success(), "{done:#?}");
        assert_eq!(done.lines, ["reloaded"]);
        configured(folder.path(), &manager, "[log]\naccess = false\nformat = \"text\"\n");
        assert_eq!(reload().lines, ["reloaded; restart gupd to apply these sections: log"]);
        configured(folder.path(), &manager, "[fill]\nattempts = 0\n");
        let refused = reload();
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.errors.contains("gupd.toml") && refused.errors.contains("attempts"), "{refused:#?}");
        assert!(refused.errors.contains("the old configuration stays in force"), "{refused:#?}");
        assert!(relay.metrics().await.contains("gupd_config_last_reload_successful 0\n"));
        configured(folder.path(), &manager, "");
        assert!(reload().status.success());
        assert!(relay.metrics().await.contains("gupd_config_last_reload_successful 1\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_relay_redirects_new_requests_and_finishes_downloads() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let public = "public_url = \"https://manager.example\"\n";
    let relay = Relay::start(&mut configured(folder.path(), &manager, public));
    let (body, gate) = (bytes(1, 3_000_000), Gate::default());
    manager.put(PAYLOAD, Resource::new(body.clone()).stalled(1_000_000, &gate));
    let mut client = WireClient::connect(relay.address).await;
    client.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut running = client.read_head().await.unwrap();
    running.body = client.read_bytes(1_000_000).await.unwrap();

    let drained = order(&relay, folder.path(), &["drain", "--redirect"]);
    assert_eq!(drained.lines, ["draining: new requests are redirected to the manager; open connections: 1"]);
    assert!(relay.metrics().await.contains("gupd_draining 1\n"));
    let ready = get(relay.admin, "/readyz").await;
    assert_eq!((ready.status, ready.expect_body()), (503, b"draining\n".to_vec()));
    let target = format!("{PAYLOAD}?a=b");
    let sent = get(relay.address, &target).await;
    assert_eq!(sent.status, 307);
    assert_eq!(sent.header("location"), Some(&*format!("https://manager.example{target}")));
    // A client with the relay as its proxy would come back to it.
    let proxied = get(relay.address, "http://manager.example:443/none").await;
    assert_eq!(proxied.status, 404, "the manager's 404");
    // A report is redirected as a POST.
    assert_eq!(Request::new("POST", "/secars/x").body("report").send(relay.address).await.status, 307);
    gate.open();
    client.read_rest("GET", &mut running).await;
    assert!(running.expect_body() == body);

    assert_eq!(order(&relay, folder.path(), &["drain", "--end"]).lines, ["serving"]);
    assert!(relay.metrics().await.contains("gupd_draining 0\n"));
    assert_eq!(get(relay.admin, "/readyz").await.status, 200);
    assert!(relay.get(PAYLOAD).await.expect_body() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_without_redirect_serves_new_requests() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&mut configured(folder.path(), &manager, ""));
    manager.put(PAYLOAD, Resource::new("content"));
    assert!(order(&relay, folder.path(), &["drain"]).status.success());
    assert_eq!(get(relay.admin, "/readyz").await.status, 503);
    assert_eq!(relay.get(PAYLOAD).await.expect_body(), b"content");
    crate::support::write_secret(folder.path().join("token"), "another-of-the-site\n");
    assert!(
        order(&relay, folder.path(), &["drain", "--end"]).status.success(),
        "a new token applies at once"
    );
}
