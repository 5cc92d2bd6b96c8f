//! A catalog, asked of one upstream and of no other: what a coherent set of them is collected by. It goes through the same
//! fills as every request, so that it is judged and stored like one, but what others have asked meanwhile is no answer:
//! nobody knows whom, and when. Owns how that is asked and what counts as an answer; what is collected when is
//! `refresh`'s to say.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::origin::Irretrievable;
use super::{Absentees, Arrivals, Generation, Proxy};
use gupd_cache::fill::{Ended, Errand, FillError, Joined, Wanted};
use gupd_cache::{Entry, Found};
use gupd_config::{Class, UpstreamId};
use gupd_http::{CacheControl, Verdict};
use gupd_net::shape::Purpose;
use gupd_net::upstream::Upstream;
use gupd_store::StoreError;

/// How often one question is asked again, because the content changed meanwhile or somebody else's was on its way.
const MAX_TRIES: usize = 4;

/// An upstream that the catalogs of a source may be collected from, as one configuration has it.
#[derive(Clone, Debug)]
pub struct Candidate {
    generation: Arc<Generation>,
    id: UpstreamId,
    name: Arc<str>,
}

/// Why it is not known what an upstream has.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// It cannot be asked, or does not answer.
    #[error(transparent)]
    Failed(#[from] Irretrievable),
    /// It answers with neither a catalog nor the news that there is none.
    #[error(
        "upstream {upstream} answered {status} for {key:?}, which is neither a catalog nor none; see why it does, or take the path out of refresh.catalogs"
    )]
    Status {
        /// Its name.
        upstream: Arc<str>,
        /// What was asked for.
        key: Arc<str>,
        /// Its answer.
        status: StatusCode,
    },
    /// What it gave could not be stored, so no client can have it.
    #[error("what upstream {upstream} gave for {key:?} could not be stored")]
    NotStored {
        /// Its name.
        upstream: Arc<str>,
        /// What was asked for.
        key: Arc<str>,
    },
}

impl From<FillError> for Unanswered {
    fn from(error: FillError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<StoreError> for Unanswered {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl Candidate {
    /// The upstream's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Proxy {
    /// Has the store know what clients used until now: it is told of that from time to time.
    pub async fn note_uses(&self) -> Result<(), StoreError> {
        self.cache.record_uses().await
    }

    /// Catalogs that clients ask for and no revision has.
    pub fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// When clients asked for catalogs that there are none of.
    pub fn absentees(&self) -> &Absentees {
        &self.absentees
    }

    /// Whether what is stored under this key, or would be, is a catalog that the relay may ask for.
    pub fn is_catalog_key(&self, key: &str) -> bool {
        self.generations.load().classify(key).is_some_and(|classified| classified.class == Class::Catalog)
    }

    /// The upstreams that a catalog, and so all of its source, may be collected from: whom to ask first is first.
    ///
    /// # Errors
    /// When the configuration has none for it.
    pub fn candidates(&self, key: &Arc<str>) -> Result<Vec<Candidate>, Irretrievable> {
        let generation = self.generations.load_full();
        let wanted = generation.wanted_for(key, HeaderMap::new())?;
        let candidate = |upstream: Arc<Upstream>| Candidate {
            generation: generation.clone(),
            id: upstream.id.clone(),
            name: upstream.name.clone(),
        };
        Ok(generation.upstreams.order_by_rank(&wanted.order).into_iter().map(candidate).collect())
    }

    /// What this upstream has under a catalog's key at this moment; `None` if it has none.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn ask_one(
        &self,
        upstream: &Candidate,
        key: &Arc<str>,
        purpose: Purpose,
    ) -> Result<Option<Arc<Entry>>, Unanswered> {
        let Candidate { generation, id, name } = upstream;
        let mut wanted = Wanted {
            order: Arc::from([id.clone()]),
            errand: Some(Errand::Collect),
            ..generation.wanted_for(key, HeaderMap::new())?
        };
        wanted.bandwidth.set_purpose(purpose);
        let mut last = FillError::Abandoned;
        for _ in 0..MAX_TRIES {
            let found = self.cache.find(key, &wanted.asked, &wanted.classified).await?;
            (wanted.variant, wanted.stale) = match found {
                Found::Nothing => (String::new(), None),
                Found::OtherVariant { variant } => (variant, None),
                // Managers copy files with their dates: what one has not changed since another's date may be older.
                Found::Entry(entry) => {
                    let is_its_own = entry.object.upstream == *name;
                    (entry.object.selecting.clone(), is_its_own.then_some(entry))
                }
            };
            let (fill, handover) = match self.fills.join(wanted.clone(), &generation.upstreams) {
                Joined::Started(fill, handover) => (fill, handover),
                Joined::Following(fill) => {
                    fill.ended().await;
                    continue;
                }
                Joined::Stored(_) => continue,
            };
            let (entry, status) = match fill.ended().await {
                Ended::Stored(entry) | Ended::NotModified(entry) => {
                    let status = entry.object.status;
                    (Some(entry), Some(status))
                }
                Ended::Unkept => (None, handover.await.ok().map(|answer| answer.response.status())),
                Ended::Failed(
                    error @ (FillError::Changed { .. } | FillError::Mismatch { .. } | FillError::Abandoned),
                ) => {
                    last = error;
                    continue;
                }
                Ended::Failed(error) => return Err(error.into()),
            };
            return match (entry, status) {
                (Some(entry), Some(StatusCode::OK)) => Ok(Some(entry)),
                (_, Some(StatusCode::NOT_FOUND | StatusCode::GONE)) => Ok(None),
                (None, None | Some(StatusCode::OK)) => {
                    Err(Unanswered::NotStored { upstream: name.clone(), key: key.clone() })
                }
                (_, status) => Err(Unanswered::Status {
                    upstream: name.clone(),
                    key: key.clone(),
                    status: status.unwrap_or_default(),
                }),
            };
        }
        Err(last.into())
    }

    /// Whether an upstream has said a moment ago that there is none under this key.
    pub async fn was_absent(&self, key: &Arc<str>) -> bool {
        let generation = self.generations.load_full();
        let Ok(wanted) = generation.wanted_for(key, HeaderMap::new()) else { return false };
        match self.cache.find(key, &wanted.asked, &wanted.classified).await {
            Ok(Found::Entry(entry)) => {
                let verdict = entry.freshness.evaluate(self.cache.clock().now(), &CacheControl::default());
                verdict == Verdict::Fresh
                    && matches!(entry.object.status, StatusCode::NOT_FOUND | StatusCode::GONE)
            }
            _ => false,
        }
    }
}
