//! `[health]`: how the relay learns which upstreams answer, and when it retries one that did not.

use std::time::Duration;

use crate::defaults;
use crate::document::Document;
use crate::reader::{count, time, time_or_off};
use crate::units::Time;

/// `[health]`
#[derive(Clone, Debug, PartialEq)]
pub struct HealthSettings {
    /// Time between two checks of an upstream, 1 s to 1 h; `None` without checks: then client requests decide.
    pub interval: Option<Duration>,
    /// Timeout of a check, 1 s to 5 m.
    pub timeout: Duration,
    /// Failures in a row that open the circuit of an upstream, 1 to 100.
    pub failures: u32,
    /// Time until the first retry, 1 s to 1 h.
    pub retry: Duration,
    /// Maximum time between retries; it doubles with each failure. `retry` to 1 d.
    pub retry_max: Duration,
    /// Time in which a recovered upstream returns to its full share of its priority, 0 to 1 h.
    pub slow_start: Duration,
}

pub(crate) fn read_health(document: &mut Document) -> HealthSettings {
    let mut s = document.take_section("health");
    let mut health = HealthSettings {
        interval: time_or_off(&mut s, "interval", defaults::CHECK_INTERVAL),
        timeout: time(&mut s, "timeout", defaults::CHECK_TIMEOUT),
        failures: count(&mut s, "failures", defaults::FAILURES),
        retry: time(&mut s, "retry", defaults::PROBE),
        retry_max: time(&mut s, "retry_max", defaults::PROBE_MAX),
        slow_start: time(&mut s, "slow_start", defaults::SLOW_START),
    };
    if health.interval.is_none() && s.is_given("timeout") {
        s.warn("timeout", "has no effect while health.interval is off");
    }
    if health.retry > health.retry_max {
        let (retry, max) = (Time(health.retry), Time(health.retry_max));
        if s.is_given("retry_max") {
            s.refuse("retry_max", format!("{max} is below health.retry ({retry})"));
        }
        health.retry_max = health.retry;
    }
    document.close(s);
    health
}
