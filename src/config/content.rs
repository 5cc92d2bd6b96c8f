//! Content: its classes, types and rules, with `[[content_type]]`, `[[rule]]` and `[policy]`. Holds the names of content
//! types by class; profiles have those by GUID and by path. How a path is matched is up to `policy`.

use std::collections::BTreeSet;

use http::StatusCode;

use crate::Profiles;
use crate::document::{Document, Section};
use crate::reader::{choice, glob, label};

/// Content class of a path. It decides how long a response stays fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Immutable by name.
    Payload,
    /// A mutable index.
    Catalog,
    /// Never cached, passed through.
    Private,
    /// RFC 9111 decides.
    Generic,
}

impl Class {
    /// Returns the spelling used in configuration, logs, metrics and the index.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Catalog => "catalog",
            Self::Private => "private",
            Self::Generic => "generic",
        }
    }

    /// Returns true for payloads and catalogs, which all clients share.
    pub const fn is_content(self) -> bool {
        matches!(self, Self::Payload | Self::Catalog)
    }
}

/// `[[content_type]]`
#[derive(Clone, Debug, PartialEq)]
pub struct ContentType {
    /// Name in logs and metrics: lower-case letters, digits, `-`. Several tables may share one.
    pub name: String,
    /// Matcher of the content type.
    pub matches: ContentMatch,
}

/// Matcher of a content type.
#[derive(Clone, Debug, PartialEq)]
pub enum ContentMatch {
    /// A content GUID, lower case, with braces.
    Guid(String),
    /// A glob over the path, case-insensitive.
    Pattern(String),
}

/// `[[rule]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// A glob over the path, case-insensitive.
    pub pattern: String,
    /// Class of the paths that match.
    pub class: Class,
}

/// `[policy]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    /// Status of a denied request: 403, 404, 410 or 503. A denied catalog is always `404`.
    pub status: StatusCode,
}

/// A content type by GUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentGuid {
    /// The GUID, lower case, with braces.
    pub guid: String,
    /// Name of the content type.
    pub name: String,
}

/// Type of content with a GUID that has no name. Normal, and relayed like any other.
pub const UNKNOWN: &str = "unknown";

/// Type of patches of the clients' own software. Their GUIDs and paths differ by version and are not published, so the
/// administrator names them. Named patches are denied to clients unless a group allows them.
pub const CLIENT_PATCHES: &str = "client-patches";

pub(crate) const CLASSES: [(&str, Class); 4] = [
    (Class::Payload.as_str(), Class::Payload),
    (Class::Catalog.as_str(), Class::Catalog),
    (Class::Private.as_str(), Class::Private),
    (Class::Generic.as_str(), Class::Generic),
];

const DENIED_STATUSES: [(&str, StatusCode); 4] = [
    ("403", StatusCode::FORBIDDEN),
    ("404", StatusCode::NOT_FOUND),
    ("410", StatusCode::GONE),
    ("503", StatusCode::SERVICE_UNAVAILABLE),
];

/// Returns the content type of paths without a GUID.
pub const fn name_for_class(class: Class) -> &'static str {
    match class {
        Class::Payload => "liveupdate",
        Class::Catalog => "catalog",
        Class::Private => "management",
        Class::Generic => "other",
    }
}

pub(crate) fn read_content_types(document: &mut Document) -> Vec<ContentType> {
    let mut types: Vec<ContentType> = Vec::new();
    for mut s in document.take_tables("content_type", None) {
        let name = s.read_required("name", label);
        let guid = s.read("guid", guid);
        let pattern = s.read("pattern", glob);
        let matches = match (guid, pattern) {
            (Some(guid), None) => Some(ContentMatch::Guid(guid)),
            (None, Some(pattern)) => Some(ContentMatch::Pattern(pattern)),
            (Some(_), Some(_)) => {
                s.refuse("pattern", "is set beside guid: write one [[content_type]] for each");
                None
            }
            (None, None) => {
                if !s.is_given("guid") && !s.is_given("pattern") {
                    s.refuse("guid", "missing matcher: set guid or pattern");
                }
                None
            }
        };
        if let (Some(name), Some(matches)) = (name, matches) {
            if types.iter().any(|other| other.matches == matches) {
                s.refuse(
                    "name",
                    format!("{name:?} has the same matcher as another content type: remove one"),
                );
            }
            types.push(ContentType { name, matches });
        }
        document.close(s);
    }
    types
}

pub(crate) fn read_rules(document: &mut Document) -> Vec<Rule> {
    let is_listed =
        |pattern: &str, rules: &[Rule]| rules.iter().any(|rule| rule.pattern.eq_ignore_ascii_case(pattern));
    let mut rules = Vec::new();
    for mut s in document.take_tables("rule", None) {
        let pattern = s.read_required("pattern", glob);
        let class = s.read_required("class", |text| choice(text, &CLASSES));
        if let Some(pattern) = pattern.as_ref().filter(|own| is_listed(own, &rules)) {
            s.warn("pattern", format!("{pattern:?} never applies: an earlier rule has the same pattern"));
        }
        rules.extend(pattern.zip(class).map(|(pattern, class)| Rule { pattern, class }));
        document.close(s);
    }
    rules
}

pub(crate) fn read_policy(document: &mut Document) -> PolicySettings {
    let mut s = document.take_section("policy");
    let status = s.read("denied_status", |text| choice(text, &DENIED_STATUSES));
    document.close(s);
    PolicySettings { status: status.unwrap_or(StatusCode::NOT_FOUND) }
}

/// Names of all content types: configured, of profiles, and by class.
pub(crate) struct TypeNames(BTreeSet<String>);

impl TypeNames {
    pub(crate) fn new(configured: &[ContentType], profiles: &Profiles) -> Self {
        let classes = [Class::Payload, Class::Catalog, Class::Private, Class::Generic].map(name_for_class);
        let own = configured.iter().map(|own| own.name.as_str());
        let of_profiles = profiles.iter().flat_map(|profile| profile.content_types());
        let names = own.chain(of_profiles).chain(classes).chain([UNKNOWN, CLIENT_PATCHES]);
        Self(names.map(str::to_owned).collect())
    }

    /// Reads the name of a content type.
    pub(crate) fn read(&self, text: &str) -> Result<String, String> {
        if self.0.contains(text) {
            return Ok(text.to_owned());
        }
        let names: Vec<_> = self.0.iter().map(String::as_str).collect();
        Err(format!("unknown content type {text:?}: known types are {}", names.join(", ")))
    }

    /// Reads a list of content types.
    pub(crate) fn read_list(&self, s: &mut Section, key: &'static str) -> Vec<String> {
        s.read_list(key, |text| self.read(text)).unwrap_or_default()
    }
}

/// Reads a GUID: 8-4-4-4-12 hex digits.
pub(crate) fn guid(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
    let groups: Vec<&str> = bare.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    if lengths != [8, 4, 4, 4, 12] || !groups.concat().bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!(
            "{text:?} is not a GUID: write it like {{07b590b3-9282-482f-bbaa-6d515d385869}}"
        ));
    }
    Ok(format!("{{{}}}", bare.to_ascii_lowercase()))
}
