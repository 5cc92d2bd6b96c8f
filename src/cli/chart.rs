//! Charts of quantities over time, written as SVG without a file or script of their own. They have no background, and
//! their grey is readable on light and dark.

use std::fmt::Write;

use crate::plan::{rate, span};

/// Pixel columns of a chart: each panel has a value for each.
pub(super) const WIDTH: usize = 720;
const PANEL: f64 = 120.0;
const GAP: f64 = 44.0;
const LEFT: f64 = 92.0;
const TOP: f64 = 40.0;
const GREY: &str = "#808080";

/// Steps of the time axis in seconds, along the divisions of clocks and calendars.
const STEPS: [f64; 22] = [
    1.0,
    2.0,
    5.0,
    10.0,
    15.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
    900.0,
    1_800.0,
    3_600.0,
    7_200.0,
    10_800.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
];

/// A quantity over time, one value for each pixel column.
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) colour: &'static str,
    pub(super) values: Vec<f64>,
    pub(super) label: fn(f64) -> String,
}

/// Returns a document with the panels below each other, which end at `until` seconds.
pub(super) fn svg(title: &str, panels: &[Panel], until: f64) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = draw(title, panels, until, &mut out);
    out
}

fn draw(title: &str, panels: &[Panel], until: f64, out: &mut String) -> std::fmt::Result {
    let (width, height) = (LEFT + WIDTH as f64 + 28.0, TOP + panels.len() as f64 * (PANEL + GAP) + 4.0);
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="{GREY}">"#
    )?;
    writeln!(out, "<title>{title}</title>\n<text x=\"{LEFT}\" y=\"16\" font-size=\"14\">{title}</text>")?;
    for (index, panel) in panels.iter().enumerate() {
        panel.draw(TOP + index as f64 * (PANEL + GAP), until, out)?;
    }
    writeln!(out, "</svg>")
}

impl Panel {
    fn draw(&self, top: f64, until: f64, out: &mut String) -> std::fmt::Result {
        let Self { title, colour, values, label } = self;
        let most = values.iter().copied().fold(0.0, f64::max);
        let step = round_step(most / 4.0);
        let full = (most / step - ROUNDING).ceil().max(1.0) * step;
        let bottom = top + PANEL;
        let y = |value: f64| bottom - value / full * PANEL;
        let right = LEFT + WIDTH as f64;
        writeln!(out, r#"<text x="{LEFT}" y="{:.1}" fill="{colour}">{title}</text>"#, top - 6.0)?;
        for line in 0..=(full / step).round() as u32 {
            let value = f64::from(line) * step;
            let at = y(value);
            writeln!(out, r#"<path d="M{LEFT} {at:.1}H{right}" stroke="{GREY}" stroke-opacity="0.3"/>"#)?;
            let text = label(value);
            writeln!(
                out,
                r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
                LEFT - 6.0,
                at + 4.0
            )?;
        }
        let step = STEPS.into_iter().find(|step| until / step <= 8.0).unwrap_or(until / 8.0);
        for line in 0..=(until / step) as u32 {
            let time = f64::from(line) * step;
            let x = LEFT + time / until * WIDTH as f64;
            writeln!(
                out,
                r#"<path d="M{x:.1} {top}V{:.1}" stroke="{GREY}" stroke-opacity="0.3"/>"#,
                bottom + 4.0
            )?;
            let text = tick(time);
            writeln!(out, r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#, bottom + 17.0)?;
        }
        write!(out, r#"<path d="M{LEFT} {bottom}"#)?;
        let mut last = None;
        for (column, value) in values.iter().enumerate() {
            // Rounded to tenths of a pixel. A column of equal height extends the line of the one before.
            let height = (y(*value) * 10.0).round() / 10.0;
            if last.replace(height) != Some(height) {
                write!(out, "H{}V{height}", LEFT + column as f64)?;
            }
        }
        writeln!(
            out,
            r#"H{right}V{bottom}Z" fill="{colour}" fill-opacity="0.25" stroke="{colour}" stroke-width="1.5" stroke-linejoin="round"/>"#
        )
    }
}

/// Relative error of sums of rates.
const ROUNDING: f64 = 1e-6;

/// Returns the next of 1, 2 and 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| step * (1.0 + ROUNDING) >= least)
        .unwrap_or(10.0 * power)
}

/// Formats a rate in bits. The axis is in bits, so that its round steps have round labels.
pub(super) fn bits(value: f64) -> String {
    rate(value / 8.0)
}

/// Formats a count.
pub(super) fn count(value: f64) -> String {
    format!("{value:.0}")
}

/// Formats a time on the axis without units of 0.
fn tick(seconds: f64) -> String {
    let text = span(seconds);
    match () {
        () if seconds == 0.0 => "0".to_owned(),
        () if seconds % 86_400.0 == 0.0 => format!("{}d", seconds / 86_400.0),
        () if seconds < 10.0 => format!("{seconds:.0}s"),
        () => ["00s", "00m", "00h"]
            .into_iter()
            .find_map(|zero| text.strip_suffix(zero))
            .unwrap_or(&text)
            .trim()
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_steps_and_short_labels() {
        assert_eq!([0.0, 0.3, 1.0, 1.1, 34.0, 7e6].map(round_step), [1.0, 0.5, 1.0, 2.0, 50.0, 1e7]);
        let ticks = [0.0, 5.0, 30.0, 90.0, 7_200.0, 86_400.0, 172_800.0].map(tick);
        assert_eq!(ticks, ["0", "5s", "30s", "1m 30s", "2h", "1d", "2d"]);
    }
}
