//! The status of rollouts as tables: clients, revisions, rings, groups, next steps. Times are in the time zone of the
//! site. It fits in 80 columns unless names are long.

use std::fmt::Write;

use indicatif::HumanCount;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::table;
use gupd_config::Quantity;
use gupd_config::clock::UnixMillis;
use gupd_rollout::status::{
    ClientCounts, GroupStatus, RevisionStatus, RingStatus, Status, UpcomingStep, UtcTime,
};

/// Client statuses in the order of their columns.
const LIGHTS: [&str; 4] = ["green", "yellow", "red", "grey"];

pub(super) fn table(status: &Status, zone: &TimeZone) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(status, zone, &mut out);
    out.truncate(out.trim_end().len());
    out
}

/// Formats a time in the zone of the site, such as `%F %H:%M`.
pub(crate) fn time(at: UnixMillis, format: &str, zone: &TimeZone) -> String {
    let time = Timestamp::from_millisecond(at).map(|time| time.to_zoned(zone.clone()));
    time.map_or_else(|_| "never".to_owned(), |time| time.strftime(format).to_string())
}

fn write(status: &Status, zone: &TimeZone, out: &mut String) -> std::fmt::Result {
    let time = |at: UtcTime| time(at.0, "%F %H:%M", zone);
    writeln!(out, "{}: {}", time(status.time), client_counts(&status.clients))?;
    if let Some(since) = status.halted {
        writeln!(out, "halted since {}: views are frozen until gupd rollout resume", time(since))?;
    }
    if status.revisions.is_empty() {
        return writeln!(out, "No revision yet: clients must request catalogs first, or run gupd refresh.");
    }
    writeln!(out, "\n{}\n", revisions_text(&status.revisions, &time))?;
    writeln!(out, "{}\n", rings_text(&status.rings, &time))?;
    writeln!(out, "{}\n", groups_text(&status.groups))?;
    write_next(&status.next, &time, out)
}

fn client_counts(clients: &ClientCounts) -> String {
    let each = LIGHTS.iter().filter_map(|light| {
        let count = clients.lights.get(*light).filter(|count| **count > 0)?;
        Some(format!("{} {light}", HumanCount(*count)))
    });
    let each: Vec<String> = each.collect();
    let of = if each.is_empty() { String::new() } else { format!(", {}", each.join(", ")) };
    format!("{} known{of}", Quantity(clients.known, "client"))
}

fn revisions_text(status: &[RevisionStatus], time: &impl Fn(UtcTime) -> String) -> String {
    let headings = ["REVISION", "PUBLISHED", "CLIENTS", "CATALOGS", "CHANGED", "PAYLOADS", "FOR"];
    let mut table = table::new(&headings, &[0, 2, 3, 4, 5]);
    for revision in status {
        let changed =
            revision.changed.zip(revision.announced).map(|(catalogs, contents)| catalogs + contents);
        let audience = if revision.everyone { "everyone" } else { "rings" };
        table.add_row([
            revision.number.to_string(),
            time(revision.published),
            HumanCount(revision.clients).to_string(),
            HumanCount(revision.present as u64).to_string(),
            changed.map_or_else(|| "-".to_owned(), |changed| HumanCount(changed as u64).to_string()),
            HumanCount(revision.kept).to_string(),
            audience.to_owned(),
        ]);
    }
    with_notes(&table::text(&table), status)
}

/// Adds names and evicted payloads of each revision below its row: with them, a row would exceed 80 columns.
fn with_notes(rows: &str, status: &[RevisionStatus]) -> String {
    let mut rows = rows.lines();
    let mut lines: Vec<String> = rows.next().map(str::to_owned).into_iter().collect();
    for (row, revision) in rows.zip(status) {
        lines.push(row.to_owned());
        if !revision.names.is_empty() {
            lines.push(format!("{:>8}  named {}", "", revision.names.join(", ")));
        }
        if revision.gone > 0 {
            let gone = Quantity(revision.gone, "payload");
            lines.push(format!("{:>8}  {gone} evicted: raise store.quota", ""));
        }
    }
    lines.join("\n")
}

fn rings_text(status: &[RingStatus], time: &impl Fn(UtcTime) -> String) -> String {
    let headings = ["RING", "CLIENTS", "REVISION", "STEPS", "MOVED", "COMPLETE", "GATE"];
    let mut table = table::new(&headings, &[1, 2, 3, 4]);
    for ring in status {
        for (line, seen) in ring.sees.iter().enumerate() {
            let (name, clients, gate) = match line {
                0 => (&*ring.name, HumanCount(ring.clients.known).to_string(), ring.gate.as_str()),
                _ => ("", String::new(), ""),
            };
            let complete = match seen.complete {
                Some(at) => time(at),
                None if seen.moved >= 1.0 => "yes".to_owned(),
                None => "-".to_owned(),
            };
            // Rounded down: 100 % means every client.
            let moved = format!("{}%", (seen.moved * 100.0).floor());
            let (revision, steps) = (seen.revision.to_string(), format!("{}/{}", seen.open, seen.steps));
            table.add_row([name, &clients, &revision, &steps, &moved, &complete, gate]);
        }
    }
    table::text(&table)
}

fn groups_text(status: &[GroupStatus]) -> String {
    let lights = LIGHTS.map(str::to_uppercase);
    let headings: Vec<&str> = ["GROUP", "RING", "CLIENTS"]
        .into_iter()
        .chain(lights.iter().map(|light| &**light))
        .chain(["VIEW"])
        .collect();
    let mut table = table::new(&headings, &[2, 3, 4, 5, 6]);
    for group in status {
        let view = match (group.held, group.released) {
            (Some(held), _) => format!("held at {}", held.revision),
            (None, Some(released)) => format!("released: {}", released.revision),
            (None, None) => "by ring".to_owned(),
        };
        let count =
            |light: &str| HumanCount(group.clients.lights.get(light).copied().unwrap_or(0)).to_string();
        let mut row =
            vec![group.name.to_string(), group.ring.clone(), HumanCount(group.clients.known).to_string()];
        row.extend(LIGHTS.map(count));
        row.push(view);
        table.add_row(row);
    }
    table::text(&table)
}

fn write_next(
    status: &[UpcomingStep],
    time: &impl Fn(UtcTime) -> String,
    out: &mut String,
) -> std::fmt::Result {
    if status.is_empty() {
        return writeln!(out, "Every ring is open for every revision.");
    }
    writeln!(out, "NEXT")?;
    for UpcomingStep { revision, ring, step, steps, opens, begins, complete, blocked, .. } in status {
        let step = if *steps > 1 { format!(", step {step} of {steps}") } else { String::new() };
        write!(out, "revision {revision}, ring {ring}{step}: ")?;
        match (blocked, opens) {
            (Some(blocked), _) => writeln!(out, "{blocked}")?,
            (None, Some(opens)) => {
                writeln!(out, "opens {}", time(*opens))?;
                if let (Some(begins), Some(complete)) = (begins, complete) {
                    let begins = if begins > opens {
                        format!("moves clients from {}, ", time(*begins))
                    } else {
                        String::new()
                    };
                    writeln!(out, "  {begins}complete {}", time(*complete))?;
                }
            }
            (None, None) => writeln!(out, "not yet")?,
        }
    }
    Ok(())
}
