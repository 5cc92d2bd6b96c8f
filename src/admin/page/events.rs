//! Events: the alarms of now, and what happened, in sentences with the action to take.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use super::overview::findings;
use super::text::{span, time};
use super::{Page, respond};
use crate::auth::ReadAccess;
use crate::status::{StatusFinding, StatusReport, observe};
use crate::{AdminApi, query_pairs};
use gupd_ledger::{Event, EventChange, EventQuery};

/// Events on one page.
const MAX_SHOWN: usize = 200;

pub(super) async fn show(_: ReadAccess, State(api): State<AdminApi>, uri: Uri) -> Response {
    let mut before = query_pairs(uri.query()).filter(|(name, _)| *name == "before");
    let before = before.find_map(|(_, value)| value.parse().ok());
    let zone = api.generations.load().config.site.time_zone.clone();
    let (report, page) = observe(&api, EventQuery { before, limit: MAX_SHOWN }).await;
    let content = html! {
        h1 { "Events" }
        (alarms(report, &zone))
        h2 id="history" { "What happened" }
        @match page {
            Err(error) => p class="critical" { "The history cannot be read: " (error.to_string()) }
            Ok(page) => (history(&page.events, &zone))
        }
    };
    respond(Page::Events, &content)
}

fn alarms(report: StatusReport, zone: &TimeZone) -> Markup {
    let alarms: Vec<StatusFinding> = report.findings.into_iter().filter(StatusFinding::is_alarm).collect();
    html! {
        @if alarms.is_empty() { p class="good" { "No alarm is raised." } }
        @else { (findings("Alarms", &alarms, zone)) }
    }
}

fn history(events: &[Event], zone: &TimeZone) -> Markup {
    html! {
        @if events.is_empty() { p class="quiet" { "Nothing has happened yet." } }
        @else {
            div class="scroll" tabindex="0" role="region" aria-labelledby="history" {
                table {
                    thead { tr {
                        th scope="col" { "Time" } th scope="col" { "Severity" }
                        th scope="col" { "What happened" } th scope="col" { "What to do" }
                    } }
                    tbody { @for event in events { (row(event, zone)) } }
                }
            }
            @if let (true, Some(last)) = (events.len() >= MAX_SHOWN, events.last()) {
                p { a href=(format!("/events?before={}", last.id)) { "Earlier events" } }
            }
        }
    }
}

fn row(event: &Event, zone: &TimeZone) -> Markup {
    // A clock that was set back gives no time.
    let lasted = event.raised.map(|raised| span(event.at.saturating_sub(raised).max(0)));
    html! {
        tr {
            td { (time(event.at, zone, "%F %H:%M:%S")) }
            @match event.change {
                EventChange::Cleared => {
                    td class="good" { "over" }
                    td { "Over" @if let Some(lasted) = lasted { " after " (lasted) } ": " (event.message) }
                }
                EventChange::Raised | EventChange::Noted => {
                    td class=(event.severity.as_str()) { (event.severity.as_str()) }
                    td { (event.message) }
                }
            }
            td { (event.action) }
        }
    }
}

/// Formats the time since which an alarm has been raised.
pub(super) fn since(text: &str, zone: &TimeZone) -> String {
    let at = text.parse::<Timestamp>().map(Timestamp::as_millisecond);
    at.map_or_else(|_| text.to_owned(), |at| time(at, zone, "%F %H:%M"))
}
