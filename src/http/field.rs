//! Field values (RFC 9110 §5.5, §5.6): lists over several lines, delta-seconds. Works on bytes, because
//! one octet outside ASCII must not hide a `no-store` beside it. Every reader is linear in the value's length and
//! allocates nothing.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Which algorithms of `Repr-Digest` a request asks for.
pub const WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");

/// The greatest delta-seconds kept; greater ones read as this (RFC 9111 §1.2.2).
pub const MAX_DELTA_SECONDS: u32 = 1 << 31;

/// The members of a list-based field (RFC 9110 §5.6.1) over all its lines, trimmed, empty ones left out.
/// A comma in a quoted string separates nothing.
pub fn members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    headers.get_all(name).into_iter().flat_map(|line| Members { rest: Some(line.as_bytes()), quoting: true })
}

/// Digits as seconds, at most [`MAX_DELTA_SECONDS`]; `None` for anything else, a sign or a fraction too.
pub fn delta_seconds(digits: &[u8]) -> Option<u32> {
    decimal(digits)
        .map(|seconds| u32::try_from(seconds).map_or(MAX_DELTA_SECONDS, |s| s.min(MAX_DELTA_SECONDS)))
}

/// Digits as a number that stays at `u64::MAX` when it would overflow; `None` for anything else.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        Some(number.saturating_mul(10).saturating_add(u64::from(digit(*byte)?)))
    })
}

/// Value of a decimal digit.
pub(crate) fn digit(byte: u8) -> Option<u8> {
    byte.checked_sub(b'0').filter(|digit| *digit <= 9)
}

/// Splits at the first `separator`.
pub(crate) fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == separator)?;
    let (before, rest) = text.split_at_checked(at)?;
    Some((before, rest.get(1..)?))
}

/// Returns true for a quoted string (RFC 9110 §5.6.4) with nothing around it.
pub(super) fn is_quoted_string(text: &[u8]) -> bool {
    text.first() == Some(&b'"') && length_of_quoted(text) == Some(text.len())
}

/// A value this crate composed from ASCII text; the empty value stands in for text that is none, rather than a panic.
pub fn composed(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// Appends a member to a list-based field, and joins its lines into one.
pub fn append_member(headers: &mut HeaderMap, name: HeaderName, member: &str) {
    let mut list: Vec<u8> = Vec::new();
    for value in headers.get_all(&name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(member.as_bytes());
    // Made of values that were valid, and of ours.
    if let Ok(value) = HeaderValue::from_bytes(&list) {
        headers.insert(name, value);
    }
}

struct Members<'a> {
    rest: Option<&'a [u8]>,
    // Off from the first quote that nothing closes: such a quote is an ordinary octet, so that it cannot swallow the
    // directives after it, and a line full of them is not searched again for each.
    quoting: bool,
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while let Some(rest) = self.rest {
            let end = self.end_of_member(rest);
            let (member, after) = rest.split_at(end);
            self.rest = after.get(1..);
            let member = member.trim_ascii();
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    }
}

impl Members<'_> {
    fn end_of_member(&mut self, line: &[u8]) -> usize {
        let mut at = 0_usize;
        while let Some(rest @ [byte, ..]) = line.get(at..) {
            match byte {
                b',' => return at,
                b'"' if self.quoting => match length_of_quoted(rest) {
                    Some(length) => at = at.saturating_add(length),
                    None => self.quoting = false,
                },
                _ => at = at.saturating_add(1),
            }
        }
        line.len()
    }
}

/// Octets of the quoted string (RFC 9110 §5.6.4) that `text` begins with, both quotes included.
fn length_of_quoted(text: &[u8]) -> Option<usize> {
    let mut at = 1_usize;
    loop {
        let length = match text.get(at)? {
            b'"' => return at.checked_add(1),
            b'\\' => 2,
            _ => 1,
        };
        at = at.checked_add(length)?;
    }
}

/// Parses fields such as `etag: "a"|age: 1`, for tests.
#[cfg(test)]
pub(crate) fn parse_lines(text: &str) -> HeaderMap {
    let lines = text.split('|').filter_map(|line| line.split_once(": "));
    lines
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;

    fn split(lines: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::VARY, HeaderValue::from_str(line).unwrap());
        }
        members(&headers, header::VARY).map(|m| String::from_utf8(m.to_vec()).unwrap()).collect()
    }

    #[test]
    fn list_spans_lines_and_ignores_quoted_commas() {
        assert_eq!(split(&["a, b", "", ",, c\t,"]), ["a", "b", "c"]);
        assert_eq!(split(&[r#"x="1, 2" , y="\"," , z"#]), [r#"x="1, 2""#, r#"y="\",""#, "z"]);
    }

    #[test]
    fn unclosed_quote_hides_no_members() {
        assert_eq!(split(&[r#"private="a, no-store"#, "b"]), [r#"private="a"#, "no-store", "b"]);
        let hostile = format!("\"{}, no-store", "\\\"".repeat(200_000));
        assert_eq!(split(&[&hostile]).last().unwrap(), "no-store");
    }

    #[test]
    fn numbers_saturate_and_need_digits_only() {
        assert_eq!(delta_seconds(b"007"), Some(7));
        assert_eq!(delta_seconds(b"2147483649"), Some(MAX_DELTA_SECONDS));
        assert_eq!(decimal(b"99999999999999999999999"), Some(u64::MAX));
        for bad in [&b""[..], b"-1", b"+1", b"1.5", b" 1", b"0x1"] {
            assert_eq!(decimal(bad), None);
        }
    }
}
