//! The output of a fleet's plan as aligned tables: times by share, the manager's line with each tier, and the busiest
//! regions and slowest sites.

use std::fmt::Write;

use indicatif::{BinaryBytes, HumanCount};

use super::fleet::FleetReport;
use super::format::{LAN, MINUTE, WAN, clock_at, rate, share, span};
use crate::table;
use gupd_config::Quantity;
use gupd_plan::{Bottleneck, MARKS, PlanTier, TierScope};

/// Rows of a table of sites or regions.
const ROWS: usize = 10;

pub(super) fn table(report: &FleetReport) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(report, &mut out);
    out.truncate(out.trim_end().len());
    out
}

fn write(report: &FleetReport, out: &mut String) -> std::fmt::Result {
    write_heading(report, out)?;
    write_times(report, out)?;
    write_manager(report, out)?;
    write_regions(report, out)?;
    write_causes(report, out)?;
    write_slowest(report, out)
}

fn write_heading(report: &FleetReport, out: &mut String) -> std::fmt::Result {
    let (sites, clients) = (report.fleet.sites(), report.planned.clients);
    let published = clock_at(&report.zone, report.start, 0.0);
    write!(out, "{}, {}, published {published}", Quantity(sites, "site"), Quantity(clients, "client"))?;
    for content in report.fleet.classes.iter().take(1).flat_map(|class| &class.scenario.contents) {
        let size = BinaryBytes(content.bytes as u64);
        write!(out, "; {} of {size} for {}", content.name, share(content.share))?;
    }
    match report.fleet.manager_line {
        line if line.is_finite() => write!(out, "; manager's line {}", rate(line))?,
        _ => write!(out, "; manager's line not limited")?,
    }
    writeln!(out, "; {}\n", tier_name(report.tier))
}

fn write_times(report: &FleetReport, out: &mut String) -> std::fmt::Result {
    let planned = &report.planned;
    let mut table = table::new(&["CURRENT", "CLIENTS AFTER", "AT", "SITES AFTER"], &[1, 3]);
    for ((mark, clients), sites) in MARKS.iter().zip(planned.client_marks).zip(planned.site_marks) {
        let at = clients.map_or_else(String::new, |at| clock_at(&report.zone, report.start, at));
        table.add_row([share(*mark), after(clients), at, after(sites)]);
    }
    writeln!(out, "{}", table::text(&table))?;
    let horizon = span(report.fleet.horizon);
    if planned.appeared < planned.clients {
        let offline = Quantity(planned.clients - planned.appeared, "client").with_verb("does", "do");
        writeln!(out, "{offline} not come online within {horizon}.")?;
    }
    if planned.current < planned.appeared {
        let behind = Quantity(planned.appeared - planned.current, "client");
        let behind = behind.with_verb("comes online but is", "come online but are");
        writeln!(out, "{behind} not current within {horizon}.")?;
    }
    if planned.refused > 0 {
        let refused = Quantity(planned.refused, "request");
        let refused =
            refused.with_verb("gets no download slot in time and is", "get no download slot in time and are");
        writeln!(out, "{refused} retried.")?;
    }
    writeln!(out)
}

fn write_manager(report: &FleetReport, out: &mut String) -> std::fmt::Result {
    let headings =
        ["MANAGER", "PEAK", "BUSIEST MINUTE", "BYTES", "TIER PEAK", "TIER BYTES", "ALL SITES HAVE IT"];
    let mut table = table::new(&headings, &[1, 2, 3, 4, 5, 6]);
    let bytes = |bytes: f64| BinaryBytes(bytes.round() as u64).to_string();
    let none = String::new;
    table.add_row(["no relays".to_owned(), none(), none(), bytes(report.planned.lan_bytes)]);
    for variant in &report.variants {
        let timeline = &variant.timeline;
        let (tier_peak, tier_bytes) = match variant.tier {
            PlanTier::None => (none(), none()),
            _ => (rate(timeline.peak(LAN)), bytes(variant.tier_bytes)),
        };
        table.add_row([
            tier_name(variant.tier).to_owned(),
            rate(timeline.peak(WAN)),
            rate(timeline.busiest_mean(WAN, MINUTE)),
            bytes(variant.manager_bytes),
            tier_peak,
            tier_bytes,
            after(timeline.current_at(report.fleet.sites())),
        ]);
    }
    writeln!(out, "{}\n", table::text(&table))
}

fn write_regions(report: &FleetReport, out: &mut String) -> std::fmt::Result {
    if report.fleet.regions.is_empty() {
        return Ok(());
    }
    let mut used: Vec<_> = report.fleet.regions.iter().zip(&report.lines.regions).collect();
    used.sort_by(|a, b| b.1.busy.total_cmp(&a.1.busy));
    let mut table = table::new(&["REGION", "LINE", "PEAK", "BYTES", "BUSY"], &[1, 2, 3, 4]);
    for (region, used) in used.iter().take(ROWS) {
        let line = if region.line.is_finite() { rate(region.line) } else { String::new() };
        let bytes = BinaryBytes(used.bytes.round() as u64).to_string();
        table.add_row([table::printable(&region.name), line, rate(used.peak), bytes, span(used.busy)]);
    }
    writeln!(out, "{}", table::text(&table))?;
    write_rest(out, used.len(), "regions")
}

fn write_causes(report: &FleetReport, out: &mut String) -> std::fmt::Result {
    let mut table = table::new(&["LIMITED BY", "SITES"], &[1]);
    for cause in [Bottleneck::Manager, Bottleneck::Region, Bottleneck::Line, Bottleneck::Site] {
        let of = report.planned.sites.iter().zip(&report.fleet.classes);
        let sites: u32 = of.filter(|(site, _)| site.bottleneck == cause).map(|(_, class)| class.sites).sum();
        if sites > 0 {
            table.add_row([cause_name(cause).to_owned(), HumanCount(sites.into()).to_string()]);
        }
    }
    writeln!(out, "{}\n", table::text(&table))
}

fn write_slowest(report: &FleetReport, out: &mut String) -> std::fmt::Result {
    let headings =
        ["SLOWEST SITE", "REGION", "CLIENTS", "LINE", "LINE BUSY", "HAS IT", "CURRENT", "LIMITED BY"];
    let mut table = table::new(&headings, &[2, 3, 4, 5, 6]);
    let mut sites: Vec<usize> = (0..report.sites.len()).collect();
    let finish =
        |site: usize| report.planned.sites[report.sites[site].1].finished_at.unwrap_or(f64::INFINITY);
    sites.sort_by(|a, b| finish(*b).total_cmp(&finish(*a)));
    for (site, class) in sites.iter().take(ROWS).map(|site| &report.sites[*site]) {
        let (arrival, planned) = (&report.lines.sites[*class], &report.planned.sites[*class]);
        let line = report.fleet.classes[*class].scenario.line;
        table.add_row([
            table::printable(&site.name),
            table::printable(site.region.as_deref().unwrap_or_default()),
            HumanCount(site.clients.into()).to_string(),
            if line.is_finite() { rate(line) } else { "wan.limit".to_owned() },
            span(arrival.busy),
            after(arrival.complete_at),
            after(planned.finished_at),
            cause_name(planned.bottleneck).to_owned(),
        ]);
    }
    writeln!(out, "{}", table::text(&table))?;
    write_rest(out, report.sites.len(), "sites")
}

fn write_rest(out: &mut String, all: usize, what: &str) -> std::fmt::Result {
    match all.saturating_sub(ROWS) {
        0 => writeln!(out),
        rest => writeln!(out, "and {} more {what}: use --json\n", HumanCount(rest as u64)),
    }
}

fn after(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "never".to_owned(), span)
}

pub(super) fn tier_name(tier: PlanTier) -> &'static str {
    match tier {
        PlanTier::None => "relays",
        PlanTier::OnRequest(TierScope::Region) => "relays, tiers of regions",
        PlanTier::OnRequest(TierScope::Fleet) => "relays, one tier",
        PlanTier::FilledFirst(TierScope::Region) => "relays, tiers of regions filled first",
        PlanTier::FilledFirst(TierScope::Fleet) => "relays, one tier filled first",
    }
}

pub(super) fn cause_name(cause: Bottleneck) -> &'static str {
    match cause {
        Bottleneck::Manager => "manager's line",
        Bottleneck::Region => "region's line",
        Bottleneck::Line => "its line or wan limits",
        Bottleneck::Site => "its clients, windows or LAN",
    }
}
