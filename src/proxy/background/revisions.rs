//! New-revision notifications: the largest number of each content that its manager has given to a client. The first
//! client that gets a payload of a revision is how the relay learns of that revision. Misses alone report here;
//! bounded.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use gupd_config::policy::RevisionFile;

/// Maximum number of contents: a manager has some dozens. Revisions of further ones are learned once they are stored.
const MAX_SERIES: usize = 256;

/// The newest known revision of each content.
#[derive(Debug, Default)]
pub struct NewRevisions {
    // Held for a lookup or an insertion.
    newest: Mutex<HashMap<Box<str>, u64>>,
    added: Notify,
}

impl NewRevisions {
    /// Records the revision of a payload that a client gets, and wakes [`wait`](Self::wait) if it is new.
    pub fn notify(&self, file: RevisionFile<'_>) {
        if self.record(file) {
            self.added.notify_one();
        }
    }

    /// Records the revision of a stored payload. Returns true if it is new.
    pub fn record(&self, file: RevisionFile<'_>) -> bool {
        let RevisionFile { series, number, .. } = file;
        let mut newest = self.newest();
        let has_room = newest.len() < MAX_SERIES;
        match newest.get_mut(series) {
            Some(known) if *known < number => *known = number,
            None if has_room => drop(newest.insert(series.into(), number)),
            _ => return false,
        }
        true
    }

    /// Waits for a new revision. One that arrives between two calls is not lost.
    pub async fn wait(&self) {
        self.added.notified().await;
    }

    /// Every content and its newest revision.
    pub fn list(&self) -> Vec<(Box<str>, u64)> {
        self.newest().iter().map(|(series, number)| (series.clone(), *number)).collect()
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<Box<str>, u64>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
