//! Tables and figures of commands for people: one layout for all of them. Text of clients and managers loses its control
//! characters, because it goes to a terminal.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};

/// Units of bytes, in powers of 1,024.
const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];

/// Creates a table with these headings. `numbers` are the columns that are aligned at the right.
pub(crate) fn new(headings: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if !headings.is_empty() {
        table.set_header(headings.to_vec());
    }
    pad(&mut table);
    for &number in numbers {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Separates the columns. A table without headings has them only when its rows are there.
pub(crate) fn pad(table: &mut Table) {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
}

/// Returns the lines of a table without trailing space.
pub(crate) fn text(table: &Table) -> String {
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Formats bytes with three digits.
pub(crate) fn bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // A value that rounds up to the next unit is shown in that unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let digits = match value {
        99.95.. => format!("{value:.0}"),
        9.995.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    format!("{digits} {}", UNITS[unit])
}

/// Formats milliseconds in the two largest units.
pub(crate) fn span(millis: u64) -> String {
    let seconds = millis / 1_000;
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..172_800 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Returns text without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let figures = [0, 1023, 1024, 10_239, 102_400, 1_048_575, 1 << 20, 5 << 40].map(bytes);
        assert_eq!(
            figures,
            ["0 B", "1023 B", "1.00 KiB", "10.0 KiB", "100 KiB", "1.00 MiB", "1.00 MiB", "5.00 TiB"]
        );
        let spans = [5, 59_000, 61_000, 3_660_000, 200_000_000].map(span);
        assert_eq!(spans, ["5ms", "59s", "1m 01s", "1h 01m", "2d 07h"]);
    }

    #[test]
    fn table_is_aligned_without_trailing_space() {
        let mut table = new(&["BYTES", "CLIENT"], &[0]);
        table.add_row(["1", "a"]).add_row(["1000", &printable("b\x1b[2J")]);
        assert_eq!(text(&table), "BYTES  CLIENT\n    1  a\n 1000  b\u{fffd}[2J");
    }
}
