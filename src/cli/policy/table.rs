//! The output of an explanation: one line for each fact with its cause. Times are in the time zone of the site.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::explanation::{ExplainedUpstream, Explanation, StartTimes, WindowState};
use super::rollout_stage::{ClientView, RolloutStage};
use gupd_config::clock::UnixMillis;
use gupd_config::policy::DenialCause;
use gupd_config::units::Time;

/// Width of the names on the left.
const NAME_WIDTH: usize = 13;

pub(super) fn table(explanation: &Explanation, zone: &TimeZone) -> String {
    let time = |at| time(at, zone);
    let mut lines = vec![
        line("client", format!("{} at {}", explanation.client, time(explanation.time))),
        line("path", &explanation.path),
        line("route", &explanation.route),
        line("class", format!("{}, form {}", explanation.class, explanation.form)),
        line("content type", &explanation.content_type),
        line("group", group(explanation)),
    ];
    if let Some(status) = explanation.denied {
        lines.push(line("denied", format!("clients get {status}: {}", denial(explanation))));
        return lines.join("\n");
    }
    lines.push(line("windows", windows(&explanation.windows, &time)));
    lines.push(line(
        "turn",
        match &explanation.turn {
            Some(start) => turn(start, explanation.time, &time),
            None => {
                "at any time: no windows or spread in the group, or not a payload of a manager".to_owned()
            }
        },
    ));
    if let Some(stage) = &explanation.rollout {
        lines.push(line("ring", ring(stage)));
        lines.push(line("view", view(&stage.view, &time)));
    }
    for limit in &explanation.limits {
        let until = limit.until.map(|until| format!(" until {}", time(until))).unwrap_or_default();
        lines.push(line("limit", format!("{} {}{until}", limit.text, limit.setting)));
    }
    for count in &explanation.counts {
        lines.push(line("downloads", format!("{} {}", count.downloads, count.setting)));
    }
    for upstream in &explanation.upstreams {
        let ExplainedUpstream { priority, name, url } = upstream;
        lines.push(line("upstream", format!("{priority} {name} {url} of the {}", explanation.upstreams_of)));
    }
    lines.join("\n")
}

fn line(name: &str, value: impl AsRef<str>) -> String {
    format!("{name:<NAME_WIDTH$} {}", value.as_ref())
}

fn group(explanation: &Explanation) -> String {
    let group = &explanation.group;
    let because: Vec<String> =
        group.because.iter().map(|because| format!("{} {}", because.setting, because.value)).collect();
    match (&group.place, because.is_empty()) {
        (None, _) => format!("{}: no [[group]] matches", group.name),
        (Some(place), true) => format!("{}: {place} matches all other clients", group.name),
        (Some(place), false) => {
            format!("{}: {place} is the first match, by {}", group.name, because.join(" and "))
        }
    }
}

/// Returns the settings to change, so that the content is served.
fn denial(explanation: &Explanation) -> String {
    let Explanation { content_type, route, group, .. } = explanation;
    let own_group = match &group.place {
        Some(place) => format!("group {} ({place})", group.name),
        None => format!("group {}", group.name),
    };
    let causes = explanation.denied_by.iter().map(|cause| match cause {
        DenialCause::NotAllowed if group.place.is_none() => format!(
            "{content_type} are denied by default: add a [[group]] for this client with allow = [\"{content_type}\"]"
        ),
        DenialCause::NotAllowed => {
            format!("{content_type} are denied by default: add them to allow of {own_group}")
        }
        DenialCause::GroupDeny => format!("{content_type} is in deny of {own_group}: remove it there"),
        DenialCause::RouteDenyDownload => {
            format!("{content_type} is in deny_download of route {route}: remove it there")
        }
    });
    causes.collect::<Vec<_>>().join("; ")
}

fn windows(windows: &WindowState, time: &impl Fn(UnixMillis) -> String) -> String {
    let Some(until) = windows.until else {
        return if windows.open { "always open".to_owned() } else { "never open".to_owned() };
    };
    let then = windows.then.map(time).unwrap_or_default();
    if windows.open {
        format!("open until {}, then open again from {then}", time(until))
    } else {
        format!("closed ({}) until {}, then open until {then}", windows.outside, time(until))
    }
}

fn turn(start: &StartTimes, now: UnixMillis, time: &impl Fn(UnixMillis) -> String) -> String {
    let begins = |at| if at <= now { "now".to_owned() } else { time(at) };
    let span = |seconds| Time(Duration::from_secs_f64(f64::round(seconds)));
    let (new, known) = (begins(start.new), begins(start.known));
    let (offset, spread) = (span(start.offset_seconds), span(start.spread_seconds));
    let revision = &start.revision;
    let offset = format!("offset {offset} in a spread of {spread}, for revision {revision}");
    if new == known {
        return format!("{new}: {offset}");
    }
    format!("{known}, or {new} if no client has requested the revision before: {offset}")
}

fn ring(stage: &RolloutStage) -> String {
    let after = match &stage.after {
        Some(ring) => format!("after ring {ring}"),
        None => "starts at publication".to_owned(),
    };
    let step = match &stage.moves {
        Some(moves) => format!(", step {} of {}: {moves}", stage.step, stage.steps),
        None => String::new(),
    };
    format!("{}, {after}, gate {}{step}", stage.ring, stage.gate.as_str())
}

fn view(view: &ClientView, time: &impl Fn(UnixMillis) -> String) -> String {
    let view = match view {
        ClientView::Known(view) => view,
        ClientView::Unknown(reason) => return reason.clone(),
    };
    let sees = format!("revision {}, published {}", view.revision, time(view.published.0));
    match (view.next, view.at) {
        _ if view.revision == view.newest => format!("{sees}: the newest"),
        (Some(next), Some(at)) => format!("{sees}; revision {next} at {} at the earliest", time(at.0)),
        _ => format!("{sees}; newest is {}: see gupd rollout status", view.newest),
    }
}

fn time(at: UnixMillis, zone: &TimeZone) -> String {
    let time = Timestamp::from_millisecond(at).map(|time| time.to_zoned(zone.clone()));
    time.map_or_else(|_| "no time".to_owned(), |time| time.strftime("%a %F %H:%M:%S").to_string())
}
