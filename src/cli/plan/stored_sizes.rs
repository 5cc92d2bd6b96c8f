//! The sizes that a client downloads of a new revision, taken from the store: the newest full set of each SyLink
//! content and its largest delta. The store counts no requests, so it does not give the share of full sets.

use std::collections::HashMap;

use crate::CommandError;
use gupd_config::pattern;
use gupd_http::key;
use gupd_store::Inventory;

/// Bytes of all content of one client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StoredSizes {
    pub(super) full: Option<u64>,
    pub(super) delta: Option<u64>,
}

/// Newest revision and size of one content.
#[derive(Default)]
struct NewestContent {
    full: (u64, u64),
    delta: (u64, u64),
}

impl StoredSizes {
    pub(super) fn read(inventory: &Inventory) -> Result<Self, CommandError> {
        let mut newest: HashMap<String, NewestContent> = HashMap::new();
        for object in inventory.objects() {
            let object = object?;
            if object.status.is_success() && !object.is_copy() {
                let path = pattern::fold(key::split_key(&object.key).target);
                record(&mut newest, &path, object.len);
            }
        }
        let sizes = sum(newest.values());
        if sizes == Self::default() {
            return Err(CommandError::Failed(
                "plan: --from-store: no full set or delta of SyLink content in the store: pass --full and --delta"
                    .to_owned(),
            ));
        }
        Ok(sizes)
    }
}

fn sum<'a>(all: impl Iterator<Item = &'a NewestContent> + Clone) -> StoredSizes {
    let sum = |size: fn(&NewestContent) -> u64| Some(all.clone().map(size).sum()).filter(|bytes| *bytes > 0);
    StoredSizes { full: sum(|newest| newest.full.1), delta: sum(|newest| newest.delta.1) }
}

/// Records a path of the form `/content/{GUID}/<revision>/<name>`, in lower case.
fn record(newest: &mut HashMap<String, NewestContent>, path: &str, bytes: u64) {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let ["content", guid, revision, name] = segments[..] else { return };
    let Ok(revision) = revision.parse() else { return };
    let content = newest.entry(guid.to_owned()).or_default();
    let entry = match () {
        () if name == "full.zip" => &mut content.full,
        () if name.ends_with(".dax") => &mut content.delta,
        () => return,
    };
    // The larger delta of a revision is for clients further behind.
    *entry = (*entry).max((revision, bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_of_the_newest_revision_of_each_content() {
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
            record(&mut newest, path, bytes);
        }
        assert_eq!(sum(newest.values()), StoredSizes { full: Some(1_050), delta: Some(30) });
        assert_eq!(sum([].iter()), StoredSizes::default());
    }
}
