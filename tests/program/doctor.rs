//! `gupd doctor`, completions and manual pages.

use serde_json::Value;

use crate::process::{Ended, Process, Relay, gupd, serve};
use crate::support::{Manager, RefusingPort};

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
    let left = std::fs::read_dir(folder.path())
        .unwrap()
        .any(|file| file.unwrap().file_name().to_string_lossy().contains("doctor"));
    assert!(!left, "the file that measured the disk is still there");
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
