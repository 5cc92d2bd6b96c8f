//! Content: its classes, types and rules, with `[[content_type]]`, `[[rule]]` and `[policy]`. Holds the built-in names
//! of content types: by GUID, each from a public source, and by class. How a path is matched is up to `policy`.

use http::StatusCode;

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

/// Content GUIDs, lower case.
pub const GUIDS: [(&str, &str); 8] = [
    // The generation before the two below.
    ("{c60dc234-65f9-4674-94ae-62158efca433}", "virus-definitions-legacy"),
    ("{535cb6a4-441f-4e8a-a897-804cd859100e}", "virus-definitions-32"),
    ("{07b590b3-9282-482f-bbaa-6d515d385869}", "virus-definitions-64"),
    ("{b6dc6c8f-46fa-40c7-a806-b669be1d2d19}", "submission-control"),
    ("{d6aebc07-d833-485f-9723-6c908d37f806}", "proactive-threat"),
    ("{55de35dc-862a-44c9-8a2b-3ef451665d0a}", "network-threat"),
    ("{810d5a61-809f-49c2-bd75-177f0647d2ba}", "iron-revocation"),
    ("{edbd3bd0-8395-4d4d-bac9-19dd32ef4758}", "iron-whitelist"),
];

/// Type of content with a GUID that has no name. Normal, and relayed like any other.
pub const UNKNOWN: &str = "unknown";

/// Type of patches of the clients' own software. Their GUIDs and paths differ by version and are not published, so the
/// administrator names them. Named patches are denied to clients unless a group allows them.
pub const CLIENT_PATCHES: &str = "client-patches";

const CLASSES: [(&str, Class); 4] = [
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
    let mut rules = Vec::new();
    for mut s in document.take_tables("rule", None) {
        let pattern = s.read_required("pattern", glob);
        let class = s.read_required("class", |text| choice(text, &CLASSES));
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

/// Reads a list of content types, built in or configured.
pub(crate) fn type_names(s: &mut Section, key: &'static str, configured: &[ContentType]) -> Vec<String> {
    s.read_list(key, |text| type_name(text, configured)).unwrap_or_default()
}

/// Reads the name of a content type, built in or configured.
pub(crate) fn type_name(text: &str, configured: &[ContentType]) -> Result<String, String> {
    let classes = [Class::Payload, Class::Catalog, Class::Private, Class::Generic].map(name_for_class);
    let built_in = GUIDS.into_iter().map(|(_, name)| name).chain(classes).chain([UNKNOWN, CLIENT_PATCHES]);
    let mut names: Vec<&str> = configured.iter().map(|own| own.name.as_str()).chain(built_in).collect();
    if names.contains(&text) {
        return Ok(text.to_owned());
    }
    names.sort_unstable();
    names.dedup();
    Err(format!("unknown content type {text:?}: known types are {}", names.join(", ")))
}

// 8-4-4-4-12 hex digits.
fn guid(text: &str) -> Result<String, String> {
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
