//! The revision of a manager's payload, and the time of its first request. The times are kept across reloads in memory
//! only; after a restart the store gives the time at which it got a payload. A client that requests a revision before
//! it is published starts its spread too early, which costs spread, never content.

use moka::sync::Cache;

use crate::clock::UnixMillis;

/// Maximum number of revisions remembered: a year of ten content types at a revision a day. An evicted revision is new
/// at its next request. moka keeps frequently requested entries, so invented paths evict each other.
const MAX_REVISIONS: u64 = 4_096;

/// A revision of content, as in `/content/{GUID}/<sequence>/full.zip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadRevision<'a> {
    /// `{GUID}/<sequence>`, unique to the content.
    pub name: &'a str,
    /// The sequence. A client offset is derived from it, so a client downloads together what was published together.
    pub sequence: &'a str,
}

impl<'a> PayloadRevision<'a> {
    /// Parses a normalised path.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        let (folder, rest) = path.strip_prefix('/')?.split_once('/')?;
        let (name, file) = rest.rsplit_once('/')?;
        let (guid, sequence) = name.split_once('/')?;
        let is_content =
            folder.eq_ignore_ascii_case("content") && guid.starts_with('{') && guid.ends_with('}');
        let is_sequence = sequence.starts_with(|c: char| c.is_ascii_digit()) && !sequence.contains('/');
        (is_content && is_sequence && !file.is_empty()).then_some(Self { name, sequence })
    }
}

/// Time of the first request for each revision.
#[derive(Debug)]
pub struct FirstSeen(Cache<Box<str>, UnixMillis>);

impl FirstSeen {
    /// Creates an empty table.
    pub fn new() -> Self {
        Self(Cache::new(MAX_REVISIONS))
    }

    /// Returns the time of its first request, if it is remembered.
    pub fn get(&self, revision: PayloadRevision<'_>) -> Option<UnixMillis> {
        self.0.get(revision.name)
    }

    /// Remembers the first request, and returns the remembered time. Of two concurrent requests the first one wins.
    pub fn remember(&self, revision: PayloadRevision<'_>, seen: UnixMillis) -> UnixMillis {
        self.0.get_with(revision.name.into(), || seen)
    }
}

impl Default for FirstSeen {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_belongs_to_the_sequence_of_its_folder() {
        let name = "{535cb6a4-441f-4e8a-a897-804cd859100e}/261121001";
        for file in ["full.zip", "xdelta261120001.dax"] {
            let path = format!("/Content/{name}/{file}");
            assert_eq!(
                PayloadRevision::parse(&path),
                Some(PayloadRevision { name, sequence: "261121001" }),
                "{path}"
            );
        }
        for path in [
            "/content/{a}/full.zip",
            "/content/{a}/x1/full.zip",
            "/content/{a}/1/2/full.zip",
            "/content/{a}/1/",
            "/content/a/1/full.zip",
            "/other/{a}/1/full.zip",
            "/1369163480x.zip",
            "/",
            "",
        ] {
            assert_eq!(PayloadRevision::parse(path), None, "{path}");
        }
    }

    #[test]
    fn first_request_time_is_kept() {
        let (seen, revision) = (FirstSeen::new(), PayloadRevision { name: "{a}/1", sequence: "1" });
        assert_eq!(seen.get(revision), None);
        assert_eq!((seen.remember(revision, 5), seen.remember(revision, 9)), (5, 5));
        assert_eq!(seen.get(revision), Some(5));
        assert_eq!(seen.get(PayloadRevision { name: "{b}/1", sequence: "1" }), None);
    }
}
