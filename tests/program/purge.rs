//! `gupd store purge` beside a running relay: the relay removes what the conditions select, from memory too, and a
//! download that runs meanwhile does not bring it back.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::orders::{configured, order};
use crate::process::{Ended, Relay, parse_line};
use crate::store_commands::{list_objects, store};
use crate::support::{Gate, Manager, Request, Resource, Response, WireClient, bytes, get};
use gupd_config::Quantity;

const VIRUS: &str = "/content/{07B590B3-9282-482f-BBAA-6D515D385869}";
const NETWORK: &str = "/content/{55DE35DC-862A-44C9-8A2B-3EF451665D0A}";
const LENGTH: usize = 3_000_000;

/// Paths and lengths of stored content.
fn content() -> [(String, usize); 5] {
    [
        (format!("{VIRUS}/261121001/full.zip"), 2_500_000),
        (format!("{VIRUS}/261121001/xdelta261120001.dax"), 70_000),
        (format!("{VIRUS}/261120001/full.zip"), 400_000),
        (format!("{NETWORK}/261121001/full.zip"), 100_000),
        ("/1369163480jtun_nav.zip".to_owned(), 9_000),
    ]
}

struct Place {
    manager: Manager,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { manager: Manager::start(), folder: tempfile::tempdir().unwrap() }
    }

    fn serve(&self, guard: Option<&str>) -> Relay {
        Relay::start(configured(self.folder.path(), &self.manager, "").args(guard))
    }

    fn purge(&self, relay: &Relay, conditions: &[&str]) -> Ended {
        let folder = self.folder.path().join("store");
        let arguments = ["store", "purge", "--store", folder.to_str().unwrap()];
        order(relay, self.folder.path(), &[&arguments, conditions].concat())
    }

    /// Publishes and stores all content of a version.
    async fn fill(&self, relay: &Relay, version: u64) {
        for (seed, (path, length)) in (version..).zip(content()) {
            self.manager.put(&path, Resource::tagged(bytes(seed, length), &format!("\"{version}\"")));
            relay.wait_until_stored(&path).await;
        }
    }

    fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("store/audit.log")).unwrap_or_default();
        text.lines().map(parse_line).collect()
    }

    fn stored(&self) -> Vec<Value> {
        list_objects(&self.folder.path().join("store"), &[])
    }
}

/// A download that has its first million bytes.
struct Download {
    client: WireClient,
    head: Response,
}

impl Download {
    async fn begin(relay: &Relay, path: &str) -> Self {
        let mut client = WireClient::connect(relay.address).await;
        client.write_request(&Request::get(path)).await.unwrap();
        let mut head = client.read_head().await.unwrap();
        head.body = client.read_bytes(1_000_000).await.unwrap();
        Self { client, head }
    }

    async fn end(mut self) -> Vec<u8> {
        self.client.read_rest("GET", &mut self.head).await;
        self.head.expect_body()
    }
}

async fn post(relay: &Relay, token: &str, body: &str) -> Response {
    let request = Request::new("POST", "/api/v1/store/purge").body(body);
    request.header("Authorization", &format!("Bearer {token}")).send(relay.admin).await
}

#[tokio::test(flavor = "multi_thread")]
async fn running_relay_purges_what_conditions_select() {
    for guard in [None, Some("--guard")] {
        let place = Place::new();
        let relay = place.serve(guard);
        for (version, (conditions, purged)) in (0_u64..).step_by(10).zip([
            (["--path", "**"].as_slice(), &[0, 1, 2, 3, 4][..]),
            (&["--path", "/content/{07b590b3-*}/**"], &[0, 1, 2]),
            (&["--path", "/content/%7B07B590B3-9282-482f-BBAA-6D515D385869%7D/261120001/full.zip"], &[]),
            (&["--path", "**/xdelta261120001.dax"], &[1]),
            (&["--content-type", "network-threat"], &[3]),
            (&["--revision", "261121001"], &[0, 1, 3]),
            (&["--revision", "1369163480"], &[4]),
            (&["--larger-than", "399KB"], &[0, 2]),
            (&["--smaller-than", "70001B", "--newer-than", "1h"], &[1, 4]),
            (&["--older-than", "1h"], &[]),
        ]) {
            place.fill(&relay, version).await;
            let done = place.purge(&relay, conditions);
            let first = done.lines.first().map(String::as_str).unwrap_or_default();
            assert!(done.status.success(), "{conditions:?}: {done:#?}");
            assert!(
                first.starts_with(&format!("removed {}, ", Quantity(purged.len(), "object"))),
                "{conditions:?}: {first}"
            );
            assert_eq!(place.stored().len(), content().len() - purged.len(), "{conditions:?}");
            for (index, (path, length)) in content().into_iter().enumerate() {
                place.manager.put(&path, Resource::new(bytes(version + 5, length)));
                let response = relay.get(&path).await;
                let is_purged = purged.contains(&index);
                assert_eq!(response.cache_status() != "gupd; hit", is_purged, "{conditions:?} {path}");
                let seed = if is_purged { version + 5 } else { version + index as u64 };
                assert!(response.expect_body() == bytes(seed, length), "{conditions:?} {path}");
            }
            relay.wait_for_fills().await;
            place.purge(&relay, &["--path", "**"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_overtaken_by_purge_is_not_stored() {
    let path = format!("{VIRUS}/261121001/full.zip");
    for conditions in [
        ["--path", "**"],
        ["--path", "/content/**/full.zip"],
        ["--content-type", "virus-definitions-64"],
        ["--revision", "261121001"],
        ["--larger-than", "2MB"],
        ["--newer-than", "1m"],
    ] {
        let (place, gate) = (Place::new(), Gate::default());
        let relay = place.serve(None);
        let (old, new) = (bytes(1, LENGTH), bytes(2, LENGTH));
        place.manager.put(&path, Resource::tagged(old.clone(), "\"1\"").stalled(1_000_000, &gate));
        let download = Download::begin(&relay, &path).await;
        let done = place.purge(&relay, &conditions);
        assert_eq!(
            done.lines,
            ["removed 0 objects, 0 B on disk; 1 running download will not be stored"],
            "{done:#?}"
        );
        place.manager.put(&path, Resource::tagged(new.clone(), "\"2\""));
        assert!(relay.get(&path).await.expect_body() == new, "{conditions:?}");
        gate.open();
        assert!(download.end().await == old, "the client of the old download gets all of it");
        relay.wait_until_stored(&path).await;
        assert!(relay.get(&path).await.expect_body() == new, "{conditions:?}");
        relay.process.signal("TERM");
        assert!(relay.process.wait_for_exit().status.success());
        let again = place.serve(None);
        assert!(again.get(&path).await.expect_body() == new, "{conditions:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_that_conditions_spare_is_stored() {
    let path = format!("{VIRUS}/261121001/full.zip");
    for conditions in [
        ["--path", "/other/**"],
        ["--content-type", "network-threat"],
        ["--revision", "261120001"],
        ["--smaller-than", "2MB"],
        ["--older-than", "1m"],
    ] {
        let (place, gate) = (Place::new(), Gate::default());
        let relay = place.serve(None);
        place.manager.put(&path, Resource::new(bytes(1, LENGTH)).stalled(1_000_000, &gate));
        let download = Download::begin(&relay, &path).await;
        assert_eq!(place.purge(&relay, &conditions).lines, ["removed 0 objects, 0 B on disk"]);
        gate.open();
        assert!(download.end().await == bytes(1, LENGTH));
        relay.wait_until_stored(&path).await;
        assert_eq!(place.manager.request_count(&path), 1, "{conditions:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_download_is_purged_too() {
    let path = format!("{VIRUS}/261121001/full.zip");
    for is_running in [true, false] {
        let (place, gate) = (Place::new(), Gate::default());
        let relay = place.serve(None);
        place.manager.put(&path, Resource::tagged(bytes(1, LENGTH), "\"1\"").stalled(2_000_000, &gate));
        drop(Download::begin(&relay, &path).await);
        relay.process.signal("TERM");
        assert!(relay.process.wait_for_exit().status.success());
        assert!(fs::read_dir(place.folder.path().join("store/partial")).unwrap().count() > 0);
        let purged = if is_running {
            let relay = place.serve(None);
            let purged = place.purge(&relay, &["--revision", "261121001"]);
            relay.process.signal("TERM");
            assert!(relay.process.wait_for_exit().status.success());
            purged
        } else {
            store("purge", &place.folder.path().join("store"), &["--revision", "261121001"])
        };
        assert_eq!(purged.lines, ["removed 0 objects, 0 B on disk"], "{purged:#?}");
        assert_eq!(fs::read_dir(place.folder.path().join("store/partial")).unwrap().count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_is_audited_with_author_and_conditions() {
    let place = Place::new();
    let mut relay = place.serve(None);
    place.fill(&relay, 1).await;
    place.purge(&relay, &["--path", "**/full.zip", "--reason", "captive portal"]);
    let log = relay.process.wait_for_log("stored content purged");
    assert_eq!((&log["objects"], &log["reason"]), (&3.into(), &"captive portal".into()), "{log}");
    let [line] = &place.audit()[..] else { panic!("{:#?}", place.audit()) };
    assert_eq!((&line["order"], &line["what"]), (&"purge".into(), &json!({ "path": "**/full.zip" })));
    assert_eq!((&line["from"], &line["reason"]), (&"127.0.0.1".into(), &"captive portal".into()));
    assert!(line["who"].is_string() && line["outcome"]["done"].is_string(), "{line}");

    let audit = place.folder.path().join("store/audit.log");
    fs::remove_file(&audit).unwrap();
    fs::create_dir(&audit).unwrap();
    let refused = place.purge(&relay, &["--path", "**"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:#?}");
    assert!(refused.errors.contains("audit.log cannot be written"), "{refused:#?}");
    assert_eq!(place.stored().len(), 2, "what cannot be audited is not purged");
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_without_permission_removes_nothing() {
    let place = Place::new();
    let relay = place.serve(None);
    place.fill(&relay, 1).await;
    let all = r#"{"by":"anna","select":{"path":"**"}}"#;
    for (token, body, status) in [
        ("wrong", all, 401),
        ("", all, 401),
        ("s3cret-of-the-site", "", 400),
        ("s3cret-of-the-site", r#"{"by":"anna","select":{}}"#, 400),
        ("s3cret-of-the-site", r#"{"by":"","select":{"path":"**"}}"#, 400),
        ("s3cret-of-the-site", r#"{"by":"anna","folder":[1,2],"select":{"path":"**"}}"#, 409),
    ] {
        assert_eq!(post(&relay, token, body).await.status, status, "{token:?} {body}");
    }
    assert_eq!(get(relay.admin, "/api/v1/store/purge").await.status, 405);
    let folder = place.folder.path().join("store");
    store("purge", &folder, &["--path", "**"])
        .assert_error(2, &["in use by another gupd", "server.admin_token_file"]);
    place.purge(&relay, &[]).assert_error(2, &["--path", "--revision"]);
    let rehearsed = place.purge(&relay, &["--path", "**", "--dry-run"]);
    assert_eq!((rehearsed.status.code(), rehearsed.lines.len()), (Some(0), 7), "{rehearsed:#?}");

    // The relay at the address has another store than the one that is meant.
    let other = Place::new();
    let elsewhere = other.serve(None);
    place.purge(&elsewhere, &["--path", "**"]).assert_error(1, &["refused by the relay", "another store"]);
    drop(elsewhere);
    place.purge(&Relay { admin: gone(), ..relay }, &["--path", "**"]).assert_error(1, &["admin address"]);
    assert_eq!(list_objects(Path::new(&folder), &[]).len(), content().len());
    assert!(place.audit().is_empty());
}

/// An address where nobody listens.
fn gone() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
