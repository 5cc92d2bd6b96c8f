//! `gupd rollout` against a running relay: each command needs the token, applies at once and after a restart, is
//! audited, and has a dry run. The effect of each command is tested with the rollout state.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Ended, PATIENCE, Process, Relay, gupd, parse_line};
use crate::support::{Manager, Request, Resource, WireClient, get};

const RINGS: &str = "[site]\ntime_zone = \"UTC\"\n\
     [[group]]\nname = \"pilot\"\nsubnets = \"127.0.0.2\"\n\
     [[ring]]\nname = \"first\"\ngroups = \"pilot\"\n\
     [[ring]]\nname = \"rest\"\ngroups = \"default\"\ngate = \"manual\"\nshares = [10, 100]\nstep = \"24h\"\n";

/// The pilot, and a client of the other ring that is not in its first tenth.
const PILOT: [u8; 4] = [127, 0, 0, 2];
const OTHER: [u8; 4] = [127, 0, 0, 3];

pub(crate) const CATALOG: &str = "/minitri.flg";

/// A manager, and a relay's folder with configuration, token and store.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) manager: Manager,
}

impl Place {
    fn new(rings: &str) -> Self {
        let (folder, manager) = (tempfile::tempdir().unwrap(), Manager::start());
        let (token, store) = (folder.path().join("token"), folder.path().join("store"));
        crate::support::write_secret(&token, "s3cret-of-the-site\n");
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nadmin_token_file = {token:?}\n\
             [store]\ndir = {store:?}\nmin_free = \"0B\"\n[refresh]\nschedule = \"off\"\n\
             [[upstream]]\nurl = \"{}\"\n{rings}",
            manager.url()
        );
        fs::write(folder.path().join("gupd.toml"), text).unwrap();
        Self { folder, manager }
    }

    /// A place with revisions 1 to 3, each with its number as catalog: all clients see 1, but the pilot sees 3.
    pub(crate) async fn published() -> (Self, Relay) {
        let place = Self::new(RINGS);
        let relay = place.serve();
        for (revision, version) in ["1", "2", "3"].into_iter().enumerate() {
            place.manager.put(CATALOG, Resource::new(version));
            if revision > 0 {
                let refreshed = post("/api/v1/refresh", "").send(relay.admin).await;
                assert_eq!(refreshed.status, 200, "{refreshed:?}");
            }
            let deadline = Instant::now() + PATIENCE;
            while catalog_for(&relay, PILOT).await != version {
                assert!(Instant::now() < deadline, "the pilot never sees {version}");
            }
        }
        (place, relay)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("gupd.toml")
    }

    fn audit(&self) -> PathBuf {
        self.folder.path().join("store/audit.log")
    }

    fn audit_lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.audit()).unwrap_or_default();
        text.lines().map(parse_line).collect()
    }

    fn serve(&self) -> Relay {
        Relay::start(gupd(["serve", "--config"]).arg(self.file()))
    }

    fn rollout(&self, relay: &Relay, arguments: &[&str]) -> Ended {
        let mut command = gupd(["rollout"]);
        command.args(arguments).arg("--config").arg(self.file());
        Process::start(command.args(["--admin", &relay.admin.to_string()])).wait_for_exit()
    }

    fn rollout_ok(&self, relay: &Relay, arguments: &[&str]) -> Vec<String> {
        let ended = self.rollout(relay, arguments);
        assert!(ended.status.success(), "{arguments:?}: {ended:#?}");
        ended.lines
    }
}

/// Returns the catalog that a client at this address gets.
async fn catalog_for(relay: &Relay, client: [u8; 4]) -> String {
    let mut client = WireClient::connect_from(client.into(), relay.address).await;
    let response = client.send(&Request::get(CATALOG)).await.unwrap();
    assert_eq!(response.status, 200, "{response:?}");
    String::from_utf8(response.expect_body()).unwrap()
}

/// Returns the catalogs of the pilot and of the other client.
pub(crate) async fn views(relay: &Relay) -> [String; 2] {
    [catalog_for(relay, PILOT).await, catalog_for(relay, OTHER).await]
}

async fn status(admin: SocketAddr) -> Value {
    let mut status: Value =
        serde_json::from_slice(&get(admin, "/api/v1/rollout?catalogs=true").await.expect_body()).unwrap();
    status["time"] = Value::Null;
    status
}

pub(crate) fn post(path: &str, body: &str) -> Request {
    Request::new("POST", path).header("Authorization", "Bearer s3cret-of-the-site").body(body)
}

pub(crate) fn order(body: &str) -> Request {
    post("/api/v1/rollout", body)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_survives_a_crash_and_is_in_the_audit_log() {
    let (place, mut relay) = Place::published().await;
    assert_eq!(views(&relay).await, ["3", "1"]);
    for (arguments, says, pilot, other) in [
        (&["name", "2", "good"][..], "revision 2 is called good", "3", "1"),
        (&["hold", "default", "good"], "group default sees revision 2 until", "3", "2"),
        (&["rollback", "pilot"], "group pilot sees revision 2 until", "2", "2"),
        (&["rollback", "pilot", "1"], "group pilot sees revision 1 until", "1", "2"),
        (&["name", "--remove", "good"], "revision 2 is not called good any more", "1", "2"),
        (&["release", "pilot"], "group pilot is held no more", "3", "2"),
        (&["release", "--now", "default"], "group default sees revision 3 now", "3", "3"),
        (&["hold", "default", "1"], "group default sees revision 1 until", "3", "1"),
        (&["release"], "every group is held no more", "3", "1"),
        (&["halt"], "no view moves until", "3", "1"),
        (&["resume"], "views move again", "3", "1"),
        (&["promote", "rest"], "ring rest, step 1 of 2 is open for revision 3", "3", "1"),
        (&["promote", "rest"], "ring rest, step 2 of 2 is open for revision 3", "3", "3"),
    ] {
        let output = place.rollout_ok(&relay, &[arguments, &["--reason", "a \"test\""]].concat());
        assert!(output[0].starts_with(says), "{arguments:?}: {output:?}");
        assert_eq!(views(&relay).await, [pilot, other], "{arguments:?}");
        relay.process.kill();
        relay = place.serve();
        assert_eq!(views(&relay).await, [pilot, other], "{arguments:?}");
        let line = place.audit_lines().pop().unwrap();
        let order = if arguments.contains(&"--remove") { "unname" } else { arguments[0] };
        assert_eq!((&line["order"], &line["from"]), (&json!(order), &json!("127.0.0.1")), "{line}");
        assert_eq!(line["reason"], "a \"test\"", "{line}");
        assert!(line["outcome"]["done"].as_str().unwrap().starts_with(says), "{line}");
        assert!(line["who"].as_str().is_some_and(|who| !who.is_empty()), "{line}");
        assert!(line["at"].as_str().is_some_and(|at| at.starts_with("20") && at.ends_with('Z')), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_takes_less_than_a_second() {
    let mut fastest = Duration::MAX;
    // A busy machine may delay one command; a command that waits for a timer is late every time.
    for _ in 0..3 {
        let (_place, relay) = Place::published().await;
        let began = Instant::now();
        let body = json!({ "order": "release", "now": true, "by": "anna" }).to_string();
        let done = order(&body).send(relay.admin).await;
        assert_eq!(done.status, 200, "{done:?}");
        assert_eq!(catalog_for(&relay, OTHER).await, "3");
        fastest = fastest.min(began.elapsed());
        if fastest < Duration::from_secs(1) {
            return;
        }
    }
    panic!("the fastest command took {fastest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_shows_affected_clients_and_changes_nothing() {
    let (place, relay) = Place::published().await;
    let (before, lines) = (status(relay.admin).await, place.audit_lines());
    for arguments in [
        &["name", "1", "old"][..],
        &["hold", "default", "2"],
        &["rollback", "pilot"],
        &["release", "--now"],
        &["halt"],
        &["promote", "rest"],
    ] {
        let output = place.rollout_ok(&relay, &[arguments, &["--dry-run"]].concat());
        assert!(output[0].starts_with("dry run, nothing changed: "), "{output:?}");
        assert!(output.iter().any(|line| line.starts_with("pilot ")), "{output:?}");
        assert_eq!(status(relay.admin).await, before, "{arguments:?}");
    }
    let output = place.rollout_ok(&relay, &["rollback", "pilot", "--dry-run", "--json"]).join("\n");
    let output: Value = serde_json::from_str(&output).unwrap();
    let group = &output["groups"][1];
    assert_eq!(
        (&group["group"], &group["sees"], &group["would_see"]),
        (&json!("pilot"), &json!(3), &json!(2))
    );
    place.rollout(&relay, &["resume", "--dry-run"]).assert_error(1, &["under way already"]);
    assert_eq!(place.audit_lines(), lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_command_is_refused_with_one_line() {
    let (place, relay) = Place::published().await;
    let before = status(relay.admin).await;
    for (arguments, words) in [
        (&["hold", "pilot", "nonesuch"][..], &["nonesuch", "kept are", "3"][..]),
        (&["hold", "nonesuch", "1"], &["nonesuch", "the groups are pilot, default"]),
        (&["rollback", "default"], &["no revision before 1", "gupd rollout hold"]),
        (&["release", "nonesuch"], &["nonesuch", "the groups are"]),
        (&["release", "pilot"], &["group pilot is not held", "release --now"]),
        (&["rollback", "pilot", "3"], &["revision 3 is not before 3", "gupd rollout hold"]),
        (&["promote", "nonesuch"], &["nonesuch", "the rings are first, rest"]),
        (&["promote", "first"], &["open for every revision already"]),
        (&["name", "9", "good"], &["kept are"]),
        (&["name", "1", "7"], &["not a name"]),
        (&["name", "--remove", "good"], &["good", "kept are"]),
        (&["resume"], &["under way already"]),
    ] {
        place.rollout(&relay, arguments).assert_error(1, words);
        let line = place.audit_lines().pop().unwrap();
        assert!(line["outcome"]["refused"].as_str().unwrap().contains(words[0]), "{line}");
    }
    assert_eq!(status(relay.admin).await, before);
    place.rollout_ok(&relay, &["halt"]);
    place.rollout(&relay, &["release", "--now"]).assert_error(1, &["halted", "gupd rollout resume"]);
    place.rollout(&relay, &["halt"]).assert_error(1, &["halted already"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_need_token_and_known_fields() {
    let (place, relay) = Place::published().await;
    let bare = Request::new("POST", "/api/v1/rollout").body(r#"{"order":"halt","by":"anna"}"#);
    assert_eq!(bare.send(relay.admin).await.status, 401);
    // Requests of this machine may read.
    assert_eq!(get(relay.admin, "/api/v1/rollout/clients").await.status, 200);
    for body in [
        r#"{"order":"halt"}"#.to_owned(),
        r#"{"order":"halt","by":"anna","group":"pilot"}"#.to_owned(),
        "halt".to_owned(),
        format!(r#"{{"order":"halt","by":"anna","reason":"{}"}}"#, "a".repeat(20_000)),
    ] {
        let refused = order(&body).send(relay.admin).await;
        assert_eq!(refused.status, 400, "{refused:?}");
        let problem: Value = serde_json::from_slice(&refused.body).unwrap();
        assert!(!problem["detail"].as_str().unwrap().contains('\n'), "{refused:?}");
    }
    for query in ["view?client=x&group=pilot", "view?client=127.0.0.2"] {
        assert_eq!(get(relay.admin, &format!("/api/v1/rollout/{query}")).await.status, 400, "{query}");
    }
    // A group of a configuration that is not reloaded yet is unknown.
    let unknown = get(relay.admin, "/api/v1/rollout/view?client=127.0.0.2&group=nonesuch").await;
    assert_eq!(unknown.status, 404, "{unknown:?}");
    assert!(status(relay.admin).await["halted"].is_null());
    fs::remove_file(place.folder.path().join("token")).unwrap();
    place.rollout(&relay, &["halt"]).assert_error(2, &["server.admin_token_file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn command_is_refused_when_audit_log_cannot_be_written() {
    let (place, relay) = Place::published().await;
    fs::rename(place.audit(), place.folder.path().join("store/audit.log.1")).unwrap();
    fs::create_dir(place.audit()).unwrap();
    place
        .rollout(&relay, &["hold", "pilot", "1"])
        .assert_error(1, &["audit.log cannot be written", "nothing is"]);
    assert_eq!(catalog_for(&relay, PILOT).await, "3");
    fs::remove_dir(place.audit()).unwrap();
    place.rollout_ok(&relay, &["hold", "pilot", "1"]);
    assert_eq!((&*catalog_for(&relay, PILOT).await, place.audit_lines().len()), ("1", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn automatic_step_is_in_the_audit_log() {
    let (place, _relay) = Place::published().await;
    let opened: Vec<Value> = place.audit_lines();
    let output =
        opened.iter().map(|line| (line["who"].as_str(), line["order"].as_str(), &line["what"]["ring"]));
    for (who, order, ring) in output {
        assert_eq!((who, order, ring), (Some("gupd"), Some("open"), &json!("first")));
    }
    assert_eq!(opened.last().unwrap()["what"], json!({ "revision": 3, "ring": "first", "step": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_fits_in_eighty_columns() {
    let (place, relay) = Place::published().await;
    place.rollout_ok(&relay, &["name", "2", "good"]);
    place.rollout_ok(&relay, &["hold", "default", "good"]);
    let lines = place.rollout_ok(&relay, &["status"]);
    let line = |begins: &str| lines.iter().find(|line| line.trim_start().starts_with(begins)).cloned();
    for begins in ["REVISION  PUBLISHED", "named good", "first ", "rest ", "pilot ", "NEXT"] {
        assert!(line(begins).is_some(), "{begins}: {lines:#?}");
    }
    assert!(line("default ").unwrap().ends_with("held at 2"), "{lines:#?}");
    let next = "revision 3, ring rest, step 1 of 2: waits for gupd rollout promote rest";
    assert!(lines.iter().any(|line| line == next), "{lines:#?}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");

    let output: Value =
        serde_json::from_str(&place.rollout_ok(&relay, &["status", "--json"]).join("\n")).unwrap();
    let hashes: Vec<&Value> = output["revisions"][0]["catalogs"].as_object().unwrap().values().collect();
    // SHA-256 of "3".
    assert_eq!(hashes, ["4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"]);
    assert_eq!(output["groups"][1]["held"]["revision"], 2);

    let mut command = gupd(["rollout", "status", "--watch", "--admin", &relay.admin.to_string()]);
    let mut watch = Process::start(command.arg("--config").arg(place.file()));
    for _ in 0..2 {
        assert!(watch.wait_for_line(|line| line == next).is_some());
    }
    watch.signal("INT");
    assert!(!watch.wait_for_exit().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_listed_in_status_and_dry_run() {
    let (place, relay) = Place::published().await;
    assert_eq!(views(&relay).await, ["3", "1"]);
    let lines = place.rollout_ok(&relay, &["status", "--clients"]);
    assert!(lines[0].ends_with(": 2 clients known, 2 green"), "{lines:#?}");
    let of = |client: &str| lines.iter().find(|line| line.starts_with(client)).unwrap().split_whitespace();
    assert_eq!(of("127.0.0.2").take(5).collect::<Vec<_>>(), ["127.0.0.2", "pilot", "green", "3", "3"]);
    assert_eq!(of("127.0.0.3").take(5).collect::<Vec<_>>(), ["127.0.0.3", "default", "green", "1", "1"]);
    // Requests of the relay's own machine may read without a token.
    let mut command = gupd(["rollout", "status", "--clients", "--admin", &relay.admin.to_string()]);
    let without_token = Process::start(&mut command).wait_for_exit();
    assert!(without_token.lines.iter().any(|line| line.starts_with("127.0.0.2")), "{without_token:#?}");

    let lines = place.rollout_ok(&relay, &["release", "--now", "--dry-run"]);
    let clients: Vec<Vec<&str>> = lines
        .iter()
        .filter(|line| line.starts_with("127."))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(clients, [["127.0.0.3", "default", "1", "3", "3", "1"]], "{lines:#?}");

    let query = "/api/v1/rollout/clients?group=pilot";
    let list =
        Request::get(query).header("Authorization", "Bearer s3cret-of-the-site").send(relay.admin).await;
    let list: Value = serde_json::from_slice(&list.expect_body()).unwrap();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["client"]), (1, &json!("127.0.0.2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn client_list_has_pages_that_name_the_next() {
    let (_place, relay) = Place::published().await;
    views(&relay).await;
    let deadline = Instant::now() + PATIENCE;
    // The tracker takes observations a moment after the response.
    let mut page = "/api/v1/rollout/clients?limit=1".to_owned();
    loop {
        let first = get(relay.admin, &page).await;
        let Some(link) = first.header("link") else {
            assert!(Instant::now() < deadline, "{first:?}");
            continue;
        };
        let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
        let list: Value = serde_json::from_slice(&first.expect_body()).unwrap();
        assert_eq!((list.as_array().unwrap().len(), &list[0]["client"]), (1, &json!("127.0.0.2")));
        page = next;
        break;
    }
    let last = get(relay.admin, &page).await;
    assert_eq!(last.header("link"), None);
    let list: Value = serde_json::from_slice(&last.expect_body()).unwrap();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["client"]), (1, &json!("127.0.0.3")));
    for query in ["limit=0", "limit=1001", "limit=x", "after="] {
        assert_eq!(
            get(relay.admin, &format!("/api/v1/rollout/clients?{query}")).await.status,
            400,
            "{query}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_without_rings_names_the_missing_setting() {
    let place = Place::new("");
    let relay = place.serve();
    for arguments in [&["status"][..], &["halt"], &["hold", "default", "1"], &["halt", "--dry-run"]] {
        place.rollout(&relay, arguments).assert_error(1, &["no rollouts", "[[ring]]"]);
    }
    assert!(!place.audit().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_ring_step_and_view_of_running_relay() {
    let (place, relay) = Place::published().await;
    let explain = |admin: SocketAddr, client: &str| {
        let mut command = gupd(["policy", "explain", "--path", CATALOG, "--client", client, "--config"]);
        command.arg(place.file()).env("GUPD_SERVER_ADMIN", admin.to_string());
        let ended = Process::start(&mut command).wait_for_exit();
        assert!(ended.status.success(), "{ended:#?}");
        let value = |name: &str| -> String {
            let line = ended.lines.iter().find(|line| line.starts_with(name));
            line.unwrap_or_else(|| panic!("{ended:#?}"))[13..].trim().to_owned()
        };
        (value("ring "), value("view "))
    };
    let (ring, view) = explain(relay.admin, "127.0.0.2");
    assert_eq!(ring, "first, starts at publication, gate auto");
    assert!(view.starts_with("revision 3, published ") && view.ends_with(": the newest"), "{view}");
    let (ring, view) = explain(relay.admin, "127.0.0.3");
    assert_eq!(ring, "rest, after ring first, gate manual, step 2 of 2: the first 100%");
    assert!(view.ends_with("; newest is 3: see gupd rollout status"), "{view}");
    let unused: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let (_, view) = explain(unused, "127.0.0.2");
    assert!(
        view.starts_with("unknown: admin address 127.0.0.1:1: ") && view.contains("start the relay"),
        "{view}"
    );
}

#[test]
fn invalid_rollout_command_line_is_usage_error() {
    for arguments in [
        &["name", "1"][..],
        &["name", "good", "1"],
        &["name", "--remove", "good", "1", "good"],
        &["hold", "pilot"],
        &["promote"],
        &["status", "--watch", "--json"],
        &["jump"],
    ] {
        let ended = Process::start(gupd(["rollout"]).args(arguments)).wait_for_exit();
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {ended:#?}");
    }
    let nowhere = Path::new("/nonexistent/gupd.toml");
    let ended = Process::start(gupd(["rollout", "status", "--config"]).arg(nowhere)).wait_for_exit();
    ended.assert_error(2, &["/nonexistent/gupd.toml"]);
}
