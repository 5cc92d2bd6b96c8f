//! The task that owns what is known of clients: takes sightings in, answers questions, and saves what has changed, a
//! little at a time. Nothing waits for it but who asks.
//!
//! It looks for sightings 20 times a second and not at each one: to wake a task costs as much as a good part of a hit.
//! While there are none it sleeps.

use std::fmt::{self, Display};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::light::{Light, Viewer};
use super::report::{Reporter, Summary};
use super::restore::Restored;
use super::table::{Change, Table};
use super::{Clients, Identity, MAX_QUESTIONS, MAX_SIGHTINGS, Question, Settings, Shared, Sighting};
use crate::metrics::RolloutMetrics;
use gupd_config::clock::Clock;

/// Time between two looks at the queue while there are sightings.
const LOOK: Duration = Duration::from_millis(50);

/// Time between two saves, and between two counts of lights. What is known of the time since is lost with the process.
const TICK: Duration = Duration::from_secs(60);

/// Rows saved at once, a transaction of some 10 ms; and clients forgotten at once. 50,000 that change all the time are
/// written once in 50 minutes each.
const BATCH: usize = 1_000;

/// Where rows are kept.
pub trait Rows: Send + Sync + 'static {
    /// What may go wrong.
    type Error: Display + Send;

    /// Some rows, those whose keys are next after this one; none at the end.
    fn page(&self, after: &str) -> impl Future<Output = Result<Vec<(String, Vec<u8>)>, Self::Error>> + Send;

    /// Writes rows, or removes them, in this order.
    fn save(
        &self,
        rows: Vec<(String, Option<Vec<u8>>)>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Owns what is known of clients. To be run.
pub struct Tracker {
    sightings: mpsc::Receiver<Sighting>,
    questions: mpsc::Receiver<Question>,
    settings: watch::Receiver<Settings>,
    table: Table,
    viewer: Arc<Viewer>,
    metrics: Arc<RolloutMetrics>,
    clock: Clock,
    /// Whether the last save failed, and that was said.
    failing: bool,
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker").finish_non_exhaustive()
    }
}

/// A save that has ended: whose rows it was to write, and what went wrong.
type Saved = (Vec<Identity>, Result<(), String>);

type Saving<'a> = Pin<Box<dyn Future<Output = Saved> + Send + 'a>>;

impl Tracker {
    /// A tracker that knows nobody yet, and the handle to it. `viewer` says what views are at any time; it is asked for
    /// every client once a minute, and must not block.
    pub fn new(
        settings: Settings,
        viewer: Arc<Viewer>,
        metrics: Arc<RolloutMetrics>,
        clock: Clock,
    ) -> (Clients, Self) {
        let (tell, sightings) = mpsc::channel(MAX_SIGHTINGS);
        let (ask, questions) = mpsc::channel(MAX_QUESTIONS);
        let (set, settings) = watch::channel(settings);
        for light in Light::ALL {
            metrics.clients.with_label_values(&[light.as_str()]);
        }
        let lost = metrics.sightings_lost.clone();
        let shared = Shared { sightings: tell, questions: ask, settings: set, lost };
        let table = Table::default();
        let failing = false;
        let tracker = Self { sightings, questions, settings, table, viewer, metrics, clock, failing };
        (Clients(Arc::new(shared)), tracker)
    }

    /// Begins with the rows that were saved, and tracks until it is told to stop or nobody is left to tell it anything;
    /// then saves what was not yet. A store that fails costs what was to be saved, and is tried again.
    pub async fn run<R: Rows>(mut self, rows: R, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        self.restore(&rows).await;
        let mut saving: Option<Saving<'_>> = None;
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // When the queue is looked at again; until the next sighting comes, if that is `None`.
        let mut look = None;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(question) = self.questions.recv() => {
                    self.drain();
                    self.answer(question);
                }
                saved = ended(&mut saving) => self.saved(saved),
                _ = ticks.tick() => {
                    self.drain();
                    self.tend();
                    if saving.is_none() {
                        saving = self.save(&rows);
                    }
                }
                sighting = self.sightings.recv(), if look.is_none() => {
                    let Some(sighting) = sighting else { break };
                    self.record(&sighting);
                    look = Some(Instant::now() + LOOK);
                }
                () = sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => {
                    look = (self.drain() > 0).then(|| Instant::now() + LOOK);
                }
            }
        }
        self.drain();
        if let Some(saving) = saving {
            let saved = saving.await;
            self.saved(saved);
        }
        // Each takes rows that the one before left; one that fails ends it.
        while !self.failing
            && let Some(saving) = self.save(&rows)
        {
            let saved = saving.await;
            self.saved(saved);
        }
    }

    async fn restore<R: Rows>(&mut self, rows: &R) {
        let room = self.settings().max_clients;
        let mut restored = Restored::new(room, self.clock.now());
        let mut after = String::new();
        loop {
            match rows.page(&after).await {
                Ok(page) => {
                    let Some((last, _)) = page.last() else { break };
                    // A store that goes round would be read for ever.
                    if *last <= after {
                        break;
                    }
                    after.clone_from(last);
                    restored.add(page);
                }
                Err(error) => {
                    tracing::warn!(%error, "what was known of clients cannot be read; they are new");
                    break;
                }
            }
        }
        let unread = self.table.restore(restored, room);
        if unread > 0 {
            tracing::warn!(unread, "some rows of clients are damaged; these clients are new");
        }
        self.tend();
    }

    fn settings(&self) -> Settings {
        *self.settings.borrow()
    }

    /// Takes in what waits, and returns how much it was: no more than the queue holds, whatever comes meanwhile.
    fn drain(&mut self) -> usize {
        for count in 0..MAX_SIGHTINGS {
            let Ok(sighting) = self.sightings.try_recv() else { return count };
            self.record(&sighting);
        }
        MAX_SIGHTINGS
    }

    fn record(&mut self, sighting: &Sighting) {
        let room = self.settings().max_clients;
        self.table.record(sighting, self.clock.now(), room);
    }

    fn answer(&mut self, question: Question) {
        // Whoever asked may have gone.
        match question {
            Question::Trouble { revision, groups, answer } => {
                let _gone = answer.send(self.reporter().trouble(revision, &groups));
            }
            Question::Summary { answer } => {
                let summary = self.reporter().summary();
                self.show(&summary);
                let _gone = answer.send(summary);
            }
            Question::List { filter, limit, answer } => {
                let _gone = answer.send(self.reporter().list(&filter, limit));
            }
            Question::Forget { client, answer } => {
                let _gone = answer.send(self.table.forget(&client));
            }
        }
    }

    fn reporter(&self) -> Reporter<'_> {
        let (viewer, thresholds) = (&*self.viewer, self.settings().thresholds);
        Reporter { table: &self.table, viewer, thresholds, now: self.clock.now() }
    }

    /// Forgets whoever it is time for, and counts the others.
    fn tend(&mut self) {
        self.table.expire(self.clock.now(), self.settings().max_clients, BATCH);
        self.show(&self.reporter().summary());
    }

    fn show(&self, summary: &Summary) {
        for light in Light::ALL {
            let clients = summary.all.lights.get(&light).copied().unwrap_or(0);
            let gauge = self.metrics.clients.with_label_values(&[light.as_str()]);
            gauge.set(i64::try_from(clients).unwrap_or(i64::MAX));
        }
    }

    /// Begins to save what is next; `None` if everything is.
    fn save<'a, R: Rows>(&mut self, rows: &'a R) -> Option<Saving<'a>> {
        let changes: Vec<Change> = self.table.take_changes(BATCH);
        if changes.is_empty() {
            return None;
        }
        let clients = changes.iter().map(|(client, _)| client.clone()).collect();
        let changes = changes.into_iter().map(|(client, row)| (client.to_string(), row)).collect();
        let saved = rows.save(changes);
        Some(Box::pin(async move { (clients, saved.await.map_err(|error| error.to_string())) }))
    }

    fn saved(&mut self, (clients, result): Saved) {
        match result {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.table.not_saved(clients);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "what is known of clients cannot be saved; it is tried every minute");
                }
            }
        }
    }
}

#[cfg(test)]
impl Tracker {
    /// What was told next, if anything was.
    pub(super) fn told(&mut self) -> Option<Sighting> {
        self.sightings.try_recv().ok()
    }
}

/// Waits for the save that runs; for ever without one.
async fn ended(saving: &mut Option<Saving<'_>>) -> Saved {
    match saving {
        Some(running) => {
            let saved = running.await;
            *saving = None;
            saved
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
