//! Requests of the relay's own: whether a stored response is still good, and content that clients may want later. They
//! go through the same look-up and the same fills as clients' requests, so that neither is made twice, and answer
//! nobody. Owns how such a request is made; when and for what is `refresh`'s to say.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode};

use super::origin::Irretrievable;
use super::{Generation, News, Proxy};
use gupd_cache::fill::{self, Ended, Errand, FillError, Joined, Wanted};
use gupd_cache::{Entry, Found};
use gupd_config::Class;
use gupd_config::policy::Classification;
use gupd_http::key::{self, KeyBinding, KeyParts};
use gupd_http::{CacheControl, Verdict};
use gupd_net::shape::Purpose;
use gupd_store::Object;

/// How often one request is made again, because its content changed meanwhile.
const MAX_TRIES: usize = 3;

/// What came of a request.
#[derive(Debug)]
pub enum Fetched {
    /// What is stored is good, or on its way to a client.
    Unchanged,
    /// It came, and is stored.
    New {
        /// The response.
        entry: Arc<Entry>,
        /// A client has asked for it meanwhile.
        for_client: bool,
    },
    /// The upstream has none that could be kept.
    Nothing,
    /// It is larger than it may be.
    TooLarge,
}

impl Generation {
    /// What a stored response is by the rules in force; `None` if the relay has no route for it, or must not fetch it.
    /// Nor what only clients of a binding would get that is no group's any more, or that every group has left for one.
    pub(super) fn classify(&self, key: &str) -> Option<Classification> {
        let KeyParts { route, binding, target } = key::split_key(key);
        let path = target.split('?').next().unwrap_or_default();
        let route = self.policy.find_route(route)?;
        let classified = self.policy.classify(route, path);
        let is_somebodys = match binding {
            Some(name) => self.policy.find_binding(name).is_some(),
            None => classified.class == Class::Payload || self.policy.has_route_destinations(),
        };
        (is_somebodys && self.policy.can_fetch(route, &classified)).then_some(classified)
    }
}

impl Proxy {
    /// Whether an object is a catalog that its upstream had when it was last asked.
    pub fn is_catalog(&self, object: &Object) -> bool {
        let class = self.generations.load().classify(&object.key).map(|classified| classified.class);
        class == Some(Class::Catalog) && object.status == StatusCode::OK
    }

    /// Whether what is stored under this key, or would be, is a payload.
    pub fn is_payload(&self, key: &str) -> bool {
        self.generations.load().classify(key).is_some_and(|classified| classified.class == Class::Payload)
    }

    /// What clients have begun to ask for.
    pub fn news(&self) -> &News {
        &self.news
    }

    /// The keys that a path, on a route of every host, is stored under: one, or one for each way that clients' requests
    /// for it go.
    ///
    /// # Errors
    /// When it is none of content.
    pub fn keys_of(&self, path: &PathAndQuery) -> Result<Vec<Arc<str>>, Irretrievable> {
        let refused = || Irretrievable::Path { path: path.clone() };
        let normal = key::normalize(path.path(), path.query()).map_err(|_| refused())?;
        let generation = self.generations.load();
        let policy = &generation.policy;
        let route = policy.route(None, normal.path()).ok_or_else(refused)?;
        let class = policy.classify(route, normal.path()).class;
        let key = |bound| Arc::from(normal.key(&route.name, bound));
        if class == Class::Payload {
            return Ok(vec![key(None)]);
        }
        let bound = policy.bindings().iter().map(|binding| KeyBinding { binding: binding.name(), class });
        Ok(policy
            .has_route_destinations()
            .then_some(None)
            .into_iter()
            .chain(bound.map(Some))
            .map(key)
            .collect())
    }

    /// Asks whether a stored response is still what its upstream has, however fresh it is. That clients have not asked
    /// for it since stays known.
    ///
    /// # Errors
    /// When it cannot be asked for, or there is no answer; what is stored stays.
    pub async fn revalidate(&self, object: &Object) -> Result<Fetched, Irretrievable> {
        let generation = self.generations.load_full();
        self.ask(&generation, generation.wanted_again(object)?, u64::MAX).await
    }

    /// The same for what is stored under a key; without that, it is fetched.
    ///
    /// # Errors
    /// When it cannot be asked for, or there is no answer.
    pub async fn revalidate_key(&self, key: &Arc<str>) -> Result<Fetched, Irretrievable> {
        let generation = self.generations.load_full();
        self.ask(&generation, generation.wanted_for(key, HeaderMap::new())?, u64::MAX).await
    }

    /// Fetches what is not stored under a key, or not good any more, of `most` bytes at most. Dropped, it leaves what
    /// came for the next time.
    ///
    /// # Errors
    /// When it cannot be asked for, or its fill fails.
    pub async fn fetch_ahead(&self, key: &Arc<str>, most: u64) -> Result<Fetched, Irretrievable> {
        let generation = self.generations.load_full();
        let wanted = generation.wanted_for(key, HeaderMap::new())?;
        wanted.bandwidth.set_purpose(Purpose::Prefetch);
        let wanted = Wanted { errand: Some(Errand::Prefetch), ..wanted };
        let mut fetched = self.ask(&generation, wanted.clone(), most).await;
        // A payload is one for all, and may be what only another group's managers have.
        for binding in
            generation.policy.bindings().iter().filter(|_| wanted.classified.class == Class::Payload)
        {
            if !matches!(fetched, Ok(Fetched::Nothing) | Err(_)) {
                break;
            }
            let wanted = Wanted { order: binding.upstreams().clone(), ..wanted.clone() };
            fetched = self.ask(&generation, wanted, most).await;
        }
        fetched
    }

    async fn ask(
        &self,
        generation: &Generation,
        mut wanted: Wanted,
        most: u64,
    ) -> Result<Fetched, Irretrievable> {
        if wanted.classified.class == Class::Private || generation.classify(&wanted.key).is_none() {
            return Ok(Fetched::Nothing);
        }
        let mut last = FillError::Abandoned;
        for _ in 0..MAX_TRIES {
            match self.cache.find(&wanted.key, &wanted.asked, &wanted.classified).await? {
                Found::Nothing => wanted.stale = None,
                Found::OtherVariant { variant } => (wanted.variant, wanted.stale) = (variant, None),
                Found::Entry(entry) if generation.is_said_to_others(&wanted.order, &entry) => {
                    wanted.stale = Some(entry);
                }
                Found::Entry(entry) => {
                    let now = self.cache.clock().now();
                    let verdict = entry.freshness.evaluate(now, &CacheControl::default());
                    if wanted.errand == Some(Errand::Prefetch) && verdict == Verdict::Fresh {
                        return Ok(Fetched::Unchanged);
                    }
                    wanted.variant.clone_from(&entry.object.selecting);
                    wanted.stale = Some(entry);
                }
            }
            let (fill, begun) = match self.fills.join(wanted.clone(), &generation.upstreams) {
                // A response for one client alone is of no use to nobody.
                Joined::Started(fill, _handover) => (fill, true),
                Joined::Following(fill) => (fill, false),
                Joined::Stored(_) => return Ok(Fetched::Unchanged),
            };
            if !begun && wanted.errand == Some(Errand::Prefetch) && fill.is_for_client() {
                return Ok(Fetched::Unchanged);
            }
            if let fill::Outcome::Content(flow) = fill.outcome().await
                && let Some(length) = flow.length
                && length.saturating_sub(flow.present(0..length)) > most
            {
                return Ok(Fetched::TooLarge);
            }
            match fill.ended().await {
                Ended::Stored(entry) => return Ok(stored(&wanted, entry, fill.is_for_client())),
                Ended::NotModified(_) => return Ok(Fetched::Unchanged),
                Ended::Unkept => return Ok(Fetched::Nothing),
                Ended::Failed(
                    error @ (FillError::Changed { .. } | FillError::Mismatch { .. } | FillError::Abandoned),
                ) => last = error,
                Ended::Failed(error) => return Err(error.into()),
            }
        }
        Err(last.into())
    }
}

fn stored(wanted: &Wanted, entry: Arc<Entry>, for_client: bool) -> Fetched {
    if entry.object.status != StatusCode::OK {
        return Fetched::Nothing;
    }
    if let Some(stale) = &wanted.stale {
        if wanted.errand == Some(Errand::Revalidation) && !for_client {
            entry.touch(stale.object.last_used());
        }
        if stale.object.blob == entry.object.blob {
            return Fetched::Unchanged;
        }
    }
    Fetched::New { entry, for_client }
}
