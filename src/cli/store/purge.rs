//! `gupd store purge`: removes objects, each key by itself, so that one that is interrupted has done what it said so far.

use std::collections::BTreeSet;
use std::sync::Arc;

use indicatif::{BinaryBytes, HumanCount};

use super::selection::Selection;
use super::show::{Form, list};
use super::{Failure, Opened, Place};
use crate::answer;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_store::{Inventory, Object};

/// Lists what would be removed.
pub(super) fn rehearse(place: &Place, selection: &Selection) -> Result<(), Failure> {
    chosen(selection)?;
    list(&Inventory::open(&place.load()?.dir)?, |object, now| is_meant(selection, object, now), Form::Table)
}

pub(super) fn run(place: &Place, selection: &Selection) -> Result<(), Failure> {
    chosen(selection)?;
    let config = place.load()?;
    let inventory = Inventory::open(&config.dir)?;
    let Opened { store, runtime } = Opened::open(&config)?;
    let now = Clock::system().now();
    let mut keys = BTreeSet::<Arc<str>>::new();
    for object in inventory.objects() {
        let object = object?;
        if is_meant(selection, &object, now) {
            keys.insert(object.key);
        }
    }
    let before = store.stats();
    for key in &keys {
        runtime.block_on(store.remove(key))?;
    }
    let after = store.stats();
    answer(&format!(
        "removed {} objects, {} of the disk",
        HumanCount(before.objects.saturating_sub(after.objects)),
        BinaryBytes(before.disk_bytes.saturating_sub(after.disk_bytes)),
    ));
    Ok(())
}

/// A copy goes with the revision that has it.
fn is_meant(selection: &Selection, object: &Object, now: UnixMillis) -> bool {
    selection.has(object, now) && !object.is_copy()
}

/// A forgotten flag is not to empty a site's store.
fn chosen(selection: &Selection) -> Result<(), Failure> {
    if selection.is_everything() {
        return Err(Failure::Configuration(
            "purge: nothing says what to remove; give --path, --content-type, --revision, or --path '**' for everything"
                .to_owned(),
        ));
    }
    Ok(())
}
