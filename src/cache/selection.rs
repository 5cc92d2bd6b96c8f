//! A selection of stored objects by conditions, all of which an object must match. Lists and purges share it, on the
//! command line and in the admin API. Defines the path and the revision of a key.

use std::str::FromStr;

use globset::GlobMatcher;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use gupd_config::clock::UnixMillis;
use gupd_config::pattern;
use gupd_http::key;
use gupd_store::{NewObject, Object};

/// Conditions on an object. Without any, every object matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectSelection {
    /// Glob of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub path: Option<PathGlob>,
    /// Label of the content type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Revision in the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Minimum age in milliseconds since the response, exclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than_ms: Option<u64>,
    /// Maximum age in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer_than_ms: Option<u64>,
    /// Minimum length of the body in bytes, exclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub larger_than: Option<u64>,
    /// Maximum length of the body in bytes, exclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smaller_than: Option<u64>,
}

/// A glob for paths, without regard to case: `*` within a segment, `**` across segments, `{a,b}` alternatives.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathGlob {
    text: String,
    matcher: GlobMatcher,
}

/// Facts that conditions concern.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObjectFacts<'a> {
    pub(crate) key: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) response_time: UnixMillis,
    /// Length of the body; `None` while it is unknown, which matches no condition on it.
    pub(crate) len: Option<u64>,
}

impl ObjectSelection {
    /// Returns true without any condition.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns true if a stored object, or the original of a copy, matches all conditions.
    pub fn matches(&self, object: &Object, now: UnixMillis) -> bool {
        let (response_time, len) = (object.response_time, Some(object.len));
        let key = object.copy_mark().1;
        self.matches_facts(ObjectFacts { key, content_type: &object.content_type, response_time, len }, now)
    }

    /// Returns true if an unfinished object of `len` bytes matches all conditions.
    pub fn matches_unfinished(&self, object: &NewObject, len: u64, now: UnixMillis) -> bool {
        let NewObject { key, content_type, response_time, .. } = object;
        self.matches_facts(
            ObjectFacts { key, content_type, response_time: *response_time, len: Some(len) },
            now,
        )
    }

    pub(crate) fn matches_facts(&self, facts: ObjectFacts<'_>, now: UnixMillis) -> bool {
        let target = key::split_key(facts.key).target;
        let path = pattern::fold(target.split('?').next().unwrap_or_default());
        let age = age(facts.response_time, now);
        self.path.as_ref().is_none_or(|glob| glob.matcher.is_match(&path))
            && self.content_type.as_ref().is_none_or(|name| **name == *facts.content_type)
            && self.revision.as_ref().is_none_or(|revision| has_revision(&path, revision))
            && self.older_than_ms.is_none_or(|time| age > time)
            && self.newer_than_ms.is_none_or(|time| age <= time)
            && self.larger_than.is_none_or(|bytes| facts.len.is_some_and(|len| len > bytes))
            && self.smaller_than.is_none_or(|bytes| facts.len.is_some_and(|len| len < bytes))
    }
}

impl FromStr for PathGlob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let matcher = pattern::compile(text).map_err(|error| error.to_string())?.compile_matcher();
        Ok(Self { text: text.to_owned(), matcher })
    }
}

impl TryFrom<String> for PathGlob {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PathGlob> for String {
    fn from(glob: PathGlob) -> Self {
        glob.text
    }
}

impl PartialEq for PathGlob {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// Returns the milliseconds since a time; 0 for a future time.
pub fn age(since: UnixMillis, now: UnixMillis) -> u64 {
    u64::try_from(now.saturating_sub(since)).unwrap_or(0)
}

/// Returns true if a segment equals the revision, or starts with this number and a non-digit follows.
fn has_revision(path: &str, revision: &str) -> bool {
    let revision = revision.to_ascii_lowercase();
    let numbered = !revision.is_empty() && revision.bytes().all(|byte| byte.is_ascii_digit());
    path.split('/').filter(|segment| !segment.is_empty()).any(|segment| {
        match segment.strip_prefix(&*revision) {
            Some("") => true,
            Some(rest) => numbered && !rest.starts_with(|c: char| c.is_ascii_digit()),
            None => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_is_a_segment_or_number_at_its_start() {
        let path = "/content/{535cb6a4-441f-4e8a-a897-804cd859100e}/261121001/xdelta261120001.dax";
        for (path, revision, is) in [
            (path, "261121001", true),
            (path, "261120001", false),
            (path, "26112100", false),
            (path, "{535CB6A4-441F-4e8a-A897-804CD859100E}", true),
            (path, "", false),
            ("/1369163480jtun_nav.zip", "1369163480", true),
            ("/1369163480jtun_nav.zip", "136916348", false),
            ("/full.zip", "full", false),
        ] {
            assert_eq!(has_revision(path, revision), is, "{revision} in {path}");
        }
    }

    #[test]
    fn selection_survives_its_json_and_rejects_unknown_fields() {
        let path = "**/{A}/*.zip".parse().ok();
        let selection = ObjectSelection { path, older_than_ms: Some(5), ..ObjectSelection::default() };
        let text = serde_json::to_string(&selection).unwrap();
        assert_eq!(text, r#"{"path":"**/{A}/*.zip","older_than_ms":5}"#);
        assert_eq!(serde_json::from_str::<ObjectSelection>(&text).unwrap(), selection);
        assert!(!selection.is_empty() && ObjectSelection::default().is_empty());
        for wrong in [r#"{"paht":"**"}"#, r#"{"path":"[a"}"#, r#"{"larger_than":-1}"#] {
            assert!(serde_json::from_str::<ObjectSelection>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn unknown_length_matches_no_condition_on_it() {
        let facts = ObjectFacts { key: "/ /a.zip", content_type: "other", response_time: 10, len: None };
        let any = ObjectSelection::default();
        for (selection, matches) in [
            (any.clone(), true),
            (ObjectSelection { larger_than: Some(0), ..any.clone() }, false),
            (ObjectSelection { smaller_than: Some(9), ..any.clone() }, false),
            (ObjectSelection { path: "/*.zip".parse().ok(), ..any.clone() }, true),
            (ObjectSelection { newer_than_ms: Some(0), ..any.clone() }, true),
            (ObjectSelection { older_than_ms: Some(0), ..any }, false),
        ] {
            assert_eq!(selection.matches_facts(facts, 10), matches, "{selection:?}");
        }
    }
}
