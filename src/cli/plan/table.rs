//! The output of a plan as aligned tables.

use std::fmt::Write;

use indicatif::{BinaryBytes, HumanCount};

use super::format::{LAN, MINUTE, WAN, clock, rate, share, span, times};
use super::{DeadlineReport, PlanReport};
use gupd_plan::{Curve, Deadline, LineResult, MARKS, Scenario, SpreadResult};

/// Label of the row for all clients that come online.
const ALL_ONLINE: &str = "all online";

pub(super) fn table(report: &PlanReport) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(report, &mut out);
    out.truncate(out.trim_end().len());
    out
}

fn write(report: &PlanReport, out: &mut String) -> std::fmt::Result {
    write_heading(report, out)?;
    write_current(report, out)?;
    write_bytes(report, out)?;
    write_limits(report, out)?;
    match &report.reverse {
        Some(reverse) => write_deadline(report, reverse, out),
        None => Ok(()),
    }
}

fn write_heading(report: &PlanReport, out: &mut String) -> std::fmt::Result {
    let scenario = &report.scenario;
    write!(out, "{} clients, published {}", HumanCount(scenario.clients().into()), clock(report, 0.0))?;
    for content in &scenario.contents {
        let size = BinaryBytes(content.bytes as u64);
        write!(out, "; {} of {size} for {}", content.name, share(content.share))?;
    }
    let line = match scenario.line {
        line if line.is_finite() => rate(line),
        _ if scenario.wan == Curve::constant(scenario.wan.rate_at(0.0)) => rate(scenario.wan.rate_at(0.0)),
        _ => "limited by wan.limit".to_owned(),
    };
    writeln!(out, "; line {line}, LAN {}\n", rate(scenario.lan_link))
}

fn write_current(report: &PlanReport, out: &mut String) -> std::fmt::Result {
    let PlanReport { scenario, rollout, .. } = report;
    writeln!(out, "{:<13}  {:>8}  AT", "CURRENT", "AFTER")?;
    let names = MARKS.iter().map(|mark| share(*mark)).chain([ALL_ONLINE.to_owned()]);
    for (name, time) in names.zip(times(scenario, rollout)) {
        match time {
            Some(_) if name == ALL_ONLINE && do_all_come_online(report) => {}
            Some(seconds) => writeln!(out, "{name:<13}  {:>8}  {}", span(seconds), clock(report, seconds))?,
            None => writeln!(out, "{name:<13}  {:>8}", "never")?,
        }
    }
    let horizon = span(scenario.horizon);
    let (clients, appeared) = (scenario.clients(), rollout.appeared);
    if !do_all_come_online(report) {
        let offline = HumanCount((clients - appeared).into());
        writeln!(
            out,
            "{offline} of {} clients do not come online within {horizon}.",
            HumanCount(clients.into())
        )?;
    }
    if rollout.current() < appeared {
        let behind = HumanCount((appeared - rollout.current()).into());
        writeln!(out, "{behind} clients come online but are not current within {horizon}.")?;
    }
    writeln!(out)
}

fn write_bytes(report: &PlanReport, out: &mut String) -> std::fmt::Result {
    let rollout = &report.rollout;
    writeln!(out, "{:<5}{:>12}{:>16}{:>13}", "", "PEAK", "BUSIEST MINUTE", "BYTES")?;
    let times = HumanCount((rollout.lan_bytes / rollout.wan_bytes.max(1.0)).round() as u64);
    let without = format!("{} without the relay ({times} times)", BinaryBytes(rollout.lan_bytes as u64));
    let downloads = format!("{} concurrent downloads", HumanCount(rollout.timeline.max_downloads().into()));
    for (name, of, bytes, note) in
        [("WAN", WAN, rollout.wan_bytes, without), ("LAN", LAN, rollout.lan_bytes, downloads)]
    {
        let (peak, busiest) = (rollout.timeline.peak(of), rollout.timeline.busiest_mean(of, MINUTE));
        let bytes = BinaryBytes(bytes.round() as u64).to_string();
        writeln!(out, "{name:<5}{:>12}{:>16}{bytes:>13}  {note}", rate(peak), rate(busiest))?;
    }
    if rollout.refused > 0 {
        writeln!(
            out,
            "{} requests get no download slot in time and are retried.",
            HumanCount(rollout.refused)
        )?;
    }
    writeln!(out)
}

fn write_limits(report: &PlanReport, out: &mut String) -> std::fmt::Result {
    let PlanReport { scenario, costs, .. } = report;
    if scenario.line.is_infinite() {
        writeln!(out, "Pass --line to see the effect of wan.limit.")?;
    }
    if costs.is_empty() {
        let summary =
            if scenario.limits().is_empty() { "No limit is set" } else { "No single limit costs time" };
        return writeln!(out, "{summary}.\n");
    }
    let names: Vec<String> = costs.iter().map(|cost| scenario.limit_name(cost.limit)).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max("WITHOUT".len());
    let skipped = usize::from(do_all_come_online(report));
    let marks = MARKS.iter().map(|mark| share(*mark)).chain([ALL_ONLINE.to_uppercase()]);
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

fn write_deadline(report: &PlanReport, reverse: &DeadlineReport, out: &mut String) -> std::fmt::Result {
    let DeadlineReport { deadline, line, spread } = reverse;
    let scenario = &report.scenario;
    let met = if deadline.is_met_by(scenario, &report.rollout) { "met" } else { "not met" };
    let goal = share(deadline.share);
    writeln!(out, "{:<17}{} for {goal} of clients: {met}", "deadline", span(deadline.within))?;
    let coming = scenario.appearance.share_at(deadline.within);
    if coming < deadline.share {
        let coming = share(coming);
        return writeln!(
            out,
            "{:<17}none, and no spread: only {coming} of clients come online by then",
            "smallest line"
        );
    }
    write_line_answer(scenario, deadline, line, out)?;
    write_spread_answer(scenario, deadline, spread, out)
}

fn current_text(scenario: &Scenario, time: Option<f64>) -> String {
    match time {
        Some(time) => format!("current after {}", span(time)),
        None => format!("not current within {}", span(scenario.horizon)),
    }
}

fn write_line_answer(
    scenario: &Scenario,
    deadline: &Deadline,
    line: &LineResult,
    out: &mut String,
) -> std::fmt::Result {
    match line {
        LineResult::Smallest(bytes) => {
            let note = if scenario.wan.is_limited() { ", replacing wan.limit" } else { "" };
            writeln!(out, "{:<17}{}{note}", "smallest line", rate(*bytes))
        }
        LineResult::None { best_time, because, unlimited } => {
            let names: Vec<String> = because.iter().map(|limit| scenario.limit_name(*limit)).collect();
            let reason = match &names[..] {
                [] if unlimited.is_some_and(|time| time <= deadline.within) => {
                    "several limits prevent it".to_owned()
                }
                [] if unlimited == best_time => "no limit prevents it".to_owned(),
                [] => format!("{} without limits", current_text(scenario, *unlimited)),
                names => format!("{} prevents it", names.join(" or ")),
            };
            let best = current_text(scenario, *best_time);
            writeln!(out, "{:<17}none: {best} with the fastest line, {reason}", "smallest line")
        }
    }
}

fn write_spread_answer(
    scenario: &Scenario,
    deadline: &Deadline,
    spread: &SpreadResult,
    out: &mut String,
) -> std::fmt::Result {
    match spread {
        SpreadResult::Between(shortest, longest) => {
            writeln!(out, "{:<17}{}", "shortest spread", spread_text(*shortest))?;
            writeln!(out, "{:<17}{}", "longest spread", spread_text(*longest))
        }
        SpreadResult::None { calm_from: None, .. } => {
            let busiest = rate(deadline.busiest);
            writeln!(out, "{:<17}none: the busiest minute exceeds {busiest}", "shortest spread")
        }
        SpreadResult::None { calm_from: Some(spread), current_at } => {
            let (spread, current) = (spread_text(*spread), current_text(scenario, *current_at));
            writeln!(out, "{:<17}none: with {spread} clients are {current}", "shortest spread")
        }
    }
}

/// Formats a spread as a setting.
fn spread_text(seconds: f64) -> String {
    if seconds < 60.0 { "0s".to_owned() } else { span(seconds) }
}

fn do_all_come_online(report: &PlanReport) -> bool {
    report.rollout.appeared == report.scenario.clients()
}
