//! Running fills, and content by type: bytes over the WAN, as full sets and as deltas, bytes to clients, stored
//! and evicted bytes.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::text::{bytes, percent, rate, span};
use super::{Page, respond};
use crate::auth::ReadAccess;
use crate::{AdminApi, ContentReport, FillReport, FillStatus};
use gupd_config::Quantity;
use gupd_ledger::{TrafficQuery, TrafficReport};
use gupd_store::StoreError;

/// Milliseconds of the time that the page covers.
const TIME: i64 = 7 * 86_400_000;

/// Rows of the report that are added up.
const MAX_ROWS: usize = 1_000;

/// Running fills on the page.
const MAX_FILLS: usize = 100;

/// Bytes of one content type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct TypeTraffic {
    full: u64,
    delta: u64,
    other: u64,
    /// Bytes that clients got.
    sent: u64,
    transfers: u64,
    served: u64,
}

impl TypeTraffic {
    /// Bytes that crossed the WAN.
    fn received(&self) -> u64 {
        self.full + self.delta + self.other
    }
}

pub(super) async fn show(_: ReadAccess, State(api): State<AdminApi>) -> Response {
    let since = api.clock.now() - TIME;
    let query = TrafficQuery { since, top: MAX_ROWS, without_names: true, ..TrafficQuery::default() };
    let content = match api.ledger.query(query).await {
        Err(error) => html! { h1 { "Content" } p class="critical" { (error.to_string()) } },
        Ok(report) => html! {
            h1 { "Content" }
            (running(&api.running_fills()))
            h2 { "By content type" }
            p { "What clients got in 7 days, and what crossed the WAN for it." }
            div class="scroll" tabindex="0" role="region" aria-label="Content by type" {
                table {
                    thead { tr {
                        th scope="col" { "Content type" } th scope="col" class="number" { "To clients" }
                        th scope="col" class="number" { "Over the WAN" } th scope="col" class="number" { "Saved" }
                        th scope="col" class="number" { "Full sets" } th scope="col" class="number" { "Deltas" }
                        th scope="col" class="number" { "Transfers" }
                        th scope="col" class="number" { "Further requests served" }
                    } }
                    tbody {
                        @for (name, traffic) in sorted(&report) {
                            tr {
                                th scope="row" { (name_of(name)) }
                                td class="number" { (bytes(traffic.sent)) }
                                td class="number" { (bytes(traffic.received())) }
                                td class="number" { (percent(traffic.sent.saturating_sub(traffic.received()), traffic.sent)) }
                                td class="number" { (bytes(traffic.full)) }
                                td class="number" { (bytes(traffic.delta)) }
                                td class="number" { (traffic.transfers) }
                                td class="number" { (traffic.served) }
                            }
                        }
                    }
                }
            }
            (stored(&api.content_report().await))
        },
    };
    respond(Page::Content, &content)
}

/// Shows stored and evicted content by type.
fn stored(report: &Result<ContentReport, StoreError>) -> Markup {
    let report = match report {
        Ok(report) => report,
        Err(error) => return html! { h2 { "In the store" } p class="critical" { (error.to_string()) } },
    };
    html! {
        h2 id="stored" { "In the store" }
        @if report.types.is_empty() { p class="quiet" { "Nothing is stored yet." } }
        @else {
            p { "Evicted since the start of the relay: for room, unused or damaged." }
            div class="scroll" tabindex="0" role="region" aria-labelledby="stored" {
                table {
                    thead { tr {
                        th scope="col" { "Content type" } th scope="col" class="number" { "Stored" }
                        th scope="col" class="number" { "Objects" } th scope="col" class="number" { "Evicted" }
                        th scope="col" class="number" { "Evicted objects" }
                    } }
                    tbody {
                        @for content in &report.types {
                            tr {
                                th scope="row" { (name_of(&content.content_type)) }
                                td class="number" { (bytes(content.bytes)) }
                                td class="number" { (content.objects) }
                                td class="number" { (bytes(content.evicted_bytes)) }
                                td class="number" { (content.evicted_objects) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn name_of(content_type: &str) -> &str {
    if content_type.is_empty() { "unknown" } else { content_type }
}

/// Shows the fills that run now.
fn running(report: &FillReport) -> Markup {
    html! {
        h2 id="fills" { "Running fills" }
        @if report.fills.is_empty() { p class="quiet" { "Nothing is being fetched." } }
        @else {
            p { (Quantity(report.running, "fill"))
                @if report.fills.len() > MAX_FILLS { "; those with the most waiting requests are shown" } "." }
            div class="scroll" tabindex="0" role="region" aria-labelledby="fills" {
                table {
                    thead { tr {
                        th scope="col" { "Object" } th scope="col" { "From" } th scope="col" { "Progress" }
                        th scope="col" class="number" { "Bytes" } th scope="col" class="number" { "Rate" }
                        th scope="col" class="number" { "Waiting" } th scope="col" class="number" { "Time left" }
                    } }
                    tbody { @for fill in report.fills.iter().take(MAX_FILLS) { (fill_row(fill)) } }
                }
            }
        }
    }
}

fn fill_row(fill: &FillStatus) -> Markup {
    let left = fill.seconds_left.and_then(|left| i64::try_from(left).ok()?.checked_mul(1_000));
    html! {
        tr {
            th scope="row" { (fill.object) br; span class="quiet" { (fill.content_type) } }
            td { (fill.upstream.as_deref().unwrap_or("queued")) }
            td {
                @match fill.length {
                    Some(length) if length > 0 => {
                        @let share = percent(fill.arrived, length);
                        meter min="0" max=(length) value=(fill.arrived.min(length)) aria-label=(format!("{share} of {}", fill.object)) {}
                        " " (share)
                    }
                    _ => "length unknown",
                }
            }
            td class="number" { (bytes(fill.arrived)) @if let Some(length) = fill.length { " of " (bytes(length)) } }
            td class="number" { (rate(fill.bytes_per_second)) }
            td class="number" { (fill.waiters) }
            td class="number" { (left.map_or_else(|| "–".to_owned(), span)) }
        }
    }
}

/// Returns the content types with their traffic, the largest first.
fn sorted(report: &TrafficReport) -> Vec<(&str, TypeTraffic)> {
    let mut types: BTreeMap<&str, TypeTraffic> = BTreeMap::new();
    for row in report.causes.iter().filter(|row| !row.is_peer) {
        let traffic = types.entry(&row.content_type).or_default();
        match &*row.form {
            "full" => traffic.full += row.sums.received,
            "delta" => traffic.delta += row.sums.received,
            _ => traffic.other += row.sums.received,
        }
        traffic.transfers += row.sums.transfers;
        traffic.served += row.sums.followers;
    }
    for row in &report.sent_by_type {
        types.entry(&row.content_type).or_default().sent += row.sent;
    }
    let mut types: Vec<_> = types.into_iter().collect();
    types.sort_by_key(|(_, traffic)| std::cmp::Reverse(traffic.received().max(traffic.sent)));
    types
}
