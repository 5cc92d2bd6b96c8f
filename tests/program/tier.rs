//! Commands on the shared tier: list, verification and collection beside a running relay.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::process::{Ended, Process, Relay, gupd, serve};
use crate::support::{Manager, PATIENCE, Resource, bytes};

const VIRUS: &str = "/content/{07B590B3-9282-482f-BBAA-6D515D385869}";

fn tier(folder: &Path, arguments: &[&str]) -> Ended {
    let url = format!("file://{}", folder.display());
    Process::start(gupd(["tier"]).args(arguments).env("GUPD_TIER_URL", url)).wait_for_exit()
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.lines.join("\n")).unwrap_or_else(|error| panic!("{error}: {}", ended.errors))
}

/// Publishes three revisions through a relay.
async fn published(manager: &Manager, tier: &Path, store: &Path) -> Relay {
    let url = format!("file://{}", tier.display());
    let relay = Relay::start(serve(manager, store).env("GUPD_TIER_URL", url));
    for revision in 1..=3 {
        let path = format!("{VIRUS}/26112100{revision}/full.zip");
        manager.put(&path, Resource::new(bytes(revision, 100_000)));
        relay.get(&path).await.expect_body();
    }
    let deadline = Instant::now() + PATIENCE;
    let is_done = "gupd_tier_publications_total{outcome=\"published\"} 3";
    while !relay.metrics().await.lines().any(|line| line == is_done) {
        assert!(Instant::now() < deadline, "not published");
    }
    relay
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_tier_are_listed_verified_and_collected() {
    let (manager, folder, store) =
        (Manager::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _relay = published(&manager, folder.path(), store.path()).await;
    let listed = json(&tier(folder.path(), &["ls", "--json"]));
    assert_eq!(listed.as_array().unwrap().len(), 3, "{listed:#}");
    assert!(listed[0]["key"].as_str().unwrap().contains("/full.zip") && listed[0]["bytes"] == 100_000);
    let table = tier(folder.path(), &["ls"]);
    assert!(table.lines.last().unwrap().starts_with("3 objects, 293 KiB"), "{:?}", table.lines);
    let verified = tier(folder.path(), &["verify"]);
    assert!(verified.status.success(), "{}", verified.errors);
    assert_eq!(verified.lines, ["3 objects, 293 KiB: 0 damaged"]);
    // Two revisions stay; the blob of the third is young.
    let counted = json(&tier(folder.path(), &["gc", "--keep", "2", "--dry-run", "--json"]));
    assert_eq!((&counted["records"], &counted["blobs"]), (&Value::from(1), &Value::from(0)));
    let collected = tier(folder.path(), &["gc", "--keep", "2"]);
    assert_eq!(collected.lines, ["removed 1 object and 0 blobs, 0 B"], "{}", collected.errors);
    let blobs = || fs::read_dir(folder.path().join("blobs")).unwrap();
    assert_eq!(blobs().count(), 3);
    for blob in blobs() {
        let file = File::options().write(true).open(blob.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(2 * 86_400)).unwrap();
    }
    let collected = tier(folder.path(), &["gc"]);
    assert_eq!(collected.lines, ["removed 0 objects and 1 blob, 97.7 KiB"], "{}", collected.errors);
    assert_eq!(blobs().count(), 2);
    let damaged = blobs().next().unwrap().unwrap().path();
    fs::write(damaged, b"short").unwrap();
    let verified = tier(folder.path(), &["verify"]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(verified.lines[0].starts_with("damaged: / /content/"), "{:?}", verified.lines);
    // The damaged blob is young again.
    let all = tier(folder.path(), &["gc", "--older", "0s"]);
    assert_eq!(all.lines, ["removed 2 objects and 1 blob, 97.7 KiB"], "{}", all.errors);
}

#[test]
fn unusable_tier_is_one_line_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    Process::start(&mut gupd(["tier", "ls"]))
        .wait_for_exit()
        .assert_error(2, &["no tier is configured", "tier.url"]);
    let unknown = |url: &str| Process::start(gupd(["tier", "ls"]).env("GUPD_TIER_URL", url)).wait_for_exit();
    unknown("ftp://a/b").assert_error(2, &["unknown scheme \"ftp\""]);
    unknown("s3://bucket/a").assert_error(1, &["AWS_ACCESS_KEY_ID", "tier.credentials_file"]);
    tier(&folder.path().join("absent"), &["ls"]).assert_error(1, &["absent", "tier.url"]);
    tier(folder.path(), &["gc", "--grace", "5m"]).assert_error(2, &["--grace 5m is too short", "1h"]);
    assert!(tier(folder.path(), &["gc"]).status.success(), "an empty tier");
}
