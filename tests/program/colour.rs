//! Colour of output: on a terminal only, and never with `NO_COLOR` (no-color.org).

use std::process::{Command, Stdio};

/// Runs a shell line on a terminal of its own, or without one; returns all of its output.
fn output(line: &str, is_terminal: bool, no_colour: Option<&str>) -> String {
    let line = format!("{:?} --default-config /nonexistent {line} 2>&1", env!("CARGO_BIN_EXE_gupd"));
    let mut command = match is_terminal {
        true => Command::new("script"),
        false => Command::new("sh"),
    };
    match is_terminal {
        true => command.args(["--quiet", "--return", "--command", &line, "/dev/null"]),
        false => command.args(["-c", &line]),
    };
    command.env_remove("NO_COLOR").env("TERM", "xterm").stdin(Stdio::null());
    if let Some(value) = no_colour {
        command.env("NO_COLOR", value);
    }
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

/// Returns true if text has a sequence that sets colours or bold type.
fn has_colour(text: &str) -> bool {
    text.split("\x1b[").skip(1).any(|rest| {
        rest.trim_start_matches(|char: char| char.is_ascii_digit() || char == ';').starts_with('m')
    })
}

#[test]
fn output_has_colour_on_a_terminal_only_and_not_with_no_color() {
    let help = output("--help", false, None);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 15, "{help}");
    for command in commands {
        let line = format!("{command} --help");
        assert!(has_colour(&output(&line, true, None)), "{line}");
        assert!(has_colour(&output(&line, true, Some(""))), "{line}: an empty NO_COLOR has no meaning");
        assert!(!has_colour(&output(&line, true, Some("1"))), "{line}");
        assert!(!has_colour(&output(&line, false, None)), "{line}");
    }
    // Errors of usage, the log of a relay, and results.
    for (line, is_coloured) in [
        ("status --none", true),
        (
            "serve --listen 127.0.0.1:0 --admin 127.0.0.1:0 --upstream http://127.0.0.1:1 --store /dev/null/a",
            true,
        ),
        ("plan --clients 10 --line 8Mbit/s", false),
        ("check --upstream http://127.0.0.1:1", false),
    ] {
        assert_eq!(has_colour(&output(line, true, None)), is_coloured, "{line}");
        assert!(!has_colour(&output(line, true, Some("1"))), "{line}");
        assert!(!has_colour(&output(line, false, None)), "{line}");
    }
}
