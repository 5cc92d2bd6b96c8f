//! Catalogs fetched from one upstream: a coherent set of them is collected from a single one. They go through the same
//! fills as every request, and are judged and stored alike. A fill that others have started is no
//! answer, because its upstream and its moment are not known. `refresh` decides which catalogs are collected and when.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::origin::spelled_target;
use super::{Background, OriginError};
use crate::Generation;
use gupd_cache::fill::{BackgroundFetch, FillError, FillRequest, FillResult, Joined};
use gupd_cache::{CacheEntry, CacheLookup};
use gupd_config::UpstreamId;
use gupd_http::{CacheControl, Verdict};
use gupd_net::shape::Purpose;
use gupd_net::upstream::Upstream;
use gupd_store::{ObjectKey, StoreError};

/// Attempts at one catalog: the content may change meanwhile, or another fill be running.
const MAX_TRIES: usize = 4;

/// An upstream of one generation that catalogs may be collected from.
#[derive(Clone, Debug)]
pub struct CatalogSource {
    generation: Arc<Generation>,
    id: UpstreamId,
    name: Arc<str>,
}

/// Error of fetching a catalog from one upstream.
#[derive(Debug, thiserror::Error)]
pub enum CatalogFetchError {
    /// The upstream cannot be asked, or does not answer.
    #[error(transparent)]
    Failed(#[from] OriginError),
    /// The upstream answers neither with a catalog nor with 404 or 410.
    #[error(
        "upstream {upstream}: answered {status} for {key:?}, neither a catalog nor 404: check the manager, or remove the path from refresh.catalogs"
    )]
    Status {
        /// Name of the upstream.
        upstream: Arc<str>,
        /// Key of the catalog.
        key: ObjectKey,
        /// Its answer.
        status: StatusCode,
    },
    /// The response could not be stored, so no client can get it.
    #[error("upstream {upstream}: the response for {key:?} could not be stored: check the store")]
    NotStored {
        /// Name of the upstream.
        upstream: Arc<str>,
        /// Key of the catalog.
        key: ObjectKey,
    },
}

impl From<FillError> for CatalogFetchError {
    fn from(error: FillError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<StoreError> for CatalogFetchError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl CatalogSource {
    /// The upstream's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The result of a fill that ended with this entry, or with this status alone.
    fn result(
        &self,
        key: &ObjectKey,
        entry: Option<Arc<CacheEntry>>,
        status: Option<StatusCode>,
    ) -> Result<Option<Arc<CacheEntry>>, CatalogFetchError> {
        let (upstream, key) = (self.name.clone(), key.clone());
        match (entry, status) {
            (Some(entry), Some(StatusCode::OK)) => Ok(Some(entry)),
            (_, Some(StatusCode::NOT_FOUND | StatusCode::GONE)) => Ok(None),
            (_, None | Some(StatusCode::OK)) => Err(CatalogFetchError::NotStored { upstream, key }),
            (_, Some(status)) => Err(CatalogFetchError::Status { upstream, key, status }),
        }
    }
}

impl Background {
    /// The upstreams that the catalogs of a key's route or binding may be collected from, in the order to ask them.
    ///
    /// # Errors
    /// When the configuration has none for the key.
    pub fn catalog_sources(&self, key: &ObjectKey) -> Result<Vec<CatalogSource>, OriginError> {
        let generation = self.generations.load_full();
        let request = generation.fill_request(key, HeaderMap::new())?;
        let source = |upstream: Arc<Upstream>| CatalogSource {
            generation: generation.clone(),
            id: upstream.id.clone(),
            name: upstream.name.clone(),
        };
        Ok(generation.upstreams.order_by_rank(&request.upstream_order).into_iter().map(source).collect())
    }

    /// Fetches the catalog that this upstream has now; `None` if it has none.
    ///
    /// # Errors
    /// When the upstream does not answer, or not with a catalog that can be stored.
    pub async fn fetch_catalog(
        &self,
        upstream: &CatalogSource,
        key: &ObjectKey,
        purpose: Purpose,
    ) -> Result<Option<Arc<CacheEntry>>, CatalogFetchError> {
        let CatalogSource { generation, id, name } = upstream;
        let mut request = FillRequest {
            upstream_order: Arc::from([id.clone()]),
            background: Some(BackgroundFetch::Collect),
            ..generation.fill_request(key, HeaderMap::new())?
        };
        request.bandwidth.set_purpose(purpose);
        let mut last = FillError::Abandoned;
        for _ in 0..MAX_TRIES {
            let found = self.cache.find(key, request.selecting(), &request.classification).await?;
            (request.variant, request.stale) = match found {
                CacheLookup::Miss => (String::new(), None),
                CacheLookup::OtherVariant { variant } => (variant, None),
                // Managers copy files with their dates: a file that one manager has not changed since another's date
                // may be older.
                CacheLookup::Hit(entry) => {
                    request.target = spelled_target(&entry.object)?;
                    let is_from_source =
                        entry.object.upstream == *name && self.fills.digests().prove_stored(&entry).await;
                    (entry.object.selecting.clone(), is_from_source.then_some(entry))
                }
            };
            let (fill, handover) = match self.fills.join(request.clone(), &generation.upstreams) {
                Joined::Started(fill, handover) => (fill, handover),
                Joined::Following(fill) | Joined::Completed(fill) => {
                    fill.fetch_all().await;
                    continue;
                }
                Joined::Stored(_) => continue,
            };
            let (entry, status) = match fill.fetch_all().await {
                FillResult::Stored(entry) | FillResult::NotModified(entry) => {
                    let status = entry.object.status;
                    (Some(entry), Some(status))
                }
                FillResult::NotKept => {
                    (None, handover.response().await.map(|answer| answer.response.status()))
                }
                FillResult::Failed(
                    error @ (FillError::Changed { .. } | FillError::Mismatch { .. } | FillError::Abandoned),
                ) => {
                    last = error;
                    continue;
                }
                FillResult::Failed(error) => return Err(error.into()),
            };
            return upstream.result(key, entry, status);
        }
        Err(last.into())
    }

    /// Returns true if an upstream has answered a moment ago that the object of this key does not exist.
    pub async fn was_absent(&self, key: &ObjectKey) -> bool {
        let generation = self.generations.load_full();
        let Ok(request) = generation.fill_request(key, HeaderMap::new()) else { return false };
        match self.cache.find(key, request.selecting(), &request.classification).await {
            Ok(CacheLookup::Hit(entry)) => {
                let verdict = entry.evaluate(self.cache.clock().now(), &CacheControl::default());
                verdict == Verdict::Fresh
                    && matches!(entry.object.status, StatusCode::NOT_FOUND | StatusCode::GONE)
            }
            _ => false,
        }
    }
}
