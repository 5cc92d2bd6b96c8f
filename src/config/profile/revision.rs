//! Revision numbers in paths: a pattern with `<number>` as one segment, such as `/content/{*}/<number>/*`. The only
//! assumption about numbers is that a larger one is newer.

use globset::GlobMatcher;

use crate::pattern;

/// Segment of a pattern that stands for the number.
const NUMBER: &str = "<number>";

/// Location of the revision number in paths of one form.
#[derive(Clone, Debug)]
pub struct RevisionPattern {
    text: String,
    /// Number of segments before the number.
    depth: usize,
    /// Matches the folders before the number.
    before: GlobMatcher,
    /// Matches what follows the number.
    after: GlobMatcher,
}

/// Byte range of a revision number in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NumberSpan {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl RevisionPattern {
    /// Parses a pattern of whole segments.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let refused = |what: &str| {
            Err(format!(
                "{text:?} {what}: write it like /content/{{*}}/<number>/*, with <number> as a segment"
            ))
        };
        let Some((before, after)) = text.split_once(NUMBER) else {
            return refused("has no <number>");
        };
        if !before.starts_with('/') || !before.ends_with('/') || !after.starts_with('/') || after.len() < 2 {
            return refused("has <number> as a part of a segment, or as the last one");
        }
        if before.contains("**") {
            return refused("has ** before <number>");
        }
        let before = before.strip_suffix('/').unwrap_or(before);
        let compile = |glob: &str| match pattern::compile(glob) {
            Ok(glob) => Ok(glob.compile_matcher()),
            Err(error) => Err(format!("invalid pattern {text:?}: {}", error.kind())),
        };
        Ok(Self {
            text: text.to_owned(),
            depth: before.matches('/').count(),
            before: compile(before)?,
            after: compile(after)?,
        })
    }

    /// Returns the number in a normalised path. Costs a count of segments for paths of another form.
    pub(crate) fn find(&self, path: &str) -> Option<NumberSpan> {
        let (slash, _) = path.match_indices('/').nth(self.depth)?;
        let (before, number) = path.split_at_checked(slash)?;
        let (number, name) = number.strip_prefix('/')?.split_once('/')?;
        let is_number = number.starts_with(|c: char| c.is_ascii_digit());
        // An empty name is a folder.
        let is_file = !name.is_empty();
        let start = slash.checked_add(1)?;
        let end = start.checked_add(number.len())?;
        let matches = |glob: &GlobMatcher, part: &str| glob.is_match(pattern::fold(part));
        (is_number && is_file && matches(&self.before, before) && matches(&self.after, path.get(end..)?))
            .then_some(NumberSpan { start, end })
    }
}

impl PartialEq for RevisionPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
        let NumberSpan { start, end } = RevisionPattern::parse(pattern).unwrap().find(path)?;
        Some(&path[start..end])
    }

    #[test]
    fn number_is_the_named_segment_of_a_matching_path() {
        let sep = "/content/{*}/<number>/*";
        for (pattern, path, expected) in [
            (sep, "/Content/{a}/261121001/full.zip", Some("261121001")),
            (sep, "/content/{a}/1x/x.dax", Some("1x")),
            (sep, "/content/{a}/full.zip", None),
            (sep, "/content/{a}/x1/full.zip", None),
            (sep, "/content/{a}/1/2/full.zip", None),
            (sep, "/content/{a}/1/", None),
            (sep, "/content/{a}/1", None),
            (sep, "/content/a/1/full.zip", None),
            (sep, "/other/{a}/1/full.zip", None),
            (sep, "/", None),
            (sep, "", None),
            ("/<number>/**", "/12/a/b", Some("12")),
            ("/<number>/**", "/12/", None),
            ("/v?/*/<number>/*.bin", "/v2/a/7/x.bin", Some("7")),
            ("/v?/*/<number>/*.bin", "/v2/a/7/x.exe", None),
        ] {
            assert_eq!(number(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn pattern_without_a_segment_for_the_number_is_refused() {
        for text in ["/a/*", "/a/v<number>/*", "/a/<number>", "/a/<number>/", "**/<number>/*", "<number>/*"] {
            assert!(RevisionPattern::parse(text).is_err(), "{text}");
        }
        assert!(RevisionPattern::parse("/[a/<number>/*").unwrap_err().contains("invalid pattern"));
    }
}
