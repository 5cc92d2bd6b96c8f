//! Background requests of the relay: refresh of catalogs and prefetch of payloads.
//!
//! A refresh revalidates the stored catalogs, on the configured schedule or on command. Where there are rings, it
//! collects them coherently and publishes a revision instead. A prefetch follows, for the payloads that clients will
//! request. Both run in one task, so that they never compete. They run only in `wan.windows`, except for a commanded
//! refresh and for catalogs that a client waits for.
//!
//! Start with [`Refresher`], the handle, and `task`, the order of all work. `revalidate` is a refresh without rings,
//! `publish` one with rings; `collect` and `snapshot` make the catalogs coherent. `prefetch` and the two predictors
//! choose payloads, `warm` fetches those of a list, and `check` looks at stored ones. Requests are made by
//! [`gupd_proxy::Background`].

mod check;
mod collect;
mod listing_predictor;
pub mod metrics;
mod prefetch;
mod publish;
mod requested;
mod revalidate;
mod revision_predictor;
mod selection;
mod snapshot;
mod spelling;
mod task;
mod warm;

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use utoipa::ToSchema;

use self::metrics::RefreshMetrics;
use self::prefetch::PrefetchFailure;
use self::revalidate::CatalogOutcome;
use self::task::RefreshOutcome;
pub use self::task::RefreshTask;
pub use self::warm::{ContentItem, ContentList, WarmOutcome, WarmReport, WarmStop};
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::policy::RefreshSchedule;
use gupd_config::{Config, PrefetchSettings};
use gupd_proxy::Background;
use gupd_proxy::background::CheckOutcome;
use gupd_rollout::engine::Rollouts;
use gupd_rollout::revision::RevisionNumber;
use gupd_store::Store;

/// Maximum number of commanded refreshes that wait for the running one.
const MAX_WAITING: usize = 8;

/// Consecutive failures after which the remaining requests are not made: each would wait for an upstream that is down.
const MAX_FAILURES: u64 = 8;

/// Result of a refresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefreshReport {
    /// Number of requested catalogs.
    pub asked: u64,
    /// Number of these that have changed.
    pub changed: u64,
    /// Number of these without an answer, or that were not published.
    pub failed: u64,
    /// The revision that was published or extended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionNumber>,
}

/// Reason that a refresh cannot be requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// Too many refreshes wait.
    #[error("{MAX_WAITING} refreshes wait already: try again when they are done")]
    Busy,
    /// The relay is stopping.
    #[error("the relay is stopping")]
    Stopping,
}

/// Handle of the refresh task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Refresher {
    requests: mpsc::Sender<oneshot::Sender<RefreshReport>>,
    settings: Arc<watch::Sender<TaskSettings>>,
    metrics: Arc<RefreshMetrics>,
    /// For warm starts, which run beside the task. The task owns it: parts that requests reach have this handle, and a
    /// reference from them to the worker would keep the store open for ever.
    worker: Weak<RefreshWorker>,
    /// Held by the running warm start.
    warming: Arc<Mutex<()>>,
}

/// Settings of the task in one configuration.
#[derive(Clone, Debug, PartialEq)]
struct TaskSettings {
    schedule: RefreshSchedule,
    catalogs: Vec<http::uri::PathAndQuery>,
    prefetch: PrefetchSettings,
    max_unused: Duration,
    checks_per_day: u32,
}

/// The means of the task. Its methods are spread over the modules.
#[derive(Debug)]
struct RefreshWorker {
    background: Arc<Background>,
    rollouts: Rollouts,
    store: Arc<Store>,
    metrics: Arc<RefreshMetrics>,
    clock: Clock,
}

impl TaskSettings {
    fn new(config: &Config) -> Self {
        Self {
            schedule: RefreshSchedule::new(config),
            catalogs: config.refresh.catalogs.clone(),
            prefetch: config.prefetch.clone(),
            max_unused: config.store.max_unused,
            checks_per_day: config.verify.checks_per_day,
        }
    }
}

impl Refresher {
    /// Creates a handle, and the task, which must be run.
    pub fn new(
        config: &Config,
        background: Arc<Background>,
        rollouts: Rollouts,
        store: Arc<Store>,
        metrics: Arc<RefreshMetrics>,
        clock: Clock,
    ) -> (Self, RefreshTask) {
        for outcome in RefreshOutcome::ALL {
            metrics.refreshes.with_label_values(&[outcome.as_str()]);
        }
        for outcome in CatalogOutcome::ALL {
            metrics.catalogs.with_label_values(&[outcome.as_str()]);
        }
        for outcome in CheckOutcome::ALL {
            metrics.payload_checks.with_label_values(&[outcome.as_str()]);
        }
        for reason in PrefetchFailure::ALL {
            metrics.prefetch_failures.with_label_values(&[reason.as_str()]);
        }
        let (requests, request_queue) = mpsc::channel(MAX_WAITING);
        let (settings, current) = watch::channel(TaskSettings::new(config));
        let worker = Arc::new(RefreshWorker { background, rollouts, store, metrics: metrics.clone(), clock });
        let (handle, warming) = (Arc::downgrade(&worker), Arc::default());
        let task = RefreshTask::new(worker, request_queue, current);
        (Self { requests, settings: Arc::new(settings), metrics, worker: handle, warming }, task)
    }

    /// Applies new settings. A running refresh continues.
    pub fn reconfigure(&self, config: &Config) {
        let new = TaskSettings::new(config);
        // Unchanged settings keep the time of the next run.
        self.settings.send_if_modified(|settings| {
            let is_changed = *settings != new;
            *settings = new;
            is_changed
        });
    }

    /// Returns the time since which every refresh has failed; `None` if the last one succeeded, or none ended.
    pub fn failing_since(&self) -> Option<UnixMillis> {
        Some(self.metrics.failing_since.get().saturating_mul(1_000)).filter(|since| *since > 0)
    }

    /// Returns true if a refresh has succeeded since the start of the process.
    pub fn has_succeeded(&self) -> bool {
        self.metrics.completed.get() > 0
    }

    /// Refreshes now, also outside windows, after the refreshes that were requested before.
    ///
    /// # Errors
    /// When too many refreshes wait, or the relay is stopping.
    pub async fn refresh(&self) -> Result<RefreshReport, RefreshError> {
        let (report, reported) = oneshot::channel();
        self.requests.try_send(report).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RefreshError::Busy,
            mpsc::error::TrySendError::Closed(_) => RefreshError::Stopping,
        })?;
        reported.await.map_err(|_| RefreshError::Stopping)
    }
}
