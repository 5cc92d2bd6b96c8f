//! `gupd store verify`: the whole store now, with a bar, one line for each thing that is wrong. With the folder's lock
//! it repairs as it goes; beside a running relay it only tells.

use indicatif::{BinaryBytes, HumanCount};

use super::{Failure, Opened, Place, bar};
use crate::cli::{answer, complain};
use crate::store::{Finding, Inventory, StoreError, verify};

pub(super) fn run(place: &Place, dry_run: bool) -> Result<(), Failure> {
    let config = place.load()?;
    if !config.dir.join("blobs").exists() {
        return Err(StoreError::NoStore { path: config.dir }.into());
    }
    let (opened, relay_runs) = match dry_run {
        true => (None, false),
        false => match Opened::open(&config) {
            Ok(opened) => (Some(opened), false),
            Err(StoreError::Locked { .. }) => (None, true),
            Err(error) => return Err(error.into()),
        },
    };
    let inventory = Inventory::open(&config.dir)?;
    let bar = bar("verifying", inventory.bytes()?);
    let (mut wrong, mut repaired) = (0, 0);
    let found = |finding: Finding| {
        let done = match &opened {
            Some(Opened { store, runtime }) => runtime.block_on(store.clear(&finding))?,
            None => false,
        };
        bar.suspend(|| complain(&format!("{finding}{}", if done { "; repaired" } else { "" })));
        wrong += 1;
        repaired += u64::from(done);
        Ok(())
    };
    let verified = verify(&inventory, |bytes| bar.inc(bytes), found)?;
    bar.finish_and_clear();
    answer(&format!("verified {} blobs, {}", HumanCount(verified.blobs), BinaryBytes(verified.bytes)));
    match (wrong, wrong - repaired) {
        (0, _) => Ok(()),
        (_, 0) => Err(Failure::Failed(format!(
            "{wrong} found and repaired: what was damaged is removed, and fetched again when asked for"
        ))),
        (_, left) if relay_runs => Err(Failure::Failed(format!(
            "{left} found, nothing repaired: a relay has the store. It never serves them, and removes damaged blobs \
             when it meets them; to repair all now, stop it and run this again"
        ))),
        (_, left) if dry_run => {
            Err(Failure::Failed(format!("{left} found, nothing repaired; run this without --dry-run")))
        }
        (_, left) => Err(Failure::Failed(format!("{wrong} found, {left} of them left as they are"))),
    }
}
