//! `Content-Range` of a partial response (RFC 9110 §14.4), and whether it answers the request. Pure.

use std::ops::Range;

use http::{HeaderMap, header};

/// Value of `Content-Range`.
#[derive(Debug, PartialEq)]
pub(super) struct ContentRange {
    /// Bytes of the part; never empty.
    pub(super) bytes: Range<u64>,
    /// Complete length, if declared.
    pub(super) complete: Option<u64>,
}

impl ContentRange {
    /// Parses `Content-Range` (RFC 9110 §14.4). `None` if the unit is not bytes or the range is invalid.
    pub(super) fn parse(headers: &HeaderMap) -> Option<Self> {
        let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let bytes = first.trim().parse().ok()?..last.trim().parse::<u64>().ok()?.checked_add(1)?;
        let complete = match total.trim() {
            "*" => None,
            total => Some(total.parse::<u64>().ok()?),
        };
        (bytes.start < bytes.end && complete.is_none_or(|complete| bytes.end <= complete))
            .then_some(Self { bytes, complete })
    }

    /// Returns true if the part begins where `range` does, ends within it, and belongs to content of the expected
    /// length. Without a known length, the part must reach the end of the content.
    pub(super) fn continues(&self, range: &Range<u64>, length: Option<u64>) -> bool {
        self.bytes.start == range.start
            && match (self.complete, length) {
                (complete, Some(length)) => {
                    complete.is_none_or(|complete| complete == length) && self.bytes.end <= range.end
                }
                (complete, None) => complete.is_none_or(|complete| complete == self.bytes.end),
            }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_requested_range_of_equal_length_continues() {
        let part = |range: &'static str| {
            ContentRange::parse(&HeaderMap::from_iter([(
                header::CONTENT_RANGE,
                HeaderValue::from_static(range),
            )]))
        };
        let continues = |range: &'static str, length: Option<u64>| {
            part(range).is_some_and(|part| part.continues(&(100..length.unwrap_or(u64::MAX)), length))
        };
        assert!(continues("bytes 100-199/200", Some(200)));
        assert!(continues("bytes 100-198/200", Some(200)), "the rest is requested again");
        assert!(continues("bytes 100-199/*", Some(200)));
        assert!(continues("bytes 100-199/200", None));
        assert!(continues("bytes 100-199/*", None));
        assert!(!continues("bytes 100-198/200", None), "without a known length, the part must reach the end");
        for (range, length) in [
            ("bytes 101-199/200", Some(200)),
            ("bytes 100-299/300", Some(200)),
            ("bytes 100-299/*", Some(200)),
            ("bytes */200", Some(200)),
            ("items 100-199/200", Some(200)),
            ("bytes 100-99/200", Some(200)),
            ("bytes 100-18446744073709551615/200", Some(200)),
        ] {
            assert!(!continues(range, length), "{range}");
        }
        assert_eq!(ContentRange::parse(&HeaderMap::new()), None);
        assert!(
            !part("bytes 100-149/200").unwrap().continues(&(100..140), Some(200)),
            "longer than requested"
        );
    }
}
