//! Figures for people: bytes, rates, times and shares.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const BYTES: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const BITS: [&str; 4] = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"];

/// Formats bytes with three digits.
pub(super) fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &BYTES)
}

/// Formats bytes per second as bits per second.
pub(super) fn rate(bytes_per_second: u64) -> String {
    scaled(bytes_per_second as f64 * 8.0, 1000.0, &BITS)
}

fn scaled(mut value: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // A value that rounds up to the next unit is shown in that unit.
    while value >= 999.5 && unit + 1 < units.len() {
        (value, unit) = (value / base, unit + 1);
    }
    match value {
        _ if unit == 0 => format!("{value:.0} {}", units[unit]),
        99.95.. => format!("{value:.0} {}", units[unit]),
        9.995.. => format!("{value:.1} {}", units[unit]),
        _ => format!("{value:.2} {}", units[unit]),
    }
}

/// Formats milliseconds in the two largest units.
pub(super) fn span(millis: i64) -> String {
    let seconds = millis / 1_000;
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3_600..172_800 => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Formats a share in whole percent; `–` of nothing.
pub(super) fn percent(part: u64, of: u64) -> String {
    part.saturating_mul(100).checked_div(of).map_or_else(|| "–".to_owned(), |share| format!("{share} %"))
}

/// Formats a time in the zone of the site.
pub(super) fn time(millis: i64, zone: &TimeZone, format: &str) -> String {
    let time = Timestamp::from_millisecond(millis).map(|time| time.to_zoned(zone.clone()));
    time.map_or_else(|_| "never".to_owned(), |time| time.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let figures = [0, 999, 1000, 1 << 20, 5_000_000_000].map(bytes);
        assert_eq!(figures, ["0 B", "999 B", "0.98 KiB", "1.00 MiB", "4.66 GiB"]);
        assert_eq!([0, 1_000_000, 51_600_000].map(rate), ["0 bit/s", "8.00 Mbit/s", "413 Mbit/s"]);
        assert_eq!([percent(1, 3), percent(0, 0)], ["33 %", "–"]);
    }
}
