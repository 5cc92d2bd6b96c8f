//! `gupd store purge`: removes objects one key at a time, so an interrupted purge leaves a consistent store.

use std::collections::BTreeSet;

use indicatif::{BinaryBytes, HumanCount};

use super::list::{ListFormat, print_list};
use super::selection::Selection;
use super::{CommandError, OpenedStore, StoreLocation};
use crate::print_line;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_store::{Object, ObjectKey};

/// Lists the objects that a purge would remove.
pub(super) fn dry_run(location: &StoreLocation, selection: &Selection) -> Result<(), CommandError> {
    require_condition(selection)?;
    let (_, inventory) = location.open(selection)?;
    print_list(&inventory, |object, now| is_purged(selection, object, now), ListFormat::Table)
}

pub(super) fn run(location: &StoreLocation, selection: &Selection) -> Result<(), CommandError> {
    require_condition(selection)?;
    let (config, inventory) = location.open(selection)?;
    let OpenedStore { store, runtime } = OpenedStore::open(&config)?;
    let now = Clock::system().now();
    let mut keys = BTreeSet::<ObjectKey>::new();
    for object in inventory.objects() {
        let object = object?;
        if is_purged(selection, &object, now) {
            keys.insert(object.key);
        }
    }
    let before = store.stats();
    for key in &keys {
        runtime.block_on(store.remove(key))?;
    }
    let after = store.stats();
    print_line(&format!(
        "removed {} objects, {} on disk",
        HumanCount(before.objects.saturating_sub(after.objects)),
        BinaryBytes(before.disk_bytes.saturating_sub(after.disk_bytes)),
    ));
    Ok(())
}

/// A copy belongs to a revision, and is removed with it.
fn is_purged(selection: &Selection, object: &Object, now: UnixMillis) -> bool {
    selection.matches(object, now) && !object.is_copy()
}

/// Rejects an empty selection: a forgotten flag must not empty a store.
fn require_condition(selection: &Selection) -> Result<(), CommandError> {
    if selection.is_empty() {
        return Err(CommandError::Configuration(
            "purge: no condition: pass --path, --content-type or --revision, or --path '**' for all objects"
                .to_owned(),
        ));
    }
    Ok(())
}
