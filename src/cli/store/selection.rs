//! The selection of objects by flags; an object must match all of them. Defines the path and the revision of a key.

use clap::Args;
use globset::GlobMatcher;

use gupd_config::Config;
use gupd_config::clock::UnixMillis;
use gupd_config::pattern;
use gupd_config::units::{Size, Time};
use gupd_http::key;
use gupd_store::{Inventory, Object};

/// Conditions on an object.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Glob for the path, case-insensitive: * within a segment, ** across segments, {a,b} alternatives.
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    path: Option<GlobMatcher>,
    /// Content type, as in metrics and logs.
    #[arg(long, value_name = "NAME")]
    content_type: Option<String>,
    /// Revision in the path, such as 261121001, or the number at the start of a LiveUpdate payload name.
    #[arg(long, value_name = "NUMBER")]
    revision: Option<String>,
    /// Fetched or revalidated longer ago than this.
    #[arg(long, value_name = "TIME")]
    older_than: Option<Time>,
    /// Fetched or revalidated within this time.
    #[arg(long, value_name = "TIME")]
    newer_than: Option<Time>,
    /// Larger than this.
    #[arg(long, value_name = "SIZE")]
    larger_than: Option<Size>,
    /// Smaller than this.
    #[arg(long, value_name = "SIZE")]
    smaller_than: Option<Size>,
}

impl Selection {
    /// Returns true without any condition.
    pub(super) fn is_empty(&self) -> bool {
        let Self { path, content_type, revision, older_than, newer_than, larger_than, smaller_than } = self;
        path.is_none()
            && content_type.is_none()
            && revision.is_none()
            && older_than.is_none()
            && newer_than.is_none()
            && larger_than.is_none()
            && smaller_than.is_none()
    }

    /// Returns an error if the content type is a typing error: neither known to the configuration nor stored, as types
    /// of an earlier configuration or of another site are.
    pub(super) fn check(&self, config: &Config, inventory: &Inventory) -> Result<(), String> {
        let Some(name) = &self.content_type else { return Ok(()) };
        let Err(message) = config.check_content_type(name) else { return Ok(()) };
        let has_type = |object: &Object| *object.content_type == **name;
        if inventory.objects().any(|object| object.as_ref().is_ok_and(has_type)) {
            return Ok(());
        }
        Err(format!("--content-type: {message}"))
    }

    /// Returns true if the object matches all conditions.
    pub(super) fn matches(&self, object: &Object, now: UnixMillis) -> bool {
        let target = key::split_key(object.copy_mark().1).target;
        let path = pattern::fold(target.split('?').next().unwrap_or_default());
        let age = age(object.response_time, now);
        self.path.as_ref().is_none_or(|glob| glob.is_match(&path))
            && self.content_type.as_ref().is_none_or(|name| **name == *object.content_type)
            && self.revision.as_ref().is_none_or(|revision| has_revision(&path, revision))
            && self.older_than.is_none_or(|Time(time)| u128::from(age) > time.as_millis())
            && self.newer_than.is_none_or(|Time(time)| u128::from(age) <= time.as_millis())
            && self.larger_than.is_none_or(|Size(bytes)| object.len > bytes)
            && self.smaller_than.is_none_or(|Size(bytes)| object.len < bytes)
    }
}

/// Returns the milliseconds since a time; 0 for a future time.
pub(super) fn age(since: UnixMillis, now: UnixMillis) -> u64 {
    u64::try_from(now.saturating_sub(since)).unwrap_or(0)
}

fn glob(text: &str) -> Result<GlobMatcher, String> {
    Ok(pattern::compile(text).map_err(|error| error.to_string())?.compile_matcher())
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
}
