//! Catalogs that clients have asked for and that no revision has: who waits for which. Owns the list of them, bounded, one
//! entry for all who wait for the same, and that each of them is told how it ended. `refresh` asks for them; nothing here
//! does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

/// Keys that clients wait for at once, at most: more than a manager has catalogs for one kind of client. Who comes then is
/// told to come again.
const MAX_WAITING: usize = 1_024;

/// What came of a catalog that no revision had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// The newest revision has it, or says that there is none.
    Published,
    /// Its manager has none; no revision has room to say so.
    Absent,
    /// No upstream answered, or not for one moment. Come again.
    Unpublished,
    /// There are too many of its kind; nobody was asked.
    Refused,
}

/// The list.
#[derive(Debug, Default)]
pub struct Arrivals {
    // Held for a look-up or an insertion.
    waiting: Mutex<Waiting>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    keys: BTreeMap<Arc<str>, Place>,
    /// How many have come.
    came: u64,
    /// Nobody asks for them any more.
    is_closed: bool,
}

/// A key's place in the line, and who is told of it.
#[derive(Debug)]
struct Place {
    number: u64,
    tell: watch::Sender<Option<Arrived>>,
}

impl Arrivals {
    /// Waits until the catalog of this key is in the newest revision, or cannot be. How long to wait is the caller's to
    /// say: whoever leaves finds it there later.
    pub fn wanted(&self, key: &Arc<str>) -> impl Future<Output = Arrived> + Send + use<> {
        let told = self.enlist(key);
        async move {
            let Some(mut told) = told else { return Arrived::Unpublished };
            let arrived = told.wait_for(Option::is_some).await.map(|arrived| *arrived);
            arrived.ok().flatten().unwrap_or(Arrived::Unpublished)
        }
    }

    /// Waits until somebody waits.
    pub async fn some(&self) {
        while self.lock().keys.is_empty() {
            self.came.notified().await;
        }
    }

    /// The keys that are waited for, in the order in which they came: whoever makes names up pushes nobody back. They stay
    /// until they are told of.
    pub fn keys(&self) -> Vec<Arc<str>> {
        let waiting = self.lock();
        let mut keys: Vec<_> = waiting.keys.iter().map(|(key, place)| (place.number, key.clone())).collect();
        drop(waiting);
        keys.sort_unstable_by_key(|(number, _)| *number);
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Tells whoever waits for a key.
    pub fn tell(&self, key: &str, arrived: Arrived) {
        if let Some(place) = self.lock().keys.remove(key) {
            place.tell.send_replace(Some(arrived));
        }
    }

    /// Lets everyone go, also who comes later: nobody asks any more.
    pub fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        waiting.keys.clear();
    }

    fn enlist(&self, key: &Arc<str>) -> Option<watch::Receiver<Option<Arrived>>> {
        let mut waiting = self.lock();
        if let Some(place) = waiting.keys.get(key) {
            return Some(place.tell.subscribe());
        }
        if waiting.is_closed || waiting.keys.len() >= MAX_WAITING {
            return None;
        }
        let (tell, told) = watch::channel(None);
        let number = waiting.came;
        waiting.came += 1;
        waiting.keys.insert(key.clone(), Place { number, tell });
        drop(waiting);
        self.came.notify_one();
        Some(told)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_who_waits_for_a_key_is_told_once_and_the_next_waits_anew() {
        let (arrivals, key) = (Arrivals::default(), Arc::from("route /a"));
        let both = [arrivals.wanted(&key), arrivals.wanted(&key)];
        arrivals.some().await;
        assert_eq!(arrivals.keys(), std::slice::from_ref(&key));
        arrivals.tell(&key, Arrived::Published);
        for waiting in both {
            assert_eq!(waiting.await, Arrived::Published);
        }
        assert!(arrivals.keys().is_empty());
        let again = arrivals.wanted(&key);
        arrivals.tell(&key, Arrived::Absent);
        assert_eq!(again.await, Arrived::Absent);
    }

    #[tokio::test]
    async fn who_came_first_is_first_whatever_the_name() {
        let arrivals = Arrivals::default();
        let came = ["r /z", "r /a", "r /m"].map(Arc::<str>::from);
        let _waiting = came.each_ref().map(|key| arrivals.wanted(key));
        assert_eq!(arrivals.keys(), came);
    }

    #[tokio::test]
    async fn who_comes_when_too_many_wait_or_nobody_asks_any_more_is_let_go_at_once() {
        let arrivals = Arrivals::default();
        let key = |at: usize| Arc::from(format!("route /{at}"));
        let first = arrivals.wanted(&key(0));
        let others: Vec<_> = (1..MAX_WAITING).map(|at| arrivals.wanted(&key(at))).collect();
        assert_eq!(arrivals.wanted(&key(MAX_WAITING)).await, Arrived::Unpublished);
        arrivals.tell(&key(0), Arrived::Published);
        assert_eq!(first.await, Arrived::Published);
        arrivals.close();
        for waiting in others.into_iter().chain([arrivals.wanted(&key(0))]) {
            assert_eq!(waiting.await, Arrived::Unpublished);
        }
    }
}
