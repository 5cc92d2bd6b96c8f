//! Selection of stored responses (RFC 9111 §4.1): the parts of a request that select a response, and their comparison
//! with another request. The invariant: a request gets a response only if the upstream would have received the same
//! selecting values from it. Fields that fills do not send therefore select nothing, and `Accept-Encoding` selects by
//! its normal form, as `Accept-Language` does. Other values are compared after the normalization that is safe for any
//! list-based field. Some responses need a selection that no `Vary` announces, coded and unsuccessful ones.

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

    /// Returns true if at most the content coding selects.
    pub fn is_empty_but_for_coding(&self) -> bool {
        self.target.is_none() && self.fields.iter().all(|field| field.name == header::ACCEPT_ENCODING)
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
mod tests;
