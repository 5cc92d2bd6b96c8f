//! `gupd store held`, `release` and `reject` beside a running relay with a route that holds unproven content.

use std::fs;

use serde_json::Value;

use crate::orders::{configured, order};
use crate::process::{Process, Relay, gupd, parse_line};
use crate::support::{Manager, Resource, get};

const FIRST: &str = "/clu/1369163480jtun_a.zip";
const SECOND: &str = "/clu/1369163480jtun_b.zip";

#[tokio::test(flavor = "multi_thread")]
async fn held_content_is_listed_released_and_rejected() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let route = "[[route]]\nprefix = \"/\"\nprofile = \"liveupdate\"\nverify = \"hold\"\n";
    let relay = Relay::start(&mut configured(folder.path(), &manager, route));
    for (path, body) in [(FIRST, "right"), (SECOND, "wrong")] {
        manager.put(path, Resource::new(body));
        assert_eq!(get(relay.address, path).await.status, 503, "{path}");
    }
    let store = folder.path().join("store");
    let list = |flags: &[&str]| {
        let mut command = gupd(["store", "held", "--store", store.to_str().unwrap()]);
        Process::start(command.args(flags)).wait_for_exit()
    };
    let held = list(&["--json"]);
    let held: Vec<Value> = serde_json::from_str(&held.lines.join("\n")).unwrap();
    assert_eq!(held.len(), 2);
    let table = list(&[]).lines.join("\n");
    for object in &held {
        let (sha256, path) = (object["sha256"].as_str().unwrap(), object["path"].as_str().unwrap());
        let line = table.lines().find(|line| line.contains(path)).unwrap();
        assert!(line.starts_with(&sha256[..12]) && line.contains("no signed catalog lists it"), "{line}");
    }
    assert!(table.ends_with("2 held"), "{table}");
    let id = |path: &str| held.iter().find(|one| one["path"] == path).unwrap()["sha256"].as_str().unwrap();
    let decide = |decision: &str, id: &str| {
        let flags = ["store", decision, id, "--store", store.to_str().unwrap(), "--reason", "compared"];
        order(&relay, folder.path(), &flags)
    };
    for (decision, path, done) in [("release", FIRST, "released"), ("reject", SECOND, "rejected")] {
        let ended = decide(decision, &id(path)[..12]);
        assert!(ended.status.success(), "{ended:#?}");
        assert_eq!(ended.lines, [format!("{done} {path} (sha256 {})", id(path))]);
        decide(decision, id(path)).assert_error(1, &["no held content has the SHA-256"]);
    }
    decide("release", "1234567").assert_error(1, &["sha256: must have 8 to 64 hexadecimal digits"]);
    assert_eq!(get(relay.address, FIRST).await.expect_body(), b"right");
    assert_eq!(get(relay.address, SECOND).await.status, 503);
    let audit = fs::read_to_string(store.join("audit.log")).unwrap();
    let orders: Vec<_> = audit.lines().map(|line| parse_line(line)["order"].clone()).collect();
    assert_eq!(orders, ["release-held", "reject-held"]);
    assert!(audit.contains("compared"));
}
