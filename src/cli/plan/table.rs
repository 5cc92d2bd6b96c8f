//! The output of a plan as aligned tables.

use std::fmt::Write;

use indicatif::{BinaryBytes, HumanCount};

use super::format::{LAN, MINUTE, WAN, clock, rate, share, span, times};
use super::{DeadlineReport, PlanReport};
use crate::table;
use gupd_config::Quantity;
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
    write!(out, "{}, published {}", Quantity(scenario.clients(), "client"), clock(report, 0.0))?;
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
    let mut table = table::new(&["CURRENT", "AFTER", "AT"], &[1]);
    let names = MARKS.iter().map(|mark| share(*mark)).chain([ALL_ONLINE.to_owned()]);
    for (name, time) in names.zip(times(scenario, rollout)) {
        match time {
            Some(_) if name == ALL_ONLINE && do_all_come_online(report) => {}
            Some(seconds) => {
                table.add_row([name, span(seconds), clock(report, seconds)]);
            }
            None => {
                table.add_row([name, "never".to_owned()]);
            }
        }
    }
    writeln!(out, "{}", table::text(&table))?;
    let horizon = span(scenario.horizon);
    let (clients, appeared) = (scenario.clients(), rollout.appeared);
    if !do_all_come_online(report) {
        let offline = clients - appeared;
        let verb = if offline == 1 { "does" } else { "do" };
        writeln!(
            out,
            "{} of {} {verb} not come online within {horizon}.",
            HumanCount(offline.into()),
            Quantity(clients, "client")
        )?;
    }
    if rollout.current() < appeared {
        let behind = Quantity(appeared - rollout.current(), "client");
        let behind = behind.with_verb("comes online but is", "come online but are");
        writeln!(out, "{behind} not current within {horizon}.")?;
    }
    writeln!(out)
}

fn write_bytes(report: &PlanReport, out: &mut String) -> std::fmt::Result {
    let rollout = &report.rollout;
    let mut table = table::new(&["", "PEAK", "BUSIEST MINUTE", "BYTES", ""], &[1, 2, 3]);
    let times = Quantity((rollout.lan_bytes / rollout.wan_bytes.max(1.0)).round() as u64, "time");
    let without = format!("{} without the relay ({times})", BinaryBytes(rollout.lan_bytes as u64));
    let downloads = Quantity(rollout.timeline.max_downloads(), "concurrent download").to_string();
    for (name, of, bytes, note) in
        [("WAN", WAN, rollout.wan_bytes, without), ("LAN", LAN, rollout.lan_bytes, downloads)]
    {
        let (peak, busiest) = (rollout.timeline.peak(of), rollout.timeline.busiest_mean(of, MINUTE));
        let bytes = BinaryBytes(bytes.round() as u64).to_string();
        table.add_row([name.to_owned(), rate(peak), rate(busiest), bytes, note]);
    }
    writeln!(out, "{}", table::text(&table))?;
    if rollout.refused > 0 {
        let refused = Quantity(rollout.refused, "request");
        let refused =
            refused.with_verb("gets no download slot in time and is", "get no download slot in time and are");
        writeln!(out, "{refused} retried.")?;
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
    let skipped = usize::from(do_all_come_online(report));
    let marks = MARKS.iter().map(|mark| share(*mark)).chain([ALL_ONLINE.to_uppercase()]);
    let columns = MARKS.len() + 1 - skipped;
    let headings: Vec<String> = ["WITHOUT".to_owned()].into_iter().chain(marks.take(columns)).collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let numbers: Vec<usize> = (1..=columns).collect();
    let mut table = table::new(&headings, &numbers);
    for cost in costs {
        let times = times(scenario, &cost.lifted).into_iter().take(columns);
        let times = times.map(|time| time.map_or_else(|| "never".to_owned(), span));
        table.add_row([scenario.limit_name(cost.limit)].into_iter().chain(times));
    }
    writeln!(out, "{}\n", table::text(&table))
}

fn write_deadline(report: &PlanReport, reverse: &DeadlineReport, out: &mut String) -> std::fmt::Result {
    let DeadlineReport { deadline, line, spread } = reverse;
    let scenario = &report.scenario;
    let met = if deadline.is_met_by(scenario, &report.rollout) { "met" } else { "not met" };
    let goal = share(deadline.share);
    let mut table = table::new(&[], &[]);
    table.add_row(["deadline".to_owned(), format!("{} for {goal} of clients: {met}", span(deadline.within))]);
    let coming = scenario.appearance.share_at(deadline.within);
    if coming < deadline.share {
        let coming = share(coming);
        let reason = format!("none, and no spread: only {coming} of clients come online by then");
        table.add_row(["smallest line".to_owned(), reason]);
    } else {
        table.add_row(["smallest line".to_owned(), line_answer(scenario, deadline, line)]);
        table.add_rows(spread_answer(scenario, deadline, spread));
    }
    table::pad(&mut table);
    writeln!(out, "{}", table::text(&table))
}

fn current_text(scenario: &Scenario, time: Option<f64>) -> String {
    match time {
        Some(time) => format!("current after {}", span(time)),
        None => format!("not current within {}", span(scenario.horizon)),
    }
}

fn line_answer(scenario: &Scenario, deadline: &Deadline, line: &LineResult) -> String {
    match line {
        LineResult::Smallest(bytes) => {
            let note = if scenario.wan.is_limited() { ", replacing wan.limit" } else { "" };
            format!("{}{note}", rate(*bytes))
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
            format!("none: {best} with the fastest line, {reason}")
        }
    }
}

fn spread_answer(scenario: &Scenario, deadline: &Deadline, spread: &SpreadResult) -> Vec<[String; 2]> {
    let row = |name: &str, text: String| [name.to_owned(), text];
    match spread {
        SpreadResult::Between(shortest, longest) => {
            vec![row("shortest spread", spread_text(*shortest)), row("longest spread", spread_text(*longest))]
        }
        SpreadResult::None { calm_from: None, .. } => {
            let busiest = rate(deadline.busiest);
            vec![row("shortest spread", format!("none: the busiest minute exceeds {busiest}"))]
        }
        SpreadResult::None { calm_from: Some(spread), current_at } => {
            let (spread, current) = (spread_text(*spread), current_text(scenario, *current_at));
            vec![row("shortest spread", format!("none: with {spread} clients are {current}"))]
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
