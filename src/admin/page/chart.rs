//! Charts as SVG with a table of the same figures: stacked columns of bytes over time, one column for an interval. Each
//! part has a tooltip; the table is for readers without the chart.

use std::collections::BTreeMap;

use gupd_ledger::TrafficPoint;
use gupd_net::traffic::TransferCause;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use super::text::{bytes, time};

pub(super) const WIDTH: i64 = 720;
pub(super) const HEIGHT: i64 = 180;
const BOTTOM: i64 = 24;
pub(super) const LEFT: i64 = 76;

/// Columns at most: more would be thinner than a pixel on a phone.
const MAX_COLUMNS: i64 = 200;

/// Draws bytes by cause from `since` to `until`, in seconds, with a column for each `interval`.
pub(super) fn stacked_columns(
    points: &[TrafficPoint],
    (since, until): (i64, i64),
    interval: i64,
    zone: &TimeZone,
) -> Markup {
    let interval = interval.max(1).max((until - since) / MAX_COLUMNS);
    let mut columns: BTreeMap<i64, [u64; TransferCause::ALL.len()]> = BTreeMap::new();
    for point in points.iter().filter(|point| (since - interval..=until).contains(&point.at)) {
        let cause = TransferCause::ALL.iter().position(|cause| cause.as_str() == point.cause);
        let column = columns.entry(point.at - point.at.rem_euclid(interval)).or_default();
        let part = &mut column[cause.unwrap_or(TransferCause::ALL.len() - 1)];
        *part = part.saturating_add(point.received);
    }
    let most = columns.values().map(|column| column.iter().sum::<u64>()).max().unwrap_or(0);
    if most == 0 {
        return html! { p class="quiet" { "Nothing crossed the line in this time." } };
    }
    let begin = since - since.rem_euclid(interval);
    let count = ((until - begin) / interval + 1).max(1);
    let step = (WIDTH - LEFT) as f64 / count as f64;
    let used = causes(&columns);
    html! {
        figure {
            svg viewBox=(format!("0 0 {WIDTH} {}", HEIGHT + BOTTOM)) role="img"
                aria-label="Bytes received from upstreams over time, by cause; the table below has the same figures" {
                @for part in 0..=2_u64 {
                    @let y = HEIGHT as f64 * (1.0 - part as f64 / 2.0 * 0.95);
                    line class="grid" x1=(LEFT) x2=(WIDTH) y1=(format!("{y:.1}")) y2=(format!("{y:.1}")) {}
                    text class="tick" x=(LEFT - 6) y=(format!("{:.1}", y.max(10.0))) text-anchor="end" {
                        (bytes(most / 2 * part))
                    }
                }
                @for (at, column) in &columns {
                    @let x = LEFT as f64 + ((at - begin) / interval) as f64 * step;
                    (stack(column, x, step, most, &time(at * 1_000, zone, "%a %H:%M")))
                }
                @for (at, label) in clock_ticks(begin, begin + count * interval, zone) {
                    @let x = LEFT as f64 + (at - begin) as f64 / interval as f64 * step;
                    (tick(x, &label))
                }
            }
            figcaption {
                @for cause in &used {
                    span class="key" { span class=(format!("swatch c{cause}")) {} (TransferCause::ALL[*cause].as_str()) }
                }
            }
        }
        (table(&columns, &used, zone))
    }
}

/// Draws the label of a time below the axis. A label at the right edge ends there.
pub(super) fn tick(x: f64, label: &str) -> Markup {
    let is_at_edge = x > WIDTH as f64 - 20.0;
    let anchor = if is_at_edge { "end" } else { "middle" };
    html! { text class="tick" x=(format!("{x:.1}")) y=(HEIGHT + 16) text-anchor=(anchor) { (label) } }
}

/// Returns the round times of the local clock between two times, at most nine, with their labels.
pub(super) fn clock_ticks(begin: i64, end: i64, zone: &TimeZone) -> Vec<(i64, String)> {
    const MAX_TICKS: i64 = 8;
    /// Every time zone of this century has an offset of whole quarters of an hour.
    const QUARTER: i64 = 900;
    let steps = [1, 3, 6, 12, 24, 2 * 24, 4 * 24, 7 * 24, 14 * 24, 28 * 24].map(|hours| hours * 3_600);
    let length = end.saturating_sub(begin);
    let Some(step) = steps.into_iter().find(|step| length / step <= MAX_TICKS) else { return Vec::new() };
    let local = |at: i64| {
        let offset = Timestamp::from_second(at).map_or(0, |at| i64::from(zone.to_offset(at).seconds()));
        at.saturating_add(offset)
    };
    let first = begin.saturating_add(QUARTER - 1);
    let quarters =
        std::iter::successors(Some(first - first.rem_euclid(QUARTER)), |at| at.checked_add(QUARTER));
    let round = quarters.take_while(|at| *at <= end).filter(|at| local(*at).rem_euclid(step) == 0);
    let format = match step {
        ..86_400 if length <= 26 * 3_600 => "%H:%M",
        ..86_400 => "%a %H:%M",
        _ => "%b %d",
    };
    round.map(|at| (at, time(at * 1_000, zone, format))).collect()
}

/// Draws one column, its first cause at the bottom.
fn stack(column: &[u64], x: f64, step: f64, most: u64, when: &str) -> Markup {
    let scale = |bytes: u64| bytes as f64 / most as f64 * HEIGHT as f64 * 0.95;
    let parts = column.iter().enumerate().scan(0, |below: &mut u64, (cause, received)| {
        *below = below.saturating_add(*received);
        Some((cause, *received, HEIGHT as f64 - scale(*below)))
    });
    html! {
        @for (cause, received, top) in parts.filter(|(_, received, _)| *received > 0) {
            rect class=(format!("c{cause}")) x=(format!("{x:.1}")) y=(format!("{top:.1}"))
                width=(format!("{:.1}", (step - 0.5).max(0.5))) height=(format!("{:.1}", scale(received).max(0.5))) {
                title { (when) ": " (TransferCause::ALL[cause].as_str()) ", " (bytes(received)) }
            }
        }
    }
}

fn causes(columns: &BTreeMap<i64, [u64; TransferCause::ALL.len()]>) -> Vec<usize> {
    (0..TransferCause::ALL.len()).filter(|cause| columns.values().any(|column| column[*cause] > 0)).collect()
}

fn table(
    columns: &BTreeMap<i64, [u64; TransferCause::ALL.len()]>,
    used: &[usize],
    zone: &TimeZone,
) -> Markup {
    html! {
        details {
            summary { "Table of these figures" }
            div class="scroll" tabindex="0" role="region" aria-label="Table of the chart" {
                table {
                    thead { tr {
                        th scope="col" { "From" }
                        @for cause in used { th scope="col" class="number" { (TransferCause::ALL[*cause].as_str()) } }
                    } }
                    tbody {
                        @for (at, column) in columns.iter().rev() {
                            tr {
                                th scope="row" { (time(at * 1_000, zone, "%F %H:%M")) }
                                @for cause in used { td class="number" { (bytes(column[*cause])) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at: i64, cause: &str, received: u64) -> TrafficPoint {
        TrafficPoint { at, cause: cause.to_owned(), received }
    }

    fn draw(points: &[TrafficPoint], range: (i64, i64)) -> String {
        stacked_columns(points, range, 3_600, &TimeZone::UTC).into_string()
    }

    #[test]
    fn chart_has_a_tooltip_and_a_table_cell_for_each_part() {
        let points =
            [point(3_600, "client-miss", 1_000), point(3_600, "prefetch", 2_000), point(7_200, "new", 5)];
        let text = draw(&points, (0, 10_800));
        assert_eq!(text.matches("<rect").count(), 3);
        assert!(text.contains("<title>Thu 01:00: client-miss, 0.98 KiB</title>"), "{text}");
        assert!(text.contains("<td class=\"number\">1.95 KiB</td>"), "{text}");
    }

    #[test]
    fn ticks_are_round_times_of_the_local_clock() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let ticks = |begin: &str, hours: i64, zone: &TimeZone| {
            let begin = begin.parse::<Timestamp>().unwrap().as_second();
            clock_ticks(begin, begin + hours * 3_600, zone)
                .into_iter()
                .map(|(_, label)| label)
                .collect::<Vec<_>>()
        };
        let day = ["00:00", "03:00", "06:00", "09:00", "12:00", "15:00", "18:00", "21:00", "00:00"];
        assert_eq!(ticks("2026-06-01T22:00:00Z", 24, &zone), day);
        // The day on which clocks are set forward has 23 hours.
        assert_eq!(ticks("2026-03-28T23:00:00Z", 23, &zone)[..3], ["00:00", "03:00", "06:00"]);
        assert_eq!(ticks("2026-06-01T09:17:00Z", 5, &zone), ["12:00", "13:00", "14:00", "15:00", "16:00"]);
        let kolkata = TimeZone::get("Asia/Kolkata").unwrap();
        assert_eq!(ticks("2026-06-01T09:17:00Z", 2, &kolkata), ["15:00", "16:00"]);
        let week = ticks("2026-06-01T09:17:00Z", 7 * 24, &zone);
        assert_eq!((week.len(), &*week[0]), (7, "Jun 02"));
        assert!(clock_ticks(0, i64::MAX, &zone).is_empty() && clock_ticks(5, -5, &zone).is_empty());
    }

    #[test]
    fn chart_survives_a_clock_that_was_set_back() {
        for (points, range) in [
            (vec![point(1 << 60, "client-miss", 5)], (0, 3_600)),
            (vec![point(0, "client-miss", u64::MAX >> 1)], (3_600, 0)),
            (vec![point(-5, "client-miss", 5)], (-10, -1)),
            (Vec::new(), (0, i64::MAX >> 1)),
        ] {
            let text = draw(&points, range);
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }
}
