//! What clients are not to have: `[policy]`, and the content types that groups and routes name. Owns their reading; what
//! a client gets instead is `proxy`'s to say.

use http::StatusCode;

use super::document::{Document, Section};
use super::settings::choice;
use super::{ContentType, content};

/// What a denied request for anything but a catalog may be answered.
const STATUSES: [(&str, StatusCode); 4] = [
    ("403", StatusCode::FORBIDDEN),
    ("404", StatusCode::NOT_FOUND),
    ("410", StatusCode::GONE),
    ("503", StatusCode::SERVICE_UNAVAILABLE),
];

/// `[policy]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    /// What a denied request is answered, but for a catalog, which is always `404`: 403, 404, 410 or 503.
    pub status: StatusCode,
}

pub(super) fn denials(document: &mut Document) -> PolicySettings {
    let mut s = document.section("policy");
    let status = s.one("denied_status", |text| choice(text, &STATUSES));
    document.close(s);
    PolicySettings { status: status.unwrap_or(StatusCode::NOT_FOUND) }
}

/// A list of content types that there are.
pub(super) fn types(s: &mut Section, key: &'static str, own: &[ContentType]) -> Vec<String> {
    s.many(key, |text| content::known(text, own)).unwrap_or_default()
}
