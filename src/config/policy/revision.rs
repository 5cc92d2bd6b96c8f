//! Which revision a payload of a manager belongs to, and since when the site has known of it. Owns what is remembered
//! of revisions over reloads, in memory alone: who restarts asks the store how long it has had a payload. Whoever asks for
//! a revision before it is published begins its count; what that costs is its spread, never content.

use moka::sync::Cache;

use crate::clock::UnixMillis;

/// Revisions remembered: a year's of ten content types at a revision a day. What does not fit is new again when next
/// asked for. moka keeps what is asked for often, so made-up paths push out each other and not what clients take.
const MAX_REVISIONS: u64 = 4_096;

/// A revision of content, as in `/content/{GUID}/<sequence>/full.zip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadRevision<'a> {
    /// `{GUID}/<sequence>`: this content's alone.
    pub name: &'a str,
    /// The sequence: what a client's offset is drawn for, so that it takes together what was published together.
    pub sequence: &'a str,
}

impl<'a> PayloadRevision<'a> {
    /// Of a normalised path.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let (folder, rest) = path.strip_prefix('/')?.split_once('/')?;
        let (name, file) = rest.rsplit_once('/')?;
        let (guid, sequence) = name.split_once('/')?;
        let is_content =
            folder.eq_ignore_ascii_case("content") && guid.starts_with('{') && guid.ends_with('}');
        let is_sequence = sequence.starts_with(|c: char| c.is_ascii_digit()) && !sequence.contains('/');
        (is_content && is_sequence && !file.is_empty()).then_some(Self { name, sequence })
    }
}

/// When each revision was first asked for.
#[derive(Debug)]
pub struct FirstSeen(Cache<Box<str>, UnixMillis>);

impl FirstSeen {
    /// Nothing has been asked for.
    pub fn new() -> Self {
        Self(Cache::new(MAX_REVISIONS))
    }

    /// When it was first asked for, if that is remembered.
    pub fn of(&self, revision: PayloadRevision<'_>) -> Option<UnixMillis> {
        self.0.get(revision.name)
    }

    /// Remembers it; of two requests at once, what the first one says.
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
    fn a_payload_belongs_to_the_sequence_of_its_folder() {
        let name = "{535cb6a4-441f-4e8a-a897-804cd859100e}/261121001";
        for file in ["full.zip", "xdelta261120001.dax"] {
            let path = format!("/Content/{name}/{file}");
            assert_eq!(
                PayloadRevision::of(&path),
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
            assert_eq!(PayloadRevision::of(path), None, "{path}");
        }
    }

    #[test]
    fn what_was_seen_first_stays() {
        let (seen, revision) = (FirstSeen::new(), PayloadRevision { name: "{a}/1", sequence: "1" });
        assert_eq!(seen.of(revision), None);
        assert_eq!((seen.remember(revision, 5), seen.remember(revision, 9)), (5, 5));
        assert_eq!(seen.of(revision), Some(5));
        assert_eq!(seen.of(PayloadRevision { name: "{b}/1", sequence: "1" }), None);
    }
}
