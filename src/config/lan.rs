//! `[lan]` and `[site]`: limits of the line to the clients, and the time zone of the site. A count that is `None` is
//! unlimited.

use std::time::Duration;

use ipnet::IpNet;
use jiff::tz::TimeZone;

use crate::access::read_subnets;
use crate::defaults;
use crate::document::Document;
use crate::limit::{RateSchedule, read_rate_schedule, warn_above};
use crate::reader::{count, count_or_unlimited, time};

/// `[site]`
#[derive(Clone, Debug, PartialEq)]
pub struct SiteSettings {
    /// Time zone of all times of day.
    pub time_zone: TimeZone,
    /// Subnets of the site; empty if every client is of the site.
    pub subnets: Vec<IpNet>,
}

/// `[lan]`: the line to the clients.
#[derive(Clone, Debug, PartialEq)]
pub struct LanSettings {
    /// Limit of all responses together.
    pub limit: RateSchedule,
    /// Limit of each client.
    pub client_limit: RateSchedule,
    /// Maximum number of concurrent downloads.
    pub max_downloads: Option<u32>,
    /// Maximum number of concurrent downloads of each client.
    pub client_downloads: Option<u32>,
    /// Maximum number of new connections a second of each client.
    pub client_connections: Option<u32>,
    /// Maximum number of requests queued for a slot, 0 to 65,536.
    pub queue: u32,
    /// Maximum number of requests queued for each client, 0 to `queue`.
    pub client_queue: u32,
    /// Time after which a queued request is refused, 1 s to 1 h.
    pub queue_timeout: Duration,
}

pub(crate) fn read_site(document: &mut Document) -> SiteSettings {
    let mut s = document.take_section("site");
    let time_zone = s.read("time_zone", time_zone).unwrap_or_else(TimeZone::system);
    let subnets = read_subnets(&mut s, "subnets");
    document.close(s);
    SiteSettings { time_zone, subnets }
}

pub(crate) fn read_lan(document: &mut Document) -> LanSettings {
    let mut s = document.take_section("lan");
    let lan = LanSettings {
        limit: read_rate_schedule(&mut s, "limit"),
        client_limit: read_rate_schedule(&mut s, "client_limit"),
        max_downloads: count_or_unlimited(&mut s, "max_downloads"),
        client_downloads: count_or_unlimited(&mut s, "client_downloads"),
        client_connections: count_or_unlimited(&mut s, "client_connections"),
        queue: count(&mut s, "queue", defaults::QUEUE),
        client_queue: count(&mut s, "client_queue", defaults::CLIENT_QUEUE),
        queue_timeout: time(&mut s, "queue_timeout", defaults::QUEUE_TIMEOUT),
    };
    if s.is_given("client_queue") && lan.client_queue > lan.queue {
        s.refuse("client_queue", format!("{} exceeds lan.queue ({})", lan.client_queue, lan.queue));
    }
    warn_above(&mut s, "client_limit", &lan.client_limit, "lan.limit", &lan.limit);
    document.close(s);
    LanSettings { client_queue: lan.client_queue.min(lan.queue), ..lan }
}

fn time_zone(text: &str) -> Result<TimeZone, String> {
    TimeZone::get(text)
        .map_err(|_| format!("{text:?} is not a time zone: use an IANA name such as Europe/Berlin"))
}
