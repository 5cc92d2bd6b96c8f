//! The revision of a manager's payload, and the time of its first request. The times are kept across reloads in memory
//! only; after a restart the store gives the time at which it got a payload. A client that requests a revision before
//! it is published starts its spread too early, which costs spread, never content.

use moka::sync::Cache;

use crate::clock::UnixMillis;
use crate::profile::NumberSpan;

/// Maximum number of revisions remembered: a year of ten content types at a revision a day. An evicted revision is new
/// at its next request. moka keeps frequently requested entries, so invented paths evict each other.
const MAX_REVISIONS: u64 = 4_096;

/// A revision of content, as in `/content/{GUID}/<sequence>/full.zip`. Profiles say where paths have the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadRevision<'a> {
    /// The number with the folder before it, such as `{GUID}/<sequence>`: unique to the content.
    pub name: &'a str,
    /// The sequence. A client offset is derived from it, so a client downloads together what was published together.
    pub sequence: &'a str,
}

impl<'a> PayloadRevision<'a> {
    /// Creates the revision of a path with a number at this place.
    pub(super) fn new(path: &'a str, number: NumberSpan) -> Self {
        let NumberSpan { start, end } = number;
        let before = path.get(..start.saturating_sub(1)).unwrap_or_default();
        let folder = before.rfind('/').map_or(0, |slash| slash.saturating_add(1));
        let part = |start| path.get(start..end).unwrap_or_default();
        Self { name: part(folder), sequence: part(start) }
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
    fn revision_is_the_number_with_its_folder() {
        for (path, number, name) in [
            ("/Content/{535cb6a4}/261121001/full.zip", "261121001", "{535cb6a4}/261121001"),
            ("/a/7/x", "7", "a/7"),
            ("/7/x", "7", "/7"),
        ] {
            let start = path.find(number).unwrap();
            let revision = PayloadRevision::new(path, NumberSpan { start, end: start + number.len() });
            assert_eq!(
                (revision.sequence, revision.name.trim_start_matches('/')),
                (number, name.trim_start_matches('/'))
            );
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
