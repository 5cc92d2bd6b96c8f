//! Selection of stored responses (RFC 9111 §4.1): the parts of a request that select a response, and their comparison
//! with another request. The invariant: a request gets a response only if the upstream would have received the same
//! selecting values from it. Fields that fills do not send therefore select nothing, and `Accept-Encoding` selects by
//! its normal form, as `Accept-Language` does. Other values are compared after the normalization that is safe for any
//! list-based field. The complication: some responses need a selection that no `Vary` announces, coded and unsuccessful ones.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::coding::{is_coded, is_decodable, requested_coding};
use super::{field, forwarding, language};
use gupd_config::Class;

/// Maximum of names in one `Vary`; servers list up to five, and each costs every lookup a comparison.
pub const MAX_NAMES: usize = 16;
/// Maximum bytes of all normalized values together: they are kept in the index for every variant.
pub const MAX_VALUE_BYTES: usize = 4096;

/// Fields on which servers and their filters decide without saying so in `Vary`. An unsuccessful response is shared only
/// between requests that agree in them.
const DECISIVE: [HeaderName; 6] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::COOKIE,
    header::ORIGIN,
    header::REFERER,
    header::USER_AGENT,
];

/// The parts of a request that can select a stored response.
#[derive(Clone, Copy, Debug)]
pub struct SelectingRequest<'a> {
    /// Fields of the client, without those that its `Connection` names.
    pub headers: &'a HeaderMap,
    /// Path and query as the client spelled them.
    pub target: &'a str,
}

/// Selection of one stored response. For most responses empty and without an allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VaryFields {
    fields: Vec<SelectingField>,
    // The spelling of the target, for a response that only requests with this spelling may get.
    target: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SelectingField {
    name: HeaderName,
    // `None`: the request had no such field; only requests without it match.
    value: Option<Box<[u8]>>,
}

impl VaryFields {
    /// Returns the selection of a response, with the values of its request.
    ///
    /// `None` if no later request can match (`*`, an invalid name), if other clients could not decode the content, or if
    /// a bound of this module is exceeded. Such a response is not stored.
    ///
    /// - Content with a coding is selected by `Accept-Encoding`, content without one by no coding: it satisfies every
    ///   client.
    /// - An unsuccessful response is selected by the spelling of the target and by a few fields on which servers decide.
    ///   Equivalent spellings have one key, but a server that distinguishes case has the file under one of them only.
    /// - For payloads and catalogs `User-Agent` is ignored: LiveUpdate clients of one product send random-looking values,
    ///   and the bytes are the same for all of them.
    pub fn from_response(
        status: StatusCode,
        response: &HeaderMap,
        request: SelectingRequest<'_>,
        class: Class,
    ) -> Option<Self> {
        let is_coded = is_coded(response);
        if is_coded && !is_decodable(response, requested_coding(request.headers)) {
            return None;
        }
        let mut names = Vec::new();
        for name in listed_names(response) {
            names.extend(Some(name?).filter(|name| can_select(name, class)));
        }
        if is_coded {
            names.push(header::ACCEPT_ENCODING);
        }
        let is_for_equals = !status.is_success();
        if is_for_equals {
            names.extend(DECISIVE.into_iter().filter(|name| can_select(name, class)));
        }
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        if names.len() > MAX_NAMES {
            return None;
        }
        let fields: Vec<_> =
            names.into_iter().map(|name| SelectingField::from_request(request.headers, name)).collect();
        let bytes: usize = fields.iter().filter_map(|field| field.value.as_deref()).map(<[u8]>::len).sum();
        let target = is_for_equals.then(|| Box::from(request.target));
        (bytes <= MAX_VALUE_BYTES).then_some(Self { fields, target })
    }

    /// Adds these fields of the response's request, as if the response listed them in `Vary`. `None` if a bound of this
    /// module is exceeded.
    pub fn with_fields(mut self, names: &[HeaderName], request: &HeaderMap) -> Option<Self> {
        for name in names {
            if !self.fields.iter().any(|field| field.name == *name) {
                self.fields.push(SelectingField::from_request(request, name.clone()));
            }
        }
        let bytes: usize = self.fields.iter().filter_map(|field| Some(field.value.as_deref()?.len())).sum();
        self.fields.sort_unstable_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        (self.fields.len() <= MAX_NAMES && bytes <= MAX_VALUE_BYTES).then_some(self)
    }

    /// Returns the same selection with the values of another request.
    #[must_use]
    pub fn for_request(&self, request: SelectingRequest<'_>) -> Self {
        let names = self.fields.iter().map(|field| field.name.clone());
        let fields = names.map(|name| SelectingField::from_request(request.headers, name)).collect();
        Self { fields, target: self.target.as_ref().map(|_| Box::from(request.target)) }
    }

    /// Returns the fields of a matching request.
    pub fn request(&self) -> HeaderMap {
        let fields = self.fields.iter().filter_map(|field| {
            let value = HeaderValue::from_bytes(field.value.as_deref()?).ok()?;
            Some((field.name.clone(), value))
        });
        fields.collect()
    }

    /// Returns the spelling of the target that matches; `None` for any spelling.
    pub fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// Returns true if nothing selects: one response for every request.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.target.is_none()
    }

    /// Returns true if the selection has all parts that such a response needs. Older versions stored without some.
    pub fn is_sufficient(&self, status: StatusCode, response: &HeaderMap) -> bool {
        let selects_coding = || self.fields.iter().any(|field| field.name == header::ACCEPT_ENCODING);
        (status.is_success() || self.target.is_some()) && (!is_coded(response) || selects_coding())
    }

    /// Returns true if a request has the same values.
    pub fn matches(&self, request: SelectingRequest<'_>) -> bool {
        self.target.as_deref().is_none_or(|target| target == request.target)
            && self.fields.iter().all(|field| field.matches(request.headers))
    }

    /// Returns true if a request selects the stored response: by the same values, or by its first choice of a language.
    pub fn selects(&self, request: SelectingRequest<'_>, response: &HeaderMap) -> bool {
        self.target.as_deref().is_none_or(|target| target == request.target)
            && self.fields.iter().all(|field| {
                let is_language = field.name == header::ACCEPT_LANGUAGE && self.target.is_none();
                field.matches(request.headers)
                    || (is_language && language::is_first_choice(request.headers, response))
            })
    }

    /// Encodes the selection for the index: the target, then a line `name:value` or, for an absent field, `name`. Octets
    /// above ASCII become the characters U+0080 to U+00FF.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for part in self.target.iter() {
            text.push_str(part);
            text.push('\n');
        }
        for field in &self.fields {
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
        let mut selection = Self::default();
        for line in text.strip_suffix('\n')?.split('\n') {
            // No field name begins with a slash, and every target does.
            if line.starts_with('/') {
                selection.target = Some(Box::from(line));
            } else {
                selection.fields.push(SelectingField::decode(line)?);
            }
        }
        Some(selection)
    }
}

impl SelectingField {
    fn from_request(request: &HeaderMap, name: HeaderName) -> Self {
        let value = if name == header::ACCEPT_ENCODING {
            requested_coding(request).map(|coding| Box::from(coding.as_bytes()))
        } else {
            request.contains_key(&name).then(|| match name == header::ACCEPT_LANGUAGE {
                true => language::normalize(request).into(),
                false => normalized_value(request, &name).collect(),
            })
        };
        Self { name, value }
    }

    fn matches(&self, request: &HeaderMap) -> bool {
        let Self { name, value } = self;
        if *name == header::ACCEPT_ENCODING {
            return requested_coding(request).map(str::as_bytes) == value.as_deref();
        }
        match value {
            Some(_) if !request.contains_key(name) => false,
            Some(value) if *name == header::ACCEPT_LANGUAGE => language::normalize(request) == **value,
            Some(value) => normalized_value(request, name).eq(value.iter().copied()),
            None => !request.contains_key(name),
        }
    }

    fn decode(line: &str) -> Option<Self> {
        let (name, value) = line.split_once(':').map_or((line, None), |(name, value)| (name, Some(value)));
        let octets = |text: &str| text.chars().map(|c| u8::try_from(c).ok()).collect::<Option<Box<[u8]>>>();
        let value = match value {
            Some(text) => Some(octets(text)?),
            None => None,
        };
        Some(Self { name: HeaderName::try_from(name).ok()?, value })
    }
}

/// Returns the names that `Vary` lists; `None` for one that no request can match.
fn listed_names(response: &HeaderMap) -> impl Iterator<Item = Option<HeaderName>> + '_ {
    // `*` is a token, and would otherwise pass as a field name.
    field::members(response, header::VARY)
        .map(|member| (member != b"*").then(|| HeaderName::from_bytes(member).ok()).flatten())
}

/// Returns true if the value of a client's field can select a response. The coding selects only coded content.
fn can_select(name: &HeaderName, class: Class) -> bool {
    let is_ignored = *name == header::USER_AGENT && matches!(class, Class::Payload | Class::Catalog);
    !is_ignored && *name != header::ACCEPT_ENCODING && forwarding::is_sent_by_fills(name, class)
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

    const TARGET: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/full.zip";

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::try_from(*name).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn asking(headers: &HeaderMap) -> SelectingRequest<'_> {
        SelectingRequest { headers, target: TARGET }
    }

    fn select(response: &[(&str, &str)], request: &[(&str, &str)], class: Class) -> Option<VaryFields> {
        VaryFields::from_response(StatusCode::OK, &headers(response), asking(&headers(request)), class)
    }

    fn selecting(vary: &str, request: &[(&str, &str)]) -> Option<VaryFields> {
        select(&[("vary", vary)], request, Class::Generic)
    }

    fn matches(stored: &VaryFields, request: &[(&str, &str)]) -> bool {
        stored.matches(asking(&headers(request)))
    }

    #[test]
    fn request_matches_by_listed_fields_only() {
        let stored = selecting("X-Tags, X-A", &[("x-tags", "one, two"), ("x-b", "1")]).unwrap();
        for (request, expected) in [
            (&[("x-tags", "one, two")][..], true),
            (&[("x-tags", "one ,\ttwo"), ("x-b", "2")], true),
            (&[("x-tags", "one"), ("x-tags", "two")], true),
            (&[("x-tags", "two, one")], false),
            (&[("x-tags", "one, two, x")], false),
            (&[("x-tags", "one, two"), ("x-a", "")], false),
            (&[], false),
        ] {
            assert_eq!(matches(&stored, request), expected, "{request:?}");
        }
    }

    #[test]
    fn added_fields_select_like_listed_ones() {
        let request = headers(&[("user-agent", "a"), ("x-a", "1")]);
        let (agent, own) = (header::USER_AGENT, HeaderName::from_static("x-a"));
        let stored = selecting("x-a", &[("x-a", "1")]).unwrap();
        let stored = stored.with_fields(&[agent.clone(), own], &request).unwrap();
        assert!(stored.matches(asking(&request)));
        for other in [&[("user-agent", "b"), ("x-a", "1")][..], &[("x-a", "1")], &[("user-agent", "a")]] {
            assert!(!matches(&stored, other), "{other:?}");
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
        assert!(matches(&absent, &[]) && !matches(&empty, &[]));
        assert!(matches(&empty, &[("x-a", " ")]) && !matches(&absent, &[("x-a", "")]));
    }

    #[test]
    fn response_without_vary_allocates_nothing() {
        let none = select(&[], &[("accept", "x")], Class::Generic).unwrap();
        assert!(none.is_empty() && none.fields.capacity() == 0 && matches(&none, &[]));
        assert_eq!(none.encode(), "");
    }

    #[test]
    fn star_invalid_name_or_excess_matches_no_request() {
        assert_eq!(selecting("accept, *", &[]), None);
        assert_eq!(selecting("cookie, *", &[]), None);
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
    fn fields_that_fills_do_not_send_select_nothing() {
        for name in [
            "Range",
            "If-Range",
            "If-Match",
            "If-None-Match",
            "If-Modified-Since",
            "If-Unmodified-Since",
            "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Real-IP",
            "X-Original-URL",
            "Proxy-Authorization",
            "Proxy-Connection",
            "Connection",
            "TE",
            "Host",
            "Want-Repr-Digest",
        ] {
            for class in [Class::Payload, Class::Catalog, Class::Generic] {
                let stored = select(&[("vary", name)], &[(name, "1")], class).unwrap();
                assert!(stored.is_empty(), "{name} {class:?}");
            }
        }
    }

    #[test]
    fn cookie_and_user_agent_select_only_generic_content() {
        for (name, value) in [("user-agent", "c2Vj"), ("cookie", "BIGipServerpool=1")] {
            for (class, selects) in [(Class::Generic, true), (Class::Payload, false), (Class::Catalog, false)]
            {
                let stored = select(&[("vary", name)], &[(name, value)], class).unwrap();
                assert_eq!(!stored.is_empty(), selects, "{name} {class:?}");
            }
        }
    }

    #[test]
    fn uncoded_content_satisfies_every_accept_encoding() {
        for response in [
            &[("vary", "Accept-Encoding")][..],
            &[("content-encoding", "identity"), ("vary", "accept-encoding")],
        ] {
            let stored = select(response, &[("accept-encoding", "gzip")], Class::Generic).unwrap();
            assert!(stored.is_empty(), "{response:?}");
        }
    }

    #[test]
    fn coded_content_is_selected_by_requested_coding() {
        for response in [
            &[("content-encoding", "gzip")][..],
            &[("content-encoding", "gzip"), ("vary", "Accept-Encoding")],
        ] {
            let stored = select(response, &[("accept-encoding", "gzip, deflate")], Class::Payload).unwrap();
            for (accepted, expected) in [
                (Some("gzip"), true),
                (Some("br;q=0.9, gzip;q=0.1"), true),
                (Some("*"), true),
                (Some("br"), false),
                (Some("identity"), false),
                (Some("gzip;q=0"), false),
                (Some(""), false),
                (None, false),
            ] {
                let request: Vec<_> =
                    accepted.iter().map(|accepted| ("accept-encoding", *accepted)).collect();
                assert_eq!(matches(&stored, &request), expected, "{response:?} {accepted:?}");
            }
            let without = stored.for_request(asking(&HeaderMap::new()));
            assert!(matches(&without, &[]) && !matches(&without, &[("accept-encoding", "gzip")]));
        }
    }

    #[test]
    fn coding_that_was_not_requested_is_not_stored() {
        for (accepted, coding, is_stored) in [
            ("gzip", "gzip", true),
            ("gzip, br", "br", false),
            ("gzip", "gzip, br", false),
            ("br", "gzip", false),
            ("identity", "gzip", true),
        ] {
            let stored =
                select(&[("content-encoding", coding)], &[("accept-encoding", accepted)], Class::Generic);
            assert_eq!(stored.is_some(), is_stored, "{accepted} {coding}");
        }
    }

    #[test]
    fn unsuccessful_response_is_for_equal_requests() {
        let sent = headers(&[("accept", "*/*"), ("x-request-id", "1"), ("user-agent", "a")]);
        for (status, class) in [
            (StatusCode::NOT_FOUND, Class::Generic),
            (StatusCode::GONE, Class::Generic),
            (StatusCode::MOVED_PERMANENTLY, Class::Generic),
            (StatusCode::NOT_FOUND, Class::Payload),
        ] {
            let stored = VaryFields::from_response(status, &HeaderMap::new(), asking(&sent), class).unwrap();
            assert_eq!(VaryFields::decode(&stored.encode()).as_ref(), Some(&stored));
            assert!(stored.matches(asking(&sent)));
            assert!(stored.is_sufficient(status, &HeaderMap::new()));
            assert!(!VaryFields::default().is_sufficient(status, &HeaderMap::new()));
            for target in
                [&TARGET.replace("4e8a", "4E8A"), &TARGET.replace('{', "%7B"), &format!("{TARGET}?")]
            {
                let spelled = SelectingRequest { headers: &sent, target };
                assert!(!stored.matches(spelled), "{target}");
                assert!(stored.for_request(spelled).matches(spelled), "{target}");
            }
            let other = |name: &str, value: &str| {
                let mut other = sent.clone();
                other.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
                stored.matches(asking(&other))
            };
            assert!(other("x-request-id", "2") && other("range", "bytes=0-1"));
            assert!(!other("accept", "x") && !other("accept-language", "x"), "{status} {class:?}");
            for name in ["origin", "referer"] {
                assert_eq!(other(name, "x"), class == Class::Payload, "{name} {status} {class:?}");
            }
            assert_eq!(
                (other("user-agent", "b"), other("cookie", "b")),
                match class {
                    Class::Generic => (false, false),
                    _ => (true, true),
                }
            );
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
                any::<u8>().prop_filter("field octet", |b| *b >= 0x20 && *b != 0x7f), 0..20)), 0..6),
            status in prop::sample::select(vec![StatusCode::OK, StatusCode::NOT_FOUND])
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
            let stored = VaryFields::from_response(status, &response, asking(&request), Class::Generic).unwrap();
            prop_assert!(stored.matches(asking(&request)));
            prop_assert_eq!(VaryFields::decode(&stored.encode()), Some(stored));
        }
    }
}
