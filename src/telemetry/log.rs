//! Where log lines go: standard output, as text on a terminal and JSON elsewhere. Written by a thread of its own, so
//! that a slow reader of the log never holds up a client; lines beyond its bounded queue are dropped.

use std::io::{self, IsTerminal};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// Lines waiting to be written: a few seconds of a busy relay, about 16 MiB.
const QUEUE: usize = 1 << 16;

/// Keeps the writing thread; dropping it writes what is queued.
#[derive(Debug)]
#[must_use]
pub struct LogGuard {
    _writer: WorkerGuard,
}

/// A log that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is not a filter.
    #[error("log.level: {0}; write it like info or gupd=debug")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// It is set up already.
    #[error("the log is set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up the process's log. Once.
///
/// # Errors
/// When the level cannot be understood, or a log is set up already.
pub fn init(log: &Log) -> Result<LogGuard, LogError> {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(QUEUE).finish(io::stdout());
    let filter = EnvFilter::try_new(&log.level)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let registry = tracing_subscriber::registry().with(filter);
    let as_text = match log.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stdout().is_terminal(),
    };
    if as_text {
        registry.with(lines.with_ansi(io::stdout().is_terminal())).try_init()?;
    } else {
        registry
            .with(lines.json().flatten_event(true).with_current_span(false).with_span_list(false))
            .try_init()?;
    }
    Ok(LogGuard { _writer: guard })
}
