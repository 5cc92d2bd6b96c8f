//! What a client takes of a new revision, by what the store has: the newest full set of each SyLink content and the
//! largest delta beside it. The store counts no requests, so shares are not to be had from it.

use std::collections::HashMap;

use crate::CommandError;
use gupd_config::pattern;
use gupd_http::key;
use gupd_store::Inventory;

/// Bytes of all content of one client together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) full: Option<u64>,
    pub(super) delta: Option<u64>,
}

/// The newest of one content.
#[derive(Default)]
struct Newest {
    full: (u64, u64),
    delta: (u64, u64),
}

impl Sizes {
    pub(super) fn of(inventory: &Inventory) -> Result<Self, CommandError> {
        let mut newest: HashMap<String, Newest> = HashMap::new();
        for object in inventory.objects() {
            let object = object?;
            if object.status.is_success() && !object.is_copy() {
                let path = pattern::fold(key::split_key(&object.key).target);
                note(&mut newest, &path, object.len);
            }
        }
        let sizes = sum(newest.values());
        if sizes == Self::default() {
            return Err(CommandError::Failed(
                "plan: the store has no full set and no delta of SyLink content; give --full and --delta"
                    .to_owned(),
            ));
        }
        Ok(sizes)
    }
}

fn sum<'a>(all: impl Iterator<Item = &'a Newest> + Clone) -> Sizes {
    let sum = |size: fn(&Newest) -> u64| Some(all.clone().map(size).sum()).filter(|bytes| *bytes > 0);
    Sizes { full: sum(|newest| newest.full.1), delta: sum(|newest| newest.delta.1) }
}

/// `/content/{GUID}/<revision>/<name>`, folded.
fn note(newest: &mut HashMap<String, Newest>, path: &str, bytes: u64) {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let ["content", guid, revision, name] = segments[..] else { return };
    let Ok(revision) = revision.parse() else { return };
    let of_guid = newest.entry(guid.to_owned()).or_default();
    let kept = match () {
        () if name == "full.zip" => &mut of_guid.full,
        () if name.ends_with(".dax") => &mut of_guid.delta,
        () => return,
    };
    // Of one revision the larger one: a client further behind takes it.
    *kept = (*kept).max((revision, bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_takes_the_newest_of_each_content() {
        let mut newest = HashMap::new();
        for (path, bytes) in [
            ("/content/{a}/261120001/full.zip", 900),
            ("/content/{a}/261121001/full.zip", 1_000),
            ("/content/{a}/261121001/xdelta261120001.dax", 10),
            ("/content/{a}/261121001/xdelta261119001.dax", 30),
            ("/content/{a}/261120001/xdelta261119001.dax", 70),
            ("/content/{b}/7/full.zip", 50),
            ("/content/{b}/x/full.zip", 5_000),
            ("/content/{b}/8/other.txt", 5_000),
            ("/1369163480jtun_nav.zip", 5_000),
        ] {
            note(&mut newest, path, bytes);
        }
        assert_eq!(sum(newest.values()), Sizes { full: Some(1_050), delta: Some(30) });
        assert_eq!(sum([].iter()), Sizes::default());
    }
}
