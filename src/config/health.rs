//! `[health]`: how the relay learns which upstreams answer, and when it goes back to one that did not. Reads the section
//! with its defaults and the checks of one time against another.

use std::time::Duration;

use super::UnitError;
use super::defaults;
use super::document::Document;
use super::settings::{count, time, within};
use super::units::Time;

/// `[health]`
#[derive(Clone, Debug, PartialEq)]
pub struct HealthSettings {
    /// Time between two checks of each upstream, 1 s to 1 h; `None` without checks: then clients' requests tell.
    pub interval: Option<Duration>,
    /// Time a check has, 1 s to 5 m.
    pub timeout: Duration,
    /// Failures in a row after which an upstream is asked no more, 1 to 100.
    pub failures: u32,
    /// Time until it is first tried again, 1 s to 1 h.
    pub retry: Duration,
    /// That time doubles with each try that fails, up to this one; `retry` to 1 d.
    pub retry_max: Duration,
    /// Time in which a recovered upstream comes to its full share of its priority, 0 to 1 h.
    pub slow_start: Duration,
}

pub(super) fn health(document: &mut Document) -> HealthSettings {
    let mut s = document.section("health");
    let mut health = HealthSettings {
        interval: s.one("interval", interval).unwrap_or(Some(defaults::CHECK_INTERVAL.default)),
        timeout: time(&mut s, "timeout", defaults::CHECK_TIMEOUT),
        failures: count(&mut s, "failures", defaults::FAILURES),
        retry: time(&mut s, "retry", defaults::PROBE),
        retry_max: time(&mut s, "retry_max", defaults::PROBE_MAX),
        slow_start: time(&mut s, "slow_start", defaults::SLOW_START),
    };
    if health.interval.is_none() && s.given("timeout") {
        s.warn("timeout", "has no effect while health.interval is off");
    }
    if health.retry > health.retry_max {
        let (retry, most) = (Time(health.retry), Time(health.retry_max));
        if s.given("retry_max") {
            s.refuse("retry_max", format!("{most} is less than health.retry, {retry}; give at least that"));
        }
        health.retry_max = health.retry;
    }
    document.close(s);
    health
}

fn interval(text: &str) -> Result<Option<Duration>, String> {
    if text == "off" {
        return Ok(None);
    }
    let Time(time) = text.parse().map_err(|error: UnitError| format!("{error}, or off"))?;
    within(text, time, defaults::CHECK_INTERVAL, Time).map(Some)
}
