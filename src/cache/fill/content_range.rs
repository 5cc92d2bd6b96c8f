//! What a partial response says it is of (RFC 9110 §14.4), and whether that is what was asked for. Pure.

use std::ops::Range;

use http::{HeaderMap, header};

/// What a `206` says it is of.
#[derive(Debug, PartialEq)]
pub(super) struct ContentRange {
    /// The bytes it has; never none.
    pub(super) bytes: Range<u64>,
    /// The complete length, if that is known.
    pub(super) complete: Option<u64>,
}

impl ContentRange {
    /// Reads `Content-Range` (RFC 9110 §14.4); `None` if it is not of bytes, or not possible.
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

    /// Whether it begins where `range` does and does not go past its end, of content as long as was promised. Where
    /// nobody knows the length, it must go to the end.
    pub(super) fn is_from(&self, range: &Range<u64>, length: Option<u64>) -> bool {
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
    fn only_what_was_asked_for_of_the_same_length_continues_a_transfer() {
        let part = |range: &'static str| {
            ContentRange::parse(&HeaderMap::from_iter([(
                header::CONTENT_RANGE,
                HeaderValue::from_static(range),
            )]))
        };
        let continues = |range: &'static str, length: Option<u64>| {
            part(range).is_some_and(|part| part.is_from(&(100..length.unwrap_or(u64::MAX)), length))
        };
        assert!(continues("bytes 100-199/200", Some(200)));
        assert!(continues("bytes 100-198/200", Some(200)), "the rest is asked for again");
        assert!(continues("bytes 100-199/*", Some(200)));
        assert!(continues("bytes 100-199/200", None));
        assert!(continues("bytes 100-199/*", None));
        assert!(
            !continues("bytes 100-198/200", None),
            "who knows no length cannot know that more is to come"
        );
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
            !part("bytes 100-149/200").unwrap().is_from(&(100..140), Some(200)),
            "more than was asked for"
        );
    }
}
