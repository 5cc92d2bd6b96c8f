//! The table of clients, the latest seen first.

use std::cmp::Reverse;

use indicatif::{BinaryBytes, HumanCount};
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::table::time;
use crate::table::{self, printable};
use gupd_rollout::revision::RevisionNumber;
use gupd_rollout::status::UtcTime;

/// A client as the relay lists it.
#[derive(Debug, Deserialize)]
pub(crate) struct ListedClient {
    pub(crate) client: String,
    pub(crate) group: String,
    pub(crate) light: String,
    sees: Option<RevisionNumber>,
    revision: Option<RevisionNumber>,
    last_seen: UtcTime,
    pub(crate) bytes: u64,
    pub(crate) errors: u32,
    trouble: Vec<String>,
}

/// Formats the clients. The relay lists them in another order.
pub(super) fn table(mut clients: Vec<ListedClient>, zone: &TimeZone) -> String {
    clients.sort_by_key(|client| Reverse(client.last_seen));
    let headings = ["CLIENT", "GROUP", "LIGHT", "SEES", "HAS", "LAST SEEN", "BYTES", "ERRORS", "TROUBLE"];
    let mut table = table::new(&headings, &[3, 4, 6, 7]);
    let number =
        |number: Option<RevisionNumber>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    for client in clients {
        table.add_row([
            printable(&client.client),
            client.group,
            client.light,
            number(client.sees),
            number(client.revision),
            time(client.last_seen.0, "%m-%d %H:%M", zone),
            BinaryBytes(client.bytes).to_string(),
            HumanCount(client.errors.into()).to_string(),
            client.trouble.join(", "),
        ]);
    }
    table::text(&table)
}
