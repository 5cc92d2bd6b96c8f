//! Charts as SVG with a table of the same figures: stacked columns of bytes over time, one column for an interval. Each
//! part has a tooltip; the table is for readers without the chart.

use std::collections::BTreeMap;

use gupd_ledger::TrafficPoint;
use gupd_net::traffic::TransferCause;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use super::text::{bytes, time};

const WIDTH: i64 = 720;
const HEIGHT: i64 = 180;
const BOTTOM: i64 = 24;
const LEFT: i64 = 76;

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
                @for tick in 0..=4 {
                    @let at = begin + (until - begin) / 4 * tick;
                    text class="tick" x=(LEFT + (WIDTH - LEFT) * tick / 4) y=(HEIGHT + 16)
                        text-anchor=(match tick { 0 => "start", 4 => "end", _ => "middle" }) {
                        (time(at * 1_000, zone, if interval >= 86_400 { "%b %d" } else { "%a %H:%M" }))
                    }
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
