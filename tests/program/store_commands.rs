//! Store commands: listing, removal and repair, with and without a running relay.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::process::{Ended, Process, Relay, gupd, serve};
use crate::support::{Manager, RefusingPort, Resource, bytes};

const VIRUS: &str = "/content/{07B590B3-9282-482f-BBAA-6D515D385869}";
const NETWORK: &str = "/content/{55DE35DC-862A-44C9-8A2B-3EF451665D0A}";

/// Content of the site: path, content type, bytes.
fn content() -> Vec<(String, &'static str, usize)> {
    vec![
        (format!("{VIRUS}/261121001/full.zip"), "virus-definitions-64", 2_500_000),
        (format!("{VIRUS}/261121001/xdelta261120001.dax"), "virus-definitions-64", 70_000),
        (format!("{VIRUS}/261120001/full.zip"), "virus-definitions-64", 400_000),
        (format!("{NETWORK}/261121001/full.zip"), "network-threat", 100_000),
        ("/1369163480jtun_nav.zip".to_owned(), "liveupdate", 9_000),
    ]
}

pub(crate) fn store(command: &str, folder: &Path, arguments: &[&str]) -> Ended {
    let mut command = gupd(["store", command, "--store"]);
    command.arg(folder).args(arguments).env("GUPD_STORE_MIN_FREE", "0");
    Process::start(&mut command).wait_for_exit()
}

/// Starts a relay that has served all content once.
pub(crate) async fn start_filled_relay(manager: &Manager, folder: &Path) -> Relay {
    let relay = Relay::start(&mut serve(manager, folder));
    for (seed, (path, _, length)) in content().into_iter().enumerate() {
        manager.put(&path, Resource::new(bytes(seed as u64, length)));
        relay.get(&path).await.expect_body();
        relay.wait_until_stored(&path).await;
    }
    relay
}

pub(crate) fn stop(relay: Relay) {
    relay.process.signal("TERM");
    assert!(relay.process.wait_for_exit().status.success());
}

pub(crate) fn list_objects(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let ended = store("ls", folder, &[&["--json"], arguments].concat());
    assert!(ended.status.success() && ended.errors.is_empty(), "{ended:#?}");
    serde_json::from_str(&ended.lines.join("\n")).unwrap()
}

fn list_paths(folder: &Path, arguments: &[&str]) -> Vec<String> {
    let path = |object: &Value| object["path"].as_str().unwrap().to_owned();
    list_objects(folder, arguments).iter().map(path).collect()
}

pub(crate) fn blob_path(folder: &Path, object: &Value) -> PathBuf {
    let name = object["sha256"].as_str().unwrap();
    folder.join("blobs").join(&name[..2]).join(name)
}

pub(crate) fn flip_a_bit(file: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn misspelt_content_type_is_error_with_valid_names() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = start_filled_relay(&manager, folder.path()).await;
    stop(relay);
    for name in ["virus-definition-64", "Virus-Definitions-64", "network_threat", "catalogs", "", "*"] {
        for arguments in [&["ls"][..], &["ls", "--json"], &["purge"], &["purge", "--dry-run"]] {
            let more = [&arguments[1..], &["--content-type", name]].concat();
            let words =
                [&format!("--content-type: unknown content type {name:?}: "), "virus-definitions-64, "];
            store(arguments[0], folder.path(), &more).assert_error(2, &words);
        }
    }
    assert_eq!(list_objects(folder.path(), &[]).len(), content().len(), "a typing error purges nothing");
    // Valid names without an object, and a name of an earlier configuration with one.
    assert_eq!(list_objects(folder.path(), &["--content-type", "catalog"]).len(), 0);
    assert_eq!(list_objects(folder.path(), &["--content-type", "client-patches"]).len(), 0);
    let (config, path) = (folder.path().join("gupd.toml"), "/old/a.zip");
    fs::write(&config, "[[content_type]]\nname = \"old-packages\"\npattern = \"/old/**\"\n").unwrap();
    let relay = Relay::start(serve(&manager, folder.path()).arg("--config").arg(&config));
    manager.put(path, Resource::new("old").header("Cache-Control", "max-age=600"));
    relay.get(path).await.expect_body();
    relay.wait_until_stored(path).await;
    stop(relay);
    assert_eq!(list_paths(folder.path(), &["--content-type", "old-packages"]), [path]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ls_lists_and_filters_beside_running_relay() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let _relay = start_filled_relay(&manager, folder.path()).await;
    let all = list_objects(folder.path(), &[]);
    assert_eq!(all.len(), content().len());
    for (object, (path, content_type, length)) in all.iter().zip(content()) {
        assert!(object["path"].as_str().unwrap().eq_ignore_ascii_case(&path), "{object}");
        assert_eq!((&object["route"], &object["status"]), (&"/".into(), &200.into()));
        assert_eq!((&object["content_type"], &object["bytes"]), (&content_type.into(), &length.into()));
        // Smaller ones are in a pack.
        assert_eq!(blob_path(folder.path(), object).exists(), length >= 64 << 10);
    }
    for (filter, expected) in [
        (["--path", "/CONTENT/**/*.dax"].as_slice(), 1),
        (&["--content-type", "virus-definitions-64"], 3),
        (&["--revision", "261121001"], 3),
        (&["--revision", "1369163480"], 1),
        (&["--larger-than", "400000"], 1),
        (&["--smaller-than", "70001B"], 2),
        (&["--newer-than", "1h"], 5),
        (&["--older-than", "1h"], 0),
        (&["--revision", "261121001", "--content-type", "network-threat"], 1),
    ] {
        assert_eq!(list_objects(folder.path(), filter).len(), expected, "{filter:?}");
    }
    let table = store("ls", folder.path(), &["--content-type", "liveupdate"]);
    let [head, line, sum] = &table.lines[..] else { panic!("{table:#?}") };
    assert!(head.contains("CONTENT TYPE") && sum == "1 object, 8.79 KiB", "{table:#?}");
    assert!(line.contains(" 200 ") && line.ends_with(" /1369163480jtun_nav.zip"), "{table:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_removes_only_selected_objects() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = start_filled_relay(&manager, folder.path()).await;
    let folder = folder.path();
    let everything = list_paths(folder, &[]);
    store("purge", folder, &["--path", "**"])
        .assert_error(2, &["in use by another gupd", "admin_token_file"]);
    let rehearsed = store("purge", folder, &["--path", "**", "--dry-run"]);
    assert_eq!((rehearsed.status.code(), rehearsed.lines.len()), (Some(0), 7), "{rehearsed:#?}");
    stop(relay);
    store("purge", folder, &[]).assert_error(2, &["--path", "--revision"]);
    store("purge", folder, &["--content-type", "nothing-like-it"]);
    assert_eq!(list_paths(folder, &[]), everything);

    let by_type = store("purge", folder, &["--content-type", "network-threat"]);
    assert_eq!(by_type.lines, ["removed 1 object, 100.00 KiB on disk"], "{by_type:#?}");
    store("purge", folder, &["--revision", "261121001"]);
    assert_eq!(list_paths(folder, &[]), [everything[2].as_str(), &everything[4]]);
    store("purge", folder, &["--path", "**/*jtun*"]);
    assert_eq!(list_paths(folder, &[]), [everything[2].as_str()]);
    let files = fs::read_dir(folder.join("blobs")).unwrap();
    assert_eq!(files.map(|shelf| fs::read_dir(shelf.unwrap().path()).unwrap().count()).sum::<usize>(), 1);
    assert_eq!(fs::read_dir(folder.join("partial")).unwrap().count(), 0);

    let relay = Relay::start(&mut serve(&manager, folder));
    let kept = relay.get(&content()[2].0).await;
    assert_eq!(kept.cache_status(), "gupd; hit");
    let purged = relay.get(&content()[0].0).await;
    assert!(purged.cache_status().contains("fwd=uri-miss"));
    assert!(purged.expect_body() == bytes(0, content()[0].2));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_reports_and_repairs_damage() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = start_filled_relay(&manager, folder.path()).await;
    let folder = folder.path();
    let sound = store("verify", folder, &[]);
    assert_eq!((sound.status.code(), sound.errors.as_str()), (Some(0), ""), "{sound:#?}");
    assert_eq!(sound.lines, ["verified 5 blobs, 2.94 MiB"]);

    let objects = list_objects(folder, &[]);
    let files: Vec<PathBuf> = objects.iter().map(|object| blob_path(folder, object)).collect();
    flip_a_bit(&files[0], 2_400_000);
    fs::remove_file(&files[1]).unwrap();
    let orphan = folder.join("blobs/ab").join("ab".repeat(32));
    fs::copy(&files[2], &orphan).unwrap();
    let wrong = |ended: &Ended| {
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        for (name, problem) in [
            (files[0].file_name().unwrap().to_str().unwrap(), "a block's checksum differs; objects: 1"),
            (files[1].file_name().unwrap().to_str().unwrap(), "file is missing; objects: 1"),
            (orphan.file_name().unwrap().to_str().unwrap(), "no row"),
        ] {
            let lines = ended.errors.lines().filter(|line| line.contains(name) && line.contains(problem));
            assert_eq!(lines.count(), 1, "{problem} in {ended:#?}");
        }
        assert_eq!(ended.errors.lines().count(), 4, "{ended:#?}");
    };
    let beside = store("verify", folder, &[]);
    wrong(&beside);
    assert!(beside.errors.contains("3 found, none repaired: a running relay has the store"), "{beside:#?}");
    stop(relay);
    wrong(&store("verify", folder, &["--dry-run"]));
    assert!(orphan.exists() && files[0].exists());

    let before = manager.body_bytes();
    let repaired = store("verify", folder, &["--upstream", &manager.url()]);
    assert_eq!(repaired.status.code(), Some(0), "{repaired:#?}");
    assert_eq!(repaired.errors.lines().count(), 3, "{repaired:#?}");
    assert_eq!(repaired.errors.matches("; repaired, 64.00 KiB fetched\n").count(), 1, "{repaired:#?}");
    assert_eq!(repaired.errors.matches("; repaired, 68.36 KiB fetched\n").count(), 1, "{repaired:#?}");
    assert_eq!(repaired.errors.matches("; removed\n").count(), 1, "{repaired:#?}");
    let sum = "3 found: 2 repaired (132.36 KiB fetched), 1 removed";
    assert_eq!(repaired.lines.last().map(String::as_str), Some(sum), "{repaired:#?}");
    assert_eq!(manager.body_bytes() - before, 65_536 + 70_000);
    assert!(!orphan.exists() && files[0].exists() && files[1].exists());
    let sound = store("verify", folder, &[]);
    assert_eq!((sound.status.code(), sound.lines), (Some(0), vec!["verified 5 blobs, 2.94 MiB".to_owned()]));
    let bundle = folder.join("bundle.tar.zst");
    let exported = store("export", folder, &["-o", bundle.to_str().unwrap()]);
    assert!(exported.status.success(), "{exported:#?}");

    let relay = Relay::start(&mut serve(&manager, folder));
    for (seed, (path, _, length)) in content().into_iter().enumerate() {
        let response = relay.get(&path).await;
        assert_eq!(response.cache_status(), "gupd; hit", "{path}");
        assert!(response.expect_body() == bytes(seed as u64, length), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_removes_objects_that_no_manager_has() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    stop(start_filled_relay(&manager, folder.path()).await);
    let folder = folder.path();
    let objects = list_objects(folder, &[]);
    let files: Vec<PathBuf> = objects.iter().map(|object| blob_path(folder, object)).collect();

    flip_a_bit(&files[0], 2_400_000);
    manager.remove(&content()[0].0);
    let gone = store("verify", folder, &["--upstream", &manager.url()]);
    assert!(gone.errors.contains("; removed: no upstream offers the content: "), "{gone:#?}");
    assert!(!files[0].exists());

    flip_a_bit(&files[2], 0);
    manager.put(objects[2]["path"].as_str().unwrap(), Resource::new("other bytes"));
    let other = store("verify", folder, &["--upstream", &manager.url()]);
    assert!(other.errors.contains("; removed: "), "{other:#?}");
    assert!(other.errors.contains("1 found: 0 repaired (0 B fetched), 1 removed;"), "{other:#?}");
    assert_eq!((other.status.code(), other.errors.lines().count()), (Some(1), 2), "{other:#?}");
    assert_eq!(list_paths(folder, &[]).len(), 3);
    let sound = store("verify", folder, &[]);
    assert_eq!((sound.status.code(), sound.errors.as_str()), (Some(0), ""), "{sound:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_keeps_damage_while_no_manager_answers() {
    let (manager, folder, away) = (Manager::start(), tempfile::tempdir().unwrap(), RefusingPort::new());
    stop(start_filled_relay(&manager, folder.path()).await);
    let folder = folder.path();
    let damaged = blob_path(folder, &list_objects(folder, &[])[0]);
    flip_a_bit(&damaged, 2_400_000);
    let down = store("verify", folder, &["--upstream", &away.url()]);
    assert!(down.errors.contains("; not repaired: no upstream is available: "), "{down:#?}");
    assert!(down.errors.contains("cannot connect"), "{down:#?}");
    let sum = "1 found: 0 repaired (0 B fetched), 0 removed, 1 not repaired; damaged content is never served: run this again";
    assert!(down.errors.contains(sum), "{down:#?}");
    assert_eq!((down.status.code(), down.errors.lines().count()), (Some(1), 2), "{down:#?}");
    let up = store("verify", folder, &["--upstream", &manager.url()]);
    assert_eq!(up.status.code(), Some(0), "{up:#?}");
    assert!(
        up.lines.iter().any(|line| line == "1 found: 1 repaired (64.00 KiB fetched), 0 removed"),
        "{up:#?}"
    );
    let sound = store("verify", folder, &[]);
    assert_eq!((sound.status.code(), sound.errors.as_str()), (Some(0), ""), "{sound:#?}");
}

/// Four damaged bytes in a body, in a trailer and in both, and a missing file.
fn damage_each_way(folder: &Path) -> Vec<PathBuf> {
    let objects = list_objects(folder, &[]);
    let files: Vec<PathBuf> = objects.iter().map(|object| blob_path(folder, object)).collect();
    let length = |file: &Path| fs::metadata(file).unwrap().len();
    let flip = |file: &Path, at: u64| (at..at + 4).for_each(|at| flip_a_bit(file, at));
    flip(&files[0], 2_400_000);
    flip(&files[1], length(&files[1]) - 20);
    flip(&files[2], 1_000);
    flip(&files[2], length(&files[2]) - 60);
    fs::remove_file(&files[3]).unwrap();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_removes_nothing_that_no_upstream_denied() {
    let (manager, folder, away) = (Manager::start(), tempfile::tempdir().unwrap(), RefusingPort::new());
    stop(start_filled_relay(&manager, folder.path()).await);
    let folder = folder.path();
    let files = damage_each_way(folder);
    let config = folder.join("gupd.toml");
    let url = manager.url();
    let routed = format!("[[upstream]]\nurl = \"{url}\"\n[[route]]\nname = \"other\"\nprefix = \"/other\"\n");
    fs::write(&config, routed).unwrap();
    // The checksums of the second are computed from its own body.
    let repaired_alone = store("verify", folder, &[]);
    assert_eq!(repaired_alone.errors.matches("; repaired, 0 B fetched\n").count(), 1, "{repaired_alone:#?}");
    let text = "1 repaired (0 B fetched), 0 removed, 3 not repaired; no upstream to repair from: pass";
    assert!(repaired_alone.errors.contains(text), "{repaired_alone:#?}");
    for page in [("403", 403), ("302", 302), ("401", 401), ("500", 500)] {
        for (path, ..) in content() {
            manager.put(&path, Resource::new(page.0).status(page.1));
        }
        let refused = store("verify", folder, &["--upstream", &url]);
        assert!(refused.errors.contains("0 removed, 3 not repaired"), "{page:?} {refused:#?}");
    }
    for arguments in [
        ["--upstream", &away.url()].as_slice(),
        &["--config", config.to_str().unwrap()],
        &["--config", config.to_str().unwrap(), "--upstream", &away.url()],
    ] {
        let failed = store("verify", folder, arguments);
        assert_eq!(failed.status.code(), Some(1), "{failed:#?}");
        assert!(failed.errors.contains("0 removed, 3 not repaired"), "{arguments:?} {failed:#?}");
        assert!([0, 1, 2].iter().all(|&at| files[at].exists()));
        assert_eq!(list_paths(folder, &[]).len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_repairs_content_of_named_routes_from_any_upstream() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let config = folder.path().join("gupd.toml");
    let text = format!(
        "[[upstream]]\nname = \"sepm\"\nurl = \"{}\"\n[[route]]\nname = \"all\"\nprefix = \"/\"\nupstreams = [\"sepm\"]\n",
        manager.url()
    );
    fs::write(&config, text).unwrap();
    let store_folder = folder.path().join("store");
    let mut command = gupd(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]);
    command.arg(&config).arg("--store").arg(&store_folder).env("GUPD_STORE_MIN_FREE", "0");
    let relay = Relay::start(&mut command);
    for (seed, (path, _, length)) in content().into_iter().enumerate() {
        manager.put(&path, Resource::new(bytes(seed as u64, length)));
        relay.get(&path).await.expect_body();
        relay.wait_until_stored(&path).await;
    }
    stop(relay);
    for arguments in [
        ["--upstream", &manager.url()].as_slice(),
        &["--upstream", &manager.url(), "--config", config.to_str().unwrap()],
        &["--config", config.to_str().unwrap()],
    ] {
        damage_each_way(&store_folder);
        let repaired = store("verify", &store_folder, arguments);
        assert_eq!(repaired.status.code(), Some(0), "{arguments:?} {repaired:#?}");
        let sum = repaired.lines.last().unwrap();
        assert!(sum.starts_with("4 found: 4 repaired (") && sum.ends_with(", 0 removed"), "{repaired:#?}");
        let sound = store("verify", &store_folder, &[]);
        assert_eq!((sound.status.code(), sound.errors.as_str()), (Some(0), ""), "{sound:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_files_are_reported_and_kept() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    stop(start_filled_relay(&manager, folder.path()).await);
    let foreign = folder.path().join("blobs/ab/notes.txt");
    fs::write(&foreign, "x").unwrap();
    let ended = store("verify", folder.path(), &[]);
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(ended.errors.contains("notes.txt: not a blob"), "{ended:#?}");
    assert!(foreign.exists());
}

#[test]
fn folder_without_store_is_one_line_error_and_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle.tar.zst");
    let output = bundle.to_str().unwrap();
    for (command, arguments) in
        [("ls", [].as_slice()), ("purge", &["--path", "**"]), ("verify", &[]), ("export", &["-o", output])]
    {
        store(command, folder.path(), arguments).assert_error(1, &["no store found", "--store"]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    store("ls", folder.path(), &["--config", "/nonexistent.toml"]).assert_error(2, &["/nonexistent.toml"]);
}
