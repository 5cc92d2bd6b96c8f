//! Single flight: of any number of tasks that want the same load, one runs it and all get its result. If that
//! task is dropped, a waiting one takes over. A task that arrives after the load is done begins another. The
//! map's lock covers a lookup, never the load.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

/// Running loads; at most as many as waiting readers.
#[derive(Debug)]
pub(super) struct SingleFlight<K, T> {
    cells: Mutex<Cells<K, T>>,
}

type Cells<K, T> = HashMap<K, Arc<OnceCell<T>>>;

impl<K: Copy + Eq + Hash, T: Clone> SingleFlight<K, T> {
    pub(super) fn new() -> Self {
        Self { cells: Mutex::default() }
    }

    /// Returns the result of `load`, run by this task or by a concurrent one with the same key.
    pub(super) async fn run(&self, key: K, load: impl Future<Output = T>) -> T {
        let participant =
            Participant { flights: self, key, cell: self.lock().entry(key).or_default().clone() };
        let loaded = participant.cell.get_or_init(|| load).await.clone();
        participant.finish();
        loaded
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cells<K, T>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One task's share in a load; the last one removes it from the map.
struct Participant<'a, K: Copy + Eq + Hash, T: Clone> {
    flights: &'a SingleFlight<K, T>,
    key: K,
    cell: Arc<OnceCell<T>>,
}

impl<K: Copy + Eq + Hash, T: Clone> Participant<'_, K, T> {
    /// Removes a finished load from the map. Otherwise readers that retry after an error would share that error
    /// for ever.
    fn finish(&self) {
        let mut cells = self.flights.lock();
        if cells.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell)) {
            cells.remove(&self.key);
        }
    }
}

impl<K: Copy + Eq + Hash, T: Clone> Drop for Participant<'_, K, T> {
    fn drop(&mut self) {
        let mut cells = self.flights.lock();
        let is_current = cells.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell));
        // The references of the map and of this task, counted under the lock that new ones are taken under.
        if is_current && Arc::strong_count(&self.cell) == 2 {
            cells.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn waiting_task_takes_over_when_the_loading_one_is_dropped() {
        let flights = SingleFlight::<u8, u8>::new();
        let mut dropped = Box::pin(flights.run(1, std::future::pending()));
        assert!((&mut dropped).now_or_never().is_none());
        let mut waiter = Box::pin(flights.run(1, async { 7 }));
        assert!((&mut waiter).now_or_never().is_none());
        drop(dropped);
        assert_eq!(waiter.await, 7);
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn task_after_completion_begins_another_load() {
        let flights = SingleFlight::<u8, u8>::new();
        let mut finished = Box::pin(flights.run(1, async { 1 }));
        let mut other = Box::pin(flights.run(1, async { 2 }));
        assert_eq!((&mut finished).now_or_never(), Some(1));
        assert_eq!(flights.run(1, async { 3 }).now_or_never(), Some(3));
        assert!(matches!((&mut other).now_or_never(), Some(2)));
        assert!(flights.lock().is_empty());
    }
}
