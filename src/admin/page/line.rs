//! The line: bytes by cause over time, and the clients and objects behind them.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use maud::{Markup, html};

use super::chart::stacked_columns;
use super::text::{bytes, percent};
use super::{Page, respond};
use crate::AdminApi;
use crate::auth::ReadAccess;
use gupd_ledger::{CauseRow, TrafficQuery, TrafficReport, TrafficSums};

/// Rows of each table.
const TOP: usize = 20;

/// Times that the page offers: the query, its words and milliseconds.
const TIMES: [(&str, &str, i64); 3] =
    [("24h", "24 hours", 86_400_000), ("7d", "7 days", 7 * 86_400_000), ("30d", "30 days", 30 * 86_400_000)];

pub(super) async fn show(_: ReadAccess, State(api): State<AdminApi>, uri: Uri) -> Response {
    let chosen = uri.query().and_then(|query| query.strip_prefix("since="));
    let (chosen, _, span) = TIMES.into_iter().find(|(name, ..)| Some(*name) == chosen).unwrap_or(TIMES[0]);
    let now = api.clock.now();
    let query = TrafficQuery { since: now - span, top: TOP, ..TrafficQuery::default() };
    let zone = api.generations.load().config.site.time_zone.clone();
    let content = match api.ledger.query(query).await {
        Err(error) => html! { h1 { "Line" } p class="critical" { (error.to_string()) } },
        Ok(report) => html! {
            h1 { "Line" }
            nav aria-label="Time" class="times" {
                @for (name, words, _) in TIMES {
                    a href=(format!("/line?since={name}")) aria-current=[(name == chosen).then_some("true")] { (words) }
                }
            }
            p { (bytes(report.wan.received)) " crossed the WAN; clients got " (bytes(report.clients_total.sent)) ", "
                (percent(report.clients_total.saved, report.clients_total.sent)) " of it from the store." }
            h2 { "Bytes by cause" }
            (stacked_columns(&report.points, ((now - span) / 1_000, now / 1_000), report.interval_seconds, &zone))
            (tables(&report))
        },
    };
    respond(Page::Line, &content)
}

fn tables(report: &TrafficReport) -> Markup {
    html! {
        h2 id="why" { "Why" }
        div class="scroll" tabindex="0" role="region" aria-labelledby="why" { (causes(&report.causes)) }
        h2 id="by-client" { "Clients that caused it" }
        div class="scroll" tabindex="0" role="region" aria-labelledby="by-client" {
            (names("Client", report.clients.iter().map(|row| (&*row.client, row.sums))))
        }
        h2 id="by-object" { "Objects" }
        div class="scroll" tabindex="0" role="region" aria-labelledby="by-object" {
            (names("Object", report.objects.iter().map(|row| (&*row.object, row.sums))))
        }
    }
}

fn causes(rows: &[CauseRow]) -> Markup {
    html! {
        table {
            thead { tr {
                th scope="col" class="number" { "Received" } th scope="col" class="number" { "Transfers" }
                th scope="col" class="number" { "Further requests" } th scope="col" { "Content" }
                th scope="col" { "From" } th scope="col" { "Why" }
            } }
            tbody {
                @for row in rows {
                    tr {
                        td class="number" { (bytes(row.sums.received)) }
                        td class="number" { (row.sums.transfers) }
                        td class="number" { (row.sums.followers) }
                        td { (row.content_type) " " (row.form) }
                        td { (row.upstream) }
                        td { strong { (row.cause) } ": " (row.explanation) }
                    }
                }
            }
        }
    }
}

fn names<'a>(heading: &str, rows: impl Iterator<Item = (&'a str, TrafficSums)>) -> Markup {
    html! {
        table {
            thead { tr {
                th scope="col" { (heading) } th scope="col" class="number" { "Received" }
                th scope="col" class="number" { "Transfers" } th scope="col" class="number" { "Further requests" }
            } }
            tbody {
                @for (name, sums) in rows {
                    tr {
                        th scope="row" { (name) }
                        td class="number" { (bytes(sums.received)) }
                        td class="number" { (sums.transfers) }
                        td class="number" { (sums.followers) }
                    }
                }
            }
        }
    }
}
