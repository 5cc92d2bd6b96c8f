//! Validators (RFC 9110 §8.8): entity tags and their comparisons, the validator strong enough to join bytes, the
//! conditions that validate a stored response, and whether a `304` refers to it. `conditional` evaluates a client's
//! conditions.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::date;

/// One entity tag (§8.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityTag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// Parses a whole value, such as an `ETag` field's; `None` if it is not exactly one entity tag.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        Self::split(value.trim_ascii()).filter(|(_, rest)| rest.is_empty()).map(|(tag, _)| tag)
    }

    /// Returns the tag of a response.
    pub fn from_response(headers: &'a HeaderMap) -> Option<Self> {
        Self::parse(headers.get(header::ETAG)?.as_bytes())
    }

    /// Returns the tags in a list such as `If-None-Match`, over all lines. An invalid member ends its line: the start
    /// of the next is unknown, and a tag not read matches nothing.
    pub fn list(headers: &'a HeaderMap, name: HeaderName) -> impl Iterator<Item = Self> {
        headers.get_all(name).into_iter().flat_map(|line| {
            let mut rest = line.as_bytes();
            std::iter::from_fn(move || {
                while let [b',' | b' ' | b'\t', after @ ..] = rest {
                    rest = after;
                }
                let (tag, after) = Self::split(rest)?;
                rest = after.trim_ascii_start();
                matches!(rest, [] | [b',', ..]).then_some(tag)
            })
        })
    }

    /// Compares strongly (§8.8.3.2): identical bytes.
    pub fn strongly_equals(&self, other: &EntityTag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// Compares weakly (§8.8.3.2): equivalent content.
    pub fn weakly_equals(&self, other: &EntityTag<'_>) -> bool {
        self.opaque == other.opaque
    }

    // A backslash is an ordinary character in an entity tag, unlike in a quoted string.
    fn split(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (weak, quoted) = match text.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        let inner = quoted.strip_prefix(b"\"")?;
        let end = inner.iter().position(|byte| !matches!(byte, 0x21 | 0x23..=0x7e | 0x80..))?;
        let (opaque, rest) = inner.split_at_checked(end)?;
        Some((Self { weak, opaque }, rest.strip_prefix(b"\"")?))
    }
}

/// Returns the value for `If-Range` that requests the rest of a broken-off body: equal only if every byte is.
///
/// A strong `ETag`; without any `ETag`, a `Last-Modified` at least one second before `Date` (§8.8.2.2), because a
/// file can change twice within a second. A response with a weak or malformed `ETag` has none: §13.1.5 forbids the
/// date beside a tag.
pub fn strong_validator(response: &HeaderMap) -> Option<HeaderValue> {
    match response.get(header::ETAG) {
        Some(value) => EntityTag::parse(value.as_bytes()).filter(|tag| !tag.weak).map(|_| value.clone()),
        None => {
            is_last_modified_strong(response).then(|| response.get(header::LAST_MODIFIED).cloned()).flatten()
        }
    }
}

/// Returns true if `Last-Modified` identifies the bytes (§8.8.2.2).
pub fn is_last_modified_strong(response: &HeaderMap) -> bool {
    match (date::from_headers(response, header::LAST_MODIFIED), date::from_headers(response, header::DATE)) {
        (Some(modified), Some(date)) => date.saturating_sub(modified) >= 1000,
        _ => false,
    }
}

/// Makes a request validate `stored` (RFC 9111 §4.3.1), in place of its own conditions and range, since the response
/// is for the relay. Returns false if the stored response has no validator; the request then fetches everything.
pub fn add_validators(request: &mut HeaderMap, stored: &HeaderMap) -> bool {
    for name in [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
        header::RANGE,
    ] {
        request.remove(name);
    }
    let mut validated = false;
    for (validator, condition) in
        [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)]
    {
        if let Some(value) = stored.get(validator) {
            request.insert(condition, value.clone());
            validated = true;
        }
    }
    validated
}

/// Returns true if a `304` refers to `stored` (RFC 9111 §4.3.4). One that names another version must not freshen it;
/// the relay then repeats the request without conditions.
pub fn matches_stored(not_modified: &HeaderMap, stored: &HeaderMap) -> bool {
    match (EntityTag::from_response(not_modified), EntityTag::from_response(stored)) {
        (Some(new), Some(old)) if !new.weak => new.strongly_equals(&old),
        (Some(new), Some(old)) => new.weakly_equals(&old),
        (Some(new), None) if !new.weak => false,
        _ => match (not_modified.get(header::LAST_MODIFIED), stored.get(header::LAST_MODIFIED)) {
            (Some(new), Some(old)) => date::parse(new) == date::parse(old),
            // A 304 without validators answers the conditions of its request (§4.3.4, third case).
            _ => true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const T1: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn entity_tags_compare_by_rfc_9110_section_8_8_3_2() {
        for (a, b, strong, weak) in [
            (r#"W/"1""#, r#"W/"1""#, false, true),
            (r#"W/"1""#, r#"W/"2""#, false, false),
            (r#"W/"1""#, r#""1""#, false, true),
            (r#""1""#, r#""1""#, true, true),
        ] {
            let (a, b) = (EntityTag::parse(a.as_bytes()).unwrap(), EntityTag::parse(b.as_bytes()).unwrap());
            assert_eq!((a.strongly_equals(&b), a.weakly_equals(&b)), (strong, weak));
        }
        for bad in ["", "1", "\"1", "1\"", "w/\"1\"", "W/ \"1\"", "\"a b\"", "\"1\" x", "\"1\",\"2\""] {
            assert_eq!(EntityTag::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn tag_list_may_contain_commas_and_backslashes() {
        let list = |line: &str| {
            let headers = headers(&[(header::IF_MATCH, line)]);
            let tags = EntityTag::list(&headers, header::IF_MATCH);
            tags.map(|tag| String::from_utf8(tag.opaque.to_vec()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(list(r#"  "a,b" ,, W/"c\",	"" "#), ["a,b", "c\\", ""]);
        assert_eq!(list(r#""a", b, "c""#), ["a"]);
        assert!(list(r#""a" "b""#).is_empty());
    }

    #[test]
    fn strong_validator_is_a_strong_tag_or_an_old_date() {
        use header::{DATE, ETAG, LAST_MODIFIED};
        for (fields, expected) in [
            (&[(ETAG, "\"a\""), (LAST_MODIFIED, T0), (DATE, T1)][..], Some("\"a\"")),
            (&[(ETAG, "W/\"a\""), (LAST_MODIFIED, T0), (DATE, T1)], None),
            (&[(ETAG, "a"), (LAST_MODIFIED, T0), (DATE, T1)], None),
            (&[(LAST_MODIFIED, T0), (DATE, T1)], Some(T0)),
            (&[(LAST_MODIFIED, T0), (DATE, T0)], None),
            (&[(LAST_MODIFIED, T1), (DATE, T0)], None),
            (&[(LAST_MODIFIED, T0)], None),
            (&[], None),
        ] {
            let found = strong_validator(&headers(fields));
            assert_eq!(found.as_ref().map(|v| v.to_str().unwrap()), expected, "{fields:?}");
        }
    }

    #[test]
    fn validating_request_has_only_stored_validators() {
        let mut request =
            headers(&[(header::IF_MATCH, "*"), (header::RANGE, "bytes=0-"), (header::ACCEPT, "x")]);
        assert!(add_validators(
            &mut request,
            &headers(&[(header::ETAG, "W/\"a\""), (header::LAST_MODIFIED, T0)])
        ));
        let expected =
            [(header::ACCEPT, "x"), (header::IF_NONE_MATCH, "W/\"a\""), (header::IF_MODIFIED_SINCE, T0)];
        assert_eq!(request, headers(&expected));
        assert!(!add_validators(&mut request, &headers(&[])));
        assert_eq!(request, headers(&expected[..1]));
    }

    #[test]
    fn not_modified_matches_only_the_version_it_names() {
        use header::{ETAG, LAST_MODIFIED};
        for (new, stored, expected) in [
            (&[(ETAG, "\"a\"")][..], &[(ETAG, "\"a\"")][..], true),
            (&[(ETAG, "\"b\"")], &[(ETAG, "\"a\"")], false),
            (&[(ETAG, "\"a\"")], &[(ETAG, "W/\"a\"")], false),
            (&[(ETAG, "W/\"a\"")], &[(ETAG, "\"a\"")], true),
            (&[(ETAG, "\"a\"")], &[(LAST_MODIFIED, T0)], false),
            (&[(LAST_MODIFIED, T0)], &[(ETAG, "\"a\""), (LAST_MODIFIED, T0)], true),
            (&[(LAST_MODIFIED, T1)], &[(LAST_MODIFIED, T0)], false),
            (&[], &[(ETAG, "\"a\"")], true),
        ] {
            assert_eq!(matches_stored(&headers(new), &headers(stored)), expected, "{new:?} {stored:?}");
        }
    }
}
