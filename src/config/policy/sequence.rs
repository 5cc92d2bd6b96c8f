//! Revision numbers in cache keys, such as `/…/{GUID}/<number>/<name>`, where the profile of the route has them. The only
//! assumption about them is that a larger number is newer.

use crate::profile::{NumberSpan, RevisionPattern};

/// A file of one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevisionFile<'a> {
    /// Route and path up to the number, which identify one content.
    pub series: &'a str,
    /// Revision number.
    pub number: u64,
    /// Name of the file in the revision.
    pub name: &'a str,
}

impl<'a> RevisionFile<'a> {
    /// Finds the number in a key with a path that begins at `path`; `None` if the path has another form, or a query.
    pub(super) fn find(key: &'a str, path: usize, patterns: &[RevisionPattern]) -> Option<Self> {
        let target = key.get(path..).filter(|target| !target.contains('?'))?;
        let NumberSpan { start, end } = patterns.iter().find_map(|pattern| pattern.find(target))?;
        let number = parse_revision_number(target.get(start..end)?)?;
        // Slashes are before and after the number.
        let series = key.get(..path.checked_add(start)?.checked_sub(1)?)?;
        Some(Self { series, number, name: target.get(end.checked_add(1)?..)? })
    }

    /// Returns the key of another file of the same content.
    pub fn format_key(series: &str, number: u64, name: &str) -> String {
        format!("{series}/{number}/{name}")
    }
}

/// Parses a revision number in canonical form: digits without a leading zero.
pub fn parse_revision_number(digits: &str) -> Option<u64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    plain.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(key: &str) -> Option<RevisionFile<'_>> {
        let patterns = crate::Profiles::built_in().unwrap().find("sep").unwrap().revisions.clone();
        RevisionFile::find(key, key.find(" /").map_or(0, |at| at + 1), &patterns)
    }

    #[test]
    fn revision_key_parses_and_formats_to_itself() {
        let key = "/ /content/{535cb6a4-441f-4e8a-a897-804cd859100e}/261121001/full.zip";
        let numbered = find(key).unwrap();
        assert_eq!((numbered.number, numbered.name), (261_121_001, "full.zip"));
        assert_eq!(RevisionFile::format_key(numbered.series, numbered.number, numbered.name), key);
        for key in [
            "/ /content/{a}/0261/full.zip",
            "/ /content/{a}/x1/full.zip",
            "/ /content/a/1/full.zip",
            "/ /content/{a}/1/",
            "/ /content/{a}/1/full.zip?x",
            "/ /content/{a}/99999999999999999999/full.zip",
            "",
        ] {
            assert_eq!(find(key), None, "{key}");
        }
    }
}
