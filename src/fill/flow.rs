//! The state of a fill that its followers see. A phase carries all that is true in it, so that a follower can end only
//! on `Complete` or `Stored`, or with an error; when the fill's task vanishes, its channel closes and that is an error
//! too. The tail is the newest bytes, in memory until they can be read from the store.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::{FillError, Unshared};
use crate::cache::{Entry, Freshness, Selecting, Unstorable};
use crate::clock::UnixMillis;
use crate::policy::Classified;
use crate::store::{Charge, Partial};

/// Where a fill stands.
#[derive(Clone, Debug)]
pub enum Phase {
    /// No response head yet.
    Asking,
    /// Bytes arrive; the first `available` are there.
    Receiving {
        /// Head and bytes.
        flow: Arc<Flow>,
        /// Bytes that have arrived, from the first.
        available: u64,
    },
    /// Every byte has arrived.
    Complete {
        /// Head and bytes.
        flow: Arc<Flow>,
        /// How many bytes that is.
        length: u64,
    },
    /// It is an object in the store.
    Stored {
        /// The object.
        entry: Arc<Entry>,
    },
    /// The upstream says the stored response is still good.
    NotModified {
        /// The stored response, with the fields of the `304`.
        entry: Arc<Entry>,
    },
    /// The response may not be shared, or cannot be kept.
    Unshared {
        /// Why.
        why: Unshared,
    },
    /// There will be no more bytes.
    Failed {
        /// Why.
        error: FillError,
    },
}

/// A response on its way into the store.
#[derive(Debug)]
pub struct Flow {
    /// Its head, as it will be stored.
    pub head: Head,
    /// Its complete length, where the upstream said it.
    pub length: Option<u64>,
    pub(super) partial: Arc<Partial>,
    // Held to push, trim or clone one piece.
    tail: Mutex<Tail>,
}

/// A shared response's head.
#[derive(Clone, Debug)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// Whether it will be kept when it has arrived; if not, it is for those who wait alone.
    pub kept: Result<(), Unstorable>,
    /// End-to-end fields.
    pub headers: HeaderMap,
    /// What selects it among variants.
    pub selecting: Selecting,
    /// How long it is good.
    pub freshness: Freshness,
    /// Class and content type of the path it was asked for.
    pub classified: Classified,
    /// Who sent it.
    pub upstream: Arc<str>,
    /// When it was asked for.
    pub request_time: UnixMillis,
    /// When it came.
    pub response_time: UnixMillis,
}

/// The newest bytes: everything from `start` on that has arrived. Counted as chunk memory while it is held.
#[derive(Debug, Default)]
struct Tail {
    start: u64,
    pieces: VecDeque<(Bytes, Charge)>,
}

impl Flow {
    pub(super) fn new(head: Head, length: Option<u64>, partial: Arc<Partial>) -> Self {
        Self { head, length, partial, tail: Mutex::default() }
    }

    pub(super) fn push(&self, piece: Bytes, charge: Charge) {
        self.tail().pieces.push_back((piece, charge));
    }

    /// Lets go of pieces that end at or before `written`: they can be read from the store.
    pub(super) fn trim(&self, written: u64) {
        let mut tail = self.tail();
        while let Some((piece, _)) = tail.pieces.front() {
            let end = tail.start + piece.len() as u64;
            if end > written {
                break;
            }
            tail.start = end;
            tail.pieces.pop_front();
        }
    }

    /// The rest of the piece at `position`, if it is in the tail.
    pub(super) fn tail_at(&self, position: u64) -> Option<Bytes> {
        let tail = self.tail();
        let mut start = tail.start;
        for (piece, _) in tail.pieces.iter().take_while(|_| position >= tail.start) {
            let end = start + piece.len() as u64;
            if position < end {
                return usize::try_from(position - start).ok().map(|offset| piece.slice(offset..));
            }
            start = end;
        }
        None
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
