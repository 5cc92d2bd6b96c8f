//! `Range` requests (RFC 9110 §14): the requested bytes of a whole of known length, or of one still growing. The
//! caller checks first whether ranges apply (`GET`, `If-Range`).

use std::ops::Range;

use http::{HeaderMap, HeaderValue, header};

use crate::field;

/// Maximum number of ranges in one request; a request for more gets the whole. BITS requests up to 500 in one message
/// (`MaxRangesPerFile`), ascending and disjoint.
pub const MAX_RANGES: usize = 500;

/// Maximum number of ranges in any order. Every part costs a head and a seek, and small ranges to and fro cost a server
/// more than the client (RFC 9110 §17.15). More of them must ascend.
pub const MAX_UNORDERED_RANGES: usize = 32;

/// The part of the content that a client waits for. It is requested first, in whole chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedPart {
    /// From a position to another (exclusive) or to the end.
    From(u64, Option<u64>),
    /// The last bytes.
    Last(u64),
}

/// Ranges of a response. They are never empty, within the length, and in the requested order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// `200` with everything: no valid range was requested, or so many that the whole is less.
    Whole,
    /// `206` with `Content-Range`.
    Single(Range<u64>),
    /// `206` with `multipart/byteranges`; two at least, [`MAX_RANGES`] at most, none overlapping.
    Multiple(Vec<Range<u64>>),
    /// `416` with [`unsatisfied_range`].
    Unsatisfiable,
}

/// What a range of a growing whole needs before its response can start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangePrerequisite {
    /// These bytes, then `206` even while the length is unknown. If the whole ends before, its length is known.
    Bytes(Range<u64>),
    /// The length, for a range with an open end, a suffix, or several ranges.
    Length,
}

impl RequestedPart {
    /// Returns the value of `Range` that requests it.
    pub fn to_field(self, chunk: u64) -> Option<HeaderValue> {
        let text = match self {
            Self::From(start, end) => {
                let last =
                    end.and_then(|end| end.checked_next_multiple_of(chunk)).map(|end| end.saturating_sub(1));
                let last = last.map_or_else(String::new, |last| last.to_string());
                let offset = start.checked_rem(chunk).unwrap_or(0);
                format!("bytes={}-{last}", start.saturating_sub(offset))
            }
            // One chunk more: the first block received is rarely whole and cannot be kept.
            Self::Last(count) => format!("bytes=-{}", count.saturating_add(chunk)),
        };
        HeaderValue::from_str(&text).ok()
    }

    /// Returns true if it is the front, which a request for everything brings as soon.
    pub fn is_front(self, chunk: u64) -> bool {
        matches!(self, Self::From(start, _) if start < chunk)
    }

    /// Returns its bytes in a whole of `length`.
    pub fn resolve(self, length: u64) -> Range<u64> {
        match self {
            Self::From(start, end) => start.min(length)..end.map_or(length, |end| end.min(length)),
            Self::Last(count) => length.saturating_sub(count)..length,
        }
    }
}

impl Ranges {
    /// Parses the `Range` field for a whole of `complete_length` bytes.
    ///
    /// A range beyond the end is dropped, one that extends past it is cut. If none is left, the request cannot be
    /// satisfied. A malformed field, another unit and overlapping ranges are ignored: no client needs overlaps, and
    /// they multiply the bytes sent (§14.2). So are more than [`MAX_UNORDERED_RANGES`] that do not ascend.
    pub fn parse(request: &HeaderMap, complete_length: u64) -> Self {
        let Some(requested) = parse(request) else { return Self::Whole };
        if complete_length == 0 && requested.iter().any(|spec| matches!(spec, RangeSpec::Suffix(1..))) {
            // Satisfiable, since it requests at most everything (§14.1.2), but no `Content-Range` can express it.
            return Self::Whole;
        }
        let mut ranges: Vec<_> = requested.iter().filter_map(|spec| spec.within(complete_length)).collect();
        match (ranges.pop(), ranges.is_empty()) {
            (None, _) => Self::Unsatisfiable,
            (Some(only), true) => Self::Single(only),
            (Some(last), false) => {
                ranges.push(last);
                let is_served = if ranges.len() > MAX_UNORDERED_RANGES {
                    ranges.windows(2).all(|pair| matches!(pair, [a, b] if a.end <= b.start))
                } else {
                    !overlap(&ranges)
                };
                if is_served { Self::Multiple(ranges) } else { Self::Whole }
            }
        }
    }

    /// Returns the part that the client waits for first; `None` if it requests everything.
    pub fn first_part(request: &HeaderMap) -> Option<RequestedPart> {
        Some(match *parse(request)?.first()? {
            RangeSpec::FromTo(first, last) => RequestedPart::From(first, Some(last.saturating_add(1))),
            RangeSpec::From(first) => RequestedPart::From(first, None),
            RangeSpec::Suffix(count) => RequestedPart::Last(count),
        })
    }

    /// Returns the prerequisite of a whole of unknown length; `None` if the request gets everything as it arrives.
    pub fn prerequisite(request: &HeaderMap) -> Option<RangePrerequisite> {
        match *parse(request)? {
            [RangeSpec::FromTo(first, last)] => Some(RangePrerequisite::Bytes(first..last.saturating_add(1))),
            _ => Some(RangePrerequisite::Length),
        }
    }
}

/// `Content-Range` of a `206` (§14.4); without `complete_length` while it is unknown. `range` must not be empty.
pub fn content_range(range: &Range<u64>, complete_length: Option<u64>) -> HeaderValue {
    let (first, last) = (range.start, range.end.saturating_sub(1));
    field::composed(match complete_length {
        Some(length) => format!("bytes {first}-{last}/{length}"),
        None => format!("bytes {first}-{last}/*"),
    })
}

/// `Content-Range` of a `416` (§15.5.17).
pub fn unsatisfied_range(complete_length: u64) -> HeaderValue {
    field::composed(format!("bytes */{complete_length}"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RangeSpec {
    // First and last, inclusive.
    FromTo(u64, u64),
    From(u64),
    // The number of last bytes.
    Suffix(u64),
}

impl RangeSpec {
    fn within(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::FromTo(first, last) => first..last.saturating_add(1).min(length),
            Self::From(first) => first..length,
            Self::Suffix(count) => length.saturating_sub(count)..length,
        };
        (range.start < range.end).then_some(range)
    }

    /// Numbers above 64 bits are beyond every end and saturate.
    fn parse(text: &[u8]) -> Option<Self> {
        match field::split_once(text, b'-')? {
            ([], count) => field::decimal(count).map(Self::Suffix),
            (first, []) => field::decimal(first).map(Self::From),
            (first, last) => {
                let (first, last) = (field::decimal(first)?, field::decimal(last)?);
                // §14.1.1: reversed is invalid, not empty.
                (first <= last).then_some(Self::FromTo(first, last))
            }
        }
    }
}

/// Returns the requested ranges; `None` if the field is absent, repeated, malformed, of another unit or too long.
fn parse(request: &HeaderMap) -> Option<Vec<RangeSpec>> {
    let mut lines = request.get_all(header::RANGE).iter();
    let value = lines.next().filter(|_| lines.next().is_none())?.as_bytes();
    let (unit, specs) = field::split_once(value, b'=')?;
    if !unit.trim_ascii().eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let specs = specs.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|spec| !spec.is_empty());
    let specs = specs.take(MAX_RANGES.saturating_add(1)).map(RangeSpec::parse).collect::<Option<Vec<_>>>()?;
    (1..=MAX_RANGES).contains(&specs.len()).then_some(specs)
}

fn overlap(ranges: &[Range<u64>]) -> bool {
    let mut sorted: Vec<_> = ranges.iter().collect();
    sorted.sort_unstable_by_key(|range| range.start);
    sorted.windows(2).any(|pair| matches!(pair, [a, b] if b.start < a.end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(range: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::RANGE, HeaderValue::from_str(range).unwrap())])
    }

    fn parts(ranges: Ranges) -> Vec<Range<u64>> {
        match ranges {
            Ranges::Single(range) => vec![range],
            Ranges::Multiple(ranges) => ranges,
            Ranges::Whole | Ranges::Unsatisfiable => vec![],
        }
    }

    #[test]
    fn satisfiable_ranges_are_cut_and_keep_their_order() {
        for (value, length, expected) in [
            ("bytes=0-499", 10_000, &[(0, 500)][..]),
            ("bytes=500-999", 10_000, &[(500, 1000)]),
            ("bytes=-500", 10_000, &[(9500, 10_000)]),
            ("bytes=9500-", 10_000, &[(9500, 10_000)]),
            ("bytes=0-0,-1", 10_000, &[(0, 1), (9999, 10_000)]),
            ("BYTES=0-0", 10, &[(0, 1)]),
            ("bytes= 5-6 ,,\t1-2,", 10, &[(5, 7), (1, 3)]),
            ("bytes=0-99", 10, &[(0, 10)]),
            ("bytes=-99", 10, &[(0, 10)]),
            ("bytes=007-8", 10, &[(7, 9)]),
            ("bytes=5-6,20-30,-0", 10, &[(5, 7)]),
            ("bytes=0-99999999999999999999999", 10, &[(0, 10)]),
            ("bytes=-99999999999999999999999", 10, &[(0, 10)]),
            ("bytes=0-4,5-9", 10, &[(0, 5), (5, 10)]),
            ("bytes=0-18446744073709551615", u64::MAX, &[(0, u64::MAX)]),
        ] {
            let found = parts(Ranges::parse(&request(value), length));
            let ends: Vec<_> = found.iter().map(|range| (range.start, range.end)).collect();
            assert_eq!(ends, expected, "{value} of {length}");
        }
    }

    #[test]
    fn ranges_beyond_the_end_are_unsatisfiable() {
        for (value, length) in [
            ("bytes=10-", 10),
            ("bytes=10-20", 10),
            ("bytes=-0", 10),
            ("bytes=99999999999999999999-", 10),
            ("bytes=0-", 0),
        ] {
            assert_eq!(Ranges::parse(&request(value), length), Ranges::Unsatisfiable, "{value} of {length}");
        }
        assert_eq!(Ranges::parse(&request("bytes=-5"), 0), Ranges::Whole, "a suffix of nothing is all of it");
    }

    #[test]
    fn malformed_foreign_or_overlapping_ranges_get_the_whole() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=5-4",
            "bytes=0-0,5-4",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=1-2-3",
            "bytes=0x1-2",
            "bytes=1 -2",
            "items=0-1",
            "bytes 0-1",
            "bytes=0-5,5-9",
            "bytes=0-,0-",
            "bytes=3-3,0-9",
        ] {
            assert_eq!(Ranges::parse(&request(value), 10), Ranges::Whole, "{value}");
        }
        assert_eq!(Ranges::parse(&HeaderMap::new(), 10), Ranges::Whole);
        let mut twice = request("bytes=0-1");
        twice.append(header::RANGE, HeaderValue::from_static("bytes=3-4"));
        assert_eq!(Ranges::parse(&twice, 10), Ranges::Whole);
    }

    #[test]
    fn many_ranges_are_served_if_they_ascend() {
        let spec = |at: usize| format!("{0}-{0}", at * 2);
        let served = |specs: Vec<String>| {
            parts(Ranges::parse(&request(&format!("bytes={}", specs.join(","))), 10_000)).len()
        };
        for (count, ascending, descending) in [(32, 32, 32), (33, 33, 0), (500, 500, 0), (501, 0, 0)] {
            assert_eq!(served((0..count).map(spec).collect()), ascending, "{count}");
            assert_eq!(served((0..count).rev().map(spec).collect()), descending, "{count}");
        }
        let with = |last: &str| (0..40).map(spec).chain([last.to_owned()]).collect::<Vec<_>>();
        assert_eq!(served(with("-5")), 41);
        assert_eq!(served(with("9000-")), 41);
        assert_eq!(served(with("20000-")), 40, "beyond the end");
        for overlapping in ["78-78", "77-90", "3-3", "-9990", "0-"] {
            assert_eq!(served(with(overlapping)), 0, "{overlapping}");
        }
    }

    #[test]
    fn only_a_closed_range_needs_no_length() {
        for (value, expected) in [
            ("bytes=5-9", Some(RangePrerequisite::Bytes(5..10))),
            ("bytes=5-", Some(RangePrerequisite::Length)),
            ("bytes=-5", Some(RangePrerequisite::Length)),
            ("bytes=0-1,4-5", Some(RangePrerequisite::Length)),
            ("bytes=5-4", None),
            ("items=0-1", None),
        ] {
            assert_eq!(Ranges::prerequisite(&request(value)), expected, "{value}");
        }
        assert_eq!(Ranges::prerequisite(&HeaderMap::new()), None);
    }

    #[test]
    fn content_range_includes_both_ends() {
        assert_eq!(content_range(&(0..500), Some(1234)), "bytes 0-499/1234");
        assert_eq!(content_range(&(42..1234), None), "bytes 42-1233/*");
        assert_eq!(unsatisfied_range(47), "bytes */47");
    }

    /// The bytes of a range, one by one, straight from §14.1.2.
    fn naive(spec: (Option<u64>, Option<u64>), length: u64) -> Vec<u64> {
        let is_selected = |at: &u64| match spec {
            (Some(first), Some(last)) => first <= *at && *at <= last,
            (Some(first), None) => first <= *at,
            (None, Some(count)) => length - *at <= count,
            (None, None) => false,
        };
        (0..length).filter(is_selected).collect()
    }

    proptest! {
        #[test]
        fn ranges_match_a_naive_reading(
            specs in prop::collection::vec((prop::option::of(0_u64..40), prop::option::of(0_u64..40)), 1..5),
            length in 1_u64..40,
        ) {
            let number = |n: Option<u64>| n.map_or(String::new(), |n| n.to_string());
            let text = specs.iter().map(|s| format!("{}-{}", number(s.0), number(s.1))).collect::<Vec<_>>().join(",");
            let invalid = specs.iter().any(|s| s.0.is_none() && s.1.is_none() || s.0.zip(s.1).is_some_and(|(a, b)| a > b));
            let named: Vec<_> = specs.iter().map(|s| naive(*s, length)).filter(|bytes| !bytes.is_empty()).collect();
            let distinct: std::collections::HashSet<_> = named.iter().flatten().collect();
            let overlapping = distinct.len() < named.iter().map(Vec::len).sum();

            let ranges = Ranges::parse(&request(&format!("bytes={text}")), length);
            if invalid || overlapping {
                prop_assert_eq!(ranges, Ranges::Whole);
            } else if named.is_empty() {
                prop_assert_eq!(ranges, Ranges::Unsatisfiable);
            } else {
                let answered: Vec<Vec<u64>> = parts(ranges).into_iter().map(Iterator::collect).collect();
                prop_assert_eq!(answered, named);
            }
        }

        #[test]
        fn any_value_and_length_are_safe(value in "(bytes=)?[0-9,-]{0,60}", length: u64) {
            for range in parts(Ranges::parse(&request(&value), length)) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
            Ranges::prerequisite(&request(&value));
        }
    }
}
