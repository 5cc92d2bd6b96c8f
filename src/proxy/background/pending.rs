//! Pending catalogs: those that clients have requested and that no revision has. The list is bounded, has one entry for
//! all waiters of a catalog, and gives each of them the outcome. `refresh` asks the upstreams; nothing here does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gupd_store::ObjectKey;
use tokio::sync::{Notify, watch};

/// Maximum number of pending catalogs: more than a manager has for one kind of client. A request for a further one is
/// answered `503`.
const MAX_PENDING: usize = 1_024;

/// Outcome of a request for a catalog that no revision had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingOutcome {
    /// The newest revision has the catalog, or records that it does not exist.
    Published,
    /// The manager does not have it; no revision has room to record that.
    Absent,
    /// No upstream answered, or not for one moment. The client may ask again.
    Unpublished,
    /// There are too many catalogs of its kind; no upstream was asked.
    Refused,
}

/// The pending catalogs and their waiters.
#[derive(Debug, Default)]
pub struct PendingCatalogs {
    // Held for a lookup or an insertion.
    state: Mutex<PendingState>,
    added: Notify,
}

#[derive(Debug, Default)]
struct PendingState {
    pending: BTreeMap<ObjectKey, PendingCatalog>,
    /// Number of catalogs that have been pending so far.
    total: u64,
    is_closed: bool,
}

/// One pending catalog.
#[derive(Debug)]
struct PendingCatalog {
    number: u64,
    outcome: watch::Sender<Option<PendingOutcome>>,
}

impl PendingCatalogs {
    /// Waits until the newest revision has the catalog of this key, or cannot have it. A caller that stops waiting
    /// finds the catalog in the revision later.
    pub fn wait_for(&self, key: &ObjectKey) -> impl Future<Output = PendingOutcome> + Send + use<> {
        let outcome = self.subscribe(key);
        async move {
            let Some(mut outcome) = outcome else { return PendingOutcome::Unpublished };
            let outcome = outcome.wait_for(Option::is_some).await.map(|outcome| *outcome);
            outcome.ok().flatten().unwrap_or(PendingOutcome::Unpublished)
        }
    }

    /// Waits until a catalog is pending.
    pub async fn wait_for_any(&self) {
        while self.lock().pending.is_empty() {
            self.added.notified().await;
        }
    }

    /// The pending keys in order of arrival, so that made-up names push no other back. They stay until
    /// [`resolve`](Self::resolve).
    pub fn keys(&self) -> Vec<ObjectKey> {
        let state = self.lock();
        let mut keys: Vec<_> = state.pending.iter().map(|(key, one)| (one.number, key.clone())).collect();
        drop(state);
        keys.sort_unstable_by_key(|(number, _)| *number);
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Gives all waiters of a key its outcome.
    pub fn resolve(&self, key: &str, outcome: PendingOutcome) {
        if let Some(one) = self.lock().pending.remove(key) {
            one.outcome.send_replace(Some(outcome));
        }
    }

    /// Ends all waits, present and future: `refresh` has stopped.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.pending.clear();
    }

    fn subscribe(&self, key: &ObjectKey) -> Option<watch::Receiver<Option<PendingOutcome>>> {
        let mut state = self.lock();
        if let Some(one) = state.pending.get(key) {
            return Some(one.outcome.subscribe());
        }
        if state.is_closed || state.pending.len() >= MAX_PENDING {
            return None;
        }
        let (outcome, receiver) = watch::channel(None);
        let number = state.total;
        state.total = state.total.wrapping_add(1);
        state.pending.insert(key.clone(), PendingCatalog { number, outcome });
        drop(state);
        self.added.notify_one();
        Some(receiver)
    }

    fn lock(&self) -> MutexGuard<'_, PendingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_of_one_key_get_its_outcome_once() {
        let (catalogs, key) = (PendingCatalogs::default(), ObjectKey::from("route /a"));
        let both = [catalogs.wait_for(&key), catalogs.wait_for(&key)];
        catalogs.wait_for_any().await;
        assert_eq!(catalogs.keys(), std::slice::from_ref(&key));
        catalogs.resolve(&key, PendingOutcome::Published);
        for waiter in both {
            assert_eq!(waiter.await, PendingOutcome::Published);
        }
        assert!(catalogs.keys().is_empty());
        let again = catalogs.wait_for(&key);
        catalogs.resolve(&key, PendingOutcome::Absent);
        assert_eq!(again.await, PendingOutcome::Absent);
    }

    #[tokio::test]
    async fn pending_keys_are_listed_in_order_of_arrival() {
        let catalogs = PendingCatalogs::default();
        let keys = ["r /z", "r /a", "r /m"].map(ObjectKey::from);
        let _waiters = keys.each_ref().map(|key| catalogs.wait_for(key));
        assert_eq!(catalogs.keys(), keys);
    }

    #[tokio::test]
    async fn full_or_closed_list_ends_waits_at_once() {
        let catalogs = PendingCatalogs::default();
        let key = |at: usize| ObjectKey::from(format!("route /{at}"));
        let first = catalogs.wait_for(&key(0));
        let others: Vec<_> = (1..MAX_PENDING).map(|at| catalogs.wait_for(&key(at))).collect();
        assert_eq!(catalogs.wait_for(&key(MAX_PENDING)).await, PendingOutcome::Unpublished);
        catalogs.resolve(&key(0), PendingOutcome::Published);
        assert_eq!(first.await, PendingOutcome::Published);
        catalogs.close();
        for waiter in others.into_iter().chain([catalogs.wait_for(&key(0))]) {
            assert_eq!(waiter.await, PendingOutcome::Unpublished);
        }
    }
}
