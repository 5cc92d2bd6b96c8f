//! What clients' requests tell of new revisions: the largest number of each content that its manager has given them. The
//! first client that gets a payload of a revision is how the relay learns that there is one. Told of misses only; bounded.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use gupd_config::policy::RevisionFile;

/// Contents remembered: a manager has some dozens. Those beyond are not learned of before they are stored.
const MAX_SERIES: usize = 256;

/// The newest revision known of each content.
#[derive(Debug, Default)]
pub struct News {
    // Held for a look-up or an insertion.
    newest: Mutex<HashMap<Box<str>, u64>>,
    heard: Notify,
}

impl News {
    /// Notes that a client gets the payload of this key.
    pub fn hear(&self, key: &str) {
        if self.note(key) {
            self.heard.notify_one();
        }
    }

    /// Notes what is known already; whether it was news.
    pub fn note(&self, key: &str) -> bool {
        let Some(RevisionFile { series, number, .. }) = RevisionFile::parse(key) else { return false };
        let mut newest = self.newest();
        let has_room = newest.len() < MAX_SERIES;
        match newest.get_mut(series) {
            Some(known) if *known < number => *known = number,
            None if has_room => drop(newest.insert(series.into(), number)),
            _ => return false,
        }
        true
    }

    /// Waits until there is a revision that was not known. Nothing is lost between two calls.
    pub async fn heard(&self) {
        self.heard.notified().await;
    }

    /// Every content and its newest revision.
    pub fn all(&self) -> Vec<(Box<str>, u64)> {
        self.newest().iter().map(|(series, number)| (series.clone(), *number)).collect()
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<Box<str>, u64>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
