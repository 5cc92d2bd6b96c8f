//! The log: lines on standard output, as text on a terminal and as JSON elsewhere. `writer` collects lines and writes
//! them in a thread of its own, so a slow reader of the log never delays a client. `buffer` has the lines of one thread,
//! `merge` brings those of all threads into the order of their timestamps. `json` formats a line.

mod buffer;
mod json;
mod merge;
mod writer;

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use self::json::escape_invisible;
pub use self::writer::LogGuard;
use gupd_config::{LogFormat, LogSettings};

/// Column of the timestamp in a line of text, without and with colours: `ESC [ 2 m` dims it.
const TEXT_COLUMN: usize = 0;
const ANSI_COLUMN: usize = 4;

/// Error that keeps the log from being set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is not a valid filter.
    #[error("log.level: {0}: use a level such as info, or a filter such as gupd=debug")]
    Level(#[from] ParseError),
    /// The writing thread cannot be started.
    #[error("log: the writing thread cannot be started: {0}")]
    Thread(#[from] io::Error),
    /// The log is set up already.
    #[error("log: already set up: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Returns true if output may have colours: on a terminal, unless `NO_COLOR` is set (no-color.org).
pub fn has_colour(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Sets up the log of the process. Must be called once.
///
/// # Errors
/// When the level is invalid, the thread cannot be started, or the log is set up already.
pub fn init(log: &LogSettings) -> Result<LogGuard, LogError> {
    let filter: Targets = log.level.parse()?;
    let is_terminal = io::stdout().is_terminal();
    let (as_text, column) = match (log.format, is_terminal) {
        (LogFormat::Text | LogFormat::Auto, true) if has_colour(true) => (true, ANSI_COLUMN),
        (LogFormat::Text | LogFormat::Auto, true) => (true, TEXT_COLUMN),
        (LogFormat::Text, false) => (true, TEXT_COLUMN),
        (LogFormat::Json, _) | (LogFormat::Auto, false) => (false, json::COLUMN),
    };
    let (writer, guard) = writer::start_stdout(column)?;
    let timer = writer.timer();
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_timer(timer.clone());
    let registry = tracing_subscriber::registry().with(filter);
    if as_text {
        registry.with(layer.with_ansi(has_colour(is_terminal))).try_init()?;
    } else {
        registry.with(layer.event_format(json::JsonFormat::new(timer))).try_init()?;
    }
    Ok(guard)
}
