//! Blocks of the documents as an administrator uses them: pasted into the shipped configuration. Each is accepted, at
//! any place of the file, and warned about only for its example names.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::process::{Process, gupd};
use crate::support::Authority;

/// A block of a document.
struct Block {
    place: String,
    text: String,
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns the documents of operators.
fn documents() -> Vec<PathBuf> {
    let pages = fs::read_dir(repository("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut documents: Vec<_> =
        pages.filter(|path| path.extension().is_some_and(|name| name == "md")).collect();
    documents.push(repository("README.md"));
    documents.sort();
    documents
}

/// Returns the indented blocks that begin with a section.
fn blocks(document: &Path) -> Vec<Block> {
    let (text, mut blocks, mut block) = (fs::read_to_string(document).unwrap(), Vec::new(), String::new());
    for (line, number) in text.lines().chain(["end"]).zip(1..) {
        let is_inside = line.starts_with("    ") || (line.is_empty() && !block.is_empty());
        if is_inside {
            block += &format!("{}\n", line.trim());
        } else {
            let text = std::mem::take(&mut block);
            if text.starts_with('[') {
                blocks.push(Block { place: format!("{}:{number}", document.display()), text });
            }
        }
    }
    blocks
}

/// Returns the shipped configuration with the text at its beginning, at the place of an example, and at its end.
fn pasted(text: &str) -> [String; 3] {
    let shipped = fs::read_to_string(repository("config/gupd.toml")).unwrap();
    let in_place = shipped.replacen("\n#[[upstream]]\n", &format!("\n{text}\n"), 1);
    assert_ne!(in_place, shipped);
    [format!("{text}\n{shipped}"), in_place, format!("{shipped}\n{text}")]
}

/// Returns the text with certificates and revocation lists that exist.
fn with_tls_files(folder: &Path, text: &str) -> String {
    let authority = Authority::new();
    let (cert, key) = authority.issue("gupd.branch-a.example").write_files(folder);
    let (ca, list) = (folder.join("ca.pem"), folder.join("ca.crl"));
    fs::write(&ca, authority.pem()).unwrap();
    fs::write(&list, authority.revoke(&[], 2100)).unwrap();
    let files = [
        ("admin.pem", cert.clone()),
        ("admin.key", key.clone()),
        ("internet.pem", cert),
        ("internet.key", key),
        ("roaming-ca.pem", ca),
        ("roaming-ca.crl", list),
    ];
    files.iter().fold(text.to_owned(), |text, (name, path)| {
        text.replace(&format!("/etc/gupd/{name}"), &path.display().to_string())
    })
}

/// Asserts that `gupd check` accepts a file and warns about nothing but example names.
fn assert_accepted(folder: &Path, text: &str, place: &str) {
    let (file, roots) = (folder.join("gupd.toml"), folder.join("roots.pem"));
    // These exist on no machine of tests.
    let (profiles, token) = (repository("config/profiles"), folder.join("token"));
    crate::support::write_secret(&token, "s3cret-of-the-site\n");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let text = with_tls_files(folder, &text.replace("/etc/gupd/profiles", &profiles.display().to_string()));
    let text = text.replace("/etc/gupd/liveupdate-roots.pem", &roots.display().to_string());
    fs::write(&file, text.replace("/etc/gupd/admin-token", &token.display().to_string())).unwrap();
    fs::write(&roots, Authority::new().pem()).unwrap();
    let mut command = gupd(["check", "--config"]);
    command.arg(&file).env("SSL_CERT_FILE", &roots).env_remove("SSL_CERT_DIR").env("TZ", "UTC");
    // The machine of the test may be a small one.
    command.envs([
        ("GUPD_STORE_QUOTA", "1GiB"),
        ("GUPD_STORE_MIN_FREE", "0"),
        ("GUPD_STORE_MEMORY", "16MiB"),
    ]);
    let ended = Process::start(&mut command).wait_for_exit();
    assert!(ended.status.success(), "{place}: {ended:#?}");
    // 192.0.2.0/24 is reserved for examples too (RFC 5737).
    let examples = [
        " is reserved for examples",
        " is in memory",
        "no interface of this machine has 192.0.2.",
        // Its page says what the warning says.
        "server.admin_allow_insecure: ",
    ];
    let is_example = |line: &&String| examples.iter().any(|words| line.contains(words));
    let unexpected: Vec<_> =
        ended.lines.iter().filter(|line| line.starts_with("warning: ") && !is_example(line)).collect();
    assert!(unexpected.is_empty(), "{place}: {unexpected:#?}");
}

#[test]
fn shipped_file_needs_an_upstream_only() {
    let ended = Process::start(&mut gupd(["check", "--config", "config/gupd.toml"])).wait_for_exit();
    ended.assert_error(2, &["config/gupd.toml: no upstream is configured: add [[upstream]] to it"]);
}

#[test]
fn block_of_readme_is_accepted_anywhere_in_the_shipped_file() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks(&repository("README.md"));
    assert!(!blocks.is_empty());
    for Block { place, text } in &blocks {
        for text in pasted(text) {
            assert_accepted(folder.path(), &text, place);
        }
    }
}

#[test]
fn blocks_of_documents_are_accepted_in_the_shipped_file() {
    const UPSTREAM: &str = "[[upstream]]\nurl = \"http://manager\"\n";
    let folder = tempfile::tempdir().unwrap();
    let readme = blocks(&repository("README.md")).remove(0).text;
    let mut checked = 0;
    for Block { place, text } in documents().iter().flat_map(|document| blocks(document)) {
        if text.starts_with("[profile]\n") {
            let file = folder.path().join("profile.toml");
            fs::write(&file, &text).unwrap();
            let ended = Process::start(gupd(["check", "--profile"]).arg(&file)).wait_for_exit();
            assert!(ended.status.success(), "{place}: {ended:#?}");
            continue;
        }
        let alone = if text.contains("[[upstream]]") { text.clone() } else { format!("{UPSTREAM}{text}") };
        pasted(&alone).iter().for_each(|text| assert_accepted(folder.path(), text, &place));
        if !text.contains("[[upstream]]") && !text.contains("[[route]]") {
            // After the block of README.md, as its steps say.
            let [_, _, shipped] = pasted(&readme);
            assert_accepted(folder.path(), &format!("{shipped}\n{text}"), &place);
        }
        checked += 1;
    }
    assert!(checked >= 12, "only {checked} blocks were found");
}

#[test]
fn second_paste_of_a_section_names_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let readme = blocks(&repository("README.md")).remove(0).text;
    let (file, [_, _, text]) = (folder.path().join("gupd.toml"), pasted(&readme));
    let first = text.lines().position(|line| line == "[store]").unwrap() + 1;
    fs::write(&file, format!("{text}\n[store]\nmemory = \"1GiB\"\n")).unwrap();
    let ended = Process::start(gupd(["check", "--config"]).arg(&file)).wait_for_exit();
    let expected = format!("store: duplicate key: line {first} has it already: move these settings there");
    ended.assert_error(2, &["gupd.toml:", &expected]);
}
