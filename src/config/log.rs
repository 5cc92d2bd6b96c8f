//! `[log]`: format and level of the log, and the access log.

use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::defaults;
use crate::document::Document;
use crate::reader::{boolean, choice};

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// Format of a log line.
    pub format: LogFormat,
    /// A `tracing` filter directive, such as `info` or `gupd=debug`.
    pub level: String,
    /// Whether each request is logged.
    pub access: bool,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

pub(crate) fn read_log(document: &mut Document) -> LogSettings {
    let mut s = document.take_section("log");
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    let log = LogSettings {
        format: s.read("format", |text| choice(text, &formats)).unwrap_or(LogFormat::Auto),
        level: s.read("level", level).unwrap_or_else(|| defaults::LOG_LEVEL.to_owned()),
        access: s.read("access", boolean).unwrap_or(true),
    };
    document.close(s);
    log
}

// The filter takes a bare word that is no level for a module, and silences the rest. It knows no spans and fields, which gupd
// does not have, so that the program needs no engine of regular expressions for the log.
fn level(text: &str) -> Result<String, String> {
    let refused = || format!("{text:?} is not a log level: write it like info, debug or info,gupd=debug");
    // An empty part would be the level of errors.
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let is_directive = |part: &&str| !part.contains('[') && (part.contains('=') || is_level(part));
    let parts: Vec<_> = text.split(',').map(str::trim).collect();
    if !parts.iter().all(is_directive) {
        return Err(refused());
    }
    let filter = parts.join(",");
    filter.parse::<Targets>().map(|_| filter).map_err(|_| refused())
}
