//! The shared tier: payloads that relays publish on an object store and take from it (`[tier]`).
//!
//! Invariant: no byte leaves that was not compared with its block's checksum, and no failure of the tier fails a fill. A
//! fill asks through [`TierService`], an HTTP service within the process, as it asks a peer. [`Tier::publish`] writes a
//! blob by its SHA-256 and then its record. The main complication is storage that hangs: every operation has a time limit
//! and is one of few. Start with [`Tier`] and `record`.

// The records come from the network.
#![warn(clippy::indexing_slicing, clippy::string_slice, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        reason = "a test ends by a panic"
    )
)]

mod backend;
mod bucket;
#[cfg(test)]
mod bucket_tests;
mod client;
mod collect;
pub mod metrics;
mod problem;
mod publish;
mod read;
mod record;
mod service;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::backend::Backend;
pub use self::collect::{CollectionReport, ListedObject, ListedState};
use self::metrics::TierMetrics;
pub use self::problem::{TierError, TierProblem};
use self::problem::{TierHealth, TransferDirection};
pub use self::publish::{NewRecord, PublicationError, TierPublication};
pub use self::record::TierRecord;
pub use self::service::TierService;
use gupd_config::TierSettings;

/// Unit of verification, in bytes, as in the store.
pub const BLOCK: u64 = 64 << 10;

/// Maximum number of operations at once. An operation on a file system that hangs keeps its place, so hung ones hold
/// this many threads at most.
const MAX_OPERATIONS: usize = 16;

/// Memory for records, in bytes. A range or a resumption reads no record again.
const RECORDS: u64 = 8 << 20;

/// Time for which a record is not read again.
const RECORD_AGE: Duration = Duration::from_secs(60);

/// Maximum number of objects remembered as damaged.
const MAX_DAMAGED: u64 = 10_000;

/// Time to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The shared tier. Opened when it is first needed, so that one that is absent delays no start.
#[derive(Debug)]
pub struct Tier {
    settings: TierSettings,
    backend: Arc<Backend>,
    operations: Arc<Semaphore>,
    /// Runs the operations: hung ones must not hold a worker's runtime.
    runtime: OnceLock<Handle>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    records: moka::sync::Cache<String, Arc<TierRecord>>,
    /// Names of records whose object is damaged or incomplete in the tier.
    damaged: moka::sync::Cache<String, ()>,
    health: TierHealth,
    metrics: Arc<TierMetrics>,
}

impl Tier {
    /// Creates the tier of a configuration. Reads and connects to nothing.
    ///
    /// # Errors
    /// If credentials or certificates cannot be used.
    pub fn new(settings: &TierSettings, metrics: Arc<TierMetrics>) -> Result<Self, TierError> {
        let weigh = |name: &String, record: &Arc<TierRecord>| {
            u32::try_from(record.weight().saturating_add(name.len())).unwrap_or(u32::MAX)
        };
        let records = moka::sync::Cache::builder().max_capacity(RECORDS).weigher(weigh);
        Ok(Self {
            backend: Arc::new(Backend::new(settings)?),
            operations: Arc::new(Semaphore::new(MAX_OPERATIONS)),
            runtime: OnceLock::new(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            records: records.time_to_live(RECORD_AGE).build(),
            damaged: moka::sync::Cache::new(MAX_DAMAGED),
            health: TierHealth::new(&settings.url),
            settings: settings.clone(),
            metrics,
        })
    }

    /// Sets the runtime of the operations; without one they run on that of their caller.
    pub fn run_on(&self, runtime: &Handle) {
        self.runtime.get_or_init(|| runtime.clone());
    }

    /// Returns the settings.
    pub fn settings(&self) -> &TierSettings {
        &self.settings
    }

    /// Returns the metrics.
    pub fn metrics(&self) -> &TierMetrics {
        &self.metrics
    }

    /// Returns true if the tier has a damaged or incomplete object under this key, which a publication replaces.
    pub fn is_damaged(&self, key: &str) -> bool {
        self.damaged.contains_key(&record::name_of(key))
    }

    /// Ends the connections of fills, and waits a moment for running operations.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        // An operation that hangs ends with the process.
        let _hung = timeout(STOP_TIMEOUT, self.tasks.wait()).await;
    }

    /// Runs one operation within the time limit, and notes how the tier is.
    async fn run<T, F>(
        &self,
        direction: TransferDirection,
        operation: impl FnOnce(Arc<dyn ObjectStore>) -> F + Send + 'static,
    ) -> Result<T, TierError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, TierError>> + Send,
    {
        let limit = self.settings.timeout;
        let work = async {
            let place = self.operations.clone().acquire_owned().await.map_err(TierError::stopped)?;
            let backend = self.backend.clone();
            let task = async move {
                let _place = place;
                operation(backend.open().await?).await
            };
            let runtime = self.runtime.get().cloned().unwrap_or_else(Handle::current);
            self.tasks.spawn_on(task, &runtime).await.map_err(TierError::stopped)?
        };
        let result = timeout(limit, work).await.unwrap_or_else(|_late| Err(TierError::slow(limit)));
        self.health.note(direction, result.as_ref().err());
        result
    }
}

/// Returns the path of a blob.
fn blob_path(sha256: &[u8; 32]) -> Path {
    Path::from(format!("blobs/{}", record::hex(sha256)))
}

/// Returns the path of a record.
fn record_path(name: &str) -> Path {
    Path::from(format!("objects/{name}"))
}
