//! One fill for each object: whoever asks first starts it, everyone else follows it. Owns the register of running
//! fills and their tasks; relies on `upstream` for bytes, on `store` to keep them, on `cache` to make them found.
//! A fill knows no client: it ends when its object does, whoever is still there; but one of the relay's own ends when
//! nobody wants it any more.

mod alone;
mod begin;
mod content_range;
mod errand;
mod feeder;
mod fetch;
mod flow;
mod intake;
pub mod metrics;
mod origin;
mod outcome;
mod plan;
mod reader;
mod refetch;
mod resume;
mod run;
mod task;
mod transfer;
mod turns;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use http::uri::PathAndQuery;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::errand::{Ended, Errand};
pub use self::flow::{Flow, Phase};
pub use self::outcome::FillOutcome;
pub use self::reader::{Reader, TransferError};
pub use self::refetch::{RefetchError, refetch};
use crate::digest::Digests;
use crate::fill::metrics::FillMetrics;
use crate::{Cache, Entry};
use gupd_config::clock::Clock;
use gupd_config::policy::Classification;
use gupd_config::{Config, UpstreamId};
use gupd_http::range::RequestedPart;
use gupd_http::{CacheControl, UnstorableReason, Verdict};
use gupd_net::shape::BandwidthClass;
use gupd_net::upstream::{CurrentUpstream, UpstreamError, UpstreamResponse, Upstreams};
use gupd_store::{ObjectKey, Store, StoreError};

/// What to ask for, taken from the request that starts a fill, or of the relay's own.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The object's key.
    pub key: ObjectKey,
    /// What selects this variant, as far as known before a response: two requests that differ here are two fills.
    pub variant: String,
    /// The upstreams to ask, by priority: those of its route, or of who asks.
    pub order: Arc<[UpstreamId]>,
    /// Path and query in the client's own spelling.
    pub target: PathAndQuery,
    /// The client's fields as it sent them: what selects a variant is judged by these, like every look-up.
    pub asked: HeaderMap,
    /// The fields to ask with.
    pub headers: HeaderMap,
    /// Class and content type of the path.
    pub classified: Classification,
    /// The stored response to revalidate, if there is one.
    pub stale: Option<Arc<Entry>>,
    /// What of it the client waits for, if not everything.
    pub part: Option<RequestedPart>,
    /// Why, if it is for no client.
    pub errand: Option<Errand>,
    /// Which limits its bytes pass.
    pub bandwidth: BandwidthClass,
}

/// One download of one object, as those who follow it see it.
#[derive(Clone, Debug)]
pub struct Fill {
    phase: watch::Receiver<Phase>,
    /// A client has asked for it.
    for_client: Arc<AtomicBool>,
    asking: CurrentUpstream,
    order: Arc<[UpstreamId]>,
    // After the receiver: whoever is woken finds one follower less.
    leaving: Leaving,
}

/// Tells the fill's task when it is dropped: it may have nobody left to go on for.
#[derive(Clone, Debug)]
struct Leaving(Arc<Notify>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// How a request came to its fill.
#[derive(Debug)]
pub enum Joined {
    /// It started the fill. A response that cannot be shared is handed to it.
    Started(Fill, Handover),
    /// The fill was already running.
    Following(Fill),
    /// It ended while the request was on its way here: a fresh response is stored.
    Stored(Arc<Entry>),
}

/// Where the client that started a fill gets a response that is for it alone.
pub type Handover = oneshot::Receiver<UpstreamResponse>;

/// Why a fill did not bring its object.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FillError {
    /// No upstream answered.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// An upstream answered with a server error.
    #[error("upstream {upstream} answered {status}")]
    ServerError {
        /// Its name.
        upstream: Arc<str>,
        /// Its status, 500 to 599.
        status: http::StatusCode,
    },
    /// The transfer broke off and could not be resumed.
    #[error("upstream {upstream}: the transfer broke off at byte {at} and cannot be resumed: {reason}")]
    BrokenOff {
        /// Its name.
        upstream: Arc<str>,
        /// Bytes that had arrived.
        at: u64,
        /// What happened last.
        reason: Arc<str>,
    },
    /// The content changed between two parts of it; a new fill has begun.
    #[error("upstream {upstream}: the content changed while it was transferred")]
    Changed {
        /// Its name.
        upstream: Arc<str>,
    },
    /// It was not what was announced; a new fill has begun.
    #[error("upstream {upstream}: the content is not what its digest announces; it is fetched again")]
    Mismatch {
        /// Its name.
        upstream: Arc<str>,
    },
    /// It had no length and went on past the largest share of the store that one object without length may take.
    #[error("the response has no length and does not end; it is passed through from now on")]
    OpenEnded,
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(Arc<str>),
    /// Nobody wanted the rest, and `fill.finish` does not ask for it. What came is kept for the next fill.
    #[error("nobody wanted the rest")]
    Abandoned,
    /// The fill's task ended without an outcome: the relay is stopping.
    #[error("the fill was stopped")]
    Stopped,
}

impl FillError {
    /// Outcome of the fill that ended so.
    pub fn outcome(&self) -> FillOutcome {
        match self {
            Self::Upstream(error) => FillOutcome::Upstream(error.kind()),
            Self::ServerError { .. } => FillOutcome::ServerError,
            Self::BrokenOff { .. } => FillOutcome::BrokenOff,
            Self::Changed { .. } => FillOutcome::Changed,
            Self::Mismatch { .. } => FillOutcome::DigestMismatch,
            Self::OpenEnded => FillOutcome::OpenEnded,
            Self::Store(_) => FillOutcome::Store,
            Self::Abandoned => FillOutcome::Abandoned,
            Self::Stopped => FillOutcome::Stopped,
        }
    }
}

impl From<StoreError> for FillError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::from(error.to_string()))
    }
}

/// All running fills of a relay.
#[derive(Clone, Debug)]
pub struct Fills {
    shared: Arc<Shared>,
    runtime: Handle,
    tasks: TaskTracker,
}

/// What every fill's task works with.
#[derive(Debug)]
struct Shared {
    // Held for a look-up or an insertion, never across I/O.
    running: Mutex<HashMap<FillKey, Fill>>,
    permits: Semaphore,
    /// The relay ends: what has arrived is written, and nothing more is asked for.
    stopping: CancellationToken,
    /// Bytes a response without length may have.
    open_ended_max: u64,
    store: Arc<Store>,
    cache: Arc<Cache>,
    digests: Digests,
    metrics: Arc<FillMetrics>,
    clock: Clock,
}

type FillKey = (ObjectKey, String);

/// A response without length may take one part in so many of the quota: it cannot be reserved for, and may not end.
const OPEN_ENDED_SHARE: u64 = 8;

impl Fills {
    /// No fills yet. Their tasks will run on `runtime`, not on the threads that serve clients: hashing and waiting for
    /// the disk must not delay hits.
    pub fn new(
        config: &Config,
        store: Arc<Store>,
        cache: Arc<Cache>,
        metrics: Arc<FillMetrics>,
        clock: Clock,
        runtime: Handle,
    ) -> Self {
        for outcome in FillOutcome::all() {
            metrics.ended.with_label_values(&[outcome.as_str()]);
        }
        let shared = Shared {
            running: Mutex::default(),
            permits: Semaphore::new(config.fill.max_concurrent),
            stopping: CancellationToken::new(),
            open_ended_max: config.store.quota / OPEN_ENDED_SHARE,
            digests: Digests::new(cache.clone(), metrics.digest_mismatches.clone()),
            store,
            cache,
            metrics,
            clock,
        };
        Self { shared: Arc::new(shared), runtime, tasks: TaskTracker::new() }
    }

    /// Metrics of all fills.
    pub fn metrics(&self) -> &FillMetrics {
        &self.shared.metrics
    }

    /// Joins the fill of `wanted` that is running, or starts it.
    pub fn join(&self, wanted: Wanted, upstreams: &Arc<Upstreams>) -> Joined {
        let key = (wanted.key.clone(), wanted.variant.clone());
        let mut running = self.shared.lock();
        let for_client = wanted.errand.is_none();
        if let Some(fill) = running.get(&key) {
            fill.for_client.fetch_or(for_client, Ordering::Relaxed);
            return Joined::Following(fill.clone());
        }
        // A fill puts its object into the cache before it leaves the register: whoever missed both was in between.
        if wanted.errand != Some(Errand::Collect)
            && let Some(entry) = self.shared.just_stored(&wanted)
        {
            return Joined::Stored(entry);
        }
        let (phase, receiver) = watch::channel(Phase::Asking);
        let attention = Arc::new(Notify::new());
        let for_client = Arc::new(AtomicBool::new(for_client));
        let asking = CurrentUpstream::default();
        let fill = Fill {
            phase: receiver,
            for_client,
            asking: asking.clone(),
            order: wanted.order.clone(),
            leaving: Leaving(attention.clone()),
        };
        running.insert(key, fill.clone());
        drop(running);
        let (hand, handover) = oneshot::channel();
        let task =
            task::Task::new(self.shared.clone(), upstreams.clone(), wanted, phase, asking, attention, hand);
        self.tasks.spawn_on(task.run(), &self.runtime);
        Joined::Started(fill, handover)
    }

    /// The running fill of an object, if there is one.
    pub fn running(&self, key: &ObjectKey, variant: &str) -> Option<Fill> {
        self.shared.lock().get(&(key.clone(), variant.to_owned())).cloned()
    }

    /// The cache that fills put their objects into.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.shared.cache
    }

    /// What content is checked against.
    pub fn digests(&self) -> &Digests {
        &self.shared.digests
    }

    /// What is being filled under a key is no longer what will be found there: new requests begin anew.
    pub fn detach(&self, key: &str) {
        self.shared.lock().retain(|(filling, _), _| **filling != *key);
    }

    /// Ends every fill where it is: what has arrived is written first, so that a restart costs no byte of it.
    pub fn stop(&self) {
        self.shared.stopping.cancel();
    }

    /// Ends what is being filled for nobody, now that the store is another process's.
    pub fn notice_release(&self) {
        self.shared.lock().values().for_each(|fill| fill.leaving.0.notify_one());
    }

    /// Waits until no fill runs. Called after the last client has gone; what does not end in the caller's time is
    /// dropped with the runtime.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Fill {
    /// Waits for the response head, or for the news that there will be none to share.
    pub async fn outcome(&self) -> Outcome {
        let mut phase = self.phase.clone();
        let decided = phase.wait_for(|phase| !matches!(phase, Phase::Asking)).await;
        match decided.as_deref() {
            Ok(Phase::Receiving { flow, .. } | Phase::Complete { flow, .. }) => {
                Outcome::Content(flow.clone())
            }
            Ok(Phase::Stored { entry }) => Outcome::Stored(entry.clone()),
            Ok(Phase::NotModified { entry }) => Outcome::NotModified(entry.clone()),
            Ok(Phase::Unshared { why }) => Outcome::Unshared(*why),
            Ok(Phase::Failed { error }) => Outcome::Failed(error.clone()),
            Ok(Phase::Asking) | Err(_) => Outcome::Failed(FillError::Stopped),
        }
    }

    /// Waits until the first `bytes` have arrived or the fill has ended, and tells the complete length if it is known
    /// by then: for content whose length its upstream did not say, which arrives in order.
    pub async fn arrived(&self, bytes: u64) -> Arrived {
        let mut phase = self.phase.clone();
        let there = phase.wait_for(|phase| match phase {
            Phase::Asking => false,
            Phase::Receiving { arrived, .. } => *arrived >= bytes,
            _ => true,
        });
        match there.await.as_deref() {
            Ok(Phase::Receiving { .. }) => Arrived::Enough,
            Ok(Phase::Complete { length, .. }) => Arrived::All { length: *length },
            Ok(Phase::Stored { entry } | Phase::NotModified { entry }) => {
                Arrived::All { length: entry.object.len }
            }
            Ok(Phase::Failed { error }) => Arrived::Failed(error.clone()),
            Ok(Phase::Asking | Phase::Unshared { .. }) | Err(_) => Arrived::Failed(FillError::Stopped),
        }
    }
}

/// What became of asking the upstreams.
#[derive(Debug)]
pub enum Outcome {
    /// Content that everyone may follow.
    Content(Arc<Flow>),
    /// It has arrived and is stored.
    Stored(Arc<Entry>),
    /// What was stored is still good.
    NotModified(Arc<Entry>),
    /// The response is for the client that started the fill alone.
    Unshared(Unshared),
    /// There is none.
    Failed(FillError),
}

impl Outcome {
    /// The status of content that everyone may have.
    pub fn status(&self) -> Option<http::StatusCode> {
        match self {
            Self::Content(flow) => Some(flow.head.status),
            Self::Stored(entry) | Self::NotModified(entry) => Some(entry.object.status),
            Self::Unshared(_) | Self::Failed(_) => None,
        }
    }
}

/// Why a response is not shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unshared {
    /// Its own or the request's fields forbid it, or its class does.
    Unstorable(UnstorableReason),
    /// The store has no room for it, or cannot be written.
    NoRoom,
}

impl Unshared {
    /// Word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unstorable(why) => why.as_str(),
            Self::NoRoom => "no-room",
        }
    }
}

/// How far a fill has come.
#[derive(Debug)]
pub enum Arrived {
    /// At least the bytes asked for; the complete length is not known yet.
    Enough,
    /// Everything.
    All {
        /// The complete length in bytes.
        length: u64,
    },
    /// The fill failed.
    Failed(FillError),
}

impl Shared {
    fn just_stored(&self, wanted: &Wanted) -> Option<Arc<Entry>> {
        let entry = self.cache.find_hot(&wanted.key, &wanted.asked)?;
        let is_new = wanted.stale.as_ref().is_none_or(|stale| {
            stale.object.id != entry.object.id || stale.object.response_time < entry.object.response_time
        });
        let verdict = entry.freshness.evaluate(self.clock.now(), &CacheControl::default());
        (is_new && verdict == Verdict::Fresh).then_some(entry)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<FillKey, Fill>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Unshared> for gupd_http::status::ForwardOutcome {
    fn from(why: Unshared) -> Self {
        match why {
            Unshared::Unstorable(why) => Self::NotStored(why),
            Unshared::NoRoom => Self::StoreFailed,
        }
    }
}
