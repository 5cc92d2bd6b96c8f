//! The rollout: revisions, rings with their progress, and what opens next or blocks it.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use super::actions::forms;
use super::text::time;
use super::{Page, respond};
use crate::AdminApi;
use crate::auth::ReadAccess;
use crate::status::rollout;
use gupd_rollout::status::{Status, UtcTime};

pub(super) async fn show(_: ReadAccess, State(api): State<AdminApi>, headers: HeaderMap) -> Response {
    let zone = api.generations.load().config.site.time_zone.clone();
    let content = match rollout(&api, api.clock.now()).await {
        None => html! {
            h1 { "Rollout" }
            p { "There are no rings: every client sees a new revision at once." }
        },
        Some(status) => html! {
            h1 { "Rollout" }
            @if let Some(since) = status.halted {
                p class="warning" { "Halted since " (at(since, &zone)) ": views are frozen until "
                    code { "gupd rollout resume" } "." }
            }
            (next(&status, &zone))
            (rings(&status, &zone))
            (revisions(&status, &zone))
            (forms(&api, &headers, &status))
        },
    };
    respond(Page::Rollout, &content)
}

fn at(time_of: UtcTime, zone: &TimeZone) -> String {
    time(time_of.0, zone, "%F %H:%M")
}

fn next(status: &Status, zone: &TimeZone) -> Markup {
    html! {
        h2 { "Next" }
        @if status.next.is_empty() { p { "Every ring is open for every revision." } }
        ul {
            @for step in &status.next {
                li {
                    "Revision " (step.revision) ", ring " (step.ring) ", step " (step.step) " of " (step.steps) ": "
                    @match (&step.blocked, step.opens) {
                        (Some(blocked), _) => span class="warning" { (blocked) }
                        (None, Some(opens)) => { "opens " (at(opens, zone)) }
                        (None, None) => { "not yet" }
                    }
                }
            }
        }
    }
}

fn rings(status: &Status, zone: &TimeZone) -> Markup {
    html! {
        h2 id="rings" { "Rings" }
        div class="scroll" tabindex="0" role="region" aria-labelledby="rings" {
            table {
                thead { tr {
                    th scope="col" { "Ring" } th scope="col" class="number" { "Clients" }
                    th scope="col" class="number" { "Revision" } th scope="col" { "Steps" }
                    th scope="col" { "Moved" } th scope="col" { "Complete" }
                } }
                tbody {
                    @for ring in &status.rings {
                        @for seen in &ring.sees {
                            tr {
                                th scope="row" { (ring.name) }
                                td class="number" { (ring.clients.known) }
                                td class="number" { (seen.revision) }
                                td { (seen.open) " of " (seen.steps) }
                                td { meter min="0" max="1" value=(format!("{:.3}", seen.moved)) {}
                                    // Rounded down: 100 % means every client.
                                    " " (format!("{} %", (seen.moved * 100.0).floor())) }
                                td { @if let Some(complete) = seen.complete { (at(complete, zone)) } @else { "–" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn revisions(status: &Status, zone: &TimeZone) -> Markup {
    html! {
        h2 id="revisions" { "Revisions" }
        div class="scroll" tabindex="0" role="region" aria-labelledby="revisions" {
            table {
                thead { tr {
                    th scope="col" class="number" { "Revision" } th scope="col" { "Published" }
                    th scope="col" { "Names" } th scope="col" class="number" { "Clients" }
                    th scope="col" class="number" { "Catalogs" } th scope="col" class="number" { "Payloads" }
                } }
                tbody {
                    @for revision in &status.revisions {
                        tr {
                            th scope="row" class="number" { (revision.number) }
                            td { (at(revision.published, zone)) }
                            td { (revision.names.join(", ")) }
                            td class="number" { (revision.clients) }
                            td class="number" { (revision.present) }
                            td class="number" { (revision.kept) }
                        }
                    }
                }
            }
        }
    }
}
