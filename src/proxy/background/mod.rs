//! Background fetches: requests that the relay makes by itself, apart from the pipeline that answers clients. They use
//! the same cache and the same fills, so that no object is fetched twice. `refresh` decides when and for which objects.
//! The pipeline leaves here the catalogs that clients wait for and the revisions that their requests announce.

mod check;
mod collect;
mod fetch;
mod missing;
mod origin;
mod pending;
mod revisions;

use std::sync::Arc;

use http::StatusCode;
use http::uri::PathAndQuery;

pub use self::check::CheckOutcome;
pub use self::collect::{CatalogFetchError, CatalogSource};
pub use self::fetch::FetchOutcome;
pub use self::missing::MissingCatalogs;
pub use self::origin::OriginError;
pub use self::pending::{PendingCatalogs, PendingOutcome};
pub use self::revisions::NewRevisions;
use crate::{Generation, Generations};
use gupd_cache::Cache;
use gupd_cache::fill::Fills;
use gupd_config::Class;
use gupd_config::policy::{Classification, RevisionFile};
use gupd_http::key::{self, KeyBinding, KeyParts};
use gupd_store::{Object, ObjectKey, StoreError};

/// Fetches of the relay's own, and the notifications that clients leave for them.
#[derive(Debug)]
pub struct Background {
    generations: Arc<Generations>,
    cache: Arc<Cache>,
    fills: Fills,
    new_revisions: NewRevisions,
    pending: PendingCatalogs,
    missing: MissingCatalogs,
}

impl Background {
    pub(crate) fn new(generations: Arc<Generations>, fills: Fills) -> Self {
        Self {
            generations,
            cache: fills.cache().clone(),
            fills,
            new_revisions: NewRevisions::default(),
            pending: PendingCatalogs::default(),
            missing: MissingCatalogs::default(),
        }
    }

    /// The running fills.
    pub fn fills(&self) -> &Fills {
        &self.fills
    }

    /// Revisions that clients' requests have announced.
    pub fn new_revisions(&self) -> &NewRevisions {
        &self.new_revisions
    }

    /// Catalogs that clients wait for and no revision has.
    pub fn pending_catalogs(&self) -> &PendingCatalogs {
        &self.pending
    }

    /// Catalogs that the newest revision records as absent.
    pub fn missing_catalogs(&self) -> &MissingCatalogs {
        &self.missing
    }

    /// Writes the last uses of stored objects to the index, which is told of them only from time to time.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn record_uses(&self) -> Result<(), StoreError> {
        self.cache.record_uses().await
    }

    /// Returns true if an object is a catalog that its upstream had when last asked.
    pub fn is_catalog(&self, object: &Object) -> bool {
        object.status == StatusCode::OK && self.is_catalog_key(&object.key)
    }

    /// Returns true if the object of this key, stored or not, is a catalog that the relay may fetch.
    pub fn is_catalog_key(&self, key: &str) -> bool {
        self.class(key) == Some(Class::Catalog)
    }

    /// Returns true if the object of this key, stored or not, is a payload that the relay may fetch.
    pub fn is_payload_key(&self, key: &str) -> bool {
        self.class(key) == Some(Class::Payload)
    }

    /// Returns the number of digits with which the name of this payload begins, by the profile of its route.
    pub fn stamp_digits(&self, key: &str) -> Option<usize> {
        self.generations.load().classify(key)?.stamp_digits()
    }

    /// Returns the file of a revision that a key is for, by the profile of its route.
    pub fn revision_file<'a>(&self, key: &'a str) -> Option<RevisionFile<'a>> {
        key::revision_file(&self.generations.load().policy, key)
    }

    fn class(&self, key: &str) -> Option<Class> {
        self.generations.load().classify(key).map(|classification| classification.class)
    }

    /// Returns true if clients that spell the path so get the object of this key.
    pub fn is_spelling(&self, key: &str, path: &PathAndQuery) -> bool {
        let (parts, generation) = (key::split_key(key), self.generations.load());
        let route = generation.policy.find_route(parts.route);
        let Some((route, normal)) = route.zip(key::normalize(path.path(), path.query()).ok()) else {
            return false;
        };
        let classified = generation.policy.classify(route, normal.path());
        normal.with_query(classified.key_query()).path_and_query() == parts.target
    }

    /// The keys under which a path on a route of every host is stored: one, or one for each binding.
    ///
    /// # Errors
    /// When no route takes the path.
    pub fn keys_of(&self, path: &PathAndQuery) -> Result<Vec<ObjectKey>, OriginError> {
        let refused = || OriginError::Path { path: path.clone() };
        let normal = key::normalize(path.path(), path.query()).map_err(|_| refused())?;
        let generation = self.generations.load();
        let policy = &generation.policy;
        let route = policy.route(None, &normal.canonical_path()).ok_or_else(refused)?;
        let classified = policy.classify(route, normal.path());
        let (class, normal) = (classified.class, normal.with_query(classified.key_query()));
        let key = |bound| ObjectKey::from(normal.key(&route.name, bound));
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
}

impl Generation {
    /// Class of a key by the rules of this generation; `None` if the relay must not fetch it. That is: no route has the
    /// key, the policy denies it, or the clients that it is for are all bound to other upstreams.
    fn classify(&self, key: &str) -> Option<Classification> {
        let KeyParts { route, binding, target } = key::split_key(key);
        let path = target.split('?').next().unwrap_or_default();
        let route = self.policy.find_route(route)?;
        let classification = self.policy.classify(route, path);
        let has_clients = match binding {
            Some(name) => self.policy.find_binding(name).is_some(),
            None => classification.class == Class::Payload || self.policy.has_route_destinations(),
        };
        (has_clients && self.policy.can_fetch(route, &classification)).then_some(classification)
    }
}
