//! What the relay does by itself over the line: revalidates the catalogs it has, on the configuration's schedule or when
//! it is told to, and then fetches ahead what clients will want. Where there are rings, what it finds becomes revisions
//! (`coherent`). Owns the one task that does it, in which order, and what is counted; relies on `policy::RefreshSchedule` for
//! times and on `proxy::background` for requests. Nothing here runs outside of `wan.windows`, but for a refresh that an administrator
//! asks for, and catalogs that a client waits for.

mod ahead;
mod catalogs;
mod coherent;
mod collect;
mod known;
mod learn;
mod listed;
pub mod metrics;
mod snapshot;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use self::ahead::Pending;
use self::catalogs::CatalogOutcome;
use self::snapshot::Memory;
use crate::metrics::RefreshMetrics;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::policy::{RefreshSchedule, ScheduledRun};
use gupd_config::{Config, PrefetchSettings};
use gupd_proxy::Background;
use gupd_rollout::engine::Rollouts;
use gupd_rollout::revision::RevisionNumber;
use gupd_store::Store;

/// Refreshes asked for by hand that may wait for the one that runs.
const MAX_WAITING: usize = 8;

/// Requests in a row that fail before the others are not made: their upstream is away, and each would wait for it.
const MAX_FAILURES: u64 = 8;

/// Outcome of a refresh, in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RefreshOutcome {
    Done,
    /// Some catalogs could not be asked for, or published.
    Failed,
    WindowClosed,
}

impl RefreshOutcome {
    const ALL: [Self; 3] = [Self::Done, Self::Failed, Self::WindowClosed];

    /// The one spelling used in metrics.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::WindowClosed => "window-closed",
        }
    }
}

/// What came of one refresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Catalogs asked for.
    pub asked: u64,
    /// Those of them that are others now.
    pub changed: u64,
    /// Those of them that nobody answered for, or that were not published.
    pub failed: u64,
    /// The revision that what was new has become, or become part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionNumber>,
}

/// Why no refresh can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unasked {
    /// Enough others wait.
    #[error("{MAX_WAITING} refreshes wait already; ask again when they are done")]
    Busy,
    /// The relay ends.
    #[error("the relay is stopping")]
    Stopping,
}

/// Asks for refreshes, and takes new settings for them.
#[derive(Clone, Debug)]
pub struct Refresher {
    requests: mpsc::Sender<oneshot::Sender<Report>>,
    settings: Arc<watch::Sender<Settings>>,
}

/// The task that refreshes.
#[derive(Debug)]
pub struct Task {
    worker: Worker,
    requests: mpsc::Receiver<oneshot::Sender<Report>>,
    settings: watch::Receiver<Settings>,
}

/// What a configuration says of it.
#[derive(Clone, Debug, PartialEq)]
struct Settings {
    schedule: RefreshSchedule,
    catalogs: Vec<http::uri::PathAndQuery>,
    prefetch: PrefetchSettings,
    max_unused: Duration,
}

/// What the work is done with.
#[derive(Debug)]
struct Worker {
    background: Arc<Background>,
    rollouts: Rollouts,
    store: Arc<Store>,
    metrics: Arc<RefreshMetrics>,
    clock: Clock,
}

/// Whoever waits for a catalog does not wait for a task that has ended.
struct Closing<'a>(&'a Background);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.pending_catalogs().close();
    }
}

/// When the schedule's next refresh is.
#[derive(Debug, Default)]
struct Plan {
    /// When the last one was due.
    last: Option<UnixMillis>,
    next: Option<ScheduledRun>,
    /// When the first of the tries failed that had no success since.
    failing: Option<UnixMillis>,
}

impl Settings {
    fn new(config: &Config) -> Self {
        Self {
            schedule: RefreshSchedule::new(config),
            catalogs: config.refresh.catalogs.clone(),
            prefetch: config.prefetch.clone(),
            max_unused: config.store.max_unused,
        }
    }
}

impl Refresher {
    /// A handle, and the task to be run for it.
    pub fn new(
        config: &Config,
        background: Arc<Background>,
        rollouts: Rollouts,
        store: Arc<Store>,
        metrics: Arc<RefreshMetrics>,
        clock: Clock,
    ) -> (Self, Task) {
        for outcome in RefreshOutcome::ALL {
            metrics.refreshes.with_label_values(&[outcome.as_str()]);
        }
        for outcome in CatalogOutcome::ALL {
            metrics.catalogs.with_label_values(&[outcome.as_str()]);
        }
        let (requests, waiting) = mpsc::channel(MAX_WAITING);
        let (settings, current) = watch::channel(Settings::new(config));
        let worker = Worker { background, rollouts, store, metrics, clock };
        let task = Task { worker, requests: waiting, settings: current };
        (Self { requests, settings: Arc::new(settings) }, task)
    }

    /// Takes a new schedule; a refresh that runs goes on.
    pub fn reconfigure(&self, config: &Config) {
        let new = Settings::new(config);
        // What has not changed keeps its moment.
        self.settings.send_if_modified(|settings| {
            let changed = *settings != new;
            *settings = new;
            changed
        });
    }

    /// Refreshes now, whatever the windows, after those that were asked for before.
    ///
    /// # Errors
    /// When it cannot be asked for.
    pub async fn refresh(&self) -> Result<Report, Unasked> {
        let (tell, told) = oneshot::channel();
        self.requests.try_send(tell).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unasked::Busy,
            mpsc::error::TrySendError::Closed(_) => Unasked::Stopping,
        })?;
        told.await.map_err(|_| Unasked::Stopping)
    }
}

impl Task {
    /// Does what is asked for and what is due. Never ends; dropped, it leaves what it was at for the next start.
    pub async fn run(self) {
        let Self { worker, mut requests, settings: mut current } = self;
        let worker = &worker;
        let _closing = Closing(&worker.background);
        let mut memory = Memory::default();
        let mut settings = current.borrow_and_update().clone();
        let mut plan = Plan::default();
        plan.renew(&settings, worker);
        let mut pending: Option<Pending> = None;
        loop {
            let due = plan.next;
            tokio::select! {
                biased;
                Ok(()) = current.changed() => {
                    settings = current.borrow_and_update().clone();
                    plan.renew(&settings, worker);
                    if let Some(pending) = &mut pending {
                        pending.look_again(worker.clock.now());
                    }
                }
                Some(asker) = requests.recv() => {
                    let report = Box::pin(worker.refresh(&settings, &mut memory)).await;
                    worker.tell(Some(report), "by hand");
                    if plan.failing.is_some() && report.failed == 0 {
                        plan.renew(&settings, worker);
                    }
                    pending = worker.after_refresh(&settings);
                    // Whoever asked may have gone.
                    let _gone = asker.send(report);
                }
                () = reached(&worker.clock, due.map(|run| run.at)) => {
                    let Some(run) = due else { continue };
                    let Some(closes) = settings.schedule.closes(worker.clock.now()) else {
                        plan.postpone(run, &settings, worker);
                        continue;
                    };
                    let began = worker.clock.now();
                    let report = tokio::select! {
                        report = Box::pin(worker.refresh(&settings, &mut memory)) => Some(report),
                        () = reached(&worker.clock, closes) => None,
                    };
                    worker.tell(report, "by the schedule");
                    plan.ran(run, began, report, &settings, worker);
                    pending = worker.after_refresh(&settings);
                }
                () = worker.background.pending_catalogs().wait_for_any() => {
                    Box::pin(worker.take_arrivals(&settings, &mut memory)).await;
                }
                () = Box::pin(worker.go_ahead(&settings, &mut pending)) => {}
            }
        }
    }
}

impl Plan {
    /// Finds the next run anew.
    fn renew(&mut self, settings: &Settings, worker: &Worker) {
        self.failing = None;
        self.set(settings.schedule.next(self.last, worker.clock.now(), random()), worker);
    }

    /// The window closed while nobody looked.
    fn postpone(&mut self, run: ScheduledRun, settings: &Settings, worker: &Worker) {
        let at = settings.schedule.opening(worker.clock.now(), random());
        self.set(at.map(|at| ScheduledRun { at, ..run }), worker);
    }

    /// A run has ended; one that failed is tried again unless the next one comes first.
    fn ran(
        &mut self,
        run: ScheduledRun,
        began: UnixMillis,
        report: Option<Report>,
        settings: &Settings,
        worker: &Worker,
    ) {
        let now = worker.clock.now();
        self.last = Some(run.due);
        let mut next = settings.schedule.next(self.last, now, random());
        if report.is_some_and(|report| report.failed == 0) {
            self.failing = None;
        } else {
            let since = *self.failing.get_or_insert(began);
            let retry = settings.schedule.retry(since, now).map(|at| ScheduledRun { at, ..run });
            match retry.filter(|retry| next.is_none_or(|next| retry.at < next.at)) {
                Some(retry) => next = Some(retry),
                None => self.failing = None,
            }
        }
        self.set(next, worker);
    }

    fn set(&mut self, next: Option<ScheduledRun>, worker: &Worker) {
        self.next = next;
        worker.metrics.next.set(next.map_or(0, |run| run.at / 1_000));
    }
}

impl Worker {
    /// Counts a refresh and says how it ended; `None` if the window closed on it.
    fn tell(&self, report: Option<Report>, asked: &'static str) {
        let outcome = match report {
            Some(Report { failed: 0, .. }) => RefreshOutcome::Done,
            Some(_) => RefreshOutcome::Failed,
            None => RefreshOutcome::WindowClosed,
        };
        self.metrics.refreshes.with_label_values(&[outcome.as_str()]).inc();
        let Some(Report { asked: catalogs, changed, failed, revision }) = report else {
            tracing::warn!(asked, "the window closed before a refresh was done");
            return;
        };
        let revision = revision.map(RevisionNumber::get);
        if failed == 0 {
            self.metrics.completed.set(self.clock.now() / 1_000);
            tracing::info!(asked, catalogs, changed, failed, revision, "refreshed");
        } else {
            tracing::warn!(asked, catalogs, changed, failed, revision, "refreshed, but for some");
        }
    }
}

/// Waits for an instant; for ever without one.
async fn reached(clock: &Clock, at: Option<UnixMillis>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A number that no two sites have alike: the standard library seeds this hasher from the system.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}
