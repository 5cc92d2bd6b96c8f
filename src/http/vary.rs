//! `Vary` (RFC 9111 §4.1): the request fields that select a stored response, and their comparison with a request.
//! Values are compared after the normalization that is safe for any list-based field: lines combined, white space
//! around commas removed. `Accept-Language` has a normal form of its own; other fields' meanings are ignored.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{field, language};
use gupd_config::Class;

/// Maximum of names in one `Vary`; servers list up to five, and each costs every lookup a comparison.
pub const MAX_NAMES: usize = 16;
/// Maximum bytes of all normalized values together: they are kept in the index for every variant.
pub const MAX_VALUE_BYTES: usize = 4096;

/// Request fields that select one stored response, with their values. For most responses empty and without an
/// allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VaryFields(Vec<SelectingField>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SelectingField {
    name: HeaderName,
    // `None`: the request had no such field; only requests without it match.
    value: Option<Box<[u8]>>,
}

impl VaryFields {
    /// Returns the fields that select `response`, with the values of its request.
    ///
    /// `None` if no later request can match (`*`, an invalid name) or if a bound of this module is exceeded; such a
    /// response is not stored.
    ///
    /// For payloads and catalogs `User-Agent` is ignored: LiveUpdate clients of one product send random-looking
    /// values, and the bytes are the same for all of them.
    pub fn from_response(response: &HeaderMap, request: &HeaderMap, class: Class) -> Option<Self> {
        let mut fields = Vec::new();
        let mut bytes = 0;
        for name in names(response, class) {
            let name = name?;
            let value = selecting_value(request, &name);
            bytes += value.as_deref().map_or(0, <[u8]>::len);
            fields.push(SelectingField { name, value });
            if fields.len() > MAX_NAMES || bytes > MAX_VALUE_BYTES {
                return None;
            }
        }
        fields.sort_unstable_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        fields.dedup();
        Some(Self(fields))
    }

    /// Adds these fields of the response's request, as if the response listed them in `Vary`. `None` if a bound of this
    /// module is exceeded.
    pub fn with_fields(mut self, names: &[HeaderName], request: &HeaderMap) -> Option<Self> {
        for name in names {
            if !self.0.iter().any(|field| field.name == *name) {
                self.0.push(SelectingField { name: name.clone(), value: selecting_value(request, name) });
            }
        }
        let bytes: usize = self.0.iter().filter_map(|field| Some(field.value.as_deref()?.len())).sum();
        self.0.sort_unstable_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        (self.0.len() <= MAX_NAMES && bytes <= MAX_VALUE_BYTES).then_some(self)
    }

    /// Returns the same fields with the values of another request.
    #[must_use]
    pub fn for_request(&self, request: &HeaderMap) -> Self {
        let field = |field: &SelectingField| SelectingField {
            name: field.name.clone(),
            value: selecting_value(request, &field.name),
        };
        Self(self.0.iter().map(field).collect())
    }

    /// Returns the fields of a matching request.
    pub fn request(&self) -> HeaderMap {
        let fields = self.0.iter().filter_map(|field| {
            let value = HeaderValue::from_bytes(field.value.as_deref()?).ok()?;
            Some((field.name.clone(), value))
        });
        fields.collect()
    }

    /// Returns true if no field selects: one response for every request.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if a request has the same values.
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.0.iter().all(|field| field.matches(request))
    }

    /// Returns true if a request selects the stored response with these fields: by the same values, or by its first choice
    /// of a language.
    pub fn selects(&self, request: &HeaderMap, response: &HeaderMap) -> bool {
        self.0.iter().all(|field| {
            field.matches(request)
                || (field.name == header::ACCEPT_LANGUAGE && language::is_first_choice(request, response))
        })
    }

    /// Encodes the fields for the index: a line `name:value` or, for an absent field, `name`. Octets above ASCII
    /// become the characters U+0080 to U+00FF.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for field in &self.0 {
            text.push_str(field.name.as_str());
            if let Some(value) = &field.value {
                text.push(':');
                text.extend(value.iter().copied().map(char::from));
            }
            text.push('\n');
        }
        text
    }

    /// Decodes the text of [`Self::encode`]; `None` for any other text.
    pub fn decode(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let fields = text.strip_suffix('\n')?.split('\n').map(|line| {
            let (name, value) =
                line.split_once(':').map_or((line, None), |(name, value)| (name, Some(value)));
            let value = value.map(|v| v.chars().map(|c| u8::try_from(c).ok()).collect::<Option<Box<[u8]>>>());
            Some(SelectingField {
                name: HeaderName::try_from(name).ok()?,
                value: value.map_or(Some(None), |v| v.map(Some))?,
            })
        });
        fields.collect::<Option<Vec<_>>>().map(Self)
    }
}

impl SelectingField {
    fn matches(&self, request: &HeaderMap) -> bool {
        let Self { name, value } = self;
        match value {
            Some(_) if !request.contains_key(name) => false,
            Some(value) if *name == header::ACCEPT_LANGUAGE => language::normalize(request) == **value,
            Some(value) => normalized_value(request, name).eq(value.iter().copied()),
            None => !request.contains_key(name),
        }
    }
}

/// Returns the selecting names in `Vary`; `None` for one that no request can match.
fn names(response: &HeaderMap, class: Class) -> impl Iterator<Item = Option<HeaderName>> + '_ {
    field::members(response, header::VARY)
        // `*` is a token, and would otherwise pass as a field name.
        .map(|member| (member != b"*").then(|| HeaderName::from_bytes(member).ok()).flatten())
        .filter(move |name| {
            !(matches!(class, Class::Payload | Class::Catalog) && *name == Some(header::USER_AGENT))
        })
}

fn selecting_value(request: &HeaderMap, name: &HeaderName) -> Option<Box<[u8]>> {
    request.contains_key(name).then(|| match *name == header::ACCEPT_LANGUAGE {
        true => language::normalize(request).into(),
        false => normalized_value(request, name).collect(),
    })
}

fn normalized_value<'a>(request: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = u8> + use<'a> {
    field::members(request, name.clone()).enumerate().flat_map(|(at, member)| {
        let separator: &[u8] = if at == 0 { b"" } else { b"," };
        separator.iter().chain(member).copied()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::try_from(*name).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn selecting(vary: &str, request: &[(&str, &str)]) -> Option<VaryFields> {
        VaryFields::from_response(&headers(&[("vary", vary)]), &headers(request), Class::Generic)
    }

    #[test]
    fn request_matches_by_listed_fields_only() {
        let stored =
            selecting("Accept-Encoding, X-A", &[("accept-encoding", "gzip, br"), ("x-b", "1")]).unwrap();
        for (request, expected) in [
            (&[("accept-encoding", "gzip, br")][..], true),
            (&[("accept-encoding", "gzip ,\tbr"), ("x-b", "2")], true),
            (&[("accept-encoding", "gzip"), ("accept-encoding", "br")], true),
            (&[("accept-encoding", "br, gzip")], false),
            (&[("accept-encoding", "gzip, br, x")], false),
            (&[("accept-encoding", "gzip, br"), ("x-a", "")], false),
            (&[], false),
        ] {
            assert_eq!(stored.matches(&headers(request)), expected, "{request:?}");
        }
    }

    #[test]
    fn added_fields_select_like_listed_ones() {
        let request = headers(&[("user-agent", "a"), ("x-a", "1")]);
        let (agent, own) = (header::USER_AGENT, HeaderName::from_static("x-a"));
        let stored = selecting("x-a", &[("x-a", "1")]).unwrap();
        let stored = stored.with_fields(&[agent.clone(), own], &request).unwrap();
        assert!(stored.matches(&request));
        for other in [&[("user-agent", "b"), ("x-a", "1")][..], &[("x-a", "1")], &[("user-agent", "a")]] {
            assert!(!stored.matches(&headers(other)), "{other:?}");
        }
        assert_eq!(VaryFields::decode(&stored.encode()), Some(stored));
        let long = headers(&[("user-agent", &"v".repeat(MAX_VALUE_BYTES + 1))]);
        assert_eq!(VaryFields::default().with_fields(&[agent], &long), None);
        assert!(VaryFields::default().with_fields(&[], &long).unwrap().is_empty());
    }

    #[test]
    fn absent_field_differs_from_an_empty_one() {
        let absent = selecting("x-a", &[]).unwrap();
        let empty = selecting("x-a", &[("x-a", "")]).unwrap();
        assert_ne!(absent, empty);
        assert!(absent.matches(&headers(&[])) && !empty.matches(&headers(&[])));
        assert!(empty.matches(&headers(&[("x-a", " ")])) && !absent.matches(&headers(&[("x-a", "")])));
    }

    #[test]
    fn response_without_vary_allocates_nothing() {
        let none =
            VaryFields::from_response(&headers(&[]), &headers(&[("accept", "x")]), Class::Generic).unwrap();
        assert!(none.is_empty() && none.0.capacity() == 0 && none.matches(&headers(&[])));
        assert_eq!(none.encode(), "");
    }

    #[test]
    fn star_invalid_name_or_excess_matches_no_request() {
        assert_eq!(selecting("accept, *", &[]), None);
        assert_eq!(selecting("a b", &[]), None);
        let names = |count: usize| (0..count).map(|i| format!("x-{i}")).collect::<Vec<_>>().join(",");
        assert!(selecting(&names(MAX_NAMES), &[]).is_some());
        assert_eq!(selecting(&names(MAX_NAMES + 1), &[]), None);
        assert!(selecting("x-a", &[("x-a", &"v".repeat(MAX_VALUE_BYTES))]).is_some());
        assert_eq!(selecting("x-a", &[("x-a", &"v".repeat(MAX_VALUE_BYTES + 1))]), None);
    }

    #[test]
    fn order_case_and_repetition_make_no_new_variant() {
        let request = [("x-a", "1"), ("x-b", "2")];
        assert_eq!(selecting("X-A, x-b", &request), selecting("x-b, x-a, X-B", &request));
    }

    #[test]
    fn user_agent_selects_only_generic_content() {
        let response = headers(&[("vary", "User-Agent")]);
        let request = headers(&[("user-agent", "c2Vj")]);
        for (class, selects) in [(Class::Generic, true), (Class::Payload, false), (Class::Catalog, false)] {
            assert_eq!(!VaryFields::from_response(&response, &request, class).unwrap().is_empty(), selects);
        }
    }

    #[test]
    fn invalid_encoding_is_rejected() {
        for text in ["x-a", "\n", ":v\n", "x a:v\n", "x-a:\u{100}\n", "x-a:v\n\n"] {
            assert_eq!(VaryFields::decode(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn encoded_fields_decode_and_match_their_request(
            values in prop::collection::vec(prop::option::of(prop::collection::vec(
                any::<u8>().prop_filter("field octet", |b| *b >= 0x20 && *b != 0x7f), 0..20)), 0..6)
        ) {
            let (mut request, mut vary) = (HeaderMap::new(), String::new());
            for (i, value) in values.iter().enumerate() {
                let name = HeaderName::try_from(format!("x-{i}")).unwrap();
                vary += &format!("{name},");
                if let Some(value) = value {
                    request.insert(name, HeaderValue::from_bytes(value).unwrap());
                }
            }
            let response = headers(&[("vary", &vary)]);
            let stored = VaryFields::from_response(&response, &request, Class::Generic).unwrap();
            prop_assert!(stored.matches(&request));
            prop_assert_eq!(VaryFields::decode(&stored.encode()), Some(stored));
        }
    }
}
