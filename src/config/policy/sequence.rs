//! Revision numbers in cache keys: `/…/{GUID}/<number>/<name>`. The only assumption about them is that a larger number
//! is newer.

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
    /// Parses a key without query; `None` if it has another form.
    pub fn parse(key: &'a str) -> Option<Self> {
        let (folder, name) = key.rsplit_once('/')?;
        let (series, number) = folder.rsplit_once('/')?;
        let content = series.rsplit('/').next()?;
        let is_content = content.starts_with('{') && content.ends_with('}');
        let fits = is_content && !name.is_empty() && !name.contains('?');
        Some(Self { series, number: parse_revision_number(number)?, name }).filter(|_| fits)
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

    #[test]
    fn revision_key_parses_and_formats_to_itself() {
        let key = "/ /content/{535cb6a4-441f-4e8a-a897-804cd859100e}/261121001/full.zip";
        let numbered = RevisionFile::parse(key).unwrap();
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
            assert_eq!(RevisionFile::parse(key), None, "{key}");
        }
    }
}
