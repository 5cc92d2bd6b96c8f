//! Formats of a plan: spans, rates and shares for people, and JSON in base units.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{DeadlineReport, PlanReport};
use gupd_plan::{LineResult, MARKS, PlannedRollout, RateSelector, Scenario, SpreadResult, TimelinePoint};

pub(super) const WAN: RateSelector = wan;
pub(super) const LAN: RateSelector = lan;
/// Span of the "busiest minute", in seconds.
pub(super) const MINUTE: f64 = 60.0;

/// Formats seconds in the two largest units.
pub(crate) fn span(seconds: f64) -> String {
    // Rounded first: 59.99 s are a minute.
    let whole = if seconds < 10.0 { seconds } else { seconds.round() };
    let (days, hours, minutes) = ((whole / 86_400.0) as u64, (whole / 3_600.0) as u64, (whole / 60.0) as u64);
    match whole as u64 {
        0..10 => format!("{whole:.1}s"),
        10..60 => format!("{whole}s"),
        60..3_600 => format!("{minutes}m {:02}s", whole as u64 % 60),
        3_600..172_800 => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{days}d {:02}h", hours % 24),
    }
}

/// Formats bytes per second as bits per second with three digits.
pub(crate) fn rate(bytes: f64) -> String {
    let bits = bytes * 8.0;
    let units = [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")];
    // A rate that rounds up to the next unit is shown in that unit.
    let (factor, unit) =
        units.into_iter().find(|(factor, _)| bits >= factor * 0.9995).unwrap_or((1.0, "bit/s"));
    let value = bits / factor;
    let digits = match value {
        99.95.. => format!("{value:.0}"),
        9.995.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits} {unit}")
}

/// Formats a share in percent.
pub(super) fn share(share: f64) -> String {
    let percent = (share * 1e4).round() / 1e2;
    format!("{percent} %")
}

/// Formats a time after the start as date and time of the site.
pub(super) fn clock(report: &PlanReport, seconds: f64) -> String {
    clock_at(&report.zone, report.start, seconds)
}

/// Formats a time after a start as date and time of a time zone.
pub(super) fn clock_at(zone: &TimeZone, start: Timestamp, seconds: f64) -> String {
    let time = at(start, seconds).map(|time| time.to_zoned(zone.clone()));
    time.map_or_else(String::new, |time| time.strftime("%a %F %H:%M").to_string())
}

/// Formats a time after a start for JSON.
pub(super) fn json_time(start: Timestamp, seconds: f64) -> Option<String> {
    at(start, seconds).map(|time| time.to_string())
}

/// Returns the times at which the shares of [`MARKS`] are current, and then all clients that come online.
pub(super) fn times(scenario: &Scenario, rollout: &PlannedRollout) -> Vec<Option<f64>> {
    let marks = MARKS.iter().map(|share| rollout.current_at(scenario, *share));
    marks.chain([rollout.all_current_at()]).collect()
}

/// Returns the plan as JSON: seconds, bytes, bytes per second.
pub(super) fn json(report: &PlanReport) -> String {
    let PlanReport { scenario, rollout, start, .. } = report;
    let contents = scenario.contents.iter();
    let contents = contents.map(|of| json!({"name": of.name, "bytes": of.bytes as u64, "share": of.share}));
    let limits = report.costs.iter().map(
        |cost| json!({"limit": scenario.limit_name(cost.limit), "without": current(report, &cost.lifted)}),
    );
    let rates = |rate: RateSelector, bytes: f64| {
        json!({
            "bytes": bytes.round() as u64,
            "peak_bytes_per_second": rollout.timeline.peak(rate).round() as u64,
            "busiest_minute_bytes_per_second": rollout.timeline.busiest_mean(rate, MINUTE).round() as u64,
        })
    };
    let plan = json!({
        "start": start.to_string(),
        "horizon_seconds": scenario.horizon,
        "clients": scenario.clients(),
        "clients_that_come": rollout.appeared,
        "clients_current": rollout.current(),
        "contents": contents.collect::<Vec<_>>(),
        "current": current(report, rollout),
        "wan": rates(WAN, rollout.wan_bytes),
        "lan": rates(LAN, rollout.lan_bytes),
        "wan_bytes_without_relay": rollout.lan_bytes.round() as u64,
        "downloads_at_once": rollout.timeline.max_downloads(),
        "requests_refused": rollout.refused,
        "limits": limits.collect::<Vec<_>>(),
        "deadline": report.reverse.as_ref().map(|reverse| deadline(report, reverse)),
    });
    format!("{plan:#}")
}

fn current(report: &PlanReport, rollout: &PlannedRollout) -> Value {
    let time = |seconds: f64| json_time(report.start, seconds);
    let entry = |share: Option<f64>, seconds: Option<f64>| json!({"share": share, "seconds": seconds, "time": seconds.and_then(time)});
    let shares = MARKS.into_iter().map(Some).chain([None]);
    shares.zip(times(&report.scenario, rollout)).map(|(share, seconds)| entry(share, seconds)).collect()
}

fn deadline(report: &PlanReport, reverse: &DeadlineReport) -> Value {
    let DeadlineReport { deadline, line, spread } = reverse;
    let line = match line {
        LineResult::Smallest(bytes) => json!({"smallest_bytes_per_second": bytes}),
        LineResult::None { best_time, because, unlimited } => {
            let because: Vec<_> = because.iter().map(|limit| report.scenario.limit_name(*limit)).collect();
            json!({
                "smallest_bytes_per_second": null,
                "at_best_seconds": best_time,
                "because": because,
                "without_limits_seconds": unlimited,
            })
        }
    };
    let spread = match spread {
        SpreadResult::Between(shortest, longest) => {
            json!({"shortest_seconds": shortest, "longest_seconds": longest})
        }
        SpreadResult::None { calm_from, current_at } => {
            json!({"shortest_seconds": null, "calm_from_seconds": calm_from, "current_at_seconds": current_at})
        }
    };
    json!({
        "seconds": deadline.within,
        "share": deadline.share,
        "busiest_minute_bytes_per_second": deadline.busiest.is_finite().then_some(deadline.busiest),
        "met": deadline.is_met_by(&report.scenario, &report.rollout),
        "line": line,
        "spread": spread,
    })
}

fn at(start: Timestamp, seconds: f64) -> Option<Timestamp> {
    let millis = (seconds * 1e3).round() as i64;
    Timestamp::from_millisecond(start.as_millisecond().saturating_add(millis)).ok()
}

fn wan(moment: &TimelinePoint) -> f64 {
    moment.wan
}

fn lan(moment: &TimelinePoint) -> f64 {
    moment.lan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_for_people() {
        let spans = [0.0, 9.94, 35.0, 59.99, 61.0, 3_599.9, 15_130.0, 601_200.0].map(span);
        assert_eq!(spans, ["0.0s", "9.9s", "35s", "1m 00s", "1m 01s", "1h 00m", "4h 12m", "6d 23h"]);
        let rates = [1e6, 1.25e8, 1_310_720.0, 124_999.9, 62_500.0, 51_600_000.0, 0.0].map(rate);
        assert_eq!(
            rates,
            ["8 Mbit/s", "1 Gbit/s", "10.5 Mbit/s", "1 Mbit/s", "500 kbit/s", "413 Mbit/s", "0 bit/s"]
        );
        assert_eq!([0.5, 0.99, 1.0, 0.125].map(share), ["50 %", "99 %", "100 %", "12.5 %"]);
    }
}
