//! The plan of a fleet for programs: JSON in base units, and the chart of the shared lines.

use serde_json::{Value, json};

use super::chart::current;
use super::fleet::{FleetReport, Variant};
use super::fleet_table::{cause_name, tier_name};
use super::format::{LAN, MINUTE, WAN, clock_at, json_time};
use crate::chart::{self, Panel, WIDTH, bits, count};
use gupd_config::Quantity;
use gupd_plan::MARKS;

/// Spans of the rates over time.
const SPANS: usize = 96;

/// Returns the plan as JSON: seconds, bytes, bytes per second.
pub(super) fn json(report: &FleetReport) -> String {
    let FleetReport { fleet, planned, lines, .. } = report;
    let marks = MARKS.iter().zip(planned.client_marks).zip(planned.site_marks);
    let marks = marks.map(|((share, clients), sites)| {
        json!({
            "share": share,
            "clients_seconds": clients,
            "clients_time": clients.and_then(|at| json_time(report.start, at)),
            "sites_seconds": sites,
        })
    });
    let regions = fleet.regions.iter().zip(&lines.regions).map(|(region, used)| {
        json!({
            "name": region.name,
            "line_bytes_per_second": finite(region.line),
            "peak_bytes_per_second": used.peak.round() as u64,
            "bytes": used.bytes.round() as u64,
            "busy_seconds": used.busy,
        })
    });
    let sites = report.sites.iter().map(|(site, class)| {
        let (arrival, planned) = (&lines.sites[*class], &planned.sites[*class]);
        json!({
            "name": site.name,
            "region": site.region,
            "clients": site.clients,
            "line_bytes_per_second": finite(fleet.classes[*class].scenario.line),
            "wan_bytes": arrival.bytes.round() as u64,
            "line_busy_seconds": arrival.busy,
            "content_seconds": arrival.complete_at,
            "current_seconds": planned.finished_at,
            "limited_by": cause_name(planned.bottleneck),
        })
    });
    let plan = json!({
        "start": report.start.to_string(),
        "horizon_seconds": fleet.horizon,
        "clients": planned.clients,
        "clients_that_come": planned.appeared,
        "clients_current": planned.current,
        "requests_refused": planned.refused,
        "current": marks.collect::<Vec<_>>(),
        "topology": tier_name(report.tier),
        "manager_line_bytes_per_second": finite(fleet.manager_line),
        "manager_bytes_without_relays": planned.lan_bytes.round() as u64,
        "manager": report.variants.iter().map(|of| manager(of, fleet.sites())).collect::<Vec<_>>(),
        "regions": regions.collect::<Vec<_>>(),
        "sites": sites.collect::<Vec<_>>(),
    });
    format!("{plan:#}")
}

fn manager(variant: &Variant, sites: u32) -> Value {
    let timeline = &variant.timeline;
    let until = timeline.end();
    let means = timeline.means(until.max(1.0), SPANS);
    json!({
        "topology": tier_name(variant.tier),
        "bytes": variant.manager_bytes.round() as u64,
        "peak_bytes_per_second": timeline.peak(WAN).round() as u64,
        "busiest_minute_bytes_per_second": timeline.busiest_mean(WAN, MINUTE).round() as u64,
        "tier_bytes": variant.tier_bytes.round() as u64,
        "tier_peak_bytes_per_second": timeline.peak(LAN).round() as u64,
        "all_sites_have_content_seconds": timeline.current_at(sites),
        "span_seconds": until.max(1.0) / SPANS as f64,
        "mean_bytes_per_second": means.iter().map(|mean| mean.wan.round() as u64).collect::<Vec<_>>(),
    })
}

fn finite(rate: f64) -> Option<u64> {
    rate.is_finite().then_some(rate.round() as u64)
}

/// Draws the rates of managers and tiers, and the sites that have the content.
pub(super) fn svg(report: &FleetReport) -> String {
    let timeline = &report.lines.timeline;
    let until = timeline.end().max(1.0);
    let means = timeline.means(until, WIDTH);
    let rates = |rate: fn(&gupd_plan::MeanRates) -> f64| means.iter().map(|mean| rate(mean) * 8.0).collect();
    let panels = [
        Panel { title: "manager", colour: "#d9762b", values: rates(|mean| mean.wan), label: bits },
        Panel { title: "tier", colour: "#3b82c4", values: rates(|mean| mean.lan), label: bits },
        Panel {
            title: "sites with the content",
            colour: "#3f9a5f",
            values: current(timeline, until),
            label: count,
        },
    ];
    let start = clock_at(&report.zone, report.start, 0.0);
    chart::svg(
        &format!("gupd plan: {} from {start} on", Quantity(report.fleet.sites(), "site")),
        &panels,
        until,
    )
}
