//! What the site's lines may carry: `[site]`, `[wan]`, `[[wan_limit]]` and `[lan]`. Owns these types and their reading;
//! relies on `limit` for rates and windows by time of the week.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::document::{Document, Section};
use super::limit::{self, RateSchedule};
use super::settings::{choice, count, number, time};
use super::tables::{glob, label};
use super::week::WeekWindows;
use super::{Config, ContentType, GroupSettings, content, defaults};

/// Bytes of an algorithm's name, at most: Linux's `TCP_CA_NAME_MAX`, without its NUL.
const MAX_CONGESTION: usize = 15;

/// `[site]`
#[derive(Clone, Debug, PartialEq)]
pub struct SiteSettings {
    /// The zone that times of day are in.
    pub time_zone: TimeZone,
}

/// `[wan]`: the line to the upstreams.
#[derive(Clone, Debug, PartialEq)]
pub struct WanSettings {
    /// All that upstreams send, together.
    pub limit: RateSchedule,
    /// What idle time may earn, in time at the rate, for every limit; 20 ms to 10 s.
    pub burst: Duration,
    /// When the relay's own downloads may use the line.
    pub windows: WeekWindows,
    /// `TCP_CONGESTION` of upstream connections; the system's default without.
    pub congestion: Option<String>,
    /// Whether to yield before the line fills.
    pub yield_to_others: bool,
}

/// `[[wan_limit]]`: narrower than `wan.limit`, and within it. The first that fits a path holds.
#[derive(Clone, Debug, PartialEq)]
pub struct WanLimit {
    /// Its name in logs and metrics, unique: lower case, digits, `-`.
    pub name: String,
    /// What it is for.
    pub matches: WanMatch,
    /// The limit.
    pub limit: RateSchedule,
}

/// What a `[[wan_limit]]` is for.
#[derive(Clone, Debug, PartialEq)]
pub enum WanMatch {
    /// A glob over the path, without regard to case.
    Pattern(String),
    /// A content type, built in or of a `[[content_type]]`.
    ContentType(String),
}

/// `[lan]`: the lines to the clients. A count that is `None` is not limited.
#[derive(Clone, Debug, PartialEq)]
pub struct LanSettings {
    /// All that clients are sent, together.
    pub limit: RateSchedule,
    /// What each client is sent.
    pub client_limit: RateSchedule,
    /// Downloads at once, in all.
    pub max_downloads: Option<u32>,
    /// Downloads at once, of each client.
    pub client_downloads: Option<u32>,
    /// New connections a second, of each client.
    pub client_connections: Option<u32>,
    /// Requests that wait for a place, in all; 0 to 65,536.
    pub queue: u32,
    /// Requests that wait for a place, of each client; 0 to `queue`.
    pub client_queue: u32,
    /// How long they wait, 1 s to 1 h.
    pub queue_timeout: Duration,
}

pub(super) fn site(document: &mut Document) -> SiteSettings {
    let mut s = document.section("site");
    let time_zone = s.one("time_zone", time_zone).unwrap_or_else(TimeZone::system);
    document.close(s);
    SiteSettings { time_zone }
}

/// Says that times are in UTC where neither the configuration nor the machine has a zone, as in many containers.
pub(super) fn check_time_zone(document: &mut Document, config: &Config) {
    let constant = |limit: &RateSchedule| limit.as_constant().is_some();
    let limits = [&config.wan.limit, &config.lan.limit, &config.lan.client_limit];
    let limits = limits.into_iter().chain(config.upstreams.iter().map(|upstream| &upstream.limit));
    let limits = limits.chain(config.wan_limits.iter().map(|limit| &limit.limit));
    let of_groups = |group: &GroupSettings| {
        group.windows.as_constant().is_some()
            && [&group.limit, &group.client_limit, &group.wan_limit].into_iter().all(constant)
    };
    let is_timed = config.wan.windows.as_constant().is_none()
        || !limits.into_iter().all(constant)
        || !config.groups.iter().all(of_groups);
    if is_timed && config.site.time_zone.is_unknown() {
        document
            .warn_missing("site.time_zone", "is not given, and the machine has none: times of day are UTC");
    }
}

pub(super) fn wan(document: &mut Document) -> WanSettings {
    let mut s = document.section("wan");
    let wan = WanSettings {
        limit: limit::limit(&mut s, "limit"),
        burst: time(&mut s, "burst", defaults::BURST),
        windows: limit::windows(&mut s, "windows"),
        congestion: s.one("congestion", congestion),
        yield_to_others: s
            .one("yield_to_others", |text| choice(text, &[("true", true), ("false", false)]))
            .unwrap_or(false),
    };
    document.close(s);
    wan
}

pub(super) fn wan_limits(document: &mut Document, wan: &WanSettings, types: &[ContentType]) -> Vec<WanLimit> {
    let mut limits: Vec<WanLimit> = Vec::new();
    for mut s in document.tables("wan_limit", None) {
        let name = s.required("name", label);
        let pattern = s.one("pattern", glob);
        let content_type = s.one("content_type", |text| content::known(text, types));
        let given = s.given("pattern") || s.given("content_type");
        let matches = match (pattern, content_type) {
            (Some(pattern), None) => Some(WanMatch::Pattern(pattern)),
            (None, Some(name)) => Some(WanMatch::ContentType(name)),
            (Some(_), Some(_)) => {
                s.refuse("content_type", "is given beside pattern; write one [[wan_limit]] for each");
                None
            }
            (None, None) if given => None,
            (None, None) => {
                s.refuse("pattern", "is missing; give a pattern or a content_type");
                None
            }
        };
        let limit = limit::limit(&mut s, "limit");
        if !s.given("limit") {
            s.refuse("limit", "is missing");
        }
        warn_above(&mut s, "limit", &limit, "wan.limit", &wan.limit);
        if let (Some(name), Some(matches)) = (name, matches) {
            if limits.iter().any(|other| other.name == name) {
                s.refuse("name", format!("{name:?} is the name of two limits; give each its own"));
            }
            if let Some(other) = limits.iter().find(|other| other.matches == matches) {
                s.warn("name", format!("{name:?} is for what {:?} is for, and so never holds", other.name));
            }
            limits.push(WanLimit { name, matches, limit });
        }
        document.close(s);
    }
    limits
}

pub(super) fn lan(document: &mut Document) -> LanSettings {
    let mut s = document.section("lan");
    let lan = LanSettings {
        limit: limit::limit(&mut s, "limit"),
        client_limit: limit::limit(&mut s, "client_limit"),
        max_downloads: count_or_unlimited(&mut s, "max_downloads"),
        client_downloads: count_or_unlimited(&mut s, "client_downloads"),
        client_connections: count_or_unlimited(&mut s, "client_connections"),
        queue: count(&mut s, "queue", defaults::QUEUE),
        client_queue: count(&mut s, "client_queue", defaults::CLIENT_QUEUE),
        queue_timeout: time(&mut s, "queue_timeout", defaults::QUEUE_TIMEOUT),
    };
    if s.given("client_queue") && lan.client_queue > lan.queue {
        s.refuse("client_queue", format!("{} is above lan.queue, which is {}", lan.client_queue, lan.queue));
    }
    warn_above(&mut s, "client_limit", &lan.client_limit, "lan.limit", &lan.limit);
    document.close(s);
    LanSettings { client_queue: lan.client_queue.min(lan.queue), ..lan }
}

/// Says that a limit never holds where another is below it.
pub(super) fn warn_above(
    s: &mut Section,
    key: &'static str,
    limit: &RateSchedule,
    of: &str,
    total: &RateSchedule,
) {
    if let Some(above) = limit.above(total) {
        s.warn(key, format!("{}; the smaller one holds", above.tell(of)));
    }
}

/// A count, or `None` for `unlimited`.
pub(super) fn count_or_unlimited(s: &mut Section, key: &'static str) -> Option<u32> {
    let read = |text: &str| {
        if text == "unlimited" {
            return Ok(None);
        }
        number(text, defaults::COUNT).map(Some).map_err(|message| format!("{message}, or unlimited"))
    };
    s.one(key, read).flatten()
}

fn time_zone(text: &str) -> Result<TimeZone, String> {
    TimeZone::get(text).map_err(|_| {
        format!("{text:?} is not a time zone; write one of the IANA database, such as Europe/Berlin")
    })
}

fn congestion(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    if text.is_empty() || text.len() > MAX_CONGESTION || !text.bytes().all(allowed) {
        return Err(format!(
            "{text:?} is not the name of an algorithm; write it like lp, as the system names it"
        ));
    }
    Ok(text.to_owned())
}
