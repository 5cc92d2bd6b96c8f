//! A plan for people: aligned tables, each number with what it is.

use std::fmt::Write;

use indicatif::{BinaryBytes, HumanCount};

use super::words::{LAN, MINUTE, WAN, clock, rate, share, span, times};
use super::{Report, Reverse};
use gupd_plan::{Curve, LineAnswer, MARKS, SpreadAnswer};

/// How the clients are called that come online at all.
const COMING: &str = "all that come";

pub(super) fn table(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(report, &mut out);
    out.truncate(out.trim_end().len());
    out
}

fn write(report: &Report, out: &mut String) -> std::fmt::Result {
    heading(report, out)?;
    current(report, out)?;
    moved(report, out)?;
    limits(report, out)?;
    match &report.reverse {
        Some(reverse) => in_reverse(report, reverse, out),
        None => Ok(()),
    }
}

fn heading(report: &Report, out: &mut String) -> std::fmt::Result {
    let scenario = &report.scenario;
    write!(out, "{} clients from {} on", HumanCount(scenario.clients().into()), clock(report, 0.0))?;
    for content in &scenario.contents {
        let size = BinaryBytes(content.bytes as u64);
        write!(out, "; {} of {size} for {}", content.name, share(content.share))?;
    }
    let line = match scenario.line {
        line if line.is_finite() => rate(line),
        _ if scenario.wan == Curve::constant(scenario.wan.rate_at(0.0)) => rate(scenario.wan.rate_at(0.0)),
        _ => "as wan.limit says".to_owned(),
    };
    writeln!(out, "; line {line}, LAN {}\n", rate(scenario.lan_link))
}

fn current(report: &Report, out: &mut String) -> std::fmt::Result {
    let Report { scenario, rollout, .. } = report;
    writeln!(out, "{:<13}  {:>8}  AT", "CURRENT", "AFTER")?;
    let names = MARKS.iter().map(|mark| share(*mark)).chain([COMING.to_owned()]);
    for (name, time) in names.zip(times(scenario, rollout)) {
        match time {
            Some(_) if name == COMING && everyone_comes(report) => {}
            Some(seconds) => writeln!(out, "{name:<13}  {:>8}  {}", span(seconds), clock(report, seconds))?,
            None => writeln!(out, "{name:<13}  {:>8}", "never")?,
        }
    }
    let horizon = span(scenario.horizon);
    let (clients, appeared) = (scenario.clients(), rollout.appeared);
    if !everyone_comes(report) {
        let away = HumanCount((clients - appeared).into());
        writeln!(
            out,
            "{away} of {} clients do not come online within {horizon}.",
            HumanCount(clients.into())
        )?;
    }
    if rollout.current() < appeared {
        let behind = HumanCount((appeared - rollout.current()).into());
        writeln!(out, "{behind} clients come, but are not current within {horizon}.")?;
    }
    writeln!(out)
}

fn moved(report: &Report, out: &mut String) -> std::fmt::Result {
    let rollout = &report.rollout;
    writeln!(out, "{:<5}{:>12}{:>16}{:>13}", "", "PEAK", "BUSIEST MINUTE", "BYTES")?;
    let times = HumanCount((rollout.lan_bytes / rollout.wan_bytes.max(1.0)).round() as u64);
    let without = format!("{} without the relay, {times} x", BinaryBytes(rollout.lan_bytes as u64));
    let downloads = format!("{} downloads at once", HumanCount(rollout.timeline.most_downloads().into()));
    for (name, of, bytes, note) in
        [("WAN", WAN, rollout.wan_bytes, without), ("LAN", LAN, rollout.lan_bytes, downloads)]
    {
        let (peak, busiest) = (rollout.timeline.peak(of), rollout.timeline.busiest(of, MINUTE));
        let bytes = BinaryBytes(bytes.round() as u64).to_string();
        writeln!(out, "{name:<5}{:>12}{:>16}{bytes:>13}  {note}", rate(peak), rate(busiest))?;
    }
    if rollout.refused > 0 {
        writeln!(out, "{} requests find no place in time, and come again.", HumanCount(rollout.refused))?;
    }
    writeln!(out)
}

fn limits(report: &Report, out: &mut String) -> std::fmt::Result {
    let Report { scenario, costs, .. } = report;
    if scenario.line.is_infinite() {
        writeln!(out, "What wan.limit costs is said with --line.")?;
    }
    if costs.is_empty() {
        let set =
            if scenario.limits().is_empty() { "No limit is set" } else { "No limit by itself costs time" };
        return writeln!(out, "{set}.\n");
    }
    let names: Vec<String> = costs.iter().map(|cost| scenario.name_of(cost.limit)).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max("WITHOUT".len());
    let skipped = usize::from(everyone_comes(report));
    let marks = MARKS.iter().map(|mark| share(*mark)).chain([COMING.to_uppercase()]);
    let columns: Vec<String> = marks.take(MARKS.len() + 1 - skipped).collect();
    write!(out, "{:<width$}", "WITHOUT")?;
    for column in &columns {
        write!(out, "  {column:>8}")?;
    }
    for (name, cost) in names.iter().zip(costs) {
        write!(out, "\n{name:<width$}")?;
        for (column, time) in columns.iter().zip(times(scenario, &cost.lifted)) {
            let column = column.len().max(8);
            write!(out, "  {:>column$}", time.map_or_else(|| "never".to_owned(), span))?;
        }
    }
    writeln!(out, "\n")
}

fn in_reverse(report: &Report, reverse: &Reverse, out: &mut String) -> std::fmt::Result {
    let Reverse { deadline, line, spread } = reverse;
    let scenario = &report.scenario;
    let met = if deadline.is_met_by(scenario, &report.rollout) { "met" } else { "not met" };
    let goal = share(deadline.share);
    writeln!(out, "{:<17}{} for {goal} of clients: {met}", "deadline", span(deadline.within))?;
    let coming = scenario.appearance.share_at(deadline.within);
    if coming < deadline.share {
        let coming = share(coming);
        return writeln!(
            out,
            "{:<17}none, nor any spread: {coming} of clients come online by then",
            "smallest line"
        );
    }
    let current = |time: &Option<f64>| match time {
        Some(time) => format!("current after {}", span(*time)),
        None => format!("not current within {}", span(scenario.horizon)),
    };
    match line {
        LineAnswer::Smallest(bytes) => {
            let place = if scenario.wan.is_limited() { ", in place of wan.limit" } else { "" };
            writeln!(out, "{:<17}{}{place}", "smallest line", rate(*bytes))?;
        }
        LineAnswer::None { at_best, because, unlimited } => {
            let names: Vec<String> = because.iter().map(|limit| scenario.name_of(*limit)).collect();
            let why = match &names[..] {
                [] if unlimited.is_some_and(|time| time <= deadline.within) => {
                    "several limits in the way".to_owned()
                }
                [] if unlimited == at_best => "no limit in the way".to_owned(),
                [] => format!("{} without any limit", current(unlimited)),
                names => format!("{} in the way", names.join(" or ")),
            };
            writeln!(out, "{:<17}none: {} with the widest, {why}", "smallest line", current(at_best))?;
        }
    }
    match spread {
        SpreadAnswer::Between(shortest, longest) => {
            writeln!(out, "{:<17}{}", "shortest spread", minutes(*shortest))?;
            writeln!(out, "{:<17}{}", "longest spread", minutes(*longest))
        }
        SpreadAnswer::None { calm_from: None, .. } => {
            writeln!(
                out,
                "{:<17}none: the busiest minute is above {}",
                "shortest spread",
                rate(deadline.busiest)
            )
        }
        SpreadAnswer::None { calm_from: Some(spread), current_at } => {
            let current = current(current_at);
            writeln!(out, "{:<17}none: with {} clients are {current}", "shortest spread", minutes(*spread))
        }
    }
}

/// A spread, as it is set.
fn minutes(seconds: f64) -> String {
    if seconds < 60.0 { "0s".to_owned() } else { span(seconds) }
}

fn everyone_comes(report: &Report) -> bool {
    report.rollout.appeared == report.scenario.clients()
}
