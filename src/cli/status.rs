//! `gupd status`: the state of the running relay on one screen.

use std::fmt::Write;

use bytes::Bytes;
use clap::Args;
use http::Method;
use indicatif::HumanCount;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::admin_client::{AdminClient, AdminRequest};
use super::plan::rate;
use super::table::{self, bytes, printable};
use super::{AdminFlags, CommandError, print_line, screen, to_json};
use gupd_admin::{LineStatus, PeriodTraffic, Savings, StatusReport, StoreStatus, UpstreamStatus};
use gupd_config::Quantity;
use gupd_rollout::status::{Status, UpcomingStep, UtcTime};

/// Maximum bytes of a report: thousands of groups and rings.
const MAX_RESPONSE: usize = 8 << 20;

/// Lines of the rollout at most, so that all fits one screen.
const MAX_STEPS: usize = 4;

/// Flags of `gupd status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gupd status\n  gupd status --watch\n  gupd status --json")]
pub(super) struct StatusFlags {
    #[command(flatten)]
    admin: AdminFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Repeat every two seconds until Ctrl-C.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

pub(super) fn run(flags: &StatusFlags) -> Result<(), CommandError> {
    let (config, admin) = (flags.admin.load()?, flags.admin.client_for_reading()?);
    let zone = &config.site.time_zone;
    let text = || {
        let report = serde_json::from_slice(&get(&admin)?).map_err(|error| admin.invalid_response(&error))?;
        Ok(screen_text(&report, zone))
    };
    if flags.json {
        let report: Value =
            serde_json::from_slice(&get(&admin)?).map_err(|error| admin.invalid_response(&error))?;
        print_line(&to_json(&report)?);
    } else if flags.watch {
        screen::watch(text)?;
    } else {
        print_line(&text()?);
    }
    Ok(())
}

fn get(admin: &AdminClient) -> Result<Bytes, CommandError> {
    let (method, path) = (Method::GET, "/api/v1/status");
    admin.send(AdminRequest { method, path, body: Bytes::new(), max_response: MAX_RESPONSE })
}

fn screen_text(report: &StatusReport, zone: &TimeZone) -> String {
    let mut parts = vec![format!("{}  {}", time(&report.time, zone), printable(&report.sentence))];
    if report.findings.len() > 1 {
        let mut table = table::new(&["SEVERITY", "SINCE", "FINDING", "WHAT TO DO"], &[]);
        for finding in &report.findings {
            let since = finding.since.as_ref().map_or_else(|| "-".to_owned(), |since| time(since, zone));
            let severity = finding.severity.as_str().to_owned();
            table.add_row([severity, since, printable(&finding.message), finding.action.clone()]);
        }
        parts.push(table::text(&table));
    }
    parts.push(lines(report));
    if let Some(savings) = &report.savings {
        parts.push(traffic(savings));
    }
    parts.push(upstreams(&report.upstreams, &report.peers));
    parts.push(facts(report, zone));
    parts.join("\n\n")
}

fn lines(report: &StatusReport) -> String {
    let mut table = table::new(&["LINE", "RATE", "LIMIT", "BUSY"], &[1, 2, 3]);
    let mut add = |name: &str, line: &LineStatus| {
        let limit = line.limit.map_or_else(|| "unlimited".to_owned(), |limit| rate(limit as f64));
        let busy = line.busy_percent().map_or_else(|| "-".to_owned(), |busy| format!("{busy} %"));
        table.add_row([name.to_owned(), rate(line.bytes_per_second as f64), limit, busy]);
    };
    add("WAN", &report.wan);
    add("LAN", &report.lan);
    table::text(&table)
}

fn traffic(savings: &Savings) -> String {
    let mut table = table::new(&["TRAFFIC", "WAN", "CLIENTS", "SAVED", "HITS"], &[1, 2, 3, 4]);
    let mut add = |name: &str, period: &PeriodTraffic| {
        let percent = |part: u64, of: u64| match part.saturating_mul(100).checked_div(of) {
            Some(share) => format!("{share} %"),
            None => "-".to_owned(),
        };
        let clients = &period.clients;
        table.add_row([
            name.to_owned(),
            bytes(period.wan_received),
            bytes(clients.sent),
            percent(clients.saved, clients.sent),
            percent(clients.hits, clients.requests),
        ]);
    };
    add("today", &savings.today);
    add("30 days", &savings.month);
    table::text(&table)
}

fn upstreams(upstreams: &[UpstreamStatus], peers: &[UpstreamStatus]) -> String {
    let mut table = table::new(&["UPSTREAM", "STATE", "RECEIVED"], &[2]);
    let of_kind = |list: &[UpstreamStatus], kind: &str| -> Vec<[String; 3]> {
        let row = |upstream: &UpstreamStatus| {
            let state = if upstream.is_healthy { "healthy" } else { "failing" };
            [format!("{}{kind}", upstream.name), state.to_owned(), bytes(upstream.received)]
        };
        list.iter().map(row).collect()
    };
    table.add_rows(of_kind(upstreams, "").into_iter().chain(of_kind(peers, " (peer)")));
    table::text(&table)
}

fn facts(report: &StatusReport, zone: &TimeZone) -> String {
    let StoreStatus { health, objects, bytes: used, quota, .. } = &report.store;
    let activity = &report.activity;
    let mut text = format!(
        "store    {health}: {}, {} of {}\nnow      {}, {}, {} in slots, {} waiting",
        Quantity(*objects, "object"),
        bytes(*used),
        bytes(*quota),
        Quantity(activity.connections, "connection"),
        Quantity(activity.fills, "fill"),
        Quantity(activity.downloads, "download"),
        activity.queued,
    );
    match &report.rollout {
        Some(rollout) => rollout_lines(rollout, zone, &mut text),
        None => text.push_str("\nclients  not tracked: there are no rings"),
    }
    text
}

fn rollout_lines(rollout: &Status, zone: &TimeZone, text: &mut String) {
    let count = |light: &str| HumanCount(rollout.clients.lights.get(light).copied().unwrap_or(0));
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\nclients  {} current, {} behind, {} failing, {} unseen",
        count("green"),
        count("yellow"),
        count("red"),
        count("grey")
    );
    let newest = rollout.revisions.first();
    let newest = newest.map_or_else(
        || "no revision yet".to_owned(),
        |newest| format!("revision {} published {}", newest.number, at(newest.published, zone)),
    );
    let _ = write!(text, "\nrollout  {newest}");
    for step in rollout.next.iter().take(MAX_STEPS) {
        let _ = write!(text, "\nnext     {}", step_text(step, zone));
    }
    if rollout.next.len() > MAX_STEPS {
        let _ = write!(text, "\n         {} more: gupd rollout status", rollout.next.len() - MAX_STEPS);
    }
}

fn step_text(step: &UpcomingStep, zone: &TimeZone) -> String {
    let UpcomingStep { revision, ring, step, steps, opens, blocked, .. } = step;
    let what = match (blocked, opens) {
        (Some(blocked), _) => blocked.clone(),
        (None, Some(opens)) => format!("opens {}", at(*opens, zone)),
        (None, None) => "not yet".to_owned(),
    };
    printable(&format!("revision {revision} in ring {ring}, step {step} of {steps}: {what}"))
}

fn at(time: UtcTime, zone: &TimeZone) -> String {
    crate::rollout::time(time.0, "%F %H:%M", zone)
}

/// Formats a time of the relay in the zone of the site.
fn time(text: &str, zone: &TimeZone) -> String {
    let time = text.parse::<Timestamp>().map(|time| time.to_zoned(zone.clone()));
    time.map_or_else(|_| text.to_owned(), |time| time.strftime("%F %H:%M:%S").to_string())
}
