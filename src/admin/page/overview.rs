//! The overview: the state in one sentence, what needs attention, both lines, savings, upstreams and store.

use axum::extract::State;
use axum::response::Response;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use super::events::since;
use super::rates::{self, SiteDay};
use super::text::{bytes, percent, rate, time};
use super::{Page, respond};
use crate::AdminApi;
use crate::auth::ReadAccess;
use crate::status::{LineStatus, PeriodTraffic, StatusFinding, StatusReport, UpstreamStatus, collect};
use gupd_config::Quantity;

pub(super) async fn show(_: ReadAccess, State(api): State<AdminApi>) -> Response {
    let report = collect(&api).await;
    let generation = api.generations.load_full();
    let zone = generation.config.site.time_zone.clone();
    let day = SiteDay::at(api.clock.now(), &zone);
    let since = day.map_or(api.clock.now(), |day| day.begin * 1_000);
    let points = api.ledger.rates(since, rates::INTERVAL).await;
    let content = html! {
        h1 class=(light(&report)) { (report.sentence) }
        p class="quiet" { "gupd " (report.version) ", " (time(api.clock.now(), &zone, "%F %H:%M:%S")) }
        @if !report.findings.is_empty() { (findings("Needs attention", &report.findings, &zone)) }
        div class="cards" {
            (line_card("WAN", &report.wan))
            (line_card("LAN", &report.lan))
            @if let Some(savings) = &report.savings {
                (savings_card("Today", &savings.today))
                (savings_card("30 days", &savings.month))
            }
            (clients_card(&report))
            section class="card" {
                h2 { "Store" }
                p class="figure" { (bytes(report.store.bytes)) }
                p { (percent(report.store.bytes, report.store.quota)) " of " (bytes(report.store.quota)) ", "
                    (Quantity(report.store.objects, "object")) }
                p class=(if report.store.detail.is_some() { "critical" } else { "quiet" }) {
                    (report.store.health)
                }
            }
            section class="card" {
                h2 { "Now" }
                p class="figure" { (Quantity(report.activity.fills, "fill")) }
                p { (Quantity(report.activity.connections, "connection")) ", "
                    (Quantity(report.activity.downloads, "download")) " in slots, " (report.activity.queued) " waiting" }
            }
        }
        @if let (Some(day), Ok(points)) = (day, &points) { (rates::show(day, points, &generation.config)) }
        (upstreams(&report.upstreams, &report.peers))
    };
    respond(Page::Overview, &content)
}

/// Returns the class of the most severe finding.
fn light(report: &StatusReport) -> &'static str {
    report.findings.first().map_or("good", |finding| finding.severity.as_str())
}

/// Returns the list of findings with their actions.
pub(super) fn findings(heading: &str, findings: &[StatusFinding], zone: &TimeZone) -> Markup {
    html! {
        section aria-labelledby="attention" {
            h2 id="attention" { (heading) }
            ul class="findings" {
                @for finding in findings {
                    li class=(finding.severity.as_str()) {
                        strong { (finding.severity.as_str()) ": " } (finding.message)
                        @if let Some(begin) = &finding.since { ", since " (since(begin, zone)) }
                        br; "What to do: " (finding.action)
                    }
                }
            }
        }
    }
}

fn line_card(name: &str, line: &LineStatus) -> Markup {
    html! {
        section class="card" {
            h2 { (name) }
            p class="figure" { (rate(line.bytes_per_second)) }
            @match (line.limit, line.busy_percent()) {
                (Some(limit), Some(busy)) => {
                    p { (busy) " % of " (rate(limit)) }
                    meter min="0" max="100" value=(busy.min(100)) aria-label=(format!("{name} {busy} % busy")) {}
                }
                _ => p { "no limit now" }
            }
        }
    }
}

fn savings_card(name: &str, period: &PeriodTraffic) -> Markup {
    let clients = &period.clients;
    html! {
        section class="card" {
            h2 { (name) }
            p class="figure" { (percent(clients.saved, clients.sent)) " saved" }
            p { (bytes(period.wan_received)) " crossed the WAN, " (bytes(clients.sent)) " went to clients" }
            p class="quiet" { "hit ratio " (percent(clients.hits, clients.requests)) " of " (Quantity(clients.requests, "request")) }
        }
    }
}

fn clients_card(report: &StatusReport) -> Markup {
    let count = |rollout: &gupd_rollout::status::Status, light: &str| {
        rollout.clients.lights.get(light).copied().unwrap_or(0)
    };
    html! {
        section class="card" {
            h2 { a href=(Page::Clients.path()) { "Clients" } }
            @match &report.rollout {
                Some(rollout) => {
                    p class="figure" { (count(rollout, "green")) " current" }
                    p { (count(rollout, "yellow")) " behind, " (count(rollout, "red")) " failing, "
                        (count(rollout, "grey")) " unseen" }
                }
                None => p { "not tracked: there are no rings" }
            }
        }
    }
}

fn upstreams(upstreams: &[UpstreamStatus], peers: &[UpstreamStatus]) -> Markup {
    let row = |upstream: &UpstreamStatus, kind: &str| {
        let (class, state) = if upstream.is_healthy { ("good", "healthy") } else { ("critical", "failing") };
        html! {
            tr {
                th scope="row" { (upstream.name) }
                td { (kind) }
                td class=(class) { (state) }
                td class="number" { (bytes(upstream.received)) }
            }
        }
    };
    html! {
        section aria-labelledby="upstreams" {
            h2 id="upstreams" { "Upstreams" }
            div class="scroll" tabindex="0" role="region" aria-labelledby="upstreams" {
                table {
                    thead { tr {
                        th scope="col" { "Name" } th scope="col" { "Kind" } th scope="col" { "State" }
                        th scope="col" class="number" { "Received since the start" }
                    } }
                    tbody {
                        @for upstream in upstreams { (row(upstream, "upstream")) }
                        @for peer in peers { (row(peer, "peer")) }
                    }
                }
            }
        }
    }
}
