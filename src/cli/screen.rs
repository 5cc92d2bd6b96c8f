//! Text that is printed once, or again and again in the same place of a terminal.

use std::io::{self, IsTerminal, Write};
use std::thread::sleep;
use std::time::Duration;

use super::CommandError;

/// Interval of --watch.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Each text overwrites the one before line by line; clearing the screen first would flicker.
const CURSOR_HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_SCREEN: &str = "\x1b[2J";

/// Shows a text every two seconds until Ctrl-C, or until nobody reads it. An error is shown in its place: the relay may
/// be restarting.
pub(crate) fn watch(mut text: impl FnMut() -> Result<String, CommandError>) -> Result<(), CommandError> {
    let mut first = true;
    loop {
        let text = text().unwrap_or_else(|failure| match failure {
            CommandError::Configuration(message) | CommandError::Failed(message) => message,
        });
        match show(&text, first) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(CommandError::Failed(format!("standard output: {error}"))),
        }
        first = false;
        sleep(WATCH_INTERVAL);
    }
}

/// Overwrites the screen of a terminal; appends to any other output.
fn show(text: &str, first: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if !out.is_terminal() {
        writeln!(out, "{text}\n")?;
        return out.flush();
    }
    if first {
        write!(out, "{CLEAR_SCREEN}")?;
    }
    write!(out, "{CURSOR_HOME}")?;
    for line in text.lines() {
        writeln!(out, "{line}{CLEAR_LINE}")?;
    }
    write!(out, "{CLEAR_BELOW}")?;
    out.flush()
}
