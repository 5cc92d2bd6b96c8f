//! Single flight: of any number of tasks that want the same load, one does it and all get its result. A task that
//! goes away while loading passes the work on to a waiting one; one that comes when the load is done begins another.
//! The map's lock covers a look-up, never the load.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

/// Loads under way. As many as there are waiting readers at most.
#[derive(Debug)]
pub(super) struct SingleFlight<K, T> {
    cells: Mutex<Cells<K, T>>,
}

type Cells<K, T> = HashMap<K, Arc<OnceCell<T>>>;

impl<K: Copy + Eq + Hash, T: Clone> SingleFlight<K, T> {
    pub(super) fn new() -> Self {
        Self { cells: Mutex::default() }
    }

    /// The result of `load`, run by this task or by another that asked for the same key meanwhile.
    pub(super) async fn run(&self, key: K, load: impl Future<Output = T>) -> T {
        let seat = Participant { flights: self, key, cell: self.lock().entry(key).or_default().clone() };
        let loaded = seat.cell.get_or_init(|| load).await.clone();
        seat.close();
        loaded
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cells<K, T>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One task's share in a flight; the last one to leave takes it off the map.
struct Participant<'a, K: Copy + Eq + Hash, T: Clone> {
    flights: &'a SingleFlight<K, T>,
    key: K,
    cell: Arc<OnceCell<T>>,
}

impl<K: Copy + Eq + Hash, T: Clone> Participant<'_, K, T> {
    /// Lets nobody else join a flight that has landed: readers that try again after an error would keep each other at
    /// that error for ever.
    fn close(&self) {
        let mut cells = self.flights.lock();
        if cells.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell)) {
            cells.remove(&self.key);
        }
    }
}

impl<K: Copy + Eq + Hash, T: Clone> Drop for Participant<'_, K, T> {
    fn drop(&mut self) {
        let mut cells = self.flights.lock();
        let ours = cells.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell));
        // The map's and ours: counted under the lock that new seats are taken under.
        if ours && Arc::strong_count(&self.cell) == 2 {
            cells.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_waiting_task_takes_over_when_the_loading_one_leaves_and_nothing_stays_behind() {
        let flights = SingleFlight::<u8, u8>::new();
        let mut leaver = Box::pin(flights.run(1, std::future::pending()));
        assert!((&mut leaver).now_or_never().is_none());
        let mut waiter = Box::pin(flights.run(1, async { 7 }));
        assert!((&mut waiter).now_or_never().is_none());
        drop(leaver);
        assert_eq!(waiter.await, 7);
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn whoever_comes_after_the_landing_begins_another_flight() {
        let flights = SingleFlight::<u8, u8>::new();
        let mut landed = Box::pin(flights.run(1, async { 1 }));
        let mut other = Box::pin(flights.run(1, async { 2 }));
        assert_eq!((&mut landed).now_or_never(), Some(1));
        assert_eq!(flights.run(1, async { 3 }).now_or_never(), Some(3));
        assert!(matches!((&mut other).now_or_never(), Some(2)));
        assert!(flights.lock().is_empty());
    }
}
