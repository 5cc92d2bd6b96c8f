//! Visibility of arriving content. Invariant: a reader and a replacement may decide at the same time, and exactly one
//! wins. No other content replaces this one once a reader may have a byte, and no reader sees a replaced one.

use std::sync::atomic::{AtomicU8, Ordering};

use super::resumption::Replacement;

/// No reader has seen a byte.
const HIDDEN: u8 = 0;

/// No reader has seen a byte, and no other content may replace this one: enough have done so.
const SETTLED: u8 = 1;

/// A reader may have seen bytes.
const REVEALED: u8 = 2;

/// Other content replaces it.
const REPLACED: u8 = 3;

/// State of one content, at first hidden.
#[derive(Debug, Default)]
pub(super) struct ContentVisibility(AtomicU8);

impl ContentVisibility {
    /// Marks the content as revealed to a reader. Returns false if other content has replaced it; the reader then must
    /// not see any byte.
    pub(super) fn reveal(&self) -> bool {
        match self.0.load(Ordering::Acquire) {
            REVEALED => true,
            SETTLED => {
                self.0.store(REVEALED, Ordering::Release);
                true
            }
            HIDDEN => self.leave_hidden(REVEALED),
            _ => false,
        }
    }

    /// Excludes a replacement.
    pub(super) fn settle(&self) {
        self.leave_hidden(SETTLED);
    }

    /// Returns true if a reader may have seen bytes.
    pub(super) fn is_revealed(&self) -> bool {
        self.0.load(Ordering::Acquire) == REVEALED
    }

    /// Leaves the hidden state. Returns false if other content has replaced this one meanwhile.
    fn leave_hidden(&self, state: u8) -> bool {
        let left = self.0.compare_exchange(HIDDEN, state, Ordering::AcqRel, Ordering::Acquire);
        left != Err(REPLACED)
    }
}

impl Replacement for ContentVisibility {
    fn is_possible(&self) -> bool {
        self.0.load(Ordering::Acquire) == HIDDEN
    }

    fn commit(&self) -> bool {
        self.0.compare_exchange(HIDDEN, REPLACED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}
