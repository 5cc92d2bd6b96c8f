//! The octets of a path as the most lenient server reads them. Nested escapes (`%252F`) are decoded to their end, and
//! over-long UTF-8 (`%C0%AF`) is the ASCII octet that it stands for. Each octet knows if it took such a reading.

use std::str::Chars;

/// An octet or character of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Octet {
    /// A character as it stands.
    Plain(char),
    /// An escape of one level.
    Escaped(u8),
    /// An escape that only a lenient server decodes to this octet.
    Lenient(u8),
}

/// Iterator over the octets of a path.
#[derive(Debug)]
pub(crate) struct Octets<'a>(Chars<'a>);

impl<'a> Octets<'a> {
    pub(crate) fn of(path: &'a str) -> Self {
        Self(path.chars())
    }
}

impl Octet {
    /// Returns the printable ASCII character that it stands for.
    pub(crate) fn printable(self) -> Option<char> {
        match self {
            Self::Plain(character) => Some(character).filter(|c| (' '..='~').contains(c)),
            Self::Escaped(octet) | Self::Lenient(octet) => {
                (b' '..=b'~').contains(&octet).then_some(char::from(octet))
            }
        }
    }
}

impl Iterator for Octets<'_> {
    type Item = Octet;

    fn next(&mut self) -> Option<Octet> {
        let first = self.0.next()?;
        if first != '%' {
            return Some(Octet::Plain(first));
        }
        let Some((octet, rest, levels)) = decode(self.0.as_str()) else { return Some(Octet::Plain(first)) };
        if let Some((ascii, rest)) = decode_overlong(octet, rest) {
            self.0 = rest.chars();
            return Some(Octet::Lenient(ascii));
        }
        self.0 = rest.chars();
        Some(if levels == 1 { Octet::Escaped(octet) } else { Octet::Lenient(octet) })
    }
}

/// Decodes the digits behind a `%`, as often as the result is another `%` with digits. Returns the octet, the text
/// behind it and the number of levels.
fn decode(digits: &str) -> Option<(u8, &str, usize)> {
    let (mut octet, mut rest) = decode_once(digits)?;
    let mut levels: usize = 1;
    while octet == b'%'
        && let Some((inner, behind)) = decode_once(rest)
    {
        (octet, rest, levels) = (inner, behind, levels.saturating_add(1));
    }
    Some((octet, rest, levels))
}

fn decode_once(digits: &str) -> Option<(u8, &str)> {
    let (pair, rest) = digits.split_at_checked(2)?;
    let is_hex = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
    let octet = is_hex.then(|| u8::from_str_radix(pair, 16).ok())??;
    Some((octet, rest))
}

/// Decodes an ASCII octet that is encoded in two to four octets, which UTF-8 forbids (RFC 3629 §3).
fn decode_overlong(lead: u8, mut rest: &str) -> Option<(u8, &str)> {
    let (bits, count) = match lead {
        0xC0 | 0xC1 => (lead & 0x1F, 1),
        0xE0 => (0, 2),
        0xF0 => (0, 3),
        _ => return None,
    };
    let mut value = u32::from(bits);
    for _ in 0..count {
        let (octet, behind, _) = decode(rest.strip_prefix('%')?)?;
        if octet & 0xC0 != 0x80 {
            return None;
        }
        value = value << 6 | u32::from(octet & 0x3F);
        rest = behind;
    }
    u8::try_from(value).ok().filter(u8::is_ascii).map(|ascii| (ascii, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(text: &str) -> Vec<Octet> {
        Octets::of(text).collect()
    }

    #[test]
    fn nested_and_overlong_escapes_are_decoded() {
        for (text, octet) in [
            ("/", Octet::Plain('/')),
            ("é", Octet::Plain('é')),
            ("%2f", Octet::Escaped(b'/')),
            ("%25", Octet::Escaped(b'%')),
            ("%252F", Octet::Lenient(b'/')),
            ("%2525252e", Octet::Lenient(b'.')),
            ("%c0%AF", Octet::Lenient(b'/')),
            ("%C1%9c", Octet::Lenient(b'\\')),
            ("%e0%80%ae", Octet::Lenient(b'.')),
            ("%f0%80%80%AE", Octet::Lenient(b'.')),
            ("%25c0%25af", Octet::Lenient(b'/')),
        ] {
            assert_eq!(octets(text), [octet], "{text}");
        }
        assert_eq!(octets("%C3%A9"), [Octet::Escaped(0xC3), Octet::Escaped(0xA9)]);
        assert_eq!(octets("%C0x"), [Octet::Escaped(0xC0), Octet::Plain('x')]);
        assert_eq!(octets("%2"), [Octet::Plain('%'), Octet::Plain('2')]);
        assert_eq!(octets("%+1é"), ['%', '+', '1', 'é'].map(Octet::Plain));
    }
}
