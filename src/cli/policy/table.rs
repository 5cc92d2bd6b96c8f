//! An explanation for people: one line for each thing that is so, and behind it what makes it so. Times are the site's.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::explanation::{Asked, Explanation, Moment, Windows};
use super::stage::{Stage, View};
use gupd_config::clock::UnixMillis;
use gupd_config::units::Time;

/// Columns of the names on the left.
const NAMES: usize = 13;

pub(super) fn table(said: &Explanation, zone: &TimeZone) -> String {
    let time = |at| time(at, zone);
    let mut lines = vec![
        line("client", format!("{} at {}", said.client, time(said.time))),
        line("path", &said.path),
        line("route", &said.route),
        line("class", format!("{}, form {}", said.class, said.form)),
        line("content type", &said.content_type),
        line("group", group(said)),
    ];
    if let Some(status) = said.denied {
        lines.push(line(
            "denied",
            format!("clients of this group get {status}: see deny of the group, deny_download of the route"),
        ));
        return lines.join("\n");
    }
    lines.push(line("windows", windows(&said.windows, &time)));
    lines.push(line(
        "turn",
        match &said.turn {
            Some(moment) => turn(moment, said.time, &time),
            None => "at any time: the group has no windows or spread, or this is no payload of a manager"
                .to_owned(),
        },
    ));
    if let Some(stage) = &said.rollout {
        lines.push(line("ring", ring(stage)));
        lines.push(line("view", view(&stage.view, &time)));
    }
    for limit in &said.limits {
        let until = limit.until.map(|until| format!(" until {}", time(until))).unwrap_or_default();
        lines.push(line("limit", format!("{} {}{until}", limit.told, limit.setting)));
    }
    for count in &said.counts {
        lines.push(line("downloads", format!("{} {}", count.downloads, count.setting)));
    }
    for upstream in &said.upstreams {
        let Asked { priority, name, url } = upstream;
        lines.push(line("upstream", format!("{priority} {name} {url} of the {}", said.upstreams_of)));
    }
    lines.join("\n")
}

fn line(name: &str, value: impl AsRef<str>) -> String {
    format!("{name:<NAMES$} {}", value.as_ref())
}

fn group(said: &Explanation) -> String {
    let group = &said.group;
    let because: Vec<String> =
        group.because.iter().map(|because| format!("{} {}", because.setting, because.value)).collect();
    match (&group.place, because.is_empty()) {
        (None, _) => format!("{}: no [[group]] takes it", group.name),
        (Some(place), true) => format!("{}: {place} takes all others", group.name),
        (Some(place), false) => {
            format!("{}: {place} is the first that takes it, by {}", group.name, because.join(" and "))
        }
    }
}

fn windows(windows: &Windows, time: &impl Fn(UnixMillis) -> String) -> String {
    let Some(until) = windows.until else {
        return if windows.open { "always open".to_owned() } else { "never open".to_owned() };
    };
    let then = windows.then.map(time).unwrap_or_default();
    if windows.open {
        format!("open until {}, and again from {then}", time(until))
    } else {
        format!("closed ({}) until {}, then open until {then}", windows.outside, time(until))
    }
}

fn turn(moment: &Moment, now: UnixMillis, time: &impl Fn(UnixMillis) -> String) -> String {
    let begins = |at| if at <= now { "now".to_owned() } else { time(at) };
    let span = |seconds| Time(Duration::from_secs_f64(f64::round(seconds)));
    let (new, known) = (begins(moment.new), begins(moment.known));
    let (offset, spread) = (span(moment.offset_seconds), span(moment.spread_seconds));
    let revision = &moment.revision;
    let own = format!("{offset} into {spread} of spread, for revision {revision}");
    if new == known {
        return format!("{new}: {own}");
    }
    format!("{known}, or {new} if nobody has asked for the revision before: {own}")
}

fn ring(stage: &Stage) -> String {
    let after = match &stage.after {
        Some(ring) => format!("after ring {ring}"),
        None => "begins with publication".to_owned(),
    };
    let step = match &stage.moves {
        Some(moves) => format!(", step {} of {}: {moves}", stage.step, stage.steps),
        None => String::new(),
    };
    format!("{}, {after}, gate {}{step}", stage.ring, stage.gate.as_str())
}

fn view(view: &View, time: &impl Fn(UnixMillis) -> String) -> String {
    let view = match view {
        View::Known(view) => view,
        View::Unknown(why) => return why.clone(),
    };
    let sees = format!("revision {}, published {}", view.revision, time(view.published.0));
    match (view.next, view.at) {
        _ if view.revision == view.newest => format!("{sees}: the newest"),
        (Some(next), Some(at)) => format!("{sees}; revision {next} from {} at the earliest", time(at.0)),
        _ => format!("{sees}; the newest is {}: see gupd rollout status", view.newest),
    }
}

fn time(at: UnixMillis, zone: &TimeZone) -> String {
    let time = Timestamp::from_millisecond(at).map(|time| time.to_zoned(zone.clone()));
    time.map_or_else(|_| "no time".to_owned(), |time| time.strftime("%a %F %H:%M:%S").to_string())
}
