//! Warm start: fetches the content of another relay or of the shared tier before clients of this relay request it. The
//! list says which objects. Their bytes come as for any prefetch: from peers, the tier or upstreams, in `wan.windows`
//! and within the limits. Nothing is remembered: stored objects are not fetched again, so a list may be sent again
//! after a failure.

use http::StatusCode;
use http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::task::sleep_until;
use super::{MAX_FAILURES, RefreshError, RefreshWorker, Refresher};
use gupd_config::clock::UnixMillis;
use gupd_http::spelling::stored_target;
use gupd_proxy::background::FetchOutcome;
use gupd_store::{ObjectKey, StoreError};

/// Room that a warm start leaves below `store.quota`: files take whole blocks, and an eviction would remove what was
/// warmed before.
const RESERVED_ROOM: u64 = 1 << 20;

/// An object of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContentItem {
    /// Cache key: route, and path in normal form.
    pub key: String,
    /// Path as clients spell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Length in bytes.
    #[serde(default)]
    pub bytes: u64,
    /// When a client last received it, in milliseconds since 1970.
    #[serde(default)]
    pub last_used: UnixMillis,
    /// Whether it is a catalog.
    #[serde(default)]
    pub catalog: bool,
}

/// A part of the list of stored content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentList {
    /// Catalogs and payloads.
    pub objects: Vec<ContentItem>,
    /// The value of `after` for the next part; `None` for the last one.
    pub next: Option<i64>,
}

/// Outcome of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WarmOutcome {
    /// It was fetched.
    Fetched,
    /// It was stored, or a client is getting it.
    Present,
    /// No upstream has it.
    Absent,
    /// No route of this relay stores it, or its content type is blocked.
    Refused,
    /// Its fetch failed.
    Failed,
    /// It was not reached.
    Pending,
}

/// Reason that a warm start did not reach every object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum WarmStop {
    /// `wan.windows` are closed.
    WindowClosed {
        /// Next opening, in milliseconds since 1970; `None` if there is none.
        opens: Option<UnixMillis>,
    },
    /// The next object does not fit in `store.quota`.
    StoreFull,
    /// The disk of the store fails.
    StoreDegraded {
        /// How it fails.
        detail: String,
    },
    /// Consecutive fetches failed.
    Failing {
        /// The last error.
        detail: String,
    },
}

/// Result of a warm start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WarmReport {
    /// Outcome of each object, in their order.
    pub outcomes: Vec<WarmOutcome>,
    /// Bytes of the fetched objects.
    pub bytes: u64,
    /// Reason that some were not reached.
    pub stop: Option<WarmStop>,
}

impl Refresher {
    /// Returns stored catalogs and payloads after this row of the index.
    ///
    /// # Errors
    /// When the index cannot be read, or the relay is stopping.
    pub async fn list_content(&self, after: i64) -> Result<ContentList, StoreError> {
        let worker = self.worker.upgrade().ok_or(StoreError::Released)?;
        let (page, background) = (worker.store.page(after).await?, &worker.background);
        let next = page.last().map(|last| last.id);
        let items = page.iter().filter(|object| object.status == StatusCode::OK).filter_map(|object| {
            let catalog = background.is_catalog_key(&object.key);
            (catalog || background.is_payload_key(&object.key)).then(|| ContentItem {
                key: object.key.to_string(),
                path: stored_target(&object.headers, &object.key).map(|target| target.to_string()),
                bytes: object.len,
                last_used: object.last_used(),
                catalog,
            })
        });
        Ok(ContentList { objects: items.collect(), next })
    }

    /// Fetches objects that are not stored, one after the other, until the window closes or the store is full. Another
    /// warm start is waited for. The future may be dropped at any time.
    ///
    /// # Errors
    /// When the relay is stopping.
    pub async fn warm(&self, items: &[ContentItem]) -> Result<WarmReport, RefreshError> {
        let _turn = self.warming.lock().await;
        let worker = self.worker.upgrade().ok_or(RefreshError::Stopping)?;
        let schedule = self.settings.borrow().schedule.clone();
        let mut report =
            WarmReport { outcomes: vec![WarmOutcome::Pending; items.len()], ..WarmReport::default() };
        let window = schedule.closes(worker.clock.now());
        let is_closed = match window {
            None => true,
            Some(closes) => tokio::select! {
                biased;
                () = sleep_until(&worker.clock, closes) => true,
                () = worker.warm_all(items, &mut report) => false,
            },
        };
        if is_closed {
            // A number of zero stands for the first instant of the window.
            let opens = schedule.opening(worker.clock.now(), 0);
            tracing::debug!(objects = items.len(), "warm start stopped: the window is closed");
            report.stop = Some(WarmStop::WindowClosed { opens });
        }
        let fetched = report.count(WarmOutcome::Fetched);
        if fetched > 0 {
            tracing::info!(objects = items.len(), fetched, bytes = report.bytes, "content warmed");
        }
        Ok(report)
    }
}

impl WarmReport {
    /// Returns the number of objects with this outcome.
    pub fn count(&self, outcome: WarmOutcome) -> usize {
        self.outcomes.iter().filter(|found| **found == outcome).count()
    }
}

impl RefreshWorker {
    async fn warm_all(&self, items: &[ContentItem], report: &mut WarmReport) {
        let mut failures = 0;
        for (at, item) in items.iter().enumerate() {
            if let Some(degraded) = self.store.degradation() {
                report.stop = Some(WarmStop::StoreDegraded { detail: degraded.detail.to_string() });
                return;
            }
            let (outcome, bytes) = match self.warm_one(item).await {
                Ok(Some(found)) => found,
                Ok(None) => {
                    report.stop = Some(WarmStop::StoreFull);
                    return;
                }
                Err(detail) => {
                    tracing::warn!(key = item.key, error = detail, "object not warmed");
                    failures += 1;
                    if failures == MAX_FAILURES {
                        report.stop = Some(WarmStop::Failing { detail });
                    }
                    (WarmOutcome::Failed, 0)
                }
            };
            if outcome != WarmOutcome::Failed {
                failures = 0;
            }
            if let Some(entry) = report.outcomes.get_mut(at) {
                *entry = outcome;
            }
            report.bytes = report.bytes.saturating_add(bytes);
            if report.stop.is_some() {
                return;
            }
        }
    }

    /// Fetches one object; `None` if it does not fit in the store.
    async fn warm_one(&self, item: &ContentItem) -> Result<Option<(WarmOutcome, u64)>, String> {
        let (key, background) = (ObjectKey::from(&*item.key), &self.background);
        if !background.is_payload_key(&key) && !background.is_catalog_key(&key) {
            return Ok(Some((WarmOutcome::Refused, 0)));
        }
        let path = item.path.as_deref().and_then(|path| path.parse::<PathAndQuery>().ok());
        let path = path.filter(|path| background.is_spelling(&key, path));
        let room = self.store.quota().saturating_sub(self.store.stats().disk_bytes);
        let room = room.saturating_sub(RESERVED_ROOM);
        // A fill reserves its room when it begins, and evicts others for it.
        if item.bytes > room {
            let stored = self.store.lookup(&key).await.map_err(|error| error.to_string())?;
            return Ok((!stored.is_empty()).then_some((WarmOutcome::Present, 0)));
        }
        // Not counted as a prefetch without use: clients of another relay have used it.
        let fetched = Box::pin(background.prefetch(&key, path.as_ref(), room)).await;
        Ok(match fetched.map_err(|error| error.to_string())? {
            FetchOutcome::New { entry, .. } => Some((WarmOutcome::Fetched, entry.object.len)),
            FetchOutcome::Unchanged => Some((WarmOutcome::Present, 0)),
            FetchOutcome::Nothing { .. } => Some((WarmOutcome::Absent, 0)),
            FetchOutcome::TooLarge => None,
        })
    }
}
