//! The rollouts of a running relay: the handle [`Rollouts`], and the task that owns the state ([`RolloutTask`]). A
//! change is made on a copy, stored with everything that belongs to it in one transaction, and only then shown to
//! clients by one swap. So a change that cannot be stored does not happen, and a restart finds what clients have seen.

mod rules;
mod task;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Notify, mpsc, oneshot};

pub use self::rules::RolloutRules;
use self::rules::RulesSwitch;
pub use self::task::RolloutTask;
use super::audit::{AuditError, AuditLog};
use super::clients::{ClientReport, ClientTracker, VisibleRevision, VisibleRevisionOf};
use super::command::{AttributedCommand, CommandOutcome, CommandRefusal, RolloutCommand};
use super::dry_run::DryRun;
use super::record::{self, NewerVersion, PREFIX};
use super::revision::RevisionNumber;
use super::rings::Rings;
use super::state::{PublishOutcome, RolloutState, SourceCatalogs, TooManyRevisions};
use super::status::RolloutSnapshot;
use super::view::RevisionView;
use crate::metrics::RolloutMetrics;
use gupd_config::Config;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_store::{ObjectKey, Store, StoreError};

/// Maximum number of requests that wait for the task.
const MAX_REQUESTS: usize = 64;

/// Maximum number of downloads that wait for the task. Further ones are recorded at the payload's next download.
const MAX_DOWNLOADS: usize = 4_096;

/// Handle of the rollouts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rollouts(Arc<RolloutShared>);

#[derive(Debug)]
struct RolloutShared {
    rules: Arc<ArcSwap<RolloutRules>>,
    /// Switches that the task has not made yet. Held while a view is computed and shown, never across I/O.
    switches: Mutex<Vec<RulesSwitch>>,
    switched: Notify,
    clients: ClientTracker,
    audit: AuditLog,
    clock: Clock,
    metrics: Arc<RolloutMetrics>,
    snapshot: ArcSwap<RolloutSnapshot>,
    requests: mpsc::Sender<TaskRequest>,
    downloads: mpsc::Sender<PayloadDownload>,
}

/// A payload's key, and the revision visible to the client that downloads it.
type PayloadDownload = (ObjectKey, RevisionNumber);

#[derive(Debug)]
enum TaskRequest {
    Publish(Vec<SourceCatalogs>, oneshot::Sender<Result<PublishOutcome, PublishError>>),
    Announce(Box<str>, u64, oneshot::Sender<Result<PublishOutcome, PublishError>>),
    Execute(AttributedCommand, oneshot::Sender<Result<CommandOutcome, ExecuteError>>),
}

/// Reason that a command is not executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// There are no rings.
    #[error("{}", Rings::NONE)]
    NoRings,
    /// The command was refused.
    #[error(transparent)]
    Refused(#[from] CommandRefusal),
    /// The command could not be logged.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The effect could not be stored.
    #[error("nothing is changed, because the change cannot be stored: {0}")]
    Store(#[from] StoreError),
    /// The relay is stopping.
    #[error("the relay is stopping")]
    Stopping,
}

/// Reason that nothing is published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There are too many revisions.
    #[error(transparent)]
    TooMany(#[from] TooManyRevisions),
    /// The revision cannot be stored, or a catalog is no longer stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The relay is stopping.
    #[error("the relay is stopping")]
    Stopping,
}

/// Reason that the rollouts cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A later gupd has stored them.
    #[error(transparent)]
    Newer(#[from] NewerVersion),
    /// The index cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Rollouts {
    /// Restores the stored rollouts. Clients have a view when this returns; the task must be run.
    ///
    /// # Errors
    /// When they cannot be read, or a later gupd has stored them.
    pub async fn open(
        config: &Config,
        rules: Arc<RolloutRules>,
        store: Arc<Store>,
        metrics: Arc<RolloutMetrics>,
        clock: Clock,
    ) -> Result<(Self, RolloutTask), OpenError> {
        let restored = record::restore(store.records(PREFIX).await?)?;
        let (requests, request_queue) = mpsc::channel(MAX_REQUESTS);
        let (downloads, download_queue) = mpsc::channel(MAX_DOWNLOADS);
        let in_force = Arc::new(ArcSwap::new(rules.clone()));
        let visible_of = visible_of(in_force.clone());
        let clients = ClientTracker::new(rules.tracking, visible_of, metrics.clone(), clock.clone());
        let shared = Arc::new(RolloutShared {
            rules: in_force,
            switches: Mutex::default(),
            switched: Notify::new(),
            clients,
            audit: AuditLog::in_folder(&config.store.dir),
            clock,
            metrics,
            snapshot: ArcSwap::from_pointee(RolloutSnapshot {
                state: Arc::default(),
                rings: None,
                settings: rules.settings.clone(),
                payloads: BTreeMap::new(),
                troubles: BTreeMap::new(),
            }),
            requests,
            downloads,
        });
        let mut task = RolloutTask::new(shared.clone(), (request_queue, download_queue), store);
        task.restore(restored).await;
        Ok((Self(shared), task))
    }

    /// Returns the view of clients; `None` without rings.
    pub fn view(&self) -> Guard<Option<Arc<RevisionView>>> {
        self.0.rules.load().view()
    }

    /// Returns true if there are rings.
    pub fn has_rings(&self) -> bool {
        self.0.rules.load().has_rings()
    }

    /// Returns the audit log, for commands that do not concern rollouts.
    pub fn audit_log(&self) -> &AuditLog {
        &self.0.audit
    }

    /// Returns the client tracker, which the relay must run.
    pub fn clients(&self) -> &ClientTracker {
        &self.0.clients
    }

    /// Returns the rollouts in force.
    pub fn snapshot(&self) -> Arc<RolloutSnapshot> {
        self.0.snapshot.load_full()
    }

    /// Publishes collected catalogs together. Clients see them when this returns.
    ///
    /// # Errors
    /// When they cannot be published; nothing has changed.
    pub async fn publish(&self, collected: Vec<SourceCatalogs>) -> Result<PublishOutcome, PublishError> {
        self.request(PublishError::Stopping, |answer| TaskRequest::Publish(collected, answer)).await
    }

    /// Records that a manager has the payload of this number of a content. From now on the view decides on it.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn announce(&self, series: &str, number: u64) -> Result<PublishOutcome, PublishError> {
        let request = |answer| TaskRequest::Announce(series.into(), number, answer);
        self.request(PublishError::Stopping, request).await
    }

    /// Records that a client that sees this revision downloads a payload. Never waits.
    pub fn record_download(&self, key: &ObjectKey, revision: RevisionNumber) {
        // If the queue is full, the next download is recorded.
        drop(self.0.downloads.try_send((key.clone(), revision)));
    }

    /// Executes a command. It is logged, stored and in force when this returns.
    ///
    /// # Errors
    /// The reason that it is not executed; nothing has changed.
    pub async fn execute(&self, command: AttributedCommand) -> Result<CommandOutcome, ExecuteError> {
        self.request(ExecuteError::Stopping, |answer| TaskRequest::Execute(command, answer)).await
    }

    /// Returns the effect that a command would have on these clients.
    ///
    /// # Errors
    /// The reason to refuse it.
    pub fn dry_run(
        &self,
        command: &RolloutCommand,
        clients: &[ClientReport],
        now: UnixMillis,
    ) -> Result<DryRun, ExecuteError> {
        let before = self.0.snapshot.load();
        let rings = before.rings.as_ref().ok_or(ExecuteError::NoRings)?;
        let mut after = RolloutState::clone(&before.state);
        let outcome = after.apply(command, rings, now)?;
        let views = (&before.state.view(rings, now), &after.view(rings, now));
        Ok(DryRun::new(outcome, views, rings.groups(), clients, now))
    }

    async fn request<T, E>(
        &self,
        stopping: E,
        request: impl FnOnce(oneshot::Sender<Result<T, E>>) -> TaskRequest,
    ) -> Result<T, E> {
        let (answer, answered) = oneshot::channel();
        if self.0.requests.send(request(answer)).await.is_err() {
            return Err(stopping);
        }
        answered.await.unwrap_or(Err(stopping))
    }
}

impl RolloutShared {
    fn switches(&self) -> MutexGuard<'_, Vec<RulesSwitch>> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the look-up of the revision visible to a client, for the client tracker.
fn visible_of(rules: Arc<ArcSwap<RolloutRules>>) -> Box<VisibleRevisionOf> {
    Box::new(move |client, now| {
        let view = rules.load().view();
        let view = view.as_ref()?;
        let number = view.visible_revision(&client.group, client.address, now)?.number;
        let catalogs = client.catalogs.map(|catalogs| catalogs.revision);
        let since = catalogs.and_then(|own| view.differs_since(&client.group, client.address, own, now));
        Some(VisibleRevision { number, differs_since: since.unwrap_or(now) })
    })
}
