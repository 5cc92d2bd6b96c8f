//! The name under which a response is stored: the route, then path and query in one spelling. Two spellings that every
//! manager must answer alike are one object; the client's own spelling still goes upstream. Paths that could mean
//! something else to the manager than to the relay are refused here, before anything looks at them.

use std::fmt::Write;

use http::uri::PathAndQuery;

/// A path that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPath {
    /// `.` or `..` as a segment, also percent-encoded or behind a backslash.
    DotSegment,
    /// A control character or a backslash, raw or percent-encoded.
    ControlCharacter,
    /// `%` without two hexadecimal digits.
    PercentEncoding,
}

/// A path and query in the one spelling that keys, routes and rules see. Percent-encoding that is not needed is
/// undone (RFC 3986 §6.2.2.2), braces too; what is left of it is upper case; GUIDs are lower case.
///
/// # Errors
/// When the path is one that is refused.
pub fn normalise(path: &str, query: Option<&str>) -> Result<Normal, BadPath> {
    let mut text = String::with_capacity(path.len() + query.map_or(0, |query| query.len() + 1));
    spell(path, &mut text)?;
    let length = text.len();
    check_segments(&text)?;
    lower_guids(&mut text);
    if let Some(query) = query {
        text.push('?');
        spell(query, &mut text)?;
    }
    Ok(Normal { text, path: length })
}

/// A key's route, and path with query. A route's name may have spaces, a path begins with `/`.
pub fn split(key: &str) -> (&str, &str) {
    key.find(" /").map_or(("", key), |at| (&key[..at], &key[at + 1..]))
}

/// How a key's path and query are asked for when no client spells them. Braces are encoded, which RFC 3986 demands and
/// some servers insist on; GUIDs stay in the lower case of the key.
pub fn target(path_and_query: &str) -> Option<PathAndQuery> {
    path_and_query.replace('{', "%7B").replace('}', "%7D").parse().ok()
}

/// A normalised path and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal {
    text: String,
    path: usize,
}

impl Normal {
    /// The path alone.
    pub fn path(&self) -> &str {
        &self.text[..self.path]
    }

    /// The key of this path on a route.
    pub fn key(&self, route: &str) -> String {
        let mut key = String::with_capacity(route.len() + 1 + self.text.len());
        key.push_str(route);
        key.push(' ');
        key.push_str(&self.text);
        key
    }
}

/// Appends `text` in the one spelling.
fn spell(text: &str, spelled: &mut String) -> Result<(), BadPath> {
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(BadPath::ControlCharacter);
    }
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('%') {
        spelled.push_str(plain);
        let digits = escaped.as_bytes().first_chunk::<2>().ok_or(BadPath::PercentEncoding)?;
        let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
        let byte = high.zip(low).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        match byte.ok_or(BadPath::PercentEncoding)? {
            byte if byte.is_ascii_control() => return Err(BadPath::ControlCharacter),
            byte @ (b'-' | b'.' | b'_' | b'~' | b'{' | b'}' | b'\\') => spelled.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => spelled.push(char::from(byte)),
            byte => write!(spelled, "%{byte:02X}").map_err(|_| BadPath::PercentEncoding)?,
        }
        // Both were ASCII.
        rest = &escaped[2..];
    }
    spelled.push_str(rest);
    Ok(())
}

/// A manager that takes `%2F` or a backslash for `/` must not see a segment that was not seen here.
fn check_segments(path: &str) -> Result<(), BadPath> {
    let is_dots = |segment: &str| matches!(segment, "." | "..");
    if path.split('/').any(is_dots) {
        return Err(BadPath::DotSegment);
    }
    let has_backslash = path.contains('\\');
    if (has_backslash || path.contains('%')) && path.replace("%2F", "/").split(['/', '\\']).any(is_dots) {
        return Err(BadPath::DotSegment);
    }
    if has_backslash { Err(BadPath::ControlCharacter) } else { Ok(()) }
}

/// GUIDs appear in mixed case, and the managers' file system does not tell case apart.
fn lower_guids(path: &mut str) {
    let mut start = 0;
    while let Some(open) = path[start..].find("/{") {
        start += open + 1;
        let end = path[start..].find('/').map_or(path.len(), |slash| start + slash);
        if is_guid(&path[start..end]) {
            path[start..end].make_ascii_lowercase();
        }
        start = end;
    }
}

/// `{8-4-4-4-12}` hexadecimal digits.
fn is_guid(segment: &str) -> bool {
    let Some(inner) = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) else {
        return false;
    };
    let mut groups = inner.split('-');
    [8, 4, 4, 4, 12].iter().all(|&length| {
        groups
            .next()
            .is_some_and(|group| group.len() == length && group.bytes().all(|b| b.is_ascii_hexdigit()))
    }) && groups.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Result<String, BadPath> {
        normalise(path, None).map(|normal| normal.path().to_owned())
    }

    #[test]
    fn spellings_of_one_guid_are_one_key() {
        let plain = "/content/{535cb6a4-441f-4e8a-a897-804cd859100e}/1/full.zip";
        for spelling in [
            "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/1/full.zip",
            "/content/%7B535CB6A4-441F-4e8a-A897-804CD859100E%7d/1/full%2Ezip",
            plain,
        ] {
            assert_eq!(key(spelling).as_deref(), Ok(plain));
        }
    }

    #[test]
    fn case_and_reserved_characters_are_kept() {
        assert_eq!(key("/A%2fb%3F/C$20d").as_deref(), Ok("/A%2Fb%3F/C$20d"));
        let normal = normalise("/a", Some("b=%7e&c=%26")).unwrap();
        assert_eq!((normal.path(), normal.key("r").as_str()), ("/a", "r /a?b=~&c=%26"));
    }

    #[test]
    fn a_key_splits_at_its_path() {
        assert_eq!(split("updates.example/a /a/b c?d"), ("updates.example/a", "/a/b c?d"));
        assert_eq!(split("two words /x"), ("two words", "/x"));
        assert_eq!(split("odd"), ("", "odd"));
    }

    #[test]
    fn the_target_of_a_key_has_that_key() {
        for spelling in
            ["/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/1/full.zip", "/a%2fb%20\"c?d={%7d&e"]
        {
            let (path, query) = spelling.split_once('?').map_or((spelling, None), |(p, q)| (p, Some(q)));
            let key = normalise(path, query).unwrap().key("route");
            let target = target(split(&key).1).unwrap();
            assert!(!target.as_str().contains(['{', '}']));
            assert_eq!(normalise(target.path(), target.query()).unwrap().key("route"), key);
        }
    }

    #[test]
    fn paths_with_two_meanings_are_refused() {
        for path in ["/a/../b", "/..", "/%2e%2E/b", "/a\\..\\b", "/a%5c..%5Cb", "/./a", "/a%2f..%2Fb"] {
            assert_eq!(key(path), Err(BadPath::DotSegment), "{path}");
        }
        for path in ["/a%00", "/a%0d%0aSet-Cookie:x", "/a\u{7f}", "/a%5cb"] {
            assert_eq!(key(path), Err(BadPath::ControlCharacter), "{path}");
        }
        for path in ["/a%", "/a%2", "/a%zz", "/a%+1"] {
            assert_eq!(key(path), Err(BadPath::PercentEncoding), "{path}");
        }
    }
}
