//! The handle that requests, gates and reports share, and the background work behind it: draining the queue, expiring
//! clients and saving changed records a little at a time. A query drains the queue first, so its answer includes every
//! observation sent before it. Until the stored records are restored, queries wait.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, SetOnce, mpsc};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::report::Reporter;
use super::table::ClientTable;
use super::{
    ClientFilter, ClientId, ClientPage, ClientReport, ClientStatus, Observation, TrackerSettings, Trouble,
    VisibleRevisionOf,
};
use crate::metrics::RolloutMetrics;
use crate::revision::RevisionNumber;
use crate::status::ClientCounts;
use gupd_config::GroupId;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_store::{Store, StoreError};

/// Observations that wait: a tenth of a second of the highest request rate on two cores. About a MiB.
const QUEUE: usize = 8 << 10;

/// Interval between two saves, and between two updates of the metrics. A crash loses the observations since the last.
const TICK: Duration = Duration::from_secs(60);

/// Maximum number of records saved at once, a transaction of some 10 ms. 50,000 clients that change all the time are
/// saved once in 50 minutes each.
const BATCH: usize = 1_000;

/// A store of records.
pub trait ClientStore: Send + Sync {
    /// Why the store cannot be read or written.
    type Error: Display + Send;

    /// Returns the records after the key `after`, a page at a time; none at the end.
    fn page(&self, after: &str) -> impl Future<Output = Result<Vec<(String, Vec<u8>)>, Self::Error>> + Send;

    /// Writes records, or removes them, in this order.
    fn save(
        &self,
        rows: Vec<(String, Option<Vec<u8>>)>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// The client tracker. Cheap to clone.
#[derive(Clone)]
pub struct ClientTracker(Arc<TrackerShared>);

struct TrackerShared {
    queue: mpsc::Sender<Observation>,
    is_filling: Notify,
    /// Never locked on a request's path.
    state: Mutex<TrackerState>,
    is_restored: SetOnce<()>,
    visible_of: Box<VisibleRevisionOf>,
    metrics: Arc<RolloutMetrics>,
    clock: Clock,
}

struct TrackerState {
    queue: mpsc::Receiver<Observation>,
    table: ClientTable,
    settings: TrackerSettings,
    /// True if the last save failed and that was logged.
    is_failing: bool,
}

impl ClientStore for Arc<Store> {
    type Error = StoreError;

    async fn page(&self, after: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.load_clients(after).await
    }

    async fn save(&self, rows: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        self.save_clients(rows).await
    }
}

impl fmt::Debug for ClientTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTracker").finish_non_exhaustive()
    }
}

impl ClientTracker {
    /// A tracker without clients. Its queries wait until [`run`](Self::run) has restored the stored ones.
    pub fn new(
        settings: TrackerSettings,
        visible_of: Box<VisibleRevisionOf>,
        metrics: Arc<RolloutMetrics>,
        clock: Clock,
    ) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        for status in ClientStatus::ALL {
            metrics.clients.with_label_values(&[status.as_str()]);
        }
        let state = TrackerState { queue, table: ClientTable::default(), settings, is_failing: false };
        Self(Arc::new(TrackerShared {
            queue: sender,
            is_filling: Notify::new(),
            state: Mutex::new(state),
            is_restored: SetOnce::new(),
            visible_of,
            metrics,
            clock,
        }))
    }

    /// Records an observation. Never waits: one that finds the queue full is lost and counted.
    pub fn record(&self, observation: Observation) {
        if self.0.queue.try_send(observation).is_err() {
            self.0.metrics.observations_lost.inc();
        }
        // An earlier wake-up would cost as much as a good part of a hit.
        if self.0.queue.capacity() < QUEUE / 2 {
            self.0.is_filling.notify_one();
        }
    }

    /// Applies new settings.
    pub fn reconfigure(&self, settings: TrackerSettings) {
        self.state().settings = settings;
    }

    /// Returns the trouble of the clients in these groups that see this revision.
    pub async fn trouble(&self, revision: RevisionNumber, groups: &[GroupId]) -> Trouble {
        self.read(|reporter| reporter.trouble(revision, groups)).await
    }

    /// Counts the clients by group.
    pub async fn summary(&self) -> BTreeMap<GroupId, ClientCounts> {
        self.read(|reporter| self.count(reporter)).await
    }

    /// Lists up to `limit` clients, and at most [`MAX_LISTED`](super::MAX_LISTED), the latest seen first.
    pub async fn list(&self, filter: &ClientFilter, limit: usize) -> Vec<ClientReport> {
        self.read(|reporter| reporter.list(filter, limit)).await
    }

    /// Lists a page of the clients.
    pub async fn page(&self, filter: &ClientFilter, page: &ClientPage) -> Vec<ClientReport> {
        self.read(|reporter| reporter.page(filter, page)).await
    }

    /// Restores the stored records, then tracks until `stop`, and saves what is left. A store that fails costs the
    /// records that it does not take; each save tries again.
    pub async fn run(self, store: impl ClientStore, stop: impl Future<Output = ()>) {
        self.restore(&store).await;
        // Fails only if it runs twice.
        let _ = self.0.is_restored.set(());
        tokio::select! {
            () = self.save_until(&store, stop) => {}
            () = self.maintain() => {}
        }
    }

    async fn restore(&self, store: &impl ClientStore) {
        let (mut rows, mut after) = (Vec::new(), String::new());
        loop {
            match store.page(&after).await {
                Ok(page) => {
                    // A store that repeats a page would be read for ever.
                    let Some((last, _)) = page.last().filter(|(last, _)| *last > after) else { break };
                    after.clone_from(last);
                    rows.extend(page);
                }
                Err(error) => {
                    tracing::warn!(%error, "client records cannot be read; all clients count as new");
                    break;
                }
            }
        }
        let max = self.state().settings.max_clients;
        let (table, damaged) = ClientTable::restore(rows, self.0.clock.now(), max);
        if damaged > 0 {
            tracing::warn!(records = damaged, "client records are damaged; these clients count as new");
        }
        self.state().table = table;
        self.expire();
    }

    /// Drains the queue when it fills up, and expires and counts clients once a minute.
    async fn maintain(&self) {
        let mut ticks = ticks();
        loop {
            tokio::select! {
                _ = ticks.tick() => self.expire(),
                () = self.0.is_filling.notified() => drop(self.state()),
            }
        }
    }

    fn expire(&self) {
        let mut state = self.state();
        let max = state.settings.max_clients;
        state.table.expire(self.0.clock.now(), max, BATCH);
        self.count(&self.reporter(&state));
    }

    async fn save_until(&self, store: &impl ClientStore, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut ticks = ticks();
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = ticks.tick() => { self.save(store).await; }
            }
        }
        while self.save(store).await {}
    }

    /// Saves a batch of changed records. Returns true if another batch may follow.
    async fn save(&self, store: &impl ClientStore) -> bool {
        let changes = self.state().table.take_unsaved(BATCH);
        if changes.is_empty() {
            return false;
        }
        let clients: Vec<ClientId> = changes.iter().map(|(client, _)| client.clone()).collect();
        let rows = changes.into_iter().map(|(client, row)| (client.to_string(), row)).collect();
        let saved = store.save(rows).await;
        let mut state = self.state();
        let was_failing = std::mem::replace(&mut state.is_failing, saved.is_err());
        let Err(error) = saved else { return true };
        state.table.not_saved(clients);
        if !was_failing {
            tracing::warn!(%error, "client records cannot be saved; retrying every minute");
        }
        false
    }

    async fn read<T>(&self, query: impl FnOnce(&Reporter<'_>) -> T) -> T {
        self.0.is_restored.wait().await;
        query(&self.reporter(&self.state()))
    }

    fn reporter<'a>(&'a self, state: &'a TrackerState) -> Reporter<'a> {
        let (visible_of, settings) = (&*self.0.visible_of, state.settings);
        Reporter { table: &state.table, visible_of, settings, now: self.0.clock.now() }
    }

    /// Counts the clients, and updates the metrics.
    fn count(&self, reporter: &Reporter<'_>) -> BTreeMap<GroupId, ClientCounts> {
        let summary = reporter.summary();
        for status in ClientStatus::ALL {
            let clients = summary.values().filter_map(|group| group.lights.get(status.as_str())).sum::<u64>();
            let gauge = self.0.metrics.clients.with_label_values(&[status.as_str()]);
            gauge.set(i64::try_from(clients).unwrap_or(i64::MAX));
        }
        summary
    }

    /// Locks the state, with the queue drained into it. Observations wait in the queue until the records are restored.
    fn state(&self) -> MutexGuard<'_, TrackerState> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.is_restored.initialized() {
            state.drain(self.0.clock.now());
        }
        state
    }
}

impl TrackerState {
    /// Applies queued observations, but no more than a queue full: others may arrive meanwhile.
    fn drain(&mut self, now: UnixMillis) {
        for _ in 0..QUEUE {
            let Ok(observation) = self.queue.try_recv() else { return };
            self.table.observe(&observation, now, self.settings.max_clients);
        }
    }
}

fn ticks() -> Interval {
    let mut ticks = interval_at(Instant::now() + TICK, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests;
