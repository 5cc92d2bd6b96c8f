//! The table of `gupd top`: rows of clients or fills, filtered and in the chosen order. Pure functions of reports. The rate
//! of a client is that between two reports.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Instant;

use ratatui::layout::Constraint;

use super::keys::TopState;
use crate::plan::rate;
use crate::rollout::ListedClient;
use crate::table::{bytes, printable, span};
use gupd_admin::{FillReport, FillStatus, StatusReport};
use gupd_config::Quantity;

/// What the relay reports at one time.
#[derive(Debug)]
pub(super) struct TopReport {
    pub(super) at: Instant,
    pub(super) status: StatusReport,
    pub(super) fills: FillReport,
    /// The clients, or why there are none.
    pub(super) clients: Result<Vec<ListedClient>, &'static str>,
}

/// A table as it is shown.
#[derive(Debug)]
pub(super) struct TopTable {
    pub(super) headings: Vec<&'static str>,
    /// Columns that are aligned at the right.
    pub(super) numbers: &'static [usize],
    /// Column of the order.
    pub(super) sorted_by: usize,
    pub(super) rows: Vec<Vec<String>>,
}

/// A cell: its text, and the number by which its column is sorted; texts are sorted as such.
type Cell = (String, Option<u64>);

impl TopTable {
    /// Makes the table that `state` asks for. `before` is an earlier report.
    pub(super) fn new(report: &TopReport, before: Option<&TopReport>, state: &TopState) -> Self {
        let (headings, numbers, rows) = match (&report.clients, state.shows_fills) {
            (_, true) => (
                vec!["OBJECT", "FROM", "DONE", "BYTES", "RATE", "WAITING", "LEFT"],
                &[2, 3, 4, 5, 6][..],
                report.fills.fills.iter().map(fill_row).collect(),
            ),
            (Ok(clients), false) => (
                vec!["CLIENT", "STATE", "GROUP", "RATE", "BYTES", "ERRORS"],
                &[3, 4, 5][..],
                client_rows(clients, report.at, before),
            ),
            (Err(reason), false) => (vec!["CLIENT"], &[][..], vec![vec![((*reason).to_owned(), None)]]),
        };
        // The rates first: they are what changes.
        let first = headings.iter().position(|heading| *heading == "RATE").unwrap_or(0);
        let sorted_by = (first + state.column) % headings.len();
        let mut rows: Vec<Vec<Cell>> = rows;
        let filter = state.filter.to_lowercase();
        rows.retain(|row| row.iter().any(|(text, _)| text.to_lowercase().contains(&filter)));
        rows.sort_by(|a, b| {
            let order = compare(&a[sorted_by], &b[sorted_by]);
            if state.is_reversed { order.reverse() } else { order }
        });
        let rows = rows.into_iter().map(|row| row.into_iter().map(|(text, _)| text).collect()).collect();
        Self { headings, numbers, sorted_by, rows }
    }

    /// Returns the widths of the columns; the first takes what is left.
    pub(super) fn widths(&self) -> Vec<Constraint> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            let heading = self.headings[column].chars().count() + 2;
            u16::try_from(cells.chain([heading]).max().unwrap_or(0)).unwrap_or(u16::MAX)
        };
        let others = (1..self.headings.len()).map(|column| Constraint::Length(width(column)));
        std::iter::once(Constraint::Fill(1)).chain(others).collect()
    }
}

/// Compares two cells: the largest number first, texts by the alphabet.
fn compare(a: &Cell, b: &Cell) -> Ordering {
    match (a.1, b.1) {
        (Some(a), Some(b)) => b.cmp(&a),
        _ => a.0.cmp(&b.0),
    }
}

/// Returns the state of the relay and its rates, in two lines.
pub(super) fn heading(report: &TopReport) -> String {
    let StatusReport { sentence, wan, lan, activity, .. } = &report.status;
    let limit = wan.limit.map(|limit| format!(" of {}", rate(limit as f64))).unwrap_or_default();
    format!(
        "{}\nWAN {}{limit}   LAN {}   {}   {}   {} waiting",
        printable(sentence),
        rate(wan.bytes_per_second as f64),
        rate(lan.bytes_per_second as f64),
        Quantity(report.fills.running, "fill"),
        Quantity(activity.connections, "connection"),
        activity.queued
    )
}

fn client_rows(clients: &[ListedClient], now: Instant, before: Option<&TopReport>) -> Vec<Vec<Cell>> {
    let earlier: HashMap<&str, u64> = match before.map(|before| &before.clients) {
        Some(Ok(clients)) => clients.iter().map(|client| (&*client.client, client.bytes)).collect(),
        Some(Err(_)) | None => HashMap::new(),
    };
    let seconds = before.map_or(0.0, |before| now.saturating_duration_since(before.at).as_secs_f64());
    let row = |client: &ListedClient| {
        let grown = earlier.get(&*client.client).map_or(0, |before| client.bytes.saturating_sub(*before));
        let speed = if seconds > 0.0 { grown as f64 / seconds } else { 0.0 };
        vec![
            (printable(&client.client), None),
            (state(&client.light).to_owned(), None),
            (printable(&client.group), None),
            (rate(speed), Some(speed as u64)),
            (bytes(client.bytes), Some(client.bytes)),
            (client.errors.to_string(), Some(client.errors.into())),
        ]
    };
    clients.iter().map(row).collect()
}

fn state(light: &str) -> &str {
    match light {
        "green" => "current",
        "yellow" => "behind",
        "red" => "failing",
        "grey" => "unseen",
        other => other,
    }
}

fn fill_row(fill: &FillStatus) -> Vec<Cell> {
    let done = fill.length.and_then(|length| fill.arrived.saturating_mul(100).checked_div(length));
    let left = fill.seconds_left.map_or_else(|| "-".to_owned(), |left| span(left.saturating_mul(1_000)));
    vec![
        (printable(&fill.object), None),
        (fill.upstream.as_deref().map_or_else(|| "queued".to_owned(), printable), None),
        (done.map_or_else(|| "-".to_owned(), |done| format!("{done} %")), Some(done.unwrap_or(0))),
        (bytes(fill.arrived), Some(fill.arrived)),
        (rate(fill.bytes_per_second as f64), Some(fill.bytes_per_second)),
        (fill.waiters.to_string(), Some(fill.waiters)),
        (left, Some(fill.seconds_left.unwrap_or(0))),
    ]
}

#[cfg(test)]
pub(super) mod sample {
    use super::*;
    use serde_json::json;

    /// A report of two clients and two fills.
    pub(in super::super) fn report() -> TopReport {
        let line = json!({"bytes_per_second": 1_000_000, "limit": null});
        let status = json!({
            "version": "1", "time": "", "is_draining": false, "sentence": "serving; nothing to do", "findings": [],
            "savings": null, "wan": line, "lan": line, "upstreams": [], "peers": [], "rollout": null,
            "activity": {"connections": 4, "downloads": 0, "queued": 1, "fills": 2},
            "store": {"health": "well", "detail": null, "objects": 0, "bytes": 0, "quota": 1},
        });
        let fill = |object: &str, rate: u64, waiters: u64| {
            json!({"object": object, "content_type": "a", "upstream": "sepm", "arrived": 500, "length": 1_000,
                   "bytes_per_second": rate, "waiters": waiters, "seconds": 5, "seconds_left": 60})
        };
        let fills =
            json!({"running": 2, "fills": [fill("/content/full.zip", 10, 3), fill("/a.dax", 900, 1)]});
        let client = |client: &str, light: &str, bytes: u64| {
            json!({"client": client, "group": "branch", "light": light, "sees": 1, "revision": 1,
                   "last_seen": "2026-06-01T00:00:00Z", "bytes": bytes, "errors": 0, "trouble": []})
        };
        let clients = json!([client("10.0.0.7", "green", 1_000), client("10.0.0.8", "red", 9_000)]);
        TopReport {
            at: Instant::now(),
            status: serde_json::from_value(status).unwrap(),
            fills: serde_json::from_value(fills).unwrap(),
            clients: Ok(serde_json::from_value(clients).unwrap()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn first(table: &TopTable) -> Vec<&str> {
        table.rows.iter().map(|row| &*row[0]).collect()
    }

    #[test]
    fn clients_are_sorted_by_the_rate_between_two_reports() {
        let before = sample::report();
        let mut now = TopReport { at: before.at + Duration::from_secs(2), ..sample::report() };
        if let Ok(clients) = &mut now.clients {
            clients[0].bytes += 2_000_000;
        }
        let mut state = TopState::new(false, String::new());
        let table = TopTable::new(&now, Some(&before), &state);
        assert_eq!((first(&table), &*table.rows[0][3]), (vec!["10.0.0.7", "10.0.0.8"], "8 Mbit/s"));
        state.column = 1;
        assert_eq!(first(&TopTable::new(&sample::report(), None, &state)), ["10.0.0.8", "10.0.0.7"]);
        state.is_reversed = true;
        assert_eq!(first(&TopTable::new(&sample::report(), None, &state)), ["10.0.0.7", "10.0.0.8"]);
    }

    #[test]
    fn rows_are_filtered_by_any_text() {
        for (filter, expected) in [("FAIL", vec!["10.0.0.8"]), ("0.7", vec!["10.0.0.7"]), ("absent", vec![])]
        {
            let state = TopState::new(false, filter.to_owned());
            assert_eq!(first(&TopTable::new(&sample::report(), None, &state)), expected, "{filter}");
        }
        let fills = TopTable::new(&sample::report(), None, &TopState::new(true, String::new()));
        assert_eq!(first(&fills), ["/a.dax", "/content/full.zip"]);
        assert_eq!(fills.rows[1][2..], ["50 %", "500 B", "80 bit/s", "3", "1m 00s"]);
    }
}
