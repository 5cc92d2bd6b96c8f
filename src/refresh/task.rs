//! The refresh task: commanded and scheduled refreshes, catalogs that clients wait for, and prefetches, one at a time.
//! Client-facing work has priority. This file owns the order of the work and the time of the next scheduled run.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::check::PayloadChecks;
use super::prefetch::PendingPrefetch;
use super::snapshot::CollectionHistory;
use super::{RefreshReport, RefreshWorker, TaskSettings};
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::policy::ScheduledRun;
use gupd_proxy::Background;
use gupd_rollout::revision::RevisionNumber;

/// Outcome of a refresh in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefreshOutcome {
    Done,
    /// Some catalogs could not be requested or published.
    Failed,
    WindowClosed,
}

impl RefreshOutcome {
    pub(super) const ALL: [Self; 3] = [Self::Done, Self::Failed, Self::WindowClosed];

    /// Label in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::WindowClosed => "window-closed",
        }
    }
}

/// The task.
#[derive(Debug)]
pub struct RefreshTask {
    worker: Arc<RefreshWorker>,
    requests: mpsc::Receiver<oneshot::Sender<RefreshReport>>,
    settings: watch::Receiver<TaskSettings>,
    history: CollectionHistory,
    next_run: NextRun,
    prefetch: Option<PendingPrefetch>,
}

/// Releases the clients that wait for a catalog when the task ends.
struct ReleaseClients<'a>(&'a Background);

impl Drop for ReleaseClients<'_> {
    fn drop(&mut self) {
        self.0.pending_catalogs().close();
    }
}

/// Next run of the schedule.
#[derive(Debug, Default)]
struct NextRun {
    /// Due time of the previous run.
    last: Option<UnixMillis>,
    run: Option<ScheduledRun>,
    /// Time of the first failure since the last success.
    failing_since: Option<UnixMillis>,
}

impl RefreshTask {
    pub(super) fn new(
        worker: Arc<RefreshWorker>,
        requests: mpsc::Receiver<oneshot::Sender<RefreshReport>>,
        settings: watch::Receiver<TaskSettings>,
    ) -> Self {
        let (history, next_run) = (CollectionHistory::default(), NextRun::default());
        Self { worker, requests, settings, history, next_run, prefetch: None }
    }

    /// Works on requests and on due runs. Never ends; if it is dropped, unfinished work is done after the next start.
    pub async fn run(self) {
        let Self { worker, mut requests, settings: mut current, mut history, mut next_run, mut prefetch } =
            self;
        let worker = &*worker;
        let _release = ReleaseClients(&worker.background);
        let mut settings = current.borrow_and_update().clone();
        next_run.reset(&settings, worker);
        let mut checks = PayloadChecks::new(&settings, worker.clock.now());
        loop {
            let (due, next_check) = (next_run.run, checks.next());
            tokio::select! {
                biased;
                Ok(()) = current.changed() => {
                    settings = current.borrow_and_update().clone();
                    next_run.reset(&settings, worker);
                    checks = PayloadChecks::new(&settings, worker.clock.now());
                    if let Some(prefetch) = &mut prefetch {
                        prefetch.retry_at(worker.clock.now());
                    }
                }
                Some(requester) = requests.recv() => {
                    let report = Box::pin(worker.refresh(&settings, &mut history)).await;
                    worker.record_outcome(Some(report), "command");
                    if next_run.failing_since.is_some() && report.failed == 0 {
                        next_run.reset(&settings, worker);
                    }
                    prefetch = worker.prefetch_after_refresh(&settings);
                    // The requester may be gone.
                    let _ = requester.send(report);
                }
                () = sleep_until(&worker.clock, due.map(|run| run.at)) => {
                    let Some(run) = due else { continue };
                    if worker.scheduled_refresh(run, &settings, &mut history, &mut next_run).await {
                        prefetch = worker.prefetch_after_refresh(&settings);
                    }
                }
                () = worker.background.pending_catalogs().wait_for_any() => {
                    Box::pin(worker.collect_pending(&settings, &mut history)).await;
                }
                () = sleep_until(&worker.clock, next_check) => {
                    Box::pin(worker.check_payload(&settings, &mut checks)).await;
                }
                () = Box::pin(worker.run_prefetch(&settings, &mut prefetch)) => {}
            }
        }
    }
}

impl NextRun {
    /// Computes the next run from the schedule.
    fn reset(&mut self, settings: &TaskSettings, worker: &RefreshWorker) {
        self.failing_since = None;
        self.set(settings.schedule.next(self.last, worker.clock.now(), random()), worker);
    }

    /// Postpones a run to the next window: its window closed while the task was busy.
    fn postpone(&mut self, run: ScheduledRun, settings: &TaskSettings, worker: &RefreshWorker) {
        let at = settings.schedule.opening(worker.clock.now(), random());
        self.set(at.map(|at| ScheduledRun { at, ..run }), worker);
    }

    /// Computes the next run after this one. A failed run is retried unless the next one is due before.
    fn finish(
        &mut self,
        run: ScheduledRun,
        (began, report): (UnixMillis, Option<RefreshReport>),
        settings: &TaskSettings,
        worker: &RefreshWorker,
    ) {
        let now = worker.clock.now();
        self.last = Some(run.due);
        let mut next = settings.schedule.next(self.last, now, random());
        if report.is_some_and(|report| report.failed == 0) {
            self.failing_since = None;
        } else {
            let since = *self.failing_since.get_or_insert(began);
            let retry = settings.schedule.retry(since, now).map(|at| ScheduledRun { at, ..run });
            match retry.filter(|retry| next.is_none_or(|next| retry.at < next.at)) {
                Some(retry) => next = Some(retry),
                None => self.failing_since = None,
            }
        }
        self.set(next, worker);
    }

    fn set(&mut self, run: Option<ScheduledRun>, worker: &RefreshWorker) {
        self.run = run;
        worker.metrics.next.set(run.map_or(0, |run| run.at / 1_000));
    }
}

impl RefreshWorker {
    /// Runs a scheduled refresh until its window closes. Returns false if the window was closed.
    async fn scheduled_refresh(
        &self,
        run: ScheduledRun,
        settings: &TaskSettings,
        history: &mut CollectionHistory,
        next_run: &mut NextRun,
    ) -> bool {
        let began = self.clock.now();
        let Some(closes) = settings.schedule.closes(began) else {
            next_run.postpone(run, settings, self);
            return false;
        };
        let report = tokio::select! {
            report = Box::pin(self.refresh(settings, history)) => Some(report),
            () = sleep_until(&self.clock, closes) => None,
        };
        self.record_outcome(report, "schedule");
        next_run.finish(run, (began, report), settings, self);
        true
    }

    /// Counts and logs the outcome of a refresh; `None` if the window closed before its end.
    fn record_outcome(&self, report: Option<RefreshReport>, trigger: &'static str) {
        let outcome = match report {
            Some(RefreshReport { failed: 0, .. }) => RefreshOutcome::Done,
            Some(_) => RefreshOutcome::Failed,
            None => RefreshOutcome::WindowClosed,
        };
        self.metrics.refreshes.with_label_values(&[outcome.as_str()]).inc();
        let Some(RefreshReport { asked: catalogs, changed, failed, revision }) = report else {
            tracing::warn!(trigger, "refresh not finished: the window closed");
            return;
        };
        let revision = revision.map(RevisionNumber::get);
        if failed == 0 {
            self.metrics.completed.set(self.clock.now() / 1_000);
            self.metrics.failing_since.set(0);
            tracing::info!(trigger, catalogs, changed, failed, revision, "refresh done");
        } else {
            let (since, now) = (self.metrics.failing_since.get(), self.clock.now() / 1_000);
            // A time in the future was recorded before the clock was set back.
            if since == 0 || since > now {
                self.metrics.failing_since.set(now);
            }
            tracing::warn!(trigger, catalogs, changed, failed, revision, "refresh failed for some catalogs");
        }
    }
}

/// Waits until this time; forever without one.
pub(super) async fn sleep_until(clock: &Clock, at: Option<UnixMillis>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Returns a number that differs between sites: the system seeds this hasher.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0)
}
