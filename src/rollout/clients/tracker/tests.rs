//! The tracker over a store in memory that fails or hangs on demand, with paused time and a manual clock.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::super::sample::{HOUR, SETTINGS, T0, observation, payload};
use super::super::{RequestKind, RequestOutcome, VisibleRevision};
use super::*;

#[derive(Clone, Default)]
struct MemoryStore(Arc<Contents>);

#[derive(Default)]
struct Contents {
    rows: Mutex<BTreeMap<String, Vec<u8>>>,
    batches: Mutex<Vec<usize>>,
    fails: AtomicBool,
    hangs: AtomicBool,
}

impl MemoryStore {
    fn len(&self) -> usize {
        self.0.rows.lock().unwrap().len()
    }
}

impl ClientStore for MemoryStore {
    type Error = &'static str;

    async fn page(&self, after: &str) -> Result<Vec<(String, Vec<u8>)>, &'static str> {
        let rows = self.0.rows.lock().unwrap();
        Ok(rows
            .iter()
            .filter(|(key, _)| key.as_str() > after)
            .take(7)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }

    async fn save(&self, changes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), &'static str> {
        if self.0.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.0.fails.load(Ordering::Relaxed) {
            return Err("no room");
        }
        self.0.batches.lock().unwrap().push(changes.len());
        let mut rows = self.0.rows.lock().unwrap();
        for (key, row) in changes {
            match row {
                Some(row) => _ = rows.insert(key, row),
                None => _ = rows.remove(&key),
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
    let visible_of = |_: &_, _| Some(VisibleRevision { number: 7, differs_since: T0 });
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
    let trouble = relay.tracker.trouble(7, &["pilot".into()]).await;
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
    assert_eq!(relay.metrics.sightings_lost.get(), 0);
}

#[tokio::test]
async fn observation_without_room_is_lost_and_counted() {
    let metrics = Arc::new(RolloutMetrics::register(&Registry::new()).unwrap());
    observe(&tracker(&metrics, &Clock::manual(T0)), QUEUE + 3);
    assert_eq!(metrics.sightings_lost.get(), 3);
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
    assert_eq!(*store.0.batches.lock().unwrap(), [1_000, 1_000, 500]);
    relay.tracker.reconfigure(TrackerSettings { max_clients: 2_400, ..SETTINGS });
    sleep(2 * TICK).await;
    assert_eq!(store.len(), 2_400);
}

#[tokio::test(start_paused = true)]
async fn failed_save_is_retried() {
    let store = MemoryStore::default();
    store.0.fails.store(true, Ordering::Relaxed);
    let relay = Running::over(&store);
    relay.observe(10);
    sleep(3 * TICK).await;
    assert_eq!(store.len(), 0);
    store.0.fails.store(false, Ordering::Relaxed);
    sleep(TICK).await;
    assert_eq!(store.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn failing_store_does_not_delay_the_stop() {
    let store = MemoryStore::default();
    store.0.fails.store(true, Ordering::Relaxed);
    let relay = Running::over(&store);
    relay.observe(10);
    relay.stop().await;
    assert_eq!(store.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn hanging_store_delays_neither_queue_nor_answers() {
    let store = MemoryStore::default();
    store.0.hangs.store(true, Ordering::Relaxed);
    let relay = Running::over(&store);
    relay.observe(10);
    sleep(2 * TICK).await;
    for _ in 0..4 {
        relay.observe(QUEUE);
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(relay.metrics.sightings_lost.get(), 0);
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
