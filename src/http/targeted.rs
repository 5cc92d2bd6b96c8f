//! Targeted cache control (RFC 9213): a field such as `CDN-Cache-Control` that replaces `Cache-Control` and `Expires` for
//! the caches on its list. It is a Structured Fields dictionary, parsed as a whole: an invalid or empty field counts as
//! absent, so that a typo falls back to `Cache-Control`.

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

/// Returns the directives of a targeted field in the syntax of `Cache-Control`; `None` if the field is absent, empty or
/// invalid.
///
/// A value of a type that no directive has becomes one that no directive can use, which then has its most restrictive
/// meaning: `max-age="60"` is 0.
pub(super) fn members(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let mut lines = headers.get_all(name).iter().map(|line| line.as_bytes());
    let mut text = lines.next()?.to_vec();
    for line in lines {
        text.extend_from_slice(b", ");
        text.extend_from_slice(line);
    }
    let directives: Dictionary = Parser::new(&text).parse().ok()?;
    let members = directives.iter().filter_map(|(key, value)| {
        Some(match value {
            ListEntry::Item(item) => match &item.bare_item {
                BareItem::Boolean(true) => key.to_string(),
                BareItem::Boolean(false) => return None,
                BareItem::Integer(number) => format!("{key}={number}"),
                _ => format!("{key}=?"),
            },
            ListEntry::InnerList(_) => format!("{key}=?"),
        })
    });
    (!directives.is_empty()).then(|| members.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{CacheControl, Directive};
    use http::HeaderValue;

    const FIELDS: [HeaderName; 2] =
        [HeaderName::from_static("gupd-cache-control"), HeaderName::from_static("cdn-cache-control")];

    fn control(text: &str) -> CacheControl {
        let mut headers = HeaderMap::new();
        for (name, value) in text.split('|').filter_map(|line| line.split_once(": ")) {
            headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        CacheControl::for_shared_cache(&headers, &FIELDS)
    }

    #[test]
    fn targeted_field_replaces_cache_control() {
        for (text, max_age) in [
            ("cache-control: max-age=1, no-store|cdn-cache-control: max-age=60", 60),
            ("cache-control: max-age=60|cdn-cache-control: max-age=1", 1),
            ("cdn-cache-control: max-age=60;x=1, unknown=(1 2)", 60),
            ("cdn-cache-control: max-age=60, public=?0", 60),
            ("cdn-cache-control: public|cdn-cache-control: max-age=60", 60),
            ("cdn-cache-control: max-age=60, max-age=30", 30),
            ("cdn-cache-control: max-age=99999999999", 1 << 31),
            // The first field of the list wins.
            ("cdn-cache-control: max-age=1, no-store|gupd-cache-control: max-age=60", 60),
            // A wrong type is stale.
            ("cdn-cache-control: max-age=\"60\"", 0),
            ("cdn-cache-control: max-age=60.5", 0),
            ("cdn-cache-control: max-age=-60", 0),
            ("cdn-cache-control: max-age=(60)", 0),
            ("cdn-cache-control: max-age", 0),
            ("cdn-cache-control: max-age=@60", 0),
        ] {
            let control = control(text);
            assert_eq!((control.max_age, control.is_targeted), (Some(max_age), true), "{text}");
            assert!(!control.has(Directive::NoStore), "{text}");
        }
    }

    #[test]
    fn every_restriction_of_a_targeted_field_is_heard() {
        for (member, directive) in [
            ("no-store", Directive::NoStore),
            ("no-store=?1", Directive::NoStore),
            ("no-store=1", Directive::NoStore),
            ("no-cache=\"a, b\"", Directive::NoCache),
            ("private=a", Directive::Private),
            ("private;a", Directive::Private),
            ("must-revalidate", Directive::MustRevalidate),
            ("proxy-revalidate", Directive::ProxyRevalidate),
        ] {
            let found = control(&format!("cache-control: max-age=9|cdn-cache-control: max-age=60, {member}"));
            assert!(found.has(directive) && found.max_age == Some(60), "{member}");
        }
        assert!(!control("cdn-cache-control: no-store=?0, max-age=1").has(Directive::NoStore));
    }

    #[test]
    fn invalid_targeted_field_counts_as_absent() {
        for value in [
            "",
            "max-age=60, &&&&&",
            "max-age=60;",
            "max-age=60,",
            "max-age =60",
            "max-age= 60",
            "Max-Age=60",
            "max-age=9999999999999999",
            "max-age=60 no-cache",
            "max-age=\u{e9}",
        ] {
            let found = control(&format!("cache-control: max-age=7|cdn-cache-control: {value}"));
            assert_eq!((found.max_age, found.is_targeted), (Some(7), false), "{value}");
        }
        assert_eq!(control("surrogate-control: max-age=60"), CacheControl::default());
    }
}
