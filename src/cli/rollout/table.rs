//! The status of rollouts as tables: clients, revisions, rings, groups, next steps. Times are in the time zone of the
//! site. It fits in 80 columns unless names are long.

use std::fmt::Write;

use indicatif::HumanCount;
use jiff::Timestamp;
use jiff::tz::TimeZone;

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
    write_revisions(&status.revisions, &time, out)?;
    write_rings(&status.rings, &time, out)?;
    write_groups(&status.groups, out)?;
    write_next(&status.next, &time, out)
}

fn client_counts(clients: &ClientCounts) -> String {
    let each = LIGHTS.iter().filter_map(|light| {
        let count = clients.lights.get(*light).filter(|count| **count > 0)?;
        Some(format!("{} {light}", HumanCount(*count)))
    });
    let each: Vec<String> = each.collect();
    let of = if each.is_empty() { String::new() } else { format!(", {}", each.join(", ")) };
    format!("{} clients known{of}", HumanCount(clients.known))
}

fn write_revisions(
    status: &[RevisionStatus],
    time: &impl Fn(UtcTime) -> String,
    out: &mut String,
) -> std::fmt::Result {
    writeln!(
        out,
        "\n{:>8}  {:<16}  {:>8}  {:>8}  {:>7}  {:>8}  FOR",
        "REVISION", "PUBLISHED", "CLIENTS", "CATALOGS", "CHANGED", "PAYLOADS"
    )?;
    for revision in status {
        let changed =
            revision.changed.zip(revision.announced).map(|(catalogs, contents)| catalogs + contents);
        writeln!(
            out,
            "{:>8}  {:<16}  {:>8}  {:>8}  {:>7}  {:>8}  {}",
            revision.number,
            time(revision.published),
            HumanCount(revision.clients).to_string(),
            HumanCount(revision.present as u64).to_string(),
            changed.map_or_else(|| "-".to_owned(), |changed| HumanCount(changed as u64).to_string()),
            HumanCount(revision.kept).to_string(),
            if revision.everyone { "everyone" } else { "rings" },
        )?;
        if !revision.names.is_empty() {
            writeln!(out, "{:>8}  named {}", "", revision.names.join(", "))?;
        }
        if revision.gone > 0 {
            let gone = HumanCount(revision.gone);
            writeln!(out, "{:>8}  {gone} payloads evicted: raise store.quota", "")?;
        }
    }
    writeln!(out)
}

fn write_rings(
    status: &[RingStatus],
    time: &impl Fn(UtcTime) -> String,
    out: &mut String,
) -> std::fmt::Result {
    let width = width("RING", status.iter().map(|ring| ring.name.as_str()));
    writeln!(
        out,
        "{:<width$}  {:>9}  {:>8}  {:>5}  {:>5}  {:<16}  GATE",
        "RING", "CLIENTS", "REVISION", "STEPS", "MOVED", "COMPLETE"
    )?;
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
            let steps = format!("{}/{}", seen.open, seen.steps);
            // Rounded down: 100 % means every client.
            let moved = format!("{}%", (seen.moved * 100.0).floor());
            let line = format!(
                "{name:<width$}  {clients:>9}  {:>8}  {steps:>5}  {moved:>5}  {complete:<16}  {gate}",
                seen.revision
            );
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    writeln!(out)
}

fn write_groups(status: &[GroupStatus], out: &mut String) -> std::fmt::Result {
    let width = width("GROUP", status.iter().map(|group| &*group.name));
    let ring_width = self::width("RING", status.iter().map(|group| group.ring.as_str()));
    write!(out, "{:<width$}  {:<ring_width$}  {:>8}", "GROUP", "RING", "CLIENTS")?;
    for light in LIGHTS {
        write!(out, "  {:>6}", light.to_uppercase())?;
    }
    writeln!(out, "  VIEW")?;
    for group in status {
        let known = HumanCount(group.clients.known).to_string();
        write!(out, "{:<width$}  {:<ring_width$}  {known:>8}", group.name, group.ring)?;
        for light in LIGHTS {
            let count = group.clients.lights.get(light).copied().unwrap_or(0);
            write!(out, "  {:>6}", HumanCount(count).to_string())?;
        }
        match (group.held, group.released) {
            (Some(held), _) => writeln!(out, "  held at {}", held.revision)?,
            (None, Some(released)) => writeln!(out, "  released: {}", released.revision)?,
            (None, None) => writeln!(out, "  by ring")?,
        }
    }
    writeln!(out)
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

fn width<'a>(heading: &str, names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|name| name.chars().count()).chain([heading.len()]).max().unwrap_or(0)
}
