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

#[test]
fn tour_shows_each_failure_and_records_it() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("demo.html");
    let mut command = gupd(["demo", "--exit", "--tour", "--clients", "4", "--record"]);
    let temporary = folder.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let ended = Process::start(command.arg(&record).env("TMPDIR", &temporary)).wait_for_exit();
    assert!(ended.status.success(), "{ended:#?}");
    let text = ended.lines.join("\n");
    for words in [
        "Status page of the relay: http://127.0.0.1:",
        "1. The manager dies.",
        "a request for content that is not stored: 504, Retry-After: ",
        "2. The relay is killed.",
        "$ kill -9 ",
        "3. The limit of the line changes during a download.",
        "  wan.limit = \"4Mbit/s\"\n  $ gupd reload\n  reloaded\n",
        "4. A bad revision is rolled back.",
        "20 of 20 other clients saw the good one",
        "the pilot ring saw the good catalog again",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let all_done = |line: &&String| line.contains(" downloads complete ") && line.contains(" 0 failed;");
    assert_eq!(ended.lines.iter().filter(all_done).count(), 2, "{text}");
    let page = std::fs::read_to_string(record).unwrap();
    for part in ["<svg", "crossed the WAN", "The manager dies", "A bad revision is rolled back", "</html>"] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    // Nothing is loaded from elsewhere.
    let rest = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    assert!(!rest.contains("src=") && !rest.contains("href=") && !rest.contains("url("), "{page}");
    assert_eq!(std::fs::read_dir(temporary).unwrap().count(), 0);
}

#[test]
fn record_that_cannot_be_written_is_refused_before_the_start() {
    let ended =
        Process::start(&mut gupd(["demo", "--exit", "--record", "/nonexistent/demo.html"])).wait_for_exit();
    ended.assert_error(1, &["--record /nonexistent/demo.html: ", "choose another file"]);
}

#[test]
fn demo_on_a_terminal_shows_bars() {
    let demo = format!("{} demo --exit --clients 2", env!("CARGO_BIN_EXE_gupd"));
    let mut command = std::process::Command::new("script");
    command.args(["--quiet", "--return", "--command", &demo, "/dev/null"]).env("TERM", "xterm");
    let ended = Process::start(&mut command).wait_for_exit();
    assert!(ended.status.success(), "{ended:#?}");
    let text = ended.lines.join("\n");
    for bar in ["clients done", "clients got", "crossed the WAN"] {
        assert!(text.contains(&format!("  {bar:<16}")), "{bar}: {text:?}");
    }
    assert!(text.contains('█') && text.contains("0 of 2"), "{text:?}");
}
