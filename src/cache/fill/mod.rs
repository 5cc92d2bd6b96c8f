//! One fill for each object: whoever asks first starts it, everyone else follows it. Owns the register of running
//! fills and their tasks; relies on `upstream` for bytes, on `store` to keep them, on `cache` to make them found.
//! A fill knows no client: it ends when its object does, whoever is still there; but one of the relay's own ends when
//! nobody wants it any more.

mod alone;
mod background;
mod begin;
mod content;
mod content_range;
mod feeder;
mod fetch;
mod intake;
pub mod metrics;
mod origin;
mod outcome;
mod plan;
mod range_fetch;
mod reader;
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

pub use self::background::{BackgroundFetch, FillResult};
pub use self::content::{FillContent, Phase};
pub use self::outcome::FillOutcome;
pub use self::range_fetch::{RangeFetchError, fetch_range};
pub use self::reader::{ContentReader, TransferError};
use crate::digest::Digests;
use crate::fill::metrics::FillMetrics;
use crate::{Cache, CacheEntry};
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
pub struct FillRequest {
    /// The object's key.
    pub key: ObjectKey,
    /// What selects this variant, as far as known before a response: two requests that differ here are two fills.
    pub variant: String,
    /// The upstreams to ask, by priority: those of its route, or of who asks.
    pub upstream_order: Arc<[UpstreamId]>,
    /// Path and query in the client's own spelling.
    pub target: PathAndQuery,
    /// The client's fields as it sent them: what selects a variant is judged by these, like every look-up.
    pub client_headers: HeaderMap,
    /// The fields to ask with.
    pub headers: HeaderMap,
    /// Class and content type of the path.
    pub classification: Classification,
    /// The stored response to revalidate, if there is one.
    pub stale: Option<Arc<CacheEntry>>,
    /// What of it the client waits for, if not everything.
    pub part: Option<RequestedPart>,
    /// Why, if it is for no client.
    pub background: Option<BackgroundFetch>,
    /// Which limits its bytes pass.
    pub bandwidth: BandwidthClass,
}

/// One download of one object, as those who follow it see it.
#[derive(Clone, Debug)]
pub struct FillHandle {
    phase: watch::Receiver<Phase>,
    /// A client has asked for it.
    for_client: Arc<AtomicBool>,
    asking: CurrentUpstream,
    upstream_order: Arc<[UpstreamId]>,
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
    Started(FillHandle, PrivateResponse),
    /// The fill was already running.
    Following(FillHandle),
    /// It ended while the request was on its way here: a fresh response is stored.
    Stored(Arc<CacheEntry>),
}

/// Where the client that started a fill gets a response that is for it alone.
pub type PrivateResponse = oneshot::Receiver<UpstreamResponse>;

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
    /// FillResponse of the fill that ended so.
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
    running: Mutex<HashMap<FillKey, FillHandle>>,
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
    pub fn join(&self, wanted: FillRequest, upstreams: &Arc<Upstreams>) -> Joined {
        let key = (wanted.key.clone(), wanted.variant.clone());
        let mut running = self.shared.lock();
        let for_client = wanted.background.is_none();
        if let Some(fill) = running.get(&key) {
            fill.for_client.fetch_or(for_client, Ordering::Relaxed);
            return Joined::Following(fill.clone());
        }
        // A fill puts its object into the cache before it leaves the register: whoever missed both was in between.
        if wanted.background != Some(BackgroundFetch::Collect)
            && let Some(entry) = self.shared.just_stored(&wanted)
        {
            return Joined::Stored(entry);
        }
        let (phase, receiver) = watch::channel(Phase::Asking);
        let attention = Arc::new(Notify::new());
        let for_client = Arc::new(AtomicBool::new(for_client));
        let asking = CurrentUpstream::default();
        let fill = FillHandle {
            phase: receiver,
            for_client,
            asking: asking.clone(),
            upstream_order: wanted.upstream_order.clone(),
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
    pub fn running(&self, key: &ObjectKey, variant: &str) -> Option<FillHandle> {
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
    pub fn notify_store_released(&self) {
        self.shared.lock().values().for_each(|fill| fill.leaving.0.notify_one());
    }

    /// Waits until no fill runs. Called after the last client has gone; what does not end in the caller's time is
    /// dropped with the runtime.
    pub async fn wait_until_idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl FillHandle {
    /// Waits for the response head, or for the news that there will be none to share.
    pub async fn response(&self) -> FillResponse {
        let mut phase = self.phase.clone();
        let decided = phase.wait_for(|phase| !matches!(phase, Phase::Asking)).await;
        match decided.as_deref() {
            Ok(Phase::Receiving { flow, .. } | Phase::Complete { flow, .. }) => {
                FillResponse::Content(flow.clone())
            }
            Ok(Phase::Stored { entry }) => FillResponse::Stored(entry.clone()),
            Ok(Phase::NotModified { entry }) => FillResponse::NotModified(entry.clone()),
            Ok(Phase::Unshared { why }) => FillResponse::Unshared(*why),
            Ok(Phase::Failed { error }) => FillResponse::Failed(error.clone()),
            Ok(Phase::Asking) | Err(_) => FillResponse::Failed(FillError::Stopped),
        }
    }

    /// Waits until the first `bytes` have arrived or the fill has ended, and tells the complete length if it is known
    /// by then: for content whose length its upstream did not say, which arrives in order.
    pub async fn wait_for(&self, bytes: u64) -> FillProgress {
        let mut phase = self.phase.clone();
        let there = phase.wait_for(|phase| match phase {
            Phase::Asking => false,
            Phase::Receiving { arrived, .. } => *arrived >= bytes,
            _ => true,
        });
        match there.await.as_deref() {
            Ok(Phase::Receiving { .. }) => FillProgress::Enough,
            Ok(Phase::Complete { length, .. }) => FillProgress::All { length: *length },
            Ok(Phase::Stored { entry } | Phase::NotModified { entry }) => {
                FillProgress::All { length: entry.object.len }
            }
            Ok(Phase::Failed { error }) => FillProgress::Failed(error.clone()),
            Ok(Phase::Asking | Phase::Unshared { .. }) | Err(_) => FillProgress::Failed(FillError::Stopped),
        }
    }
}

/// What became of asking the upstreams.
#[derive(Debug)]
pub enum FillResponse {
    /// Content that everyone may follow.
    Content(Arc<FillContent>),
    /// It has arrived and is stored.
    Stored(Arc<CacheEntry>),
    /// What was stored is still good.
    NotModified(Arc<CacheEntry>),
    /// The response is for the client that started the fill alone.
    Unshared(UnsharedReason),
    /// There is none.
    Failed(FillError),
}

impl FillResponse {
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
pub enum UnsharedReason {
    /// Its own or the request's fields forbid it, or its class does.
    Unstorable(UnstorableReason),
    /// The store has no room for it, or cannot be written.
    NoRoom,
}

impl UnsharedReason {
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
pub enum FillProgress {
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
    fn just_stored(&self, wanted: &FillRequest) -> Option<Arc<CacheEntry>> {
        let entry = self.cache.find_hot(&wanted.key, &wanted.client_headers)?;
        let is_new = wanted.stale.as_ref().is_none_or(|stale| {
            stale.object.id != entry.object.id || stale.object.response_time < entry.object.response_time
        });
        let verdict = entry.freshness.evaluate(self.clock.now(), &CacheControl::default());
        (is_new && verdict == Verdict::Fresh).then_some(entry)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<FillKey, FillHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<UnsharedReason> for gupd_http::status::ForwardOutcome {
    fn from(why: UnsharedReason) -> Self {
        match why {
            UnsharedReason::Unstorable(why) => Self::NotStored(why),
            UnsharedReason::NoRoom => Self::StoreFailed,
        }
    }
}
