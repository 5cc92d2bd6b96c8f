//! Where log lines go: standard output, as text on a terminal and JSON elsewhere. `lines` gathers them and has a thread
//! that writes, so that a slow reader of the log never holds up a client; `json` is the form of a line.

mod json;
mod lines;

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use self::lines::LogGuard;
use gupd_config::{LogFormat, LogSettings};

/// A log that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is not a filter.
    #[error("log.level: {0}; write it like info or gupd=debug")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// No thread to write it.
    #[error("the log cannot be set up: {0}")]
    Thread(#[from] io::Error),
    /// It is set up already.
    #[error("the log is set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up the process's log. Once.
///
/// # Errors
/// When the level cannot be understood, or a log is set up already.
pub fn init(log: &LogSettings) -> Result<LogGuard, LogError> {
    let filter = EnvFilter::try_new(&log.level)?;
    let (lines, guard) = lines::start()?;
    let layer = tracing_subscriber::fmt::layer().with_writer(lines);
    let registry = tracing_subscriber::registry().with(filter);
    let as_text = match log.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stdout().is_terminal(),
    };
    if as_text {
        registry.with(layer.with_ansi(io::stdout().is_terminal())).try_init()?;
    } else {
        registry.with(layer.event_format(json::Json)).try_init()?;
    }
    Ok(guard)
}
