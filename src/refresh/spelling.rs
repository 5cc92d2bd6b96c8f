//! Spellings of folders, learned from the targets that clients used. A predicted payload is in a folder that clients
//! know, or in a new revision beside one; its target repeats their spelling. Bounded; the latest spelling counts.

use std::collections::HashMap;

use gupd_config::clock::UnixMillis;
use gupd_http::key;
use gupd_http::spelling::stored_target;
use gupd_store::Object;
use http::uri::PathAndQuery;

/// Maximum number of folders: those of 256 contents with 16 revisions.
const MAX_FOLDERS: usize = 4_096;

/// Folders as clients spell them, by the folder of the key.
#[derive(Debug, Default)]
pub(super) struct FolderSpellings(HashMap<Box<str>, (UnixMillis, Box<str>)>);

impl FolderSpellings {
    /// Learns from a stored object.
    pub(super) fn add(&mut self, object: &Object) {
        if let Some(target) = stored_target(&object.headers, &object.key) {
            self.insert(&object.key, target.path(), object.response_time);
        }
    }

    fn insert(&mut self, key: &str, path: &str, at: UnixMillis) {
        let (mut folder, mut spelled) = (key.split('?').next().unwrap_or(key), path);
        // The folder of a revision, and that of the content.
        for _ in 0..2 {
            let parents = folder.rsplit_once('/').zip(spelled.rsplit_once('/'));
            let Some(((parent, _), (spelled_parent, _))) = parents else { return };
            (folder, spelled) = (parent, spelled_parent);
            if self.0.get(folder).is_some_and(|(known, _)| *known > at)
                || self.0.len() >= MAX_FOLDERS && !self.0.contains_key(folder)
            {
                continue;
            }
            self.0.insert(folder.into(), (at, spelled.into()));
        }
    }

    /// Returns the target of a key in the spelling of its folder; `None` if no client has used one.
    pub(super) fn target(&self, key: &str) -> Option<PathAndQuery> {
        let path = key.split('?').next().unwrap_or(key);
        let (folder, _) = path.rsplit_once('/')?;
        let folders = std::iter::once(folder).chain(folder.rsplit_once('/').map(|(parent, _)| parent));
        let (folder, spelled) = folders.filter_map(|at| Some((at, &self.0.get(at)?.1))).next()?;
        let rest = key::request_target(&key[folder.len()..])?;
        format!("{spelled}{rest}").parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "/ /content/{535cb6a4-441f-4e8a-a897-804cd859100e}";
    const SPELLED: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}";

    #[test]
    fn payload_of_a_new_revision_is_spelled_like_the_ones_before() {
        let mut spellings = FolderSpellings::default();
        spellings.insert(&format!("{KEY}/100/full.zip"), &format!("{SPELLED}/100/full.zip"), 1);
        spellings.insert("/ /lu/A/1x.zip", "/LU/A/1x.zip", 1);
        for (key, target) in [
            (format!("{KEY}/110/xdelta100.dax"), Some(format!("{SPELLED}/110/xdelta100.dax"))),
            (format!("{KEY}/100/{{x}}.dax"), Some(format!("{SPELLED}/100/%7Bx%7D.dax"))),
            (format!("{KEY}/110/full.zip?a=/b"), Some(format!("{SPELLED}/110/full.zip?a=/b"))),
            ("/ /lu/A/2y.zip".to_owned(), Some("/LU/A/2y.zip".to_owned())),
            ("/ /other/2y.zip".to_owned(), None),
        ] {
            assert_eq!(spellings.target(&key).map(|target| target.to_string()), target, "{key}");
        }
    }

    #[test]
    fn latest_spelling_counts() {
        let mut spellings = FolderSpellings::default();
        let key = format!("{KEY}/100/full.zip");
        for (at, path) in [(2, "/Content/{A}/100/full.zip"), (1, "/x/{b}/100/full.zip")] {
            spellings.insert(&key, path, at);
        }
        assert_eq!(spellings.target(&key).unwrap(), "/Content/{A}/100/full.zip");
    }
}
