//! Sizes, times and rates in the form that people write: `40GiB`, `30d`, `20MiB/s`, `8Mbit/s`. Every value shown parses
//! to the same value, and no input overflows or panics. The range of a value is up to its setting.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A size in bytes. Parses `40GiB` (powers of 1,024), `1MB` (powers of 1,000) or plain bytes; shows the largest binary
/// unit that divides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A time span. Parses `30d`, `4h`, `15m`, `10s`, `300ms`; a unit is always needed. Shows whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

/// A rate in bytes a second. Parses a size, or bits such as `8Mbit` (powers of 1,000, to whole bytes), followed by
/// `/s`; shows the largest binary unit that divides it, else the largest unit of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

/// Error of parsing a size, time or rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a number followed by a unit of sizes.
    #[error("{0:?} is not a size: write it like 40GiB")]
    NotASize(String),
    /// Not a number followed by a unit of times.
    #[error("{0:?} is not a time: write it like 30d, 4h, 15m, 10s or 300ms")]
    NotATime(String),
    /// Not a size or a number of bits, followed by `/s`.
    #[error("{0:?} is not a rate: write it like 20MiB/s or 8Mbit/s")]
    NotARate(String),
    /// More than 2^64 − 1 bytes or milliseconds.
    #[error("{0:?} is too large")]
    TooLarge(String),
}

/// Bytes in a KiB.
pub const KIB: u64 = 1 << 10;
/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes in a GiB.
pub const GIB: u64 = 1 << 30;
/// Bytes in a TiB.
pub const TIB: u64 = 1 << 40;

// Largest first, for showing; the decimal units are only read.
const SIZE_UNITS: [(&str, u64); 4] = [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];
const DECIMAL_UNITS: [(&str, u64); 5] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000), ("KB", 1_000)];
// Largest first, for showing.
const BIT_UNITS: [(&str, u64); 5] =
    [("Tbit", 1_000_000_000_000), ("Gbit", 1_000_000_000), ("Mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];
const BITS: u64 = 8;
// In milliseconds.
const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (digits, unit) = split(text);
        let factor = match unit {
            "" | "B" => Some(1),
            _ => SIZE_UNITS.iter().chain(&DECIMAL_UNITS).find(|(name, _)| *name == unit).map(|(_, f)| *f),
        };
        match factor {
            Some(factor) if !digits.is_empty() => scale(text, digits, factor).map(Self),
            _ => Err(UnitError::NotASize(text.to_owned())),
        }
    }
}

impl FromStr for Time {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (digits, unit) = split(text);
        match TIME_UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, factor)) if !digits.is_empty() => {
                scale(text, digits, *factor).map(|millis| Self(Duration::from_millis(millis)))
            }
            _ => Err(UnitError::NotATime(text.to_owned())),
        }
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let not_a_rate = || UnitError::NotARate(text.to_owned());
        let amount = text.trim().strip_suffix("/s").ok_or_else(not_a_rate)?;
        let (digits, unit) = split(amount);
        if let Some((_, factor)) = BIT_UNITS.iter().find(|(name, _)| *name == unit)
            && !digits.is_empty()
        {
            return scale(text, digits, *factor).map(|bits| Self(bits / BITS));
        }
        match amount.parse() {
            Ok(Size(bytes)) => Ok(Self(bytes)),
            Err(UnitError::TooLarge(_)) => Err(UnitError::TooLarge(text.to_owned())),
            Err(_) => Err(not_a_rate()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0.checked_mul(BITS).filter(|bits| *bits > 0 && !self.0.is_multiple_of(KIB));
        let shown = bits.and_then(|bits| {
            let (unit, factor) = BIT_UNITS.iter().find(|(_, factor)| bits.is_multiple_of(*factor))?;
            let count = bits.checked_div(*factor)?;
            (*factor > 1).then_some((count, unit))
        });
        match shown {
            Some((count, unit)) => write!(f, "{count}{unit}/s"),
            None => write!(f, "{}/s", Size(self.0)),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        match unit.and_then(|(unit, factor)| Some((self.0.checked_div(*factor)?, unit))) {
            Some((count, unit)) => write!(f, "{count}{unit}"),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let unit = TIME_UNITS.iter().find(|(_, factor)| millis.is_multiple_of(u128::from(*factor)));
        match unit.and_then(|(unit, factor)| Some((millis.checked_div(u128::from(*factor))?, unit))) {
            Some((count, unit)) if count > 0 => write!(f, "{count}{unit}"),
            _ => f.write_str("0s"),
        }
    }
}

// A space before the unit is allowed: people write `40 GiB`.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits, unit.trim_start())
}

fn scale(text: &str, digits: &str, factor: u64) -> Result<u64, UnitError> {
    let number: Option<u64> = digits.parse().ok();
    number.and_then(|n| n.checked_mul(factor)).ok_or_else(|| UnitError::TooLarge(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_parse_in_binary_and_decimal_units() {
        for (text, bytes) in [
            ("40GiB", 40 * GIB),
            ("500KiB", 500 * KIB),
            ("1MB", 1_000_000),
            ("2 TiB", 2 * TIB),
            ("7kB", 7_000),
            ("123", 123),
            ("5B", 5),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn times_parse_only_with_a_unit() {
        for (text, seconds) in [("30d", 2_592_000), ("4h", 14_400), ("15m", 900), ("10s", 10), ("0s", 0)] {
            assert_eq!(text.parse(), Ok(Time(Duration::from_secs(seconds))), "{text}");
        }
        assert_eq!("300ms".parse(), Ok(Time(Duration::from_millis(300))));
        assert_eq!("10".parse::<Time>(), Err(UnitError::NotATime("10".into())));
    }

    #[test]
    fn rates_parse_as_bytes_or_bits_a_second() {
        assert_eq!("20MiB/s".parse(), Ok(Rate(20 * MIB)));
        assert_eq!(Rate(20 * MIB).to_string(), "20MiB/s");
        for (text, bytes) in
            [("8Mbit/s", 1_000_000), ("500 kbit/s", 62_500), ("2Gbit/s", 250_000_000), ("9bit/s", 1)]
        {
            assert_eq!(text.parse(), Ok(Rate(bytes)), "{text}");
        }
        for (bytes, text) in
            [(1_000_000, "8Mbit/s"), (500 * KIB, "500KiB/s"), (62_500, "500kbit/s"), (3, "3B/s")]
        {
            assert_eq!(Rate(bytes).to_string(), text);
        }
        for text in ["20MiB", "/s", "20MiB/m", "-1/s", "8Mbit", "Mbit/s", "8mbit/s"] {
            assert_eq!(text.parse::<Rate>(), Err(UnitError::NotARate(text.into())), "{text}");
        }
    }

    #[test]
    fn invalid_size_is_an_error_with_an_example() {
        for text in ["", "GiB", "fourty", "-1GiB", "1.5GiB", "+3", "40Gib", "40G", "1 2", "0x10", "٤GiB"] {
            assert_eq!(text.parse::<Size>(), Err(UnitError::NotASize(text.into())), "{text}");
        }
        let error = "fourty".parse::<Size>().unwrap_err();
        assert_eq!(error.to_string(), "\"fourty\" is not a size: write it like 40GiB");
    }

    #[test]
    fn overflowing_value_is_an_error() {
        for text in ["18446744073709551616", "16777216TiB", "99999999999999999999999GiB"] {
            assert_eq!(text.parse::<Size>(), Err(UnitError::TooLarge(text.into())), "{text}");
        }
        assert_eq!("213503982335d".parse::<Time>(), Err(UnitError::TooLarge("213503982335d".into())));
    }

    proptest! {
        #[test]
        fn displayed_size_parses_to_itself(bytes in prop_oneof![any::<u64>(), (0..1u64 << 24).prop_map(|n| n << 40)]) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }

        #[test]
        fn displayed_rate_parses_to_itself(bytes in prop_oneof![any::<u64>(), (0..1u64 << 40).prop_map(|n| n * 125)]) {
            prop_assert_eq!(Rate(bytes).to_string().parse(), Ok(Rate(bytes)));
        }

        #[test]
        fn displayed_time_parses_to_itself(millis in prop_oneof![any::<u64>(), (0..1u64 << 30).prop_map(|n| n * 60_000)]) {
            let time = Time(Duration::from_millis(millis));
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }

        #[test]
        fn parsing_any_text_does_not_panic(text in "\\PC{0,24}|[0-9]{0,30} ?[a-zA-Z]{0,3}") {
            if let Ok(Size(bytes)) = text.parse::<Size>() {
                prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
            }
            if let Ok(time) = text.parse::<Time>() {
                prop_assert_eq!(time.to_string().parse(), Ok(time));
            }
        }
    }
}
