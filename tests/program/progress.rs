//! Progress of commands that take long: on a terminal only, on standard error.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::store_commands::{start_filled_relay, stop};
use crate::support::Manager;

/// A command line on a terminal of its own, or without one. Standard error follows standard output.
fn command(arguments: &str, is_terminal: bool) -> Command {
    let line = format!("{:?} --default-config /nonexistent {arguments} 2>&1", env!("CARGO_BIN_EXE_gupd"));
    let mut command = match is_terminal {
        true => Command::new("script"),
        false => Command::new("sh"),
    };
    match is_terminal {
        true => command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]),
        false => command.args(["-c", &line]),
    };
    command.env("TERM", "xterm").env("GUPD_STORE_MIN_FREE", "0").stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn output(arguments: &str, is_terminal: bool) -> String {
    let ended = command(arguments, is_terminal).output().unwrap();
    assert!(ended.status.success(), "{arguments}: {ended:?}");
    String::from_utf8(ended.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn store_commands_show_a_bar_on_a_terminal_only() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).display().to_string();
    stop(start_filled_relay(&manager, Path::new(&path("store"))).await);
    let (store, bundle) = (path("store"), path("bundle"));
    for is_terminal in [false, true] {
        let target = path(if is_terminal { "with" } else { "without" });
        for (arguments, bar) in [
            (format!("store verify --store {store}"), "verifying"),
            (format!("store export --store {store} --output {bundle}"), "exporting"),
            (format!("store import --store {target} {bundle}"), "importing"),
            (format!("store purge --store {target} --path '**'"), "removing"),
        ] {
            let text = output(&arguments, is_terminal);
            assert_eq!(text.contains(&format!("{bar} ")), is_terminal, "{arguments}: {text}");
        }
    }
}

#[test]
fn waiting_command_says_for_whom_on_a_terminal() {
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = relay.local_addr().unwrap();
    for arguments in [
        format!("status --admin {address}"),
        format!("why --admin {address}"),
        format!("check --probe --upstream http://{address}"),
    ] {
        let mut running = command(&arguments, true).spawn().unwrap();
        let (mut stream, _) = relay.accept().unwrap();
        let (mut text, mut screen) = (String::new(), running.stdout.take().unwrap());
        // The command is answered once it has said that it waits.
        while !text.contains("waiting for ") {
            let mut part = [0; 4096];
            let read = screen.read(&mut part).unwrap();
            assert!(read > 0, "{arguments} ended: {text}");
            text += &String::from_utf8_lossy(&part[..read]);
        }
        stream.write_all(b"HTTP/1.1 500 Busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy").unwrap();
        drop(stream);
        let mut rest = String::new();
        screen.read_to_string(&mut rest).unwrap();
        running.wait().unwrap();
        assert!(rest.contains("busy") || rest.contains("status 500"), "{arguments}: {text}{rest}");
    }
}
