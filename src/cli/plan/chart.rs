//! The chart of a plan: WAN rate, LAN rate and current clients over time.

use super::PlanReport;
use super::format::clock;
use crate::chart::{self, Panel, WIDTH, bits, count};
use gupd_config::Quantity;
use gupd_plan::Timeline;

pub(super) fn svg(report: &PlanReport) -> String {
    let timeline = &report.rollout.timeline;
    let until = timeline.end().max(1.0);
    let means = timeline.means(until, WIDTH);
    let panels = [
        Panel {
            title: "WAN",
            colour: "#d9762b",
            values: means.iter().map(|mean| mean.wan * 8.0).collect(),
            label: bits,
        },
        Panel {
            title: "LAN",
            colour: "#3b82c4",
            values: means.iter().map(|mean| mean.lan * 8.0).collect(),
            label: bits,
        },
        Panel { title: "clients current", colour: "#3f9a5f", values: current(timeline, until), label: count },
    ];
    let title = format!(
        "gupd plan: {} from {} on",
        Quantity(report.scenario.clients(), "client"),
        clock(report, 0.0)
    );
    chart::svg(&title, &panels, until)
}

/// Returns the number of current clients at the end of each column.
pub(super) fn current(timeline: &Timeline, until: f64) -> Vec<f64> {
    let moments = timeline.moments();
    let at = |column: usize| {
        // The last column must include the last moment in spite of rounding.
        let time = until * (column + 1) as f64 / WIDTH as f64 + 1e-9 * until;
        let passed = moments.partition_point(|moment| moment.from <= time);
        passed.checked_sub(1).map_or(0.0, |last| f64::from(moments[last].current))
    };
    (0..WIDTH).map(at).collect()
}
