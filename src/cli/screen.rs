//! Text that is printed once, or again and again in the same place of a terminal.

use std::io::{self, IsTerminal, Write};
use std::thread::sleep;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::CommandError;

/// Interval of --watch.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Each text overwrites the one before line by line; clearing the screen first would flicker.
const CURSOR_HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_SCREEN: &str = "\x1b[2J";

/// Time after which a command shows that it is at work.
const QUIET_TIME: Duration = Duration::from_secs(2);

/// Waits for `work`; shows what it is once it has taken two seconds, if standard error is a terminal.
pub(crate) async fn with_spinner<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(QUIET_TIME, &mut work).await {
        return done;
    }
    let spinner = spinner(what);
    let done = work.await;
    spinner.finish_and_clear();
    done
}

/// Returns a spinner with these words on standard error; nothing where that is no terminal.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let spinner = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

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
