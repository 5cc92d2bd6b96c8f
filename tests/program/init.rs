//! `gupd init`: a file that passes the check, and nothing overwritten.

use std::fs;

use crate::process::{Process, gupd};

#[test]
fn written_file_passes_the_check_and_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    let init = || {
        let mut command =
            gupd(["init", "--upstream", "http://127.0.0.1:8014", "--line", "8Mbit/s", "--output"]);
        Process::start(command.arg(&file)).wait_for_exit()
    };
    let ended = init();
    assert!(ended.status.success(), "{ended:#?}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("limit = \"6400kbit/s\""), "{text}");
    let checked = Process::start(gupd(["check", "--config"]).arg(&file)).wait_for_exit();
    assert!(checked.status.success(), "{checked:#?}");
    init().assert_error(1, &["exists", "--output"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn wrong_flags_write_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    for flags in [&["--upstream", "no url"][..], &["--upstream", "http://a", "--line", "fast"], &[]] {
        let mut command = gupd(["init", "--output"]);
        command.arg(&file).args(flags).stdin(std::process::Stdio::null());
        assert_eq!(Process::start(&mut command).wait_for_exit().status.code(), Some(2), "{flags:?}");
        assert!(!file.exists());
    }
}
