//! The record of a demo: one HTML file with the measurements, charts of the update and the scenes of the tour. It loads
//! nothing from elsewhere.

use std::time::Duration;

use maud::{DOCTYPE, PreEscaped, html};

use super::report::{DemoReport, Snapshot};
use super::tour::Scene;
use crate::chart::{self, Panel, WIDTH, bits, count};
use gupd_config::Quantity;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:54rem;margin:2rem auto;padding:0 1rem;\
    color-scheme:light dark}table{border-collapse:collapse}td{padding:.15rem 1rem .15rem 0}\
    td:nth-child(2){text-align:right;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}\
    pre{white-space:pre-wrap}.failed{color:#c0392b}";

/// Returns the page.
pub(super) fn page(report: &DemoReport, samples: &[Snapshot], scenes: &[Scene]) -> String {
    let title =
        format!("gupd demo: {} behind {} Mbit/s", Quantity(report.goal.clients, "client"), report.megabits());
    html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { (title) } style { (PreEscaped(STYLE)) } }
            body {
                h1 { (title) }
                p { "A manager, a slow line, the relay and the clients of a site, all on one machine." }
                (PreEscaped(chart(samples)))
                table {
                    @for (name, value, note) in report.rows() {
                        tr { td { (name) } td { (value) } td { (note) } }
                    }
                }
                @for (client, failure) in report.failures() {
                    p.failed { (client) ": " (failure) }
                }
                @for scene in scenes {
                    h2 { (scene.title) }
                    pre { (scene.lines.join("\n")) }
                    @if let Some(failure) = &scene.failure { p.failed { (failure) } }
                }
                p { "gupd " (env!("CARGO_PKG_VERSION")) }
            }
        }
    }
    .into_string()
}

/// Returns the rates of line and LAN and the clients that are done, over the time of the update.
fn chart(samples: &[Snapshot]) -> String {
    let until = samples.last().map_or(1.0, |last| last.elapsed.as_secs_f64().max(1.0));
    let rate = |bytes: fn(&Snapshot) -> u64| {
        columns(samples, until, move |from, to| {
            let seconds = (to.elapsed - from.elapsed).as_secs_f64();
            if seconds > 0.0 { (bytes(to) - bytes(from)) as f64 * 8.0 / seconds } else { 0.0 }
        })
    };
    let panels = [
        Panel { title: "WAN", colour: "#d9762b", values: rate(|sample| sample.crossed), label: bits },
        Panel { title: "LAN", colour: "#3b82c4", values: rate(|sample| sample.received), label: bits },
        Panel {
            title: "clients done",
            colour: "#3f9a5f",
            values: columns(samples, until, |_, to| to.done as f64),
            label: count,
        },
    ];
    chart::svg("Update of all clients", &panels, until)
}

/// Returns a value for each column, of the samples around it.
fn columns(samples: &[Snapshot], until: f64, value: impl Fn(&Snapshot, &Snapshot) -> f64) -> Vec<f64> {
    let at = |column: usize| {
        let time = Duration::from_secs_f64(until * (column + 1) as f64 / WIDTH as f64);
        let next =
            samples.partition_point(|sample| sample.elapsed < time).min(samples.len().saturating_sub(1));
        match (next.checked_sub(1).and_then(|before| samples.get(before)), samples.get(next)) {
            (Some(from), Some(to)) => value(from, to),
            _ => 0.0,
        }
    };
    (0..WIDTH).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(millis: u64, done: usize, crossed: u64) -> Snapshot {
        Snapshot { elapsed: Duration::from_millis(millis), done, received: 2 * crossed, crossed }
    }

    #[test]
    fn columns_have_the_rate_between_samples() {
        let samples = [sample(0, 0, 0), sample(500, 0, 500), sample(1_000, 2, 500)];
        let rates = columns(&samples, 1.0, |from, to| (to.crossed - from.crossed) as f64);
        assert_eq!((rates[0], rates[WIDTH / 2 - 2], rates[WIDTH - 1]), (500.0, 500.0, 0.0));
        assert!(columns(&[], 1.0, |_, _| 1.0).iter().all(|value| *value == 0.0));
        let svg = chart(&samples);
        assert!(svg.starts_with("<svg") && svg.contains("clients done") && svg.ends_with("</svg>\n"));
    }
}
