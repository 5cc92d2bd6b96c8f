//! `gupd top`: one table without a terminal, a screen with keys on one.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::process::{Process, gupd};
use crate::rollout::{Place, views};
use crate::support::RefusingPort;

#[tokio::test(flavor = "multi_thread")]
async fn table_without_a_terminal_is_printed_once() {
    let (place, relay) = Place::published().await;
    views(&relay).await;
    let top = |flags: &[&str]| {
        let mut command = gupd(["top", "--config"]);
        command.arg(place.file()).args(["--admin", &relay.admin.to_string()]).args(flags);
        Process::start(&mut command).wait_for_exit()
    };
    let ended = top(&[]);
    assert!(ended.status.success(), "{ended:#?}");
    let text = ended.lines.join("\n");
    for words in ["serving; ", "WAN ", "CLIENT ", "127.0.0.2  current", "127.0.0.3"] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let text = top(&["--once", "--filter", "0.0.2"]).lines.join("\n");
    assert!(text.contains("127.0.0.2") && !text.contains("127.0.0.3"), "{text}");
    let text = top(&["--once", "--fills"]).lines.join("\n");
    assert!(text.contains("OBJECT") && text.contains("0 fills"), "{text}");
    let refusing = RefusingPort::new().address().to_string();
    Process::start(&mut gupd(["top", "--admin", &refusing]))
        .wait_for_exit()
        .assert_error(1, &["start the relay"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn screen_on_a_terminal_ends_with_its_key() {
    let (place, relay) = Place::published().await;
    views(&relay).await;
    let program = env!("CARGO_BIN_EXE_gupd");
    let command = format!(
        "stty cols 100 rows 30; exec {program} top --config {} --admin {}",
        place.file().display(),
        relay.admin
    );
    // Gives the program a terminal.
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    let mut child = script.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"sr\tq").unwrap();
    let output = child.wait_with_output().unwrap();
    let screen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{screen}");
    // Spaces between words are moves of the cursor.
    assert!(screen.contains("CLIENT") && screen.contains("quit") && screen.contains("RATE"), "{screen}");
}
