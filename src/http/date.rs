//! HTTP dates (RFC 9110 §5.6.7) in the three forms that a recipient must accept: IMF-fixdate, RFC 850 and asctime.
//! Names are read in any case, and a wrong day of the week is ignored, because servers send both. Everything else is
//! exact: an invalid `Expires` must read as stale. The complication is the two-digit year of RFC 850, which depends on
//! the present year.

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::field;
use gupd_config::clock::{Clock, UnixMillis};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

const LONG_DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Returns the first value of a field that holds an HTTP date; `None` if it is absent or no date.
pub fn from_headers(headers: &HeaderMap, name: HeaderName) -> Option<UnixMillis> {
    headers.get(name).and_then(parse)
}

/// Parses an HTTP date.
pub fn parse(value: &HeaderValue) -> Option<UnixMillis> {
    parse_at(value.as_bytes(), || Clock::system().now())
}

/// Parses an HTTP date. `now` completes a two-digit year.
fn parse_at(text: &[u8], now: impl FnOnce() -> UnixMillis) -> Option<UnixMillis> {
    let text = text.trim_ascii();
    imf_fixdate(text).or_else(|| asctime(text)).map(unix_millis).or_else(|| {
        let recent = rfc_850(text, year_of(now()))?;
        Some(unix_millis(recent))
    })
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(text: &[u8]) -> Option<DateTime> {
    let mut rest = DateText(text);
    rest.name(&DAYS)?;
    rest.literal(", ")?;
    let day = rest.digits(2)?;
    rest.literal(" ")?;
    let month = rest.name(&MONTHS)?;
    rest.literal(" ")?;
    let year = rest.digits(4)?;
    rest.literal(" ")?;
    let time = rest.time()?;
    rest.literal(" GMT")?;
    rest.end(year, month, day, time)
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`. A year that is more than 50 years after `present` is the most recent past year with
/// the same digits.
fn rfc_850(text: &[u8], present: i16) -> Option<DateTime> {
    let mut rest = DateText(text);
    rest.name(&LONG_DAYS)?;
    rest.literal(", ")?;
    let day = rest.digits(2)?;
    rest.literal("-")?;
    let month = rest.name(&MONTHS)?;
    rest.literal("-")?;
    let digits = rest.digits(2)?;
    rest.literal(" ")?;
    let time = rest.time()?;
    rest.literal(" GMT")?;
    let latest = present.saturating_add(50);
    rest.end(latest.saturating_sub(latest.saturating_sub(digits).rem_euclid(100)), month, day, time)
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(text: &[u8]) -> Option<DateTime> {
    let mut rest = DateText(text);
    rest.name(&DAYS)?;
    rest.literal(" ")?;
    let month = rest.name(&MONTHS)?;
    rest.literal(" ")?;
    let day = match rest.literal(" ") {
        Some(()) => rest.digits(1)?,
        None => rest.digits(2)?,
    };
    rest.literal(" ")?;
    let time = rest.time()?;
    rest.literal(" ")?;
    let year = rest.digits(4)?;
    rest.end(year, month, day, time)
}

fn unix_millis(date: DateTime) -> UnixMillis {
    Offset::UTC.to_timestamp(date).map_or(0, |at| at.as_millisecond())
}

fn year_of(now: UnixMillis) -> i16 {
    jiff::Timestamp::from_millisecond(now).map_or(1970, |now| Offset::UTC.to_datetime(now).year())
}

/// Rest of a date's text.
struct DateText<'a>(&'a [u8]);

impl DateText<'_> {
    fn literal(&mut self, expected: &str) -> Option<()> {
        let (found, rest) = self.0.split_at_checked(expected.len())?;
        found.eq_ignore_ascii_case(expected.as_bytes()).then(|| self.0 = rest)
    }

    /// Returns the position of the name in `names`, from 1 on.
    fn name(&mut self, names: &[&str]) -> Option<i8> {
        let index = names.iter().position(|name| self.literal(name).is_some())?;
        i8::try_from(index).ok()?.checked_add(1)
    }

    fn digits(&mut self, count: usize) -> Option<i16> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        digits.iter().try_fold(0_i16, |number, byte| {
            number.checked_mul(10)?.checked_add(i16::from(field::digit(*byte)?))
        })
    }

    /// `08:49:37`. A leap second reads as the second before it.
    fn time(&mut self) -> Option<[i16; 3]> {
        let hour = self.digits(2)?;
        self.literal(":")?;
        let minute = self.digits(2)?;
        self.literal(":")?;
        let second = self.digits(2)?;
        Some([hour, minute, if second == 60 { 59 } else { second }])
    }

    /// Returns the date if no text is left and the calendar has it.
    fn end(&self, year: i16, month: i8, day: i16, [hour, minute, second]: [i16; 3]) -> Option<DateTime> {
        let small = |number: i16| i8::try_from(number).ok();
        let (day, hour, minute, second) = (small(day)?, small(hour)?, small(minute)?, small(second)?);
        let date = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
        (self.0.is_empty() && year >= 1970).then_some(date)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Mon, 30 Nov 2026 00:00:00 GMT
    const NOW: UnixMillis = 1_796_169_600_000;
    // Sun, 06 Nov 1994 08:49:37 GMT
    const EXAMPLE: UnixMillis = 784_111_777_000;
    // Thu, 18 Aug 2050 02:01:18 GMT
    const FUTURE: UnixMillis = 2_544_400_878_000;

    fn read(text: &str) -> Option<UnixMillis> {
        parse_at(text.as_bytes(), || NOW)
    }

    #[test]
    fn three_date_forms_are_read_in_any_case() {
        for (text, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", EXAMPLE),
            ("Sunday, 06-Nov-94 08:49:37 GMT", EXAMPLE),
            ("Sun Nov  6 08:49:37 1994", EXAMPLE),
            ("Sun Nov 06 08:49:37 1994", EXAMPLE),
            ("THU, 18 Aug 2050 02:01:18 GMT", FUTURE),
            ("Thu, 18 AUG 2050 02:01:18 GMT", FUTURE),
            ("Thu, 18 Aug 2050 02:01:18 gMT", FUTURE),
            ("thursday, 18-aug-50 02:01:18 gmt", FUTURE),
            ("THU AUG 18 02:01:18 2050", FUTURE),
            (" Thu, 18 Aug 2050 02:01:18 GMT\t", FUTURE),
            // The day of the week is wrong.
            ("Mon, 18 Aug 2050 02:01:18 GMT", FUTURE),
            ("Monday, 18-Aug-50 02:01:18 GMT", FUTURE),
            ("Mon Aug 18 02:01:18 2050", FUTURE),
            ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_799_000),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_800_000),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_forms_are_no_dates() {
        for text in [
            "",
            "0",
            "-1",
            "soon",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 02:01:18 AEST",
            "Thu, 18 Aug 2050 02:01:18 +0000",
            "Thu, 18 Aug 2050 02:01:18",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18-Aug-50 02:01:18 GMT",
            "Thursday, 18 Aug 2050 02:01:18 GMT",
            "Thursday, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 8 Aug 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02:01 GMT",
            "Thu, 18 Aug 2050 24:00:00 GMT",
            "Thu, 18 Aug 2050 02:60:00 GMT",
            "Thu, 18 Aug 2050 02:01:61 GMT",
            "Thu, 31 Feb 2050 02:01:18 GMT",
            "Wed, 29 Feb 2023 02:01:18 GMT",
            "Thu, 00 Aug 2050 02:01:18 GMT",
            "Thu, 18 Foo 2050 02:01:18 GMT",
            "Foo, 18 Aug 2050 02:01:18 GMT",
            "18 Aug 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:19 GMT",
            "Thu Aug 8 02:01:18 2050",
            "Thu Aug  8 02:01:18 2050 GMT",
            "Thu Aug  8 02:01:18 50",
            "Wed, 31 Dec 1969 23:59:59 GMT",
            "2050-08-18T02:01:18Z",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn two_digit_year_is_at_most_fifty_years_ahead() {
        let year = |text: &str, now| parse_at(text.as_bytes(), || now).map(year_of);
        for (text, now, expected) in [
            ("Friday, 01-Jan-76 00:00:00 GMT", NOW, 2076),
            ("Saturday, 01-Jan-77 00:00:00 GMT", NOW, 1977),
            ("Friday, 01-Jan-27 00:00:00 GMT", NOW, 2027),
            ("Friday, 01-Jan-99 00:00:00 GMT", NOW, 1999),
            ("Saturday, 01-Jan-00 00:00:00 GMT", NOW, 2000),
            ("Saturday, 01-Jan-94 00:00:00 GMT", EXAMPLE, 1994),
            ("Saturday, 01-Jan-44 00:00:00 GMT", EXAMPLE, 2044),
        ] {
            assert_eq!(year(text, now), Some(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn written_dates_are_read_and_any_octets_are_safe(
            seconds in 0_u32..4_000_000_000, octets in prop::collection::vec(any::<u8>(), 0..40)
        ) {
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.into());
            let written = httpdate::fmt_http_date(at);
            prop_assert_eq!(read(&written), Some(i64::from(seconds) * 1000));
            parse_at(&octets, || NOW);
        }
    }
}
