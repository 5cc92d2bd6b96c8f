//! Bundles: a site without access to the manager serves imported content, and an unsound bundle changes nothing.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use gupd_store::BlobId;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::process::{Ended, Process, Relay, gupd, serve};
use crate::store_commands::store;
use crate::support::{Manager, PAYLOAD, Resource, bytes};

/// Entries of a bundle's tar archive.
type Entries = Vec<(String, Vec<u8>)>;

const LENGTH: usize = 1_200_000;
const COPY: &str = "/1369163480jtun_copy.zip";

/// A stopped relay's store with two payloads of the same bytes, an empty object and a small one.
async fn fill_store(manager: &Manager, folder: &Path) {
    let relay = Relay::start(&mut serve(manager, folder));
    let dated =
        |resource: Resource| resource.header("Cache-Control", "max-age=86400").header("X-Note", "a\"b");
    manager.put(PAYLOAD, Resource::new(bytes(1, LENGTH)));
    manager.put(COPY, Resource::new(bytes(1, LENGTH)));
    manager.put("/empty", dated(Resource::new(Vec::new())));
    manager.put("/small", dated(Resource::new(bytes(2, 70_000))));
    for path in [PAYLOAD, COPY, "/empty", "/small"] {
        relay.get(path).await.expect_body();
        relay.wait_until_stored(path).await;
    }
    relay.process.signal("TERM");
    assert!(relay.process.wait_for_exit().status.success());
}

fn export(folder: &Path, to: &Path, arguments: &[&str]) -> Ended {
    store("export", folder, &[&["-o", to.to_str().unwrap()], arguments].concat())
}

fn import(folder: &Path, from: &Path) -> Ended {
    store("import", folder, &[from.to_str().unwrap()])
}

fn read_entries(bundle: &Path) -> Entries {
    let mut archive = tar::Archive::new(zstd::Decoder::new(fs::File::open(bundle).unwrap()).unwrap());
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        Read::read_to_end(&mut entry, &mut content).unwrap();
        (String::from_utf8(entry.path_bytes().into_owned()).unwrap(), content)
    };
    archive.entries().unwrap().map(read).collect()
}

/// A header with any name and any size, as `tar` would refuse to write it.
fn header(name: &str, size: u64, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_cksum();
    header
}

fn write_bundle(bundle: &Path, entries: &Entries) {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        tar.append(&header(name, content.len() as u64, tar::EntryType::Regular), content.as_slice()).unwrap();
    }
    fs::write(bundle, zstd::encode_all(tar.into_inner().unwrap().as_slice(), 1).unwrap()).unwrap();
}

fn list_paths(folder: &Path) -> Vec<String> {
    let ended = store("ls", folder, &["--json"]);
    let objects: Vec<Value> = serde_json::from_str(&ended.lines.join("\n")).unwrap();
    let mut names: Vec<_> =
        objects.iter().map(|object| object["path"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_bundle_is_served_without_a_manager() {
    let (manager, from, to) = (Manager::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill_store(&manager, from.path()).await;
    let (bundle, new) = (to.path().join("bundle.tar.zst"), to.path().join("store"));
    let exported = export(from.path(), &bundle, &["--since", "1h"]);
    let expected = format!("exported 4 objects, 1.21 MiB in 3 blobs, to {}", bundle.display());
    assert_eq!((exported.status.code(), exported.lines), (Some(0), vec![expected]), "{}", exported.errors);
    let imported = import(&new, &bundle);
    assert_eq!(imported.lines, ["imported 4 objects, 1.21 MiB; 0 already stored"], "{imported:#?}");
    assert_eq!(list_paths(&new), list_paths(from.path()));
    assert_eq!(store("verify", &new, &[]).status.code(), Some(0));

    let again = import(&new, &bundle);
    assert_eq!(again.lines, ["imported 0 objects, 0 B; 4 already stored"], "{again:#?}");
    store("purge", &new, &["--path", "/small"]);
    let partly = import(&new, &bundle);
    assert_eq!(partly.lines, ["imported 1 object, 68.36 KiB; 3 already stored"], "{partly:#?}");

    let gone = Manager::start();
    let relay = Relay::start(&mut serve(&gone, &new));
    drop(gone);
    for (path, body) in [
        (PAYLOAD, bytes(1, LENGTH)),
        (COPY, bytes(1, LENGTH)),
        ("/small", bytes(2, 70_000)),
        ("/empty", Vec::new()),
    ] {
        let response = relay.get(path).await;
        assert_eq!(response.cache_status(), "gupd; hit", "{path}");
        if path == "/small" {
            assert_eq!(response.header("x-note"), Some("a\"b"));
        }
        assert!(response.expect_body() == body, "{path}");
    }
    import(&new, &bundle).assert_error(1, &["in use by another gupd", "stop that process"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_import_resumes_when_run_again() {
    const OBJECTS: usize = 120;
    let (manager, from, to) = (Manager::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = |number: usize| PAYLOAD.replace("261121001", &number.to_string());
    let relay = Relay::start(&mut serve(&manager, from.path()));
    for number in 0..OBJECTS {
        manager.put(&path(number), Resource::new(bytes(number as u64, 100_000)));
        relay.get(&path(number)).await.expect_body();
        relay.wait_until_stored(&path(number)).await;
    }
    let (bundle, new) = (to.path().join("bundle.tar.zst"), to.path().join("store"));
    assert!(export(from.path(), &bundle, &[]).status.success(), "beside the relay");

    let mut command = gupd(["store", "import", "--store"]);
    let mut process = Process::start(command.arg(&new).arg(&bundle).env("GUPD_STORE_MIN_FREE", "0"));
    let blobs = || {
        let shelves = fs::read_dir(new.join("blobs")).into_iter().flatten().flatten();
        shelves.flat_map(|shelf| fs::read_dir(shelf.path()).into_iter().flatten()).count()
    };
    while blobs() < OBJECTS / 8 {
        tokio::task::yield_now().await;
    }
    process.kill();
    let before = list_paths(&new).len();
    println!("killed with {before} of {OBJECTS} objects");

    let again = import(&new, &bundle);
    // Opening the store also restores the objects that only the index's journal has.
    let imported = again.lines[0].strip_prefix("imported ").and_then(|line| line.split(' ').next());
    let imported: usize = imported.unwrap().parse().unwrap();
    assert!((1..=OBJECTS - before).contains(&imported), "{again:#?}");
    assert_eq!(list_paths(&new), list_paths(from.path()));
    assert_eq!(store("verify", &new, &[]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn export_since_skips_old_and_damaged_objects() {
    let (manager, from, to) = (Manager::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill_store(&manager, from.path()).await;
    let bundle = to.path().join("bundle.tar.zst");
    let none = export(from.path(), &bundle, &["--since", "2999-01-01"]);
    assert!(none.lines[0].starts_with("exported 0 objects, 0 B in 0 blobs"), "{none:#?}");
    assert_eq!(read_entries(&bundle).len(), 2);
    let id = BlobId::from(<[u8; 32]>::from(Sha256::digest(bytes(1, LENGTH)))).to_string();
    let file = from.path().join("blobs").join(&id[..2]).join(&id);
    let mut rotten = fs::read(&file).unwrap();
    rotten[LENGTH / 2] ^= 1;
    fs::write(&file, rotten).unwrap();
    let ended = export(from.path(), &bundle, &[]);
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(ended.errors.contains(&format!("blob {id}: damaged and not exported")), "{ended:#?}");
    let new = to.path().join("store");
    assert!(import(&new, &bundle).status.success());
    assert_eq!(list_paths(&new), ["/empty", "/small"]);
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 2, "something unfinished was left");
}

#[tokio::test(flavor = "multi_thread")]
async fn unsound_bundle_changes_nothing() {
    let (manager, from, to) = (Manager::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill_store(&manager, from.path()).await;
    let (bundle, new) = (to.path().join("bundle.tar.zst"), to.path().join("store"));
    assert!(export(from.path(), &bundle, &[]).status.success());
    let whole = fs::read(&bundle).unwrap();
    let sound = read_entries(&bundle);
    let position = |prefix: &str| sound.iter().position(|(name, _)| name.starts_with(prefix)).unwrap();
    let (head, blob, end) = (position("objects/"), position("blobs/"), sound.len() - 1);
    let refused = |words: &[&str]| {
        import(&new, &bundle).assert_error(1, &[&["bundle.tar.zst", "nothing was imported"], words].concat());
        assert!(!new.exists(), "{words:?} left a store behind");
    };
    let changed = |change: &dyn Fn(&mut Entries), words: &[&str]| {
        let mut entries = sound.clone();
        change(&mut entries);
        write_bundle(&bundle, &entries);
        refused(words);
    };
    let with = |field: &str, value: Value| {
        let mut head: Value = serde_json::from_slice(&sound[head].1).unwrap();
        head[field] = value;
        serde_json::to_vec(&head).unwrap()
    };

    // Names.
    for name in ["../../etc/passwd", "/etc/passwd", "blobs/../x", "blobs/x", "objects/x.json", "x", ""] {
        changed(&|entries| entries[blob].0 = name.to_owned(), &["refused at"]);
    }
    changed(&|entries| entries[0].0 = "\u{1b}[2J".to_owned(), &["\\u{1b}[2J", "first entry is not"]);
    changed(&|entries| drop(entries.remove(0)), &["the first entry is not gupd-bundle.json"]);
    changed(&|entries| entries[0].1 = br#"{"format":2,"created":0}"#.to_vec(), &["unknown format 2"]);
    changed(&|entries| entries.push(("x".to_owned(), Vec::new())), &["another entry follows"]);
    // Bytes.
    changed(&|entries| entries[blob].1[0] ^= 1, &["SHA-256 of the bytes differs"]);
    changed(&|entries| entries[blob].1.truncate(9), &["another blob or length"]);
    changed(&|entries| drop(entries.remove(end)), &["truncated"]);
    changed(&|entries| drop(entries.remove(blob)), &["refused at"]);
    changed(&|entries| drop(entries.remove(head)), &["refused at"]);
    changed(
        &|entries| entries[end].1 = br#"{"objects":1,"blobs":1}"#.to_vec(),
        &["counts of objects or blobs differ"],
    );
    // Heads.
    let larger = "x".repeat(600_000);
    for (json, word) in [
        (b"[]".to_vec(), "invalid JSON"),
        (with("key", "/ /other".into()), "not the SHA-256 of the key"),
        (with("blob", "..".into()), "invalid blob"),
        (with("length", u64::MAX.into()), "Content-Length"),
        (with("status", 7.into()), "7 is not a status code"),
        (with("more", 1.into()), "invalid JSON"),
        (with("fields", serde_json::json!([["transfer-encoding", "chunked"]])), "transfer-encoding"),
        (with("fields", serde_json::json!([["content-length", "5"]])), "Content-Length"),
        (with("fields", serde_json::json!([["x", "a\r\nb"]])), "not allowed"),
        (with("upstream", larger[..70_000].into()), "the limit is 65536"),
        (with("upstream", larger.as_str().into()), "at most 524288"),
    ] {
        changed(&|entries| entries[head].1.clone_from(&json), &[word]);
    }
    for (key, refusal) in
        [("@1 / /other", "the key is that of a copy"), ("!held / /other", "the key is that of held content")]
    {
        let name = BlobId::from(<[u8; 32]>::from(Sha256::digest(format!("{key}\0"))));
        let entry = (format!("objects/{name}.json"), with("key", key.into()));
        changed(&|entries| entries[head].clone_from(&entry), &[refusal]);
    }

    // Truncated at any place, as a file and as a recompressed tar.
    let tar = zstd::decode_all(whole.as_slice()).unwrap();
    for share in [0, 1, 3, 5, 7] {
        fs::write(&bundle, &whole[..whole.len() * share / 8]).unwrap();
        refused(&[]);
        fs::write(&bundle, zstd::encode_all(&tar[..tar.len() * share / 8], 1).unwrap()).unwrap();
        refused(&[]);
    }
    fs::write(&bundle, "no bundle at all").unwrap();
    refused(&["not a zstd-compressed tar"]);

    // Wrong sizes on which head and entry agree, and unexpected entry types.
    let raw = |name: &str, size: u64, kind, word: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in &sound[..blob] {
            let mut content = content.clone();
            if name.starts_with("objects/") {
                let mut head: Value = serde_json::from_slice(&content).unwrap();
                (head["length"], head["fields"]) = (size.into(), Value::Array(Vec::new()));
                content = serde_json::to_vec(&head).unwrap();
            }
            tar.append(&header(name, content.len() as u64, tar::EntryType::Regular), &*content).unwrap();
        }
        let mut tar = tar.into_inner().unwrap();
        tar.truncate(tar.len() - 1024);
        tar.extend_from_slice(header(name, size, kind).as_bytes());
        fs::write(&bundle, zstd::encode_all(tar.as_slice(), 1).unwrap()).unwrap();
        refused(&[word]);
    };
    let name = sound[blob].0.as_str();
    for (size, word) in [(30 << 30, "truncated"), (1 << 50, "store.quota"), (u64::MAX, "overflow")] {
        raw(name, size, tar::EntryType::Regular, word);
        raw("././@LongLink", size, tar::EntryType::GNULongName, "refused at");
    }
    raw(name, 0, tar::EntryType::Symlink, "not a plain file");
    raw("blobs", 0, tar::EntryType::Directory, "not a plain file");
}

#[tokio::test(flavor = "multi_thread")]
async fn bundle_larger_than_quota_is_refused_unread() {
    let (manager, from, to) = (Manager::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill_store(&manager, from.path()).await;
    let (bundle, new) = (to.path().join("bundle.tar.zst"), to.path().join("store"));
    export(from.path(), &bundle, &[]);
    let mut entries = read_entries(&bundle);
    // Highly compressible, as a decompression bomb is.
    let bomb = vec![0; 65 << 20];
    let id = BlobId::from(<[u8; 32]>::from(Sha256::digest(&bomb))).to_string();
    let blob = entries.iter().position(|(name, _)| name.starts_with("blobs/")).unwrap();
    for entry in &mut entries[1..blob] {
        let mut head: Value = serde_json::from_slice(&entry.1).unwrap();
        (head["blob"], head["length"], head["fields"]) =
            (id.as_str().into(), bomb.len().into(), Value::Array(vec![]));
        entry.1 = serde_json::to_vec(&head).unwrap();
    }
    entries[blob] = (format!("blobs/{id}"), bomb);
    write_bundle(&bundle, &entries);
    assert!(fs::metadata(&bundle).unwrap().len() < 4 << 20);
    let mut command = gupd(["store", "import", "--store"]);
    command.arg(&new).arg(&bundle).env("GUPD_STORE_QUOTA", "64MiB");
    Process::start(&mut command).wait_for_exit().assert_error(1, &["store.quota", "nothing was imported"]);
    assert!(!new.exists());
}

/// Needs root: an import gives up its rights.
#[tokio::test(flavor = "multi_thread")]
async fn import_by_root_writes_through_no_link_of_the_owner() {
    const OWNER: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let (manager, from, to) = (Manager::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::set_permissions(to.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fill_store(&manager, from.path()).await;
    let bundle = to.path().join("bundle.tar.zst");
    assert!(export(from.path(), &bundle, &[]).status.success());
    fs::set_permissions(&bundle, fs::Permissions::from_mode(0o644)).unwrap();
    let own = |name: &str| {
        let folder = to.path().join(name);
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(OWNER), Some(OWNER)).unwrap();
        folder
    };
    for link in ["blobs", "packs", "partial", "index.db", "index.journal", "lock"] {
        let (folder, of_root) = (own(&format!("with-{link}")), to.path().join(format!("root-{link}")));
        fs::create_dir(&of_root).unwrap();
        let target =
            if link.contains('.') || link == "lock" { of_root.join("file") } else { of_root.clone() };
        symlink(&target, folder.join(link)).unwrap();
        import(&folder, &bundle);
        let written: Vec<_> = fs::read_dir(&of_root).unwrap().collect();
        assert!(written.is_empty(), "{link}: {written:?}");
    }
    let folder = own("store");
    assert!(import(&folder, &bundle).status.success());
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let (entry, kind) = entry.map(|entry| (entry.metadata().unwrap(), entry)).unwrap();
            assert_eq!((entry.uid(), entry.gid(), entry.mode() & 0o027), (OWNER, OWNER, 0), "{kind:?}");
            if entry.is_dir() {
                folders.push(kind.path());
            }
        }
    }
}
