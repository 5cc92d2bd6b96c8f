//! `gupd init`: writes a commented configuration from five answers, given as flags or asked on a terminal. What it writes
//! has passed the same check as `gupd check`.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::config_text::{check, quoted, write_new};
use super::{CommandError, print_line};
use gupd_config::DEFAULT_FILE;
use gupd_config::units::{Rate, Size};

/// Part of the line that the relay gets if it may not have all of it.
const LINE_SHARE: u64 = 80;

/// Flags of `gupd init`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  gupd init\n  gupd init --upstream https://sepm.example.com:8014 --line 8Mbit/s \
                        --time-zone Europe/Berlin --output gupd.toml\n\nWithout --upstream, a terminal is asked."
)]
pub(super) struct InitFlags {
    /// Manager or LiveUpdate server; repeatable, in order of priority.
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// Rate of the line to the managers; the relay gets 80 % of it [default: unlimited].
    #[arg(long, value_name = "RATE")]
    line: Option<Rate>,
    /// Maximum bytes of stored content [default: 40GiB].
    #[arg(long, value_name = "SIZE")]
    quota: Option<Size>,
    /// Time zone of the site [default: that of the machine].
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Hours in which the relay itself downloads, such as "mon-sun 20:00-06:00" [default: always].
    #[arg(long, value_name = "WINDOW")]
    window: Option<String>,
    /// The file; "-" for standard output.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    output: PathBuf,
}

/// Answers to the five questions; empty texts stand for defaults.
#[derive(Debug, Default, PartialEq, Eq)]
struct InitAnswers {
    upstreams: Vec<String>,
    line: Option<Rate>,
    quota: Option<Size>,
    time_zone: String,
    window: String,
}

pub(super) fn run(flags: InitFlags) -> Result<(), CommandError> {
    let InitFlags { upstream, line, quota, time_zone, window, output } = flags;
    let answers = InitAnswers {
        upstreams: upstream,
        line,
        quota,
        time_zone: time_zone.unwrap_or_default(),
        window: window.unwrap_or_default(),
    };
    let answers = match answers.upstreams.is_empty() {
        false => answers,
        true if io::stdin().is_terminal() => ask(&mut io::stdin().lock(), &mut io::stderr())?,
        true => {
            let message = "init: no upstream: pass --upstream URL, or run it on a terminal, which is asked";
            return Err(CommandError::Configuration(message.to_owned()));
        }
    };
    let text = file_text(&answers);
    check(&text)?;
    if output == Path::new("-") {
        print_line(text.trim_end());
        return Ok(());
    }
    write_new(&output, &text)?;
    print_line(&format!("{} written: run gupd doctor, then gupd serve", output.display()));
    Ok(())
}

/// Asks the five questions.
fn ask(input: &mut impl BufRead, output: &mut impl Write) -> Result<InitAnswers, CommandError> {
    let failed = |error: io::Error| CommandError::Failed(format!("terminal: {error}"));
    let mut question = |text: &str| -> Result<String, CommandError> {
        write!(output, "{text}: ").and_then(|()| output.flush()).map_err(failed)?;
        let mut line = String::new();
        input.read_line(&mut line).map_err(failed)?;
        Ok(line.trim().to_owned())
    };
    let upstreams =
        question("1. URL of the manager, such as https://sepm.example.com:8014 (several: with spaces)")?;
    let line = question("2. Rate of the line to it, such as 8Mbit/s (empty: no limit)")?;
    let quota = question("3. Space for content, such as 40GiB (empty: 40GiB)")?;
    let time_zone =
        question("4. Time zone of the site, such as Europe/Berlin (empty: that of this machine)")?;
    let window =
        question("5. Hours for the relay's own downloads, such as mon-sun 20:00-06:00 (empty: always)")?;
    let invalid = |error: &dyn std::fmt::Display| CommandError::Configuration(format!("init: {error}"));
    Ok(InitAnswers {
        upstreams: upstreams.split_whitespace().map(str::to_owned).collect(),
        line: (!line.is_empty()).then(|| line.parse()).transpose().map_err(|error| invalid(&error))?,
        quota: (!quota.is_empty()).then(|| quota.parse()).transpose().map_err(|error| invalid(&error))?,
        time_zone,
        window,
    })
}

fn file_text(answers: &InitAnswers) -> String {
    let mut text = String::from(
        "# Written by gupd init. Every setting with its reason: config/gupd.toml of the package.\n",
    );
    for url in &answers.upstreams {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n# Manager or LiveUpdate server. The first one is asked first.\n[[upstream]]\nurl = {}\n",
            quoted(url)
        );
    }
    if let Some(Size(quota)) = answers.quota {
        let _ = write!(
            text,
            "\n[store]\n# Maximum bytes on disk; the least recently used content is evicted first.\nquota = \"{}\"\n",
            Size(quota)
        );
    }
    if answers.line.is_some() || !answers.window.is_empty() {
        text.push_str("\n[wan]\n");
        if let Some(Rate(line)) = answers.line {
            let _ = write!(
                text,
                "# {LINE_SHARE} % of the line, so that other traffic of the site has room.\nlimit = \"{}\"\n",
                Rate(line / 100 * LINE_SHARE)
            );
        }
        if !answers.window.is_empty() {
            let _ = write!(
                text,
                "# Clients are served at any time; refresh and prefetch keep to these hours.\nwindows = [{}]\n",
                quoted(&answers.window)
            );
        }
    }
    if !answers.time_zone.is_empty() {
        let _ = write!(
            text,
            "\n[site]\n# Times of day in this file are times of this zone.\ntime_zone = {}\n",
            quoted(&answers.time_zone)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_a_valid_file() {
        let mut questions = Vec::new();
        let mut input =
            &b"https://a.example:8014 http://b.example\n8Mbit/s\n10GiB\nEurope/Berlin\nmon-sun 20:00-06:00\n"
                [..];
        let answers = ask(&mut input, &mut questions).unwrap();
        let questions = String::from_utf8(questions).unwrap();
        assert!((1..=5).all(|number| questions.contains(&format!("{number}. "))), "{questions}");
        let text = file_text(&answers);
        check(&text).unwrap();
        for line in ["limit = \"6400kbit/s\"", "quota = \"10GiB\"", "url = \"http://b.example\""] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let mut input = &b"http://a.example\n\n\n\n\n"[..];
        let text = file_text(&ask(&mut input, &mut io::sink()).unwrap());
        check(&text).unwrap();
        assert!(!text.contains("[wan]"), "{text}");
    }

    #[test]
    fn wrong_answers_are_errors_of_configuration() {
        for input in ["http://a.example\nfast\n\n\n\n", "http://a.example\n\nmuch\n\n\n"] {
            assert!(matches!(
                ask(&mut input.as_bytes(), &mut io::sink()),
                Err(CommandError::Configuration(_))
            ));
        }
        for (url, zone) in
            [("not a url", ""), ("http://a.example", "Nowhere/None"), ("http://a\"\nb = 1", "")]
        {
            let upstreams = vec![url.to_owned()];
            let answers = InitAnswers { upstreams, time_zone: zone.to_owned(), ..InitAnswers::default() };
            assert!(
                matches!(check(&file_text(&answers)), Err(CommandError::Configuration(_))),
                "{url} {zone}"
            );
        }
    }
}
