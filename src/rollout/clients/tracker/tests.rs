//! The tracker over a store in memory that fails or hangs on demand, with paused time and a manual clock.

use std::collections::BTreeMap;
use std::ops::Bound;

use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::super::sample::{HOUR, SETTINGS, T0, observation, payload};
use super::super::{RequestKind, RequestOutcome, VisibleRevision};
use super::*;

#[derive(Clone, Default)]
struct MemoryStore(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    rows: BTreeMap<String, Vec<u8>>,
    batches: Vec<usize>,
    fails: bool,
    hangs: bool,
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap()
    }
}

impl ClientStore for MemoryStore {
    type Error = &'static str;

    async fn page(&self, after: &str) -> Result<Vec<(String, Vec<u8>)>, &'static str> {
        let after = (Bound::Excluded(after.to_owned()), Bound::Unbounded);
        Ok(self.lock().rows.range(after).take(7).map(|(key, row)| (key.clone(), row.clone())).collect())
    }

    async fn save(&self, changes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), &'static str> {
        if self.lock().hangs {
            std::future::pending::<()>().await;
        }
        let mut contents = self.lock();
        if contents.fails {
            return Err("no room");
        }
        contents.batches.push(changes.len());
        for (key, row) in changes {
            match row {
                Some(row) => _ = contents.rows.insert(key, row),
                None => _ = contents.rows.remove(&key),
            }
        }
        Ok(())
    }
}

struct Running {
    tracker: ClientTracker,
    metrics: Arc<RolloutMetrics>,
    clock: Clock,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn over(store: &MemoryStore) -> Self {
        let (metrics, clock) =
            (Arc::new(RolloutMetrics::register(&Registry::new()).unwrap()), Clock::manual(T0));
        let tracker = tracker(&metrics, &clock);
        let stop = CancellationToken::new();
        let task = tokio::spawn(tracker.clone().run(store.clone(), stop.clone().cancelled_owned()));
        Self { tracker, metrics, clock, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// A number of clients receive a catalog.
    fn observe(&self, clients: usize) {
        observe(&self.tracker, clients);
    }

    async fn known(&self) -> u64 {
        self.tracker.summary().await.values().map(|group| group.known).sum()
    }

    async fn list(&self) -> Vec<ClientReport> {
        self.tracker.list(&ClientFilter::default(), 10_000).await
    }

    fn gauge(&self, status: ClientStatus) -> i64 {
        self.metrics.clients.with_label_values(&[status.as_str()]).get()
    }
}

fn tracker(metrics: &Arc<RolloutMetrics>, clock: &Clock) -> ClientTracker {
    let visible_of = |_: &_, _| Some(VisibleRevision { number: 7.into(), differs_since: T0 });
    ClientTracker::new(SETTINGS, Box::new(visible_of), metrics.clone(), clock.clone())
}

fn observe(tracker: &ClientTracker, clients: usize) {
    for pc in 0..clients {
        let client = format!("pc-{pc}");
        tracker.record(observation(&client, 7, RequestKind::Catalog, RequestOutcome::Delivered));
    }
}

#[tokio::test(start_paused = true)]
async fn answer_includes_every_earlier_observation() {
    let relay = Running::over(&MemoryStore::default());
    relay.observe(100);
    relay.tracker.record(payload(7, RequestOutcome::Failed));
    assert_eq!(relay.known().await, 101);
    let trouble = relay.tracker.trouble(7.into(), &["pilot".into()]).await;
    assert_eq!(trouble.to_string(), "1 of 101 clients: 1 failed download");
    assert_eq!(relay.list().await.len(), 101);
}

#[tokio::test(start_paused = true)]
async fn filling_queue_is_drained_without_queries() {
    let relay = Running::over(&MemoryStore::default());
    for _ in 0..4 {
        sleep(Duration::from_millis(1)).await;
        relay.observe(QUEUE);
    }
    assert_eq!(relay.metrics.observations_lost.get(), 0);
}

#[tokio::test]
async fn observation_without_room_is_lost_and_counted() {
    let metrics = Arc::new(RolloutMetrics::register(&Registry::new()).unwrap());
    observe(&tracker(&metrics, &Clock::manual(T0)), QUEUE + 3);
    assert_eq!(metrics.observations_lost.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn records_outlive_the_process() {
    let store = MemoryStore::default();
    let relay = Running::over(&store);
    relay.observe(2_500);
    relay.tracker.record(payload(7, RequestOutcome::Delivered));
    let before = relay.list().await;
    relay.stop().await;
    let relay = Running::over(&store);
    relay.tracker.record(payload(7, RequestOutcome::Inconclusive));
    assert_eq!(relay.list().await, before);
    assert_eq!(before.len(), 2_501);
}

#[tokio::test(start_paused = true)]
async fn changed_records_are_saved_a_thousand_a_minute() {
    let store = MemoryStore::default();
    let relay = Running::over(&store);
    relay.observe(2_500);
    assert_eq!(relay.known().await, 2_500);
    sleep(4 * TICK + TICK / 2).await;
    assert_eq!(store.lock().batches, [1_000, 1_000, 500]);
    relay.tracker.reconfigure(TrackerSettings { max_clients: 2_400, ..SETTINGS });
    sleep(2 * TICK).await;
    assert_eq!(store.lock().rows.len(), 2_400);
}

#[tokio::test(start_paused = true)]
async fn failed_save_is_retried_and_does_not_delay_the_stop() {
    let store = MemoryStore::default();
    store.lock().fails = true;
    let relay = Running::over(&store);
    relay.observe(10);
    sleep(3 * TICK).await;
    assert_eq!(store.lock().rows.len(), 0);
    store.lock().fails = false;
    sleep(TICK).await;
    assert_eq!(store.lock().rows.len(), 10);
    relay.observe(20);
    store.lock().fails = true;
    relay.stop().await;
    assert_eq!(store.lock().rows.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn hanging_store_delays_neither_queue_nor_answers() {
    let store = MemoryStore::default();
    store.lock().hangs = true;
    let relay = Running::over(&store);
    relay.observe(10);
    sleep(2 * TICK).await;
    for _ in 0..4 {
        relay.observe(QUEUE);
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(relay.metrics.observations_lost.get(), 0);
    assert_eq!(relay.known().await, SETTINGS.max_clients as u64);
    relay.task.abort();
}

#[tokio::test(start_paused = true)]
async fn clients_by_status_are_exported_every_minute() {
    let relay = Running::over(&MemoryStore::default());
    relay.observe(10);
    relay.tracker.record(payload(7, RequestOutcome::Damaged));
    sleep(2 * TICK).await;
    assert_eq!((relay.gauge(ClientStatus::Green), relay.gauge(ClientStatus::Red)), (10, 1));
    relay.clock.advance(Duration::from_millis(200 * HOUR as u64));
    sleep(TICK).await;
    assert_eq!((relay.gauge(ClientStatus::Green), relay.gauge(ClientStatus::Grey)), (0, 11));
}

#[tokio::test(start_paused = true)]
async fn new_settings_apply_to_known_clients() {
    let relay = Running::over(&MemoryStore::default());
    relay.observe(10);
    relay.tracker.record(payload(7, RequestOutcome::Delivered));
    assert_eq!(relay.tracker.summary().await["pilot"].lights, [("green".to_owned(), 11)].into());
    relay.tracker.reconfigure(TrackerSettings { max_clients: 4, repeats: 1, ..SETTINGS });
    assert_eq!(relay.tracker.summary().await["pilot"].lights["red"], 1);
    sleep(2 * TICK).await;
    assert_eq!(relay.known().await, 4);
}
