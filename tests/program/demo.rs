//! `gupd demo` as in the quick start, with fewer clients.

use crate::process::{Process, gupd};

#[test]
fn demo_prints_table_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = gupd(["demo", "--exit", "--clients", "2"]);
    let ended = Process::start(command.env("TMPDIR", folder.path())).wait_for_exit();
    assert!(ended.status.success(), "{ended:#?}");
    for row in ["2 of 2", "clients got", "crossed the WAN", "ratio", "slowest client", "without the relay"] {
        assert!(ended.lines.iter().any(|line| line.contains(row)), "no {row:?} in {ended:#?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn interrupted_demo_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(gupd(["demo", "--clients", "20"]).env("TMPDIR", folder.path()));
    process.wait_for_line(|line| line.contains("20 clients update")).unwrap();
    process.signal("INT");
    let ended = process.wait_for_exit();
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    // The last line, after the progress lines.
    assert!(
        ended.errors.lines().last().is_some_and(|line| line.starts_with("gupd: interrupted")),
        "{ended:#?}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
