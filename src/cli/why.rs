//! `gupd why`: explains the traffic of a relay from its ledger.

use std::fmt::Write;

use bytes::Bytes;
use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::admin_client::{AdminClient, AdminRequest};
use super::table::{self, bytes, printable, span};
use super::{AdminFlags, CommandError, print_line, to_json};
use gupd_config::GroupSettings;
use gupd_config::Quantity;
use gupd_config::units::Time;
use gupd_ledger::{CauseRow, SiteSums, TrafficReport, TrafficSums};

/// Maximum bytes of a report: a thousand rows of each kind.
const MAX_RESPONSE: usize = 8 << 20;

/// Flags of `gupd why`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  gupd why\n  gupd why --since 7d --top 50\n  gupd why --client 10.1.2.3\n  \
                        gupd why --group branch-a\n  gupd why --object full.zip --json"
)]
pub(super) struct WhyFlags {
    /// Time to look back.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    since: Time,
    /// Only what this client caused; also its waits.
    #[arg(long, value_name = "ADDR")]
    client: Option<String>,
    /// Only what the clients of this group caused.
    #[arg(long, value_name = "NAME", conflicts_with = "client")]
    group: Option<String>,
    /// Only objects with this text in their path.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["client", "group"])]
    object: Option<String>,
    /// Number of rows of each table, at most 1000.
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminFlags,
}

pub(super) fn run(flags: &WhyFlags) -> Result<(), CommandError> {
    let admin = flags.admin.client_for_reading()?;
    let body = get(&admin, &path(flags))?;
    let invalid = |error: serde_json::Error| admin.invalid_response(&error);
    if flags.json {
        let report: Value = serde_json::from_slice(&body).map_err(invalid)?;
        print_line(&to_json(&report)?);
        return Ok(());
    }
    let report: TrafficReport = serde_json::from_slice(&body).map_err(invalid)?;
    let ClientOnly { client } = serde_json::from_slice(&body).map_err(invalid)?;
    let mut text = explanation(&report, flags.client.as_deref());
    if let Some(client) = client {
        text = format!("{}\n{text}", client.line());
    }
    print_line(&text);
    Ok(())
}

/// The part of a report that describes its client.
#[derive(Debug, Deserialize)]
struct ClientOnly {
    client: Option<TrackedClient>,
}

/// A client as the relay tracks it.
#[derive(Debug, Deserialize)]
struct TrackedClient {
    client: String,
    group: String,
    light: String,
    sees: Option<u64>,
    revision: Option<u64>,
    bytes: u64,
    errors: u64,
    trouble: Vec<String>,
}

impl TrackedClient {
    fn line(&self) -> String {
        let number =
            |number: Option<u64>| number.map_or_else(|| "none".to_owned(), |number| number.to_string());
        let state = match &*self.light {
            "green" => "current",
            "yellow" => "behind",
            "red" => "failing",
            _ => "unseen",
        };
        let trouble = if self.trouble.is_empty() { "none".to_owned() } else { self.trouble.join(", ") };
        printable(&format!(
            "{} of group {}: {state}; has revision {}, sees {}; took {}; {}; trouble: {trouble}",
            self.client,
            self.group,
            number(self.revision),
            number(self.sees),
            bytes(self.bytes),
            Quantity(self.errors, "error")
        ))
    }
}

fn path(flags: &WhyFlags) -> String {
    let mut path = format!("/api/v1/traffic?since={}&top={}", flags.since, flags.top);
    for (name, value) in [("client", &flags.client), ("group", &flags.group), ("object", &flags.object)] {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = write!(path, "&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
    }
    path
}

fn get(admin: &AdminClient, path: &str) -> Result<Bytes, CommandError> {
    admin.send(AdminRequest { method: Method::GET, path, body: Bytes::new(), max_response: MAX_RESPONSE })
}

fn explanation(report: &TrafficReport, client: Option<&str>) -> String {
    let mut parts = vec![summary(report)];
    if report.causes.is_empty() {
        parts.push("No traffic is recorded for this.".to_owned());
    } else {
        parts.push(causes(&report.causes));
    }
    if client.is_none() && !report.clients.is_empty() {
        let rows = report.clients.iter().map(|row| (printable(&row.client), "", row.sums));
        parts.push(names(&["WAN BYTES", "TRANSFERS", "SERVED", "CLIENT"], rows));
    }
    let has_groups =
        report.groups.iter().any(|row| row.group != GroupSettings::DEFAULT && row.group != "relay");
    if has_groups {
        let rows = report.groups.iter().map(|row| (printable(&row.group), &*row.cause, row.sums));
        parts.push(names(&["WAN BYTES", "TRANSFERS", "SERVED", "GROUP", "MOSTLY"], rows));
    }
    if !report.objects.is_empty() {
        let rows = report.objects.iter().map(|row| (printable(&row.object), &*row.cause, row.sums));
        parts.push(names(&["WAN BYTES", "TRANSFERS", "SERVED", "OBJECT", "MOSTLY"], rows));
    }
    if !report.waits.is_empty() {
        let mut table = table::new(&["WAITED", "TIMES", "CLIENT", "REASON"], &[0, 1]);
        for row in &report.waits {
            let reason = match &*row.reason {
                "deferred" => "deferred by a window or rollout",
                "queued" => "waited for a download slot",
                other => other,
            };
            table.add_row([
                span(row.millis),
                row.waits.to_string(),
                printable(&row.client),
                reason.to_owned(),
            ]);
        }
        parts.push(table::text(&table));
    }
    parts.join("\n\n")
}

fn summary(report: &TrafficReport) -> String {
    let TrafficReport { since, until, wan, peers, clients_total: SiteSums { sent, saved, .. }, .. } = report;
    let share = if *sent == 0 { 0.0 } else { *saved as f64 * 100.0 / *sent as f64 };
    let mut text = format!(
        "{since} to {until}\nWAN: {} received, {} sent. Clients: {} sent, {} of it saved ({share:.0} %).",
        bytes(wan.received),
        bytes(wan.sent),
        bytes(*sent),
        bytes(*saved),
    );
    if peers.received > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, " Peers: {} received.", bytes(peers.received));
    }
    text
}

fn causes(rows: &[CauseRow]) -> String {
    let headings = ["RECEIVED", "SENT", "TRANSFERS", "SERVED", "CONTENT", "FROM", "WHY"];
    let mut table = table::new(&headings, &[0, 1, 2, 3]);
    for row in rows {
        let TrafficSums { transfers, received, sent, followers } = row.sums;
        let content = [&*row.content_type, &*row.form].into_iter().filter(|part| !part.is_empty());
        let content = content.collect::<Vec<_>>().join(" ");
        let peer = if row.is_peer { " (peer)" } else { "" };
        table.add_row([
            bytes(received),
            bytes(sent),
            transfers.to_string(),
            followers.to_string(),
            if content.is_empty() { "-".to_owned() } else { printable(&content) },
            if row.upstream.is_empty() { "-".to_owned() } else { format!("{}{peer}", row.upstream) },
            printable(&row.explanation),
        ]);
    }
    table::text(&table)
}

fn names<'a>(headings: &[&str], rows: impl Iterator<Item = (String, &'a str, TrafficSums)>) -> String {
    let mut table = table::new(headings, &[0, 1, 2]);
    for (name, cause, sums) in rows {
        let cells = [
            bytes(sums.received),
            sums.transfers.to_string(),
            sums.followers.to_string(),
            name,
            cause.to_owned(),
        ];
        table.add_row(cells.into_iter().take(headings.len()));
    }
    table::text(&table)
}
