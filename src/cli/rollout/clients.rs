//! The table of clients, the latest seen first.

use std::fmt::Write;

use indicatif::{BinaryBytes, HumanCount};
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::table::time;
use gupd_rollout::revision::RevisionNumber;
use gupd_rollout::status::UtcTime;

/// A client as the relay lists it.
#[derive(Debug, Deserialize)]
pub(super) struct ListedClient {
    client: String,
    group: String,
    light: String,
    sees: Option<RevisionNumber>,
    revision: Option<RevisionNumber>,
    last_seen: UtcTime,
    bytes: u64,
    errors: u32,
    trouble: Vec<String>,
}

pub(super) fn table(clients: &[ListedClient], zone: &TimeZone) -> String {
    let width = |heading: &str, of: fn(&ListedClient) -> &str| {
        clients.iter().map(|client| of(client).chars().count()).chain([heading.len()]).max().unwrap_or(0)
    };
    let (names, groups) = (width("CLIENT", |client| &client.client), width("GROUP", |client| &client.group));
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{:<names$}  {:<groups$}  {:<6}  {:>4}  {:>4}  {:<11}  {:>10}  {:>6}  TROUBLE",
        "CLIENT", "GROUP", "LIGHT", "SEES", "HAS", "LAST SEEN", "BYTES", "ERRORS"
    );
    let number =
        |number: Option<RevisionNumber>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    for client in clients {
        let line = format!(
            "{:<names$}  {:<groups$}  {:<6}  {:>4}  {:>4}  {:<11}  {:>10}  {:>6}  {}",
            client.client,
            client.group,
            client.light,
            number(client.sees),
            number(client.revision),
            time(client.last_seen.0, "%m-%d %H:%M", zone),
            BinaryBytes(client.bytes).to_string(),
            HumanCount(client.errors.into()).to_string(),
            client.trouble.join(", "),
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.truncate(out.trim_end().len());
    out
}
