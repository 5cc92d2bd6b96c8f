//! What was to be kept and had to go all the same, because nothing else was left to make room: told to who kept it, and
//! to the administrator in one line for each batch. What is kept goes last: see `index::policy`.

use std::sync::{Mutex, PoisonError};

use super::ObjectKey;
use super::Store;
use super::stats::{EvictionReason, RemovalStats};

/// Objects remembered until somebody asks, at about 200 bytes each; of more, only their number is told.
const GIVEN_UP_MAX: usize = 4096;

/// Keys and lengths of bodies, in the order they went.
// Held to append and to take.
#[derive(Debug, Default)]
pub(super) struct EvictedPins(Mutex<Vec<(ObjectKey, u64)>>);

impl Store {
    /// Keys of kept objects that went for room since the last call, and the lengths of their bodies; the first 4,096.
    pub fn take_evicted_pins(&self) -> Vec<(ObjectKey, u64)> {
        std::mem::take(&mut *self.evicted_pins.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn gave_up(&self, given_up: Vec<(ObjectKey, u64)>, why: EvictionReason) {
        if given_up.is_empty() {
            return;
        }
        let (objects, bytes) = (given_up.len() as u64, given_up.iter().map(|(_, bytes)| bytes).sum());
        self.counters.count_evicted_pins(RemovalStats { objects, bytes });
        tracing::warn!(
            objects,
            bytes,
            limit = why.as_str(),
            "content that was to be kept had to go for room; it is fetched again when it is asked for, raise `store.quota` \
             or keep fewer revisions"
        );
        let mut waiting = self.evicted_pins.0.lock().unwrap_or_else(PoisonError::into_inner);
        let space = GIVEN_UP_MAX.saturating_sub(waiting.len());
        waiting.extend(given_up.into_iter().take(space));
    }
}
