//! The names of content that need no configuration: by GUID, each seen in a public source, and by class. Data only.

use super::{Class, ContentType};

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

/// A GUID that nobody named: normal, and relayed like any other.
pub const UNKNOWN: &str = "unknown";

/// Patches of the clients' own software. Which GUIDs or paths they have differs by version and is published nowhere, so
/// the administrator says; once that is said, they are denied to clients unless a group allows them.
pub const CLIENT_PATCHES: &str = "client-patches";

/// What a path without GUID is for.
pub const fn name_for_class(class: Class) -> &'static str {
    match class {
        Class::Payload => "liveupdate",
        Class::Catalog => "catalog",
        Class::Private => "management",
        Class::Generic => "other",
    }
}

/// A name that content may have.
///
/// # Errors
/// Any other; the message names those there are.
pub(super) fn known(text: &str, own: &[ContentType]) -> Result<String, String> {
    let mut names: Vec<&str> = names(own).collect();
    if names.contains(&text) {
        return Ok(text.to_owned());
    }
    names.sort_unstable();
    names.dedup();
    Err(format!("{text:?} is not a content type; known: {}", names.join(", ")))
}

fn names(own: &[ContentType]) -> impl Iterator<Item = &str> {
    let classes = [Class::Payload, Class::Catalog, Class::Private, Class::Generic].map(name_for_class);
    let built_in = GUIDS.into_iter().map(|(_, name)| name).chain(classes).chain([UNKNOWN, CLIENT_PATCHES]);
    own.iter().map(|own| own.name.as_str()).chain(built_in)
}
