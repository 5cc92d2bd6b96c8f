//! `gupd doctor`, completions and manual pages.

use serde_json::Value;

use crate::process::{Ended, Process, Relay, gupd, serve};
use crate::support::{Manager, PAYLOAD, RefusingPort, Resource, bytes};

fn examine(upstream: &str, admin: &str, store: &std::path::Path) -> (Ended, Value) {
    let mut command = gupd(["doctor", "--json", "--upstream", upstream, "--admin", admin, "--store"]);
    let ended = Process::start(command.arg(store).env("GUPD_STORE_MIN_FREE", "0")).wait_for_exit();
    let diagnoses = serde_json::from_str(&ended.lines.join("\n")).unwrap_or_else(|_| panic!("{ended:#?}"));
    (ended, diagnoses)
}

fn states<'a>(diagnoses: &'a Value, subject: &str) -> Vec<&'a str> {
    let list = diagnoses.as_array().unwrap().iter();
    list.filter(|one| one["subject"] == subject).map(|one| one["state"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_site_has_no_problem() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    let (ended, diagnoses) = examine(&manager.url(), &relay.admin.to_string(), folder.path());
    assert!(ended.status.success(), "{ended:#?}");
    assert_eq!(states(&diagnoses, "relay"), ["good"], "{diagnoses:#}");
    assert_eq!(states(&diagnoses, &format!("upstream {}", manager.address()))[0], "good", "{diagnoses:#}");
    assert!(!states(&diagnoses, "disk").is_empty());
    assert_eq!(states(&diagnoses, "security modules").len(), 1, "{diagnoses:#}");
    let left = std::fs::read_dir(folder.path())
        .unwrap()
        .any(|file| file.unwrap().file_name().to_string_lossy().contains("doctor"));
    assert!(!left, "the file that measured the disk is still there");
}

/// Examines a site with this test object.
fn examine_content(
    manager: &Manager,
    relay: &Relay,
    store: &std::path::Path,
    config: &str,
) -> (Ended, Value) {
    let file = store.join("doctor.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = gupd(["doctor", "--json", "--object", PAYLOAD, "--upstream", &manager.url()]);
    command.args(["--admin", &relay.admin.to_string(), "--listen", &relay.address.to_string(), "--store"]);
    let command = command.arg(store).arg("--config").arg(file).env("GUPD_STORE_MIN_FREE", "0");
    let ended = Process::start(command).wait_for_exit();
    let diagnoses = serde_json::from_str(&ended.lines.join("\n")).unwrap_or_else(|_| panic!("{ended:#?}"));
    (ended, diagnoses)
}

/// Returns the state of the finding about a subject that has these words.
fn state<'a>(diagnoses: &'a Value, subject: &str, words: &str) -> &'a str {
    let list = diagnoses.as_array().unwrap().iter().filter(|one| one["subject"] == subject);
    let mut fitting = list.filter(|one| one["finding"].as_str().unwrap().contains(words));
    let one = fitting.next().unwrap_or_else(|| panic!("no {words:?} of {subject}: {diagnoses:#}"));
    assert_eq!(one["state"] == "good", one["remedy"].is_null(), "{one:#}");
    one["state"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_show_ranges_validators_line_and_relay() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    let upstream = format!("upstream {}", manager.address());
    let body = || Resource::tagged(bytes(1, 1 << 20), "\"v1\"");
    let refusing = RefusingPort::new();
    let peer = format!("[[peer]]\nurl = \"{}\"\n", refusing.url());
    for (resource, config, subject, words, expected) in [
        (body(), "", &*upstream, "serves ranges", "good"),
        (body(), "", &*upstream, "strong validator: ETag \"v1\"", "good"),
        (body(), "", "end to end", "1.00 MiB", "good"),
        (body(), "", "line", "wan.limit is not set", "warning"),
        (body(), "[wan]\nlimit = \"1Mbit/s\"\n", "line", "wan.limit is 1 Mbit/s", "good"),
        (body(), "[wan]\nlimit = \"8Tbit/s\"\n", "line", "one transfer reached", "warning"),
        (body(), &*peer, &*format!("peer {}", refusing.address()), "", "warning"),
        (body().without_ranges(), "", &*upstream, "answers 200 to a range", "warning"),
        (
            Resource::new(bytes(1, 1 << 20)).without("etag").undated(),
            "",
            &*upstream,
            "no validator",
            "warning",
        ),
        (body().undated().etag("W/\"v1\""), "", &*upstream, "only validator is weak", "warning"),
        (Resource::new(bytes(1, 100)), "", "line", "too few to measure", "warning"),
        (Resource::empty(404), "", &*upstream, "it answers 404", "warning"),
    ] {
        manager.put(PAYLOAD, resource);
        let (_, diagnoses) = examine_content(&manager, &relay, folder.path(), config);
        assert_eq!(state(&diagnoses, subject, words), expected, "{words}: {diagnoses:#}");
    }
    // The relay has what the first run stored; the manager publishes other content under the name.
    manager.put(PAYLOAD, Resource::tagged(bytes(2, 1 << 20), "\"v2\""));
    let (ended, diagnoses) = examine_content(&manager, &relay, folder.path(), "");
    assert_eq!(state(&diagnoses, "end to end", "other content"), "problem", "{diagnoses:#}");
    assert_eq!(ended.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_upstream_is_a_problem_with_a_remedy() {
    let (refusing, admin) = (RefusingPort::new(), RefusingPort::new());
    let folder = tempfile::tempdir().unwrap();
    let (ended, diagnoses) = examine(&refusing.url(), &admin.address().to_string(), folder.path());
    assert_eq!((ended.status.code(), &*ended.errors), (Some(1), "gupd: doctor: 1 problem\n"));
    let subject = format!("upstream {}", refusing.address());
    assert_eq!(states(&diagnoses, &subject), ["problem"], "{diagnoses:#}");
    assert_eq!(states(&diagnoses, "relay"), ["warning"], "{diagnoses:#}");
    let bad = diagnoses.as_array().unwrap().iter().filter(|one| one["state"] != "good");
    assert!(bad.clone().count() > 0 && bad.into_iter().all(|one| one["remedy"].is_string()), "{diagnoses:#}");
}

#[test]
fn completions_and_pages_name_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let ended = Process::start(gupd(["completions", shell]).args::<[&str; 0], _>([])).wait_for_exit();
        assert!(ended.status.success() && ended.lines.join(" ").contains("rollout"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(Process::start(gupd(["man"]).arg(folder.path())).wait_for_exit().status.success());
    for page in ["gupd.1", "gupd-status.1", "gupd-rollout-halt.1", "gupd-store-verify.1"] {
        assert!(folder.path().join(page).exists(), "{page}");
    }
}
