//! The rollouts of a running relay: what clients see, and the one task ([`Task`]) that owns the state. Whatever changes is made on a copy, written down with everything
//! that belongs to it in one transaction of the store, and only then shown to clients, by one swap: a change that cannot
//! be written down does not happen, and a restart finds what clients have seen. Relies on `state` for every decision.

mod rules;
mod task;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};

pub use self::rules::RolloutRules;
use self::rules::Switch;
use self::task::Beginning;
pub use self::task::Task;
use super::audit::{Audit, Unwritten};
use super::clients::{ClientTracker, Trouble, VisibleRevision, VisibleRevisionOf};
use super::orders::{Done, Order, Refused};
use super::record::{self, Newer, PREFIX};
use super::revision::RevisionNumber;
use super::rings::{RingId, Rings};
use super::state::{Collected, Published, State, Unpublished};
use super::views::Views;
use crate::metrics::RolloutMetrics;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::{self as config, Config};
use gupd_store::{BlobId, ObjectKey, Store, StoreError};

/// Requests that wait for the task.
const WAITING: usize = 64;

/// Payloads taken that were not noted yet. What does not fit is noted when it is next taken.
const TAKEN: usize = 4_096;

/// What clients see, and how that is changed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rollouts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rules: Arc<ArcSwap<RolloutRules>>,
    /// Those that the task has still to make. Held while views are computed and shown, never across I/O.
    switches: Mutex<Vec<Switch>>,
    switched: Notify,
    clients: ClientTracker,
    clock: Clock,
    metrics: Arc<RolloutMetrics>,
    current: ArcSwap<Current>,
    requests: mpsc::Sender<Request>,
    taken: mpsc::Sender<(ObjectKey, RevisionNumber)>,
}

/// What is in force, for whoever tells of it.
#[derive(Debug)]
pub struct Current {
    /// The state.
    pub state: Arc<State>,
    /// The rings; `None` without any.
    pub rings: Option<Arc<Rings>>,
    /// The settings.
    pub settings: config::RolloutSettings,
    /// Kept payloads by revision, as their number.
    pub payloads: BTreeMap<RevisionNumber, u64>,
    /// What holds rings up: trouble with a revision among the clients of the ring before.
    pub troubles: BTreeMap<(RevisionNumber, RingId), Trouble>,
}

/// All catalogs of one source, as one upstream has had them at one moment.
#[derive(Clone, Debug)]
pub struct Found {
    /// What their keys begin with.
    pub source: Arc<str>,
    /// By plain key; `None` is what it has not.
    pub catalogs: BTreeMap<ObjectKey, Option<FoundCatalog>>,
}

/// A catalog as it is stored under its plain key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundCatalog {
    /// `Object::id`.
    pub object: i64,
    /// Its bytes.
    pub blob: BlobId,
    /// Their number.
    pub len: u64,
    /// When a client last asked for it.
    pub last_used: UnixMillis,
}

/// An order, and who gives it.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// What is to be done.
    pub order: Order,
    /// Who says so.
    pub by: String,
    /// From where.
    pub from: String,
    /// Why.
    pub reason: Option<String>,
}

/// Why an order is not done.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// There are no rings.
    #[error("{}", Rings::NONE)]
    Off,
    /// It cannot be.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It cannot be told who ordered it.
    #[error(transparent)]
    Unwritten(#[from] Unwritten),
    /// It cannot be written down.
    #[error("nothing is changed, because it cannot be written down: {0}")]
    Store(#[from] StoreError),
    /// The relay ends.
    #[error("the relay is stopping")]
    Stopping,
}

/// Why nothing is published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There are too many.
    #[error(transparent)]
    Unpublished(#[from] Unpublished),
    /// It cannot be written down, or a catalog is not stored any more.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The relay ends.
    #[error("the relay is stopping")]
    Stopping,
}

/// What keeps the rollouts from being read back.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A later gupd wrote them.
    #[error(transparent)]
    Newer(#[from] Newer),
    /// The index.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
enum Request {
    Publish(Vec<Found>, oneshot::Sender<Result<Published, PublishError>>),
    Announce(Box<str>, u64, oneshot::Sender<Result<Published, PublishError>>),
    Order(Ordered, oneshot::Sender<Result<Done, OrderError>>),
}

impl Rollouts {
    /// Reads back what was written down, and gives the task that goes on with it.
    ///
    /// # Errors
    /// When it cannot be read now, or was written by a later gupd.
    pub async fn open(
        config: &Config,
        rules: Arc<RolloutRules>,
        store: Arc<Store>,
        metrics: Arc<RolloutMetrics>,
        clock: Clock,
    ) -> Result<(Self, Task), OpenError> {
        let restored = record::restore(store.records(PREFIX).await?)?;
        let (requests, asked) = mpsc::channel(WAITING);
        let (take, taken) = mpsc::channel(TAKEN);
        let in_force = Arc::new(ArcSwap::new(rules.clone()));
        let visible_of = visible_of(in_force.clone());
        let clients = ClientTracker::new(rules.tracking, visible_of, metrics.clone(), clock.clone());
        let shared = Arc::new(Shared {
            rules: in_force,
            switches: Mutex::default(),
            switched: Notify::new(),
            clients,
            clock: clock.clone(),
            metrics,
            current: ArcSwap::from_pointee(Current {
                state: Arc::default(),
                rings: None,
                settings: rules.settings.clone(),
                payloads: BTreeMap::new(),
                troubles: BTreeMap::new(),
            }),
            requests,
            taken: take,
        });
        let audit = Audit::of_store(&config.store.dir);
        let beginning = Beginning { shared: shared.clone(), requests: asked, taken, rules, audit };
        let task = Task::begin(beginning, restored, store, clock).await;
        Ok((Self(shared), task))
    }

    /// What clients see; `None` without rings.
    pub fn views(&self) -> arc_swap::Guard<Option<Arc<Views>>> {
        self.0.rules.load().views()
    }

    /// Whether there are rings.
    pub fn are_on(&self) -> bool {
        self.0.rules.load().have_rings()
    }

    /// Returns the client tracker, which the relay must run.
    pub fn clients(&self) -> &ClientTracker {
        &self.0.clients
    }

    /// What is in force.
    pub fn current(&self) -> Arc<Current> {
        self.0.current.load_full()
    }

    /// Publishes what was collected, all at once; clients see it when this returns.
    ///
    /// # Errors
    /// When it cannot be; nothing has changed.
    pub async fn publish(&self, found: Vec<Found>) -> Result<Published, PublishError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Publish(found, answer)).await.ok_or(PublishError::Stopping)?;
        answered.await.map_err(|_| PublishError::Stopping)?
    }

    /// A manager has given the payload of this number, of this content: clients' views are asked for it from now on.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub async fn announce(&self, series: &str, number: u64) -> Result<Published, PublishError> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Announce(series.into(), number, answer);
        self.ask(request).await.ok_or(PublishError::Stopping)?;
        answered.await.map_err(|_| PublishError::Stopping)?
    }

    /// A client that sees this revision takes the payload of this key. Never waits.
    pub fn takes(&self, key: &ObjectKey, revision: RevisionNumber) {
        // One that does not fit is noted when it is next taken.
        drop(self.0.taken.try_send((key.clone(), revision)));
    }

    /// Does what is ordered; it is in force, and written down, when this returns.
    ///
    /// # Errors
    /// Why it is not done.
    pub async fn order(&self, ordered: Ordered) -> Result<Done, OrderError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Order(ordered, answer)).await.ok_or(OrderError::Stopping)?;
        answered.await.map_err(|_| OrderError::Stopping)?
    }

    /// What an order would do, and what clients see before and after it.
    ///
    /// # Errors
    /// Why it would not be done.
    pub fn preview(&self, order: &Order, now: UnixMillis) -> Result<(Done, Views, Views), OrderError> {
        let current = self.0.current.load();
        let rings = current.rings.as_ref().ok_or(OrderError::Off)?;
        let mut after = State::clone(&current.state);
        let done = after.order(order, rings, now)?;
        Ok((done, current.state.views(rings, now), after.views(rings, now)))
    }

    async fn ask(&self, request: Request) -> Option<()> {
        self.0.requests.send(request).await.ok()
    }
}

impl Shared {
    fn switches(&self) -> MutexGuard<'_, Vec<Switch>> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<&Found> for Collected {
    fn from(found: &Found) -> Self {
        let catalogs = found.catalogs.iter();
        let catalogs = catalogs.map(|(key, found)| (key.clone(), found.map(|found| (found.blob, found.len))));
        Self { source: found.source.clone(), catalogs: catalogs.collect() }
    }
}

/// Looks up the revision visible to a client.
fn visible_of(rules: Arc<ArcSwap<RolloutRules>>) -> Box<VisibleRevisionOf> {
    Box::new(move |client, now| {
        let views = rules.load().views();
        let views = views.as_ref()?;
        let number = views.of(&client.group, client.address, now)?.number;
        let catalogs = client.catalogs.map(|catalogs| catalogs.revision);
        let since = catalogs.and_then(|own| views.since(&client.group, client.address, own, now));
        Some(VisibleRevision { number, differs_since: since.unwrap_or(now) })
    })
}
