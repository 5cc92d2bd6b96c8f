//! The tracker as its handle sees it, over a store in memory that fails or hangs when told. Time is the runtime's, which
//! stands still but for what a test waits for, and a clock that only the test moves.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::super::sample::{self, HOUR, T0, THRESHOLDS};
use super::super::{Ended, Filter, Outcome, Sought, Thresholds, View};
use super::*;

const SETTINGS: Settings = Settings { max_clients: 5_000, thresholds: THRESHOLDS };

#[derive(Clone, Default)]
struct Kept(Arc<Keeping>);

#[derive(Default)]
struct Keeping {
    rows: Mutex<BTreeMap<String, Vec<u8>>>,
    batches: Mutex<Vec<usize>>,
    fails: AtomicBool,
    hangs: AtomicBool,
}

impl Kept {
    fn len(&self) -> usize {
        self.0.rows.lock().unwrap().len()
    }
}

impl Rows for Kept {
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
    clients: Clients,
    metrics: Arc<RolloutMetrics>,
    clock: Clock,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn over(rows: &Kept) -> Self {
        let (metrics, clock) =
            (Arc::new(RolloutMetrics::register(&prometheus::Registry::new()).unwrap()), Clock::manual(T0));
        let viewer: Arc<Viewer> = Arc::new(|_, _| Some(View { revision: 7, since: T0 }));
        let (clients, tracker) = Tracker::new(SETTINGS, viewer, metrics.clone(), clock.clone());
        let stop = CancellationToken::new();
        let task = tokio::spawn(tracker.run(rows.clone(), stop.clone().cancelled_owned()));
        Self { clients, metrics, clock, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    async fn known(&self) -> u64 {
        self.clients.summary().await.unwrap().all.clients
    }

    fn gauge(&self, light: Light) -> i64 {
        self.metrics.clients.with_label_values(&[light.as_str()]).get()
    }
}

fn told(clients: &Clients, count: usize) {
    for pc in 0..count {
        clients.sighted(sample::sighting(&format!("pc-{pc}"), 7, Sought::Catalog, Outcome::Given));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_knows_of_everything_that_was_told_before_the_question() {
    let relay = Running::over(&Kept::default());
    told(&relay.clients, 100);
    relay.clients.sighted(sample::payload(7, Outcome::Failed));
    assert_eq!(relay.known().await, 101);
    let trouble = relay.clients.trouble(7, &["pilot".into()]).await.unwrap();
    assert_eq!(trouble.to_string(), "1 of 101 clients: 1 failed download");
    let all = relay.clients.list(Filter::default(), 1_000).await.unwrap();
    assert_eq!(all.len(), 101);
    assert!(relay.clients.forget("pc-5".parse().unwrap()).await.unwrap());
    assert!(!relay.clients.forget("pc-5".parse().unwrap()).await.unwrap());
    assert_eq!(relay.known().await, 100);
}

#[tokio::test(start_paused = true)]
async fn without_questions_sightings_are_taken_in_too() {
    let relay = Running::over(&Kept::default());
    for _ in 0..4 {
        told(&relay.clients, MAX_SIGHTINGS);
        sleep(2 * LOOK).await;
    }
    assert_eq!(relay.metrics.sightings_lost.get(), 0);
}

#[tokio::test]
async fn a_sighting_that_finds_no_room_is_lost_and_counted() {
    let metrics = Arc::new(RolloutMetrics::register(&prometheus::Registry::new()).unwrap());
    let clock = Clock::manual(T0);
    let (clients, tracker) = Tracker::new(SETTINGS, Arc::new(|_, _| None), metrics.clone(), clock);
    told(&clients, MAX_SIGHTINGS + 3);
    assert_eq!(metrics.sightings_lost.get(), 3);
    drop(tracker);
    told(&clients, 1);
    assert_eq!(metrics.sightings_lost.get(), 3);
    assert_eq!(clients.summary().await, Err(Ended));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_outlives_the_process() {
    let kept = Kept::default();
    let relay = Running::over(&kept);
    told(&relay.clients, 2_500);
    relay.clients.sighted(sample::full_set(7));
    let before = relay.clients.list(Filter::default(), 10_000).await.unwrap();
    relay.stop().await;
    let relay = Running::over(&kept);
    assert_eq!(relay.clients.list(Filter::default(), 10_000).await.unwrap(), before);
    assert_eq!(before.len(), 2_501);
}

#[tokio::test(start_paused = true)]
async fn what_changes_is_saved_a_thousand_rows_a_minute() {
    let kept = Kept::default();
    let relay = Running::over(&kept);
    told(&relay.clients, 2_500);
    assert_eq!(relay.known().await, 2_500);
    sleep(4 * TICK + TICK / 2).await;
    assert_eq!(*kept.0.batches.lock().unwrap(), [1_000, 1_000, 500]);
    relay.clients.forget("pc-1".parse().unwrap()).await.unwrap();
    sleep(TICK).await;
    assert_eq!(kept.len(), 2_499);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_saved_is_tried_again() {
    let kept = Kept::default();
    kept.0.fails.store(true, Ordering::Relaxed);
    let relay = Running::over(&kept);
    told(&relay.clients, 10);
    sleep(3 * TICK).await;
    assert_eq!(kept.len(), 0);
    kept.0.fails.store(false, Ordering::Relaxed);
    sleep(TICK).await;
    assert_eq!(kept.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_does_not_hold_up_the_end() {
    let kept = Kept::default();
    kept.0.fails.store(true, Ordering::Relaxed);
    let relay = Running::over(&kept);
    told(&relay.clients, 10);
    relay.stop().await;
    assert_eq!(kept.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_holds_up_neither_sightings_nor_answers() {
    let kept = Kept::default();
    kept.0.hangs.store(true, Ordering::Relaxed);
    let relay = Running::over(&kept);
    told(&relay.clients, 10);
    sleep(2 * TICK).await;
    told(&relay.clients, 20);
    assert_eq!(relay.known().await, 20);
    relay.task.abort();
}

#[tokio::test(start_paused = true)]
async fn the_lights_of_all_clients_are_counted_every_minute() {
    let relay = Running::over(&Kept::default());
    told(&relay.clients, 10);
    relay.clients.sighted(sample::payload(7, Outcome::Damaged));
    sleep(2 * TICK).await;
    assert_eq!((relay.gauge(Light::Green), relay.gauge(Light::Red)), (10, 1));
    relay.clock.advance(Duration::from_millis(200 * HOUR as u64));
    sleep(TICK).await;
    assert_eq!((relay.gauge(Light::Green), relay.gauge(Light::Grey)), (0, 11));
}

#[tokio::test(start_paused = true)]
async fn new_settings_hold_at_once_for_whom_there_is() {
    let relay = Running::over(&Kept::default());
    told(&relay.clients, 10);
    relay.clients.sighted(sample::payload(7, Outcome::Failed));
    assert_eq!(relay.clients.summary().await.unwrap().all.lights, [(Light::Green, 11)].into());
    let thresholds = Thresholds { failing: 1, ..THRESHOLDS };
    relay.clients.reconfigure(Settings { max_clients: 4, thresholds });
    assert_eq!(relay.clients.summary().await.unwrap().all.lights[&Light::Red], 1);
    sleep(2 * TICK).await;
    assert_eq!(relay.known().await, 4);
}
