//! `Cache-Control` (RFC 9111 §5.2, RFC 5861, RFC 8246), or the field in its place that is for shared caches (RFC 9213),
//! parsed once into flags and numbers, by one parser for requests and responses. If a field contradicts itself, the most
//! restrictive reading holds. An unreadable number is 0, which means stale. Servers also send what is not a list of
//! directives, such as `private; max-age=600`. There every word that restricts counts, and none that permits.

use http::{HeaderMap, HeaderName, header};

use super::{field, targeted};

/// A directive without a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directive {
    /// Store nothing.
    NoStore,
    /// Use only after successful validation. The qualified form `no-cache="field"` reads as this, as §5.2.2.4 allows.
    NoCache,
    /// Do not store in a shared cache. The qualified form `private="field"` reads as this, as §5.2.2.7 allows.
    Private,
    /// Any cache may store it.
    Public,
    /// Never serve stale.
    MustRevalidate,
    /// Never serve stale from a shared cache.
    ProxyRevalidate,
    /// Store only if the cache understands the status code.
    MustUnderstand,
    /// The response does not change while fresh.
    Immutable,
    /// Answer from the store, or with `504`.
    OnlyIfCached,
}

/// The `Cache-Control` directives of one message. Numbers are seconds, at most 2³¹.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheControl {
    flags: u16,
    /// Request: maximum age. Response: freshness lifetime.
    pub max_age: Option<u32>,
    /// Response: freshness lifetime in shared caches.
    pub s_maxage: Option<u32>,
    /// Request: minimum of remaining freshness.
    pub min_fresh: Option<u32>,
    /// Request: maximum staleness; `u32::MAX` for any.
    pub max_stale: Option<u32>,
    /// Time past its freshness in which a response may be used if it cannot be fetched.
    pub stale_if_error: Option<u32>,
    /// Response: time past its freshness in which it may be used during validation.
    pub stale_while_revalidate: Option<u32>,
    /// The directives come from a targeted field: `Expires` does not apply (RFC 9213 §2.2).
    pub is_targeted: bool,
}

impl CacheControl {
    /// Parses a request's directives. `Pragma: no-cache` counts if there is no `Cache-Control` (§5.4).
    pub fn from_request(headers: &HeaderMap) -> Self {
        let mut control = Self::from_response(headers);
        if !headers.contains_key(header::CACHE_CONTROL)
            && field::members(headers, header::PRAGMA)
                .any(|member| words(member).any(|word| word.eq_ignore_ascii_case(b"no-cache")))
        {
            control.set(Directive::NoCache);
        }
        control
    }

    /// Parses a response's directives for this cache: those of the first valid field among `targeted_fields`, else
    /// those of `Cache-Control` (RFC 9213 §2.2).
    pub fn for_shared_cache(headers: &HeaderMap, targeted_fields: &[HeaderName]) -> Self {
        let Some(members) = targeted_fields.iter().find_map(|name| targeted::members(headers, name)) else {
            return Self::from_response(headers);
        };
        let mut control = Self { is_targeted: true, ..Self::default() };
        members.iter().for_each(|member| control.read(member.as_bytes()));
        control
    }

    /// Parses the `Cache-Control` of a response. `Pragma` means nothing in a response (§5.4).
    pub fn from_response(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for member in field::members(headers, header::CACHE_CONTROL) {
            control.read(member);
        }
        control
    }

    /// Returns true if the directive is present.
    pub const fn has(&self, directive: Directive) -> bool {
        self.flags & (1 << directive as u16) != 0
    }

    const fn set(&mut self, directive: Directive) {
        self.flags |= 1 << directive as u16;
    }

    fn read(&mut self, member: &[u8]) {
        match split_directive(member) {
            Some((name, argument)) => self.read_directive(name, argument),
            None => words(member).for_each(|word| self.read_restriction(word)),
        }
    }

    fn read_directive(&mut self, name: &[u8], argument: Option<&[u8]>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if let Some(directive) = flag(name) {
            self.set(directive);
        } else if is("max-age") {
            lower(&mut self.max_age, seconds(argument).unwrap_or(0));
        } else if is("s-maxage") {
            lower(&mut self.s_maxage, seconds(argument).unwrap_or(0));
        } else if is("min-fresh") {
            // The restrictive reading of a minimum is the greatest.
            self.min_fresh = self.min_fresh.max(Some(seconds(argument).unwrap_or(field::MAX_DELTA_SECONDS)));
        } else if is("max-stale") {
            lower(&mut self.max_stale, argument.map_or(u32::MAX, |_| seconds(argument).unwrap_or(0)));
        } else if is("stale-if-error") {
            lower(&mut self.stale_if_error, seconds(argument).unwrap_or(0));
        } else if is("stale-while-revalidate") {
            lower(&mut self.stale_while_revalidate, seconds(argument).unwrap_or(0));
        }
    }

    /// Reads a word of a member that is no directive. A directive with a number counts as one with an unreadable number.
    fn read_restriction(&mut self, word: &[u8]) {
        match flag(word) {
            Some(Directive::Public | Directive::MustUnderstand | Directive::Immutable) => {}
            Some(directive) => self.set(directive),
            None => self.read_directive(word, Some(b"")),
        }
    }
}

/// Splits a directive (§5.2) into its name and argument; `None` if the member is none. White space before `=` is
/// accepted, because it makes nothing ambiguous.
fn split_directive(member: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (name, argument) = match field::split_once(member, b'=') {
        Some((name, argument)) => (name.trim_ascii_end(), Some(argument)),
        None => (member, None),
    };
    let is_argument = |argument: &[u8]| is_token(argument) || field::is_quoted_string(argument);
    (is_token(name) && argument.is_none_or(is_argument)).then_some((name, argument))
}

/// Returns true for a token (RFC 9110 §5.6.2) without apostrophes, which are mistaken for quotes. Octets outside ASCII
/// pass.
fn is_token(text: &[u8]) -> bool {
    let is_delimiter = |byte: &u8| byte.is_ascii_control() || b" \"'(),/:;<=>?@[\\]{}".contains(byte);
    !text.is_empty() && !text.iter().any(is_delimiter)
}

/// Returns the words of a text, where anything but letters, digits and `-` separates.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-').filter(|word| !word.is_empty())
}

fn flag(name: &[u8]) -> Option<Directive> {
    let flag = FLAGS.iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
    flag.map(|(_, directive)| *directive)
}

const FLAGS: [(&str, Directive); 9] = [
    ("no-store", Directive::NoStore),
    ("no-cache", Directive::NoCache),
    ("private", Directive::Private),
    ("public", Directive::Public),
    ("must-revalidate", Directive::MustRevalidate),
    ("proxy-revalidate", Directive::ProxyRevalidate),
    ("must-understand", Directive::MustUnderstand),
    ("immutable", Directive::Immutable),
    ("only-if-cached", Directive::OnlyIfCached),
];

fn lower(slot: &mut Option<u32>, to: u32) {
    *slot = Some(slot.map_or(to, |now| now.min(to)));
}

/// Accepts `max-age=5` and `max-age="5"` (§5.2).
fn seconds(argument: Option<&[u8]>) -> Option<u32> {
    let argument = argument.unwrap_or_default();
    let bare = argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(argument);
    field::delta_seconds(bare)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn headers(name: HeaderName, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        headers
    }

    fn control(lines: &[&str]) -> CacheControl {
        CacheControl::from_response(&headers(header::CACHE_CONTROL, lines))
    }

    #[test]
    fn every_directive_is_read_whatever_its_case_line_or_place() {
        for (name, directive) in FLAGS {
            let upper = name.to_ascii_uppercase();
            let control = control(&["max-age=1, x=\"a, b\"", &format!("foo , {upper},bar=2")]);
            assert!(control.has(directive), "{name}");
            assert_eq!(control.max_age, Some(1));
            assert_eq!(control.flags.count_ones(), 1, "{name} is no other directive");
        }
    }

    #[test]
    fn unreadable_numbers_are_stale_and_large_ones_capped() {
        for (line, expected) in [
            ("max-age=60", 60),
            ("max-age=\"60\"", 60),
            ("max-age=99999999999999999999", 1 << 31),
            ("max-age=-1", 0),
            ("max-age=1.5", 0),
            ("max-age= 60", 0),
            ("max-age=60 s", 0),
            ("max-age=", 0),
            ("max-age", 0),
            ("max-age=\"60", 0),
            ("max-age=60, max-age=30, max-age=90", 30),
            ("max-age=60, max-age=x", 0),
        ] {
            assert_eq!(control(&[line]).max_age, Some(expected), "{line}");
        }
        assert_eq!(control(&["s-maxage=5", "s-maxage=3"]).s_maxage, Some(3));
        assert_eq!(control(&["xmax-age=5, max-age-x=3, foo=\"max-age=9\""]), CacheControl::default());
    }

    #[test]
    fn malformed_list_is_read_restrictively() {
        use Directive::*;
        for (line, expected) in [
            // Semicolons, missing commas, and other separators.
            ("no-cache; no-store; must-revalidate", &[NoCache, NoStore, MustRevalidate][..]),
            ("private; max-age=600", &[Private]),
            ("max-age=600;private", &[Private]),
            ("no-store max-age=600", &[NoStore]),
            ("public private", &[Private]),
            ("no-store\tno-cache", &[NoStore, NoCache]),
            ("no-cache/no-store", &[NoCache, NoStore]),
            ("no-cache:no-store", &[NoCache, NoStore]),
            ("max-age=600 proxy-revalidate", &[ProxyRevalidate]),
            ("Cache-Control: No-Store", &[NoStore]),
            ("private=\"x\" no-store", &[Private, NoStore]),
            // Quoted names and lists.
            ("\"no-store\"", &[NoStore]),
            ("'private'", &[Private]),
            ("\"no-cache, no-store\", max-age=600", &[NoCache, NoStore]),
            ("\"private\"=x", &[Private]),
            ("\"no-store", &[NoStore]),
            ("[no-store]", &[NoStore]),
            // A permission counts only in a well-formed directive.
            ("public; immutable", &[]),
            ("must-understand; no-store", &[NoStore]),
            ("public, max-age=600", &[Public]),
            // The argument of an extension is no directive.
            ("x=\"no-store, private\", y=no-store", &[]),
            ("no-storex; my-private", &[]),
        ] {
            let control = control(&[line]);
            for (name, directive) in FLAGS {
                assert_eq!(control.has(directive), expected.contains(&directive), "{line}: {name}");
            }
        }
    }

    #[test]
    fn number_in_a_malformed_member_is_unreadable() {
        for line in
            ["max-age=600; x", "x max-age=600", "\"max-age=600\"", "max-age=600 s-maxage=5", "max-age:600"]
        {
            assert_eq!(control(&[line]).max_age, Some(0), "{line}");
        }
        assert_eq!(control(&["s-maxage=600; x, max-age=600"]).s_maxage, Some(0));
        assert_eq!(control(&["min-fresh=5 x"]).min_fresh, Some(field::MAX_DELTA_SECONDS));
        assert_eq!(control(&["max-stale; x"]).max_stale, Some(0));
        assert_eq!(control(&["stale-if-error=600; x"]).stale_if_error, Some(0));
    }

    #[test]
    fn repeated_request_numbers_read_as_the_strictest() {
        assert_eq!(control(&["min-fresh=5, min-fresh=9"]).min_fresh, Some(9));
        assert_eq!(control(&["max-stale"]).max_stale, Some(u32::MAX));
        assert_eq!(control(&["max-stale, max-stale=9"]).max_stale, Some(9));
        assert_eq!(control(&["max-stale=?"]).max_stale, Some(0));
        let both = control(&["stale-if-error=9, stale-while-revalidate=4"]);
        assert_eq!((both.stale_if_error, both.stale_while_revalidate), (Some(9), Some(4)));
    }

    #[test]
    fn qualified_forms_read_as_unqualified() {
        assert!(control(&["private=\"set-cookie\""]).has(Directive::Private));
        assert!(control(&["no-cache=set-cookie"]).has(Directive::NoCache));
    }

    #[test]
    fn octets_outside_ascii_hide_no_directive() {
        assert!(control(&["caf\u{e9}=1, no-store"]).has(Directive::NoStore));
    }

    #[test]
    fn pragma_counts_in_a_request_without_cache_control_only() {
        let pragma = headers(header::PRAGMA, &["x, No-Cache"]);
        assert!(CacheControl::from_request(&pragma).has(Directive::NoCache));
        assert!(!CacheControl::from_response(&pragma).has(Directive::NoCache));
        let malformed = headers(header::PRAGMA, &["no-cache; x"]);
        assert!(CacheControl::from_request(&malformed).has(Directive::NoCache));
        let mut both = pragma;
        both.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
        assert!(!CacheControl::from_request(&both).has(Directive::NoCache));
    }

    proptest! {
        #[test]
        fn any_octets_parse_and_a_listed_no_store_is_never_missed(
            before in "[ -~\u{80}-\u{ff}\t]{0,40}", after in "[ -~]{0,40}"
        ) {
            // A quote before it may rightly make it part of a quoted string.
            let before = before.replace('"', "'");
            let line = format!("{before},no-store,{after}");
            prop_assert!(control(&[&line]).has(Directive::NoStore));
        }
    }
}
