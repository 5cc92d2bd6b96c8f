//! `[wan]` and `[[wan_limit]]`: limits of the line to the upstreams, for all content and by content.

use std::time::Duration;

use crate::content::TypeNames;
use crate::defaults;
use crate::document::{Document, Section};
use crate::limit::{RateSchedule, read_rate_schedule, read_windows, warn_above};
use crate::reader::{boolean, glob, label, time};
use crate::week::WeekWindows;

/// Maximum length of a congestion control algorithm's name: Linux's `TCP_CA_NAME_MAX`, without its NUL.
const MAX_CONGESTION: usize = 15;

/// `[wan]`: the line to the upstreams.
#[derive(Clone, Debug, PartialEq)]
pub struct WanSettings {
    /// Limit of all downloads from upstreams together.
    pub limit: RateSchedule,
    /// Burst that idle time may earn, as time at the rate, for every limit; 20 ms to 10 s.
    pub burst: Duration,
    /// When the relay's own downloads may use the line.
    pub windows: WeekWindows,
    /// `TCP_CONGESTION` of upstream connections; the system's default if `None`.
    pub congestion: Option<String>,
    /// Whether downloads yield to other traffic before the line is full.
    pub yield_to_others: bool,
}

/// `[[wan_limit]]`: a limit within `wan.limit`. The first one that matches a path applies.
#[derive(Clone, Debug, PartialEq)]
pub struct WanLimit {
    /// Unique name in logs and metrics: lower-case letters, digits, `-`.
    pub name: String,
    /// Content that it limits.
    pub matches: WanMatch,
    /// The limit.
    pub limit: RateSchedule,
}

/// Matcher of a `[[wan_limit]]`.
#[derive(Clone, Debug, PartialEq)]
pub enum WanMatch {
    /// A glob over the path, case-insensitive.
    Pattern(String),
    /// A content type, built in or of a `[[content_type]]`.
    ContentType(String),
}

pub(crate) fn read_wan(document: &mut Document) -> WanSettings {
    let mut s = document.take_section("wan");
    let wan = WanSettings {
        limit: read_rate_schedule(&mut s, "limit"),
        burst: time(&mut s, "burst", defaults::BURST),
        windows: read_windows(&mut s, "windows"),
        congestion: s.read("congestion", congestion),
        yield_to_others: s.read("yield_to_others", boolean).unwrap_or(false),
    };
    document.close(s);
    wan
}

pub(crate) fn read_wan_limits(
    document: &mut Document,
    wan: &WanSettings,
    types: &TypeNames,
) -> Vec<WanLimit> {
    let mut limits: Vec<WanLimit> = Vec::new();
    for mut s in document.take_tables("wan_limit", None) {
        let name = s.read_required("name", label);
        let matches = read_matcher(&mut s, types);
        let limit = read_rate_schedule(&mut s, "limit");
        if !s.is_given("limit") {
            s.refuse_missing("limit");
        }
        warn_above(&mut s, "limit", &limit, "wan.limit", &wan.limit);
        if let (Some(name), Some(matches)) = (name, matches) {
            if limits.iter().any(|other| other.name == name) {
                s.refuse("name", format!("duplicate name {name:?}: give each limit its own name"));
            }
            if let Some(other) = limits.iter().find(|other| other.matches == matches) {
                s.warn("name", format!("{name:?} never applies: {:?} has the same matcher", other.name));
            }
            limits.push(WanLimit { name, matches, limit });
        }
        document.close(s);
    }
    limits
}

fn read_matcher(s: &mut Section, types: &TypeNames) -> Option<WanMatch> {
    let pattern = s.read("pattern", glob);
    let content_type = s.read("content_type", |text| types.read(text));
    match (pattern, content_type) {
        (Some(pattern), None) => return Some(WanMatch::Pattern(pattern)),
        (None, Some(name)) => return Some(WanMatch::ContentType(name)),
        (Some(_), Some(_)) => {
            s.refuse("content_type", "is set beside pattern: write one [[wan_limit]] for each");
        }
        (None, None) if s.is_given("pattern") || s.is_given("content_type") => {}
        (None, None) => s.refuse("pattern", "missing matcher: set pattern or content_type"),
    }
    None
}

fn congestion(text: &str) -> Result<String, String> {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    if text.is_empty() || text.len() > MAX_CONGESTION || !text.bytes().all(is_allowed) {
        return Err(format!("{text:?} is not an algorithm name: use the system's name for it, such as lp"));
    }
    Ok(text.to_owned())
}
