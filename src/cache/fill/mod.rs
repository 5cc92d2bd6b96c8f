//! A fill is one download of one object, shared by every request for it. The first request starts the fill; later
//! requests follow it, and each follower reads the bytes at its own speed while they arrive.
//!
//! This module owns the register of running fills: at most one per object variant. A fill outlives the client that
//! started it and ends with its object; a background fetch without followers ends early. `task` drives one fill:
//! `accept` judges the response, `fetch` stores its bytes in runs ordered by `plan`, and `resumption` continues a
//! broken transfer. Followers read through [`FillHandle`] and [`ContentReader`]. Start with [`Fills::join`].

mod accept;
mod admission;
mod content;
mod content_range;
mod delivered;
mod direct;
mod failover;
mod fetch;
mod handle;
mod head;
pub mod metrics;
mod origin;
mod outcome;
mod plan;
mod private_response;
mod purge;
mod range_fetch;
mod reader;
mod request;
mod resumption;
mod run;
mod run_buffer;
mod run_permits;
mod running;
mod task;
mod transfer;
mod visibility;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::admission::{CommitBacklog, FillAdmission};
pub use self::content::FillContent;
use self::handle::Phase;
pub use self::handle::{FillHandle, FillProgress, FillResponse, FillResult, Joined, UnsharedReason};
pub use self::head::ContentHead;
use self::metrics::FillMetrics;
pub use self::outcome::{FillError, FillOutcome};
pub use self::private_response::PrivateResponse;
pub use self::purge::PurgeReport;
pub use self::range_fetch::{RangeFetchError, fetch_range};
pub use self::reader::{ContentReader, TransferError};
pub use self::request::{BackgroundFetch, FillRequest};
pub use self::running::RunningFill;
use self::task::FillTask;
use crate::digest::Digests;
use crate::publish::Publisher;
use crate::recent::RecentMap;
use crate::{Cache, CacheEntry};
use gupd_config::Config;
use gupd_config::clock::Clock;
use gupd_http::{CacheControl, Verdict};
use gupd_net::client_budgets::ClientBudgets;
use gupd_net::upstream::Upstreams;
use gupd_store::{ObjectKey, Store};

/// Register of a relay's running fills.
#[derive(Clone, Debug)]
pub struct Fills {
    context: Arc<FillContext>,
    tasks: TaskTracker,
}

/// State shared by the tasks of all fills.
#[derive(Debug)]
struct FillContext {
    // Held for a lookup or an insertion, never across I/O.
    running: Mutex<HashMap<FillKey, FillHandle>>,
    /// Number of fills so far.
    started: AtomicU64,
    /// Number of fills that sent a client's credentials.
    with_credentials: AtomicU64,
    admission: FillAdmission,
    commits: CommitBacklog,
    /// Maximum wait for a permit.
    queue_timeout: Duration,
    /// Cancelled at shutdown: fills write the bytes that have arrived and send no more requests.
    stopping: CancellationToken,
    store: Arc<Store>,
    cache: Arc<Cache>,
    digests: Digests,
    /// Budgets of the clients that start fills.
    budgets: Arc<ClientBudgets>,
    /// Keys of content larger than the quota, each of which is logged once.
    oversized: RecentMap<ObjectKey, ()>,
    /// Names of upstreams that gave the same content different validators.
    disagreeing: RecentMap<Arc<str>, ()>,
    metrics: Arc<FillMetrics>,
    clock: Clock,
    /// Publishes payloads in the shared tier, if there is one.
    publisher: Option<Publisher>,
}

/// Requests with equal keys share a fill.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FillKey {
    object: ObjectKey,
    variant: String,
    /// Number of a fill that sends credentials: no other request has it. Its response may be for that client alone, and
    /// every follower would then ask again.
    credentials: Option<u64>,
}

/// Time for which content of an upstream is fetched from one connection, after its backends gave the same content
/// different validators. Parts from several connections would not fit together.
const REMEMBER_DISAGREEMENT: Duration = Duration::from_secs(3600);

/// Maximum number of objects remembered as larger than the quota.
const MAX_OVERSIZED: usize = 1_000;

/// Maximum number of upstreams remembered for disagreeing validators.
const MAX_DISAGREEING: usize = 1_000;

/// A response without a declared length may take up to 1/8 of the quota: it cannot reserve room, and may never end.
const OPEN_ENDED_SHARE: u64 = 8;

impl Fills {
    /// Creates an empty register.
    pub fn new(
        config: &Config,
        cache: Arc<Cache>,
        budgets: Arc<ClientBudgets>,
        metrics: Arc<FillMetrics>,
        clock: Clock,
    ) -> Self {
        for outcome in FillOutcome::all() {
            metrics.ended.with_label_values(&[outcome.as_str()]);
        }
        let context = FillContext {
            running: Mutex::default(),
            started: AtomicU64::default(),
            with_credentials: AtomicU64::default(),
            admission: FillAdmission::new(config.fill.max_concurrent),
            commits: CommitBacklog::default(),
            queue_timeout: config.fill.total_timeout,
            stopping: CancellationToken::new(),
            digests: Digests::new(cache.clone(), &metrics),
            oversized: RecentMap::new(MAX_OVERSIZED),
            disagreeing: RecentMap::with_lifetime(MAX_DISAGREEING, REMEMBER_DISAGREEMENT),
            store: cache.store().clone(),
            cache,
            budgets,
            metrics,
            clock,
            publisher: None,
        };
        Self { context: Arc::new(context), tasks: TaskTracker::new() }
    }

    /// Publishes the payloads that fills get from managers. To be called before the first fill.
    #[must_use]
    pub fn with_publisher(mut self, publisher: Publisher) -> Self {
        if let Some(context) = Arc::get_mut(&mut self.context) {
            context.publisher = Some(publisher);
        }
        self
    }

    /// Metrics of all fills.
    pub fn metrics(&self) -> &FillMetrics {
        &self.context.metrics
    }

    /// Joins the running fill of `request`, or starts one on the runtime of the caller. It stays there, so that a fill
    /// costs its first client no hop between threads; hashing of large pieces and disk writes have threads of their
    /// own.
    pub fn join(&self, mut request: FillRequest, upstreams: &Arc<Upstreams>) -> Joined {
        let control = CacheControl::from_request(&request.client_headers);
        let now = self.context.clock.now();
        let mut key =
            FillKey { object: request.key.clone(), variant: request.variant.clone(), credentials: None };
        let mut running = self.context.lock();
        if let Some(fill) = running.get(&key) {
            if !fill.is_usable(now, &control) {
                return Joined::Completed(fill.clone());
            }
            return Joined::Following(fill.join(&request));
        }
        // A fill inserts its entry into the cache before it leaves the register. A request that missed both arrived in
        // between, so the cache must be checked again.
        if request.background != Some(BackgroundFetch::Collect)
            && let Some(entry) = self.context.just_stored(&request)
        {
            if entry.evaluate(now, &control) == Verdict::Fresh {
                return Joined::Stored(entry);
            }
            request.stale = Some(entry);
        }
        if request.headers.contains_key(header::AUTHORIZATION) {
            key.credentials = Some(self.context.with_credentials.fetch_add(1, Ordering::Relaxed));
        }
        let (task, fill, private_response) =
            FillTask::new(self.context.clone(), upstreams.clone(), request, key.clone());
        running.insert(key, fill.clone());
        drop(running);
        self.tasks.spawn(task.run());
        Joined::Started(fill, private_response)
    }

    /// Returns the running fill of an object variant.
    pub fn find_running(&self, key: &ObjectKey, variant: &str) -> Option<FillHandle> {
        let key = FillKey { object: key.clone(), variant: variant.to_owned(), credentials: None };
        self.context.lock().get(&key).cloned()
    }

    /// Cache that receives the entries of finished fills.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.context.cache
    }

    /// Digests that content is verified against.
    pub fn digests(&self) -> &Digests {
        &self.context.digests
    }

    /// Removes the fills of `key` from the register, because an unsafe request changed the object or it is purged. They
    /// go on for their followers and store nothing; later requests start a new fill. Returns their number.
    pub fn detach(&self, key: &str) -> u64 {
        self.detach_if(|filling, _| *filling == *key)
    }

    fn detach_if(&self, is_detached: impl Fn(&str, &FillHandle) -> bool) -> u64 {
        let detached =
            self.context.lock().extract_if(|key, fill| is_detached(&key.object, fill)).collect::<Vec<_>>();
        detached.iter().for_each(|(_, fill)| fill.mark_detached());
        detached.len() as u64
    }

    /// Stops every fill. Each fill first writes the bytes that have arrived, so that a restart does not fetch them
    /// again.
    pub fn stop(&self) {
        self.context.stopping.cancel();
    }

    /// Wakes every fill after another process has taken over the store. Fills without followers then end.
    pub fn notify_store_released(&self) {
        self.context.lock().values().for_each(FillHandle::wake_task);
    }

    /// Waits until no fill runs. Call it after the last client has gone; the runtime drops fills that do not end in
    /// the caller's time limit.
    pub async fn wait_until_idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl FillContext {
    /// Returns the maximum bytes of a response without a declared length.
    fn open_ended_max(&self) -> u64 {
        self.store.quota() / OPEN_ENDED_SHARE
    }

    /// Returns a hot entry that is newer than the stale one of the request.
    fn just_stored(&self, request: &FillRequest) -> Option<Arc<CacheEntry>> {
        let entry = self.cache.find_hot(&request.key, request.selecting())?;
        if entry.awaits_proof() {
            return None;
        }
        let is_new = request.stale.as_ref().is_none_or(|stale| {
            stale.object.id != entry.object.id || stale.object.response_time < entry.object.response_time
        });
        is_new.then_some(entry)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FillKey, FillHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
