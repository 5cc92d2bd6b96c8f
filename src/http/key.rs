//! Keys of responses: the route, the binding of the client's group unless the class is payload, and the normalized path
//! and query: `<route> /<path>` or `<route> ~<binding> /<path>`. Equivalent spellings are one object; the client's spelling
//! still goes upstream. Routes and rules judge the canonical form of the path; paths with dot segments are refused
//! before.

use std::borrow::Cow;
use std::fmt::Write;

use http::uri::PathAndQuery;

use gupd_config::Class;
use gupd_config::pattern;
use gupd_config::policy::{Policy, RevisionFile};
use gupd_config::profile::QuerySelection;

/// Reason to refuse a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// `.` or `..` as a segment, also percent-encoded, behind a backslash or with parameters (`..;x`).
    DotSegment,
    /// A control character or a backslash in the path, raw or percent-encoded; in the query a raw control character.
    ControlCharacter,
    /// `%` without two hexadecimal digits in the path.
    PercentEncoding,
    /// A path that some servers take for another one, where that one is content.
    AmbiguousSpelling,
}

/// Normalizes a path and query for keys, routes and rules. Unneeded percent-encoding is decoded (RFC 3986 §6.2.2.2),
/// braces too. Other escapes get upper-case digits (`%2f` becomes `%2F`). GUID segments of the path become lower case.
///
/// A query is data (RFC 3986 §3.4): no server walks it as a path, so it may encode any octet. With a `%` that begins no
/// escape, as some agents send, the query stays as it is: decoding a part of it could make another escape.
///
/// # Errors
/// If the path must be refused.
pub fn normalize(path: &str, query: Option<&str>) -> Result<NormalizedTarget, PathError> {
    let mut text = String::with_capacity(
        path.len().saturating_add(query.map_or(0, |query| query.len().saturating_add(1))),
    );
    append_normalized(path, TargetPart::Path, &mut text)?;
    let length = text.len();
    let is_plain = check_segments(&text)?;
    lowercase_guids(&mut text);
    if let Some(query) = query {
        text.push('?');
        let begin = text.len();
        match append_normalized(query, TargetPart::Query, &mut text) {
            Err(PathError::PercentEncoding) => {
                text.truncate(begin);
                text.push_str(query);
            }
            appended => appended?,
        }
    }
    Ok(NormalizedTarget { text, path_len: length, is_plain })
}

/// Separator of route and binding.
const BINDING: &str = " ~";

/// Parts of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyParts<'a> {
    /// The route's name.
    pub route: &'a str,
    /// Name of the binding of its upstreams; `None` if the object is for all clients of the route.
    pub binding: Option<&'a str>,
    /// Path and query.
    pub target: &'a str,
}

/// Splits a key. Names of routes and bindings have no spaces, and a path begins with `/`.
pub fn split_key(key: &str) -> KeyParts<'_> {
    let split = key.find(" /").and_then(|at| Some((key.get(..at)?, key.get(at.checked_add(1)?..)?)));
    let (name, target) = split.unwrap_or(("", key));
    match name.split_once(BINDING) {
        Some((route, binding)) => KeyParts { route, binding: Some(binding), target },
        None => KeyParts { route: name, binding: None, target },
    }
}

/// Returns the file of a revision that a key is for, if the profile of its route knows revisions of this form.
pub fn revision_file<'a>(policy: &Policy, key: &'a str) -> Option<RevisionFile<'a>> {
    let KeyParts { route, target, .. } = split_key(key);
    policy.find_route(route)?.revision_file(key, key.len().saturating_sub(target.len()))
}

/// Returns the target that requests a key's path and query. Braces are encoded, which RFC 3986 demands and some
/// servers require; GUIDs stay in lower case.
pub fn request_target(path_and_query: &str) -> Option<PathAndQuery> {
    path_and_query.replace('{', "%7B").replace('}', "%7D").parse().ok()
}

/// Binding of a client's group. The class decides about the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyBinding<'a> {
    /// Name of the binding.
    pub binding: &'a str,
    /// The class of the path.
    pub class: Class,
}

/// A normalized path and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalizedTarget {
    text: String,
    path_len: usize,
    is_plain: bool,
}

impl NormalizedTarget {
    /// Returns the path.
    pub fn path(&self) -> &str {
        self.text.get(..self.path_len).unwrap_or(&self.text)
    }

    /// Returns true if every server reads the path alike.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Returns the path that selects the route: the path itself unless some servers take it for another one.
    pub fn canonical_path(&self) -> Cow<'_, str> {
        if self.is_plain { self.path().into() } else { pattern::fold(self.path()).into() }
    }

    /// Returns the query.
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_len.checked_add(1)?..)
    }

    /// Keeps only the selected parameters of the query.
    #[must_use]
    pub fn with_query(mut self, selection: &QuerySelection) -> Self {
        if *selection != QuerySelection::All
            && let Some(query) = self.query()
        {
            let selected = selection.select(query);
            self.text.truncate(self.path_len);
            if let Some(selected) = selected {
                self.text.push('?');
                self.text.push_str(&selected);
            }
        }
        self
    }

    /// Returns the path and query.
    pub fn path_and_query(&self) -> &str {
        &self.text
    }

    /// Returns the key on a route. Content that is immutable by name has one key for all bindings; all else belongs
    /// to the binding's upstreams.
    pub fn key(&self, route: &str, bound: Option<KeyBinding<'_>>) -> String {
        let binding = bound.filter(|bound| bound.class != Class::Payload).map(|bound| bound.binding);
        let parts =
            [route.len(), binding.map_or(0, |binding| BINDING.len().saturating_add(binding.len())), 1];
        let mut key = String::with_capacity(parts.into_iter().fold(self.text.len(), usize::saturating_add));
        key.push_str(route);
        if let Some(binding) = binding {
            key.push_str(BINDING);
            key.push_str(binding);
        }
        key.push(' ');
        key.push_str(&self.text);
        key
    }
}

/// Part of a target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TargetPart {
    Path,
    Query,
}

/// Appends `text` in normal form.
fn append_normalized(text: &str, part: TargetPart, output: &mut String) -> Result<(), PathError> {
    // Without a branch, so that the compiler uses vector instructions.
    if text.bytes().fold(false, |any, byte| any | byte.is_ascii_control()) {
        return Err(PathError::ControlCharacter);
    }
    let mut rest = text;
    while let Some((plain, escaped)) =
        memchr::memchr(b'%', rest.as_bytes()).and_then(|at| split_around(rest, at))
    {
        output.push_str(plain);
        let (digits, _) = escaped.as_bytes().split_first_chunk::<2>().ok_or(PathError::PercentEncoding)?;
        let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
        let byte = high.zip(low).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        match byte.ok_or(PathError::PercentEncoding)? {
            byte if byte.is_ascii_control() && part == TargetPart::Path => {
                return Err(PathError::ControlCharacter);
            }
            byte @ (b'-' | b'.' | b'_' | b'~' | b'{' | b'}' | b'\\') => output.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => output.push(char::from(byte)),
            byte => write!(output, "%{byte:02X}").map_err(|_| PathError::PercentEncoding)?,
        }
        // Both were ASCII.
        rest = escaped.get(2..).ok_or(PathError::PercentEncoding)?;
    }
    output.push_str(rest);
    Ok(())
}

/// Refuses segments that a lenient manager reads as dot segments, and backslashes. Returns true if the path is plain.
fn check_segments(path: &str) -> Result<bool, PathError> {
    if pattern::is_plain(path) {
        return Ok(true);
    }
    if pattern::has_dot_segment(path) {
        return Err(PathError::DotSegment);
    }
    if path.contains('\\') { Err(PathError::ControlCharacter) } else { Ok(false) }
}

/// Returns the parts before and behind the byte at an index.
fn split_around(text: &str, at: usize) -> Option<(&str, &str)> {
    Some((text.get(..at)?, text.get(at.checked_add(1)?..)?))
}

/// GUIDs appear in mixed case, and the managers' file system ignores case.
fn lowercase_guids(path: &mut str) {
    let mut rest = path;
    while let Some(brace) = memchr::memchr(b'{', rest.as_bytes()) {
        let Some((before, segment)) = rest.split_at_mut_checked(brace) else { return };
        let is_segment = before.ends_with('/');
        if is_segment
            && begins_with_guid(segment.as_bytes())
            && let Some(guid) = segment.get_mut(..GUID_LENGTH)
        {
            guid.make_ascii_lowercase();
        }
        let Some((_, behind)) = segment.split_at_mut_checked(1) else { return };
        rest = behind;
    }
}

/// Bytes of `{8-4-4-4-12}` hexadecimal digits.
const GUID_LENGTH: usize = 38;

/// Returns true if the first segment is a GUID in braces.
fn begins_with_guid(segments: &[u8]) -> bool {
    let Some((guid, behind)) = segments.split_first_chunk::<GUID_LENGTH>() else { return false };
    let [b'{', inner @ .., b'}'] = guid else { return false };
    let hyphens = [8, 13, 18, 23].iter().filter(|&&at| inner.get::<usize>(at) == Some(&b'-')).count();
    // Without a branch, so that the compiler uses vector instructions.
    let digits = inner.iter().fold(0_u8, |digits, byte| digits.wrapping_add(byte.is_ascii_hexdigit().into()));
    matches!(behind.first(), None | Some(b'/')) && hyphens == 4 && digits == 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Result<String, PathError> {
        normalize(path, None).map(|normal| normal.path().to_owned())
    }

    #[test]
    fn spellings_of_a_guid_have_one_key() {
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
    fn case_and_reserved_characters_stay() {
        assert_eq!(key("/A%2fb%3F/C$20d").as_deref(), Ok("/A%2Fb%3F/C$20d"));
        let normal = normalize("/a", Some("b=%7e&c=%26")).unwrap();
        assert_eq!((normal.path(), normal.key("r", None).as_str()), ("/a", "r /a?b=~&c=%26"));
    }

    #[test]
    fn key_keeps_selected_query_parameters() {
        let only = |names: &[&str]| QuerySelection::Only(names.iter().map(|&name| name.to_owned()).collect());
        for (query, selection, expected) in [
            (Some("b=1&a=2"), QuerySelection::All, "r /x?b=1&a=2"),
            (Some("b=1&a=2"), only(&["a"]), "r /x?a=2"),
            (Some("b=1&a=2"), only(&[]), "r /x"),
            (Some("%61=2&b=1"), only(&["a"]), "r /x?a=2"),
            (Some(""), only(&["a"]), "r /x"),
            (None, only(&["a"]), "r /x"),
        ] {
            let normal = normalize("/x", query).unwrap().with_query(&selection);
            assert_eq!((normal.path(), normal.key("r", None).as_str()), ("/x", expected), "{query:?}");
        }
    }

    #[test]
    fn key_splits_before_its_path() {
        for (key, route, binding, target) in [
            ("updates.example/a /a/b c?d", "updates.example/a", None, "/a/b c?d"),
            ("two words /x", "two words", None, "/x"),
            ("/ ~m2+m/3 /x ~y /z", "/", Some("m2+m/3"), "/x ~y /z"),
            ("~a~ ~~b /x", "~a~", Some("~b"), "/x"),
            ("odd", "", None, "odd"),
        ] {
            assert_eq!(split_key(key), KeyParts { route, binding, target }, "{key}");
        }
    }

    #[test]
    fn only_payloads_share_a_key_across_bindings() {
        let normal = normalize("/a", Some("b")).unwrap();
        for (class, key) in [
            (Class::Payload, "r /a?b"),
            (Class::Catalog, "r ~m2 /a?b"),
            (Class::Generic, "r ~m2 /a?b"),
            (Class::Private, "r ~m2 /a?b"),
        ] {
            assert_eq!(normal.key("r", Some(KeyBinding { binding: "m2", class })), key);
        }
    }

    #[test]
    fn request_target_of_a_key_normalizes_to_it() {
        for spelling in [
            "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/1/full.zip",
            "/a%2fb%20\"c?d={%7d&e",
            "/a?b=%0d%&c=%7B",
        ] {
            let (path, query) = spelling.split_once('?').map_or((spelling, None), |(p, q)| (p, Some(q)));
            let key = normalize(path, query).unwrap().key("route", None);
            let target = request_target(split_key(&key).target).unwrap();
            assert!(!target.as_str().contains(['{', '}']));
            assert_eq!(normalize(target.path(), target.query()).unwrap().key("route", None), key);
        }
    }

    #[test]
    fn query_may_encode_any_octet() {
        for (query, normal) in [
            ("msg=line1%0D%0Aline2", "msg=line1%0D%0Aline2"),
            ("a=%09b", "a=%09b"),
            ("k=%00", "k=%00"),
            ("k=%7f%1b", "k=%7F%1B"),
            ("p=C%3a%5CUsers%5cx", "p=C%3A\\Users\\x"),
            ("a=/../%2e%2e/b", "a=/../../b"),
            // Without a valid escape everywhere, nothing is decoded.
            ("text=100%", "text=100%"),
            ("u=%u00e9&b=%41%0a", "u=%u00e9&b=%41%0a"),
            ("a=%%34%31", "a=%%34%31"),
            ("%", "%"),
        ] {
            let key = normalize("/a", Some(query)).map(|normal| normal.key("r", None));
            assert_eq!(key, Ok(format!("r /a?{normal}")), "{query}");
        }
        for raw in ["a=\r\nb", "a=\tb", "a=\u{7f}%"] {
            assert_eq!(normalize("/a", Some(raw)), Err(PathError::ControlCharacter), "{raw:?}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for path in [
            "/a/../b",
            "/..",
            "/%2e%2E/b",
            "/a\\..\\b",
            "/a%5c..%5Cb",
            "/./a",
            "/a%2f..%2Fb",
            "/a/..;x/b",
            "/a/%2e.%3B/b",
            "/a/%252e%252e/b",
            "/a/%c0%ae%c0%ae/b",
        ] {
            assert_eq!(key(path), Err(PathError::DotSegment), "{path}");
        }
        for path in ["/a%00", "/a%0d%0aSet-Cookie:x", "/a\u{7f}", "/a%5cb"] {
            assert_eq!(key(path), Err(PathError::ControlCharacter), "{path}");
        }
        for path in ["/a%", "/a%2", "/a%zz", "/a%+1"] {
            assert_eq!(key(path), Err(PathError::PercentEncoding), "{path}");
        }
    }
}
