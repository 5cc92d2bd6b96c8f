//! Where stored content can be had from again when no client asks for it: from an object's key back to its route, the
//! upstreams of that or of its binding, and a target they take. With it, a blob that the scrub found damaged is repaired; what no upstream
//! has any more is removed, so that the next request fetches it anew. What bytes are right is for the store's checksums
//! to say.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Version};

use super::{Generation, Proxy};
use gupd_cache::fill::{Errand, FillError, RefetchError, Wanted, refetch};
use gupd_http::forwarding;
use gupd_http::{VaryFields, key};
use gupd_net::shape::Purpose;
use gupd_store::{BlobId, Object, ReadError, RepairError, StoreError};

/// Why stored content cannot be had again.
#[derive(Debug, thiserror::Error)]
pub enum Irretrievable {
    /// The configuration has changed since it was stored.
    #[error("there is no route of the name {name:?} any more")]
    NoRoute {
        /// The route it came by.
        name: String,
    },
    /// No group is bound to the upstreams that it came from.
    #[error("no group has the upstreams {name:?} any more")]
    NoBinding {
        /// Their binding's name.
        name: String,
    },
    /// What is stored of it does not make a request.
    #[error("its key {key:?} cannot be asked for")]
    Key {
        /// The key.
        key: Arc<str>,
    },
    /// It is no path of content, or no route takes it.
    #[error("no route takes the path {path}")]
    Path {
        /// The path.
        path: PathAndQuery,
    },
    /// The index cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No upstream that may have it gives it.
    #[error(transparent)]
    Fetch(#[from] RefetchError),
    /// Its fill failed.
    #[error(transparent)]
    Fill(#[from] FillError),
}

impl From<Irretrievable> for RepairError {
    fn from(error: Irretrievable) -> Self {
        match error {
            Irretrievable::Fetch(error) => error.into(),
            Irretrievable::NoRoute { .. }
            | Irretrievable::NoBinding { .. }
            | Irretrievable::Key { .. }
            | Irretrievable::Path { .. } => Self::NotOffered(Arc::from(error.to_string())),
            Irretrievable::Store(_) | Irretrievable::Fill(_) => {
                Self::Unavailable(Arc::from(error.to_string()))
            }
        }
    }
}

impl Generation {
    /// Fetches `range` of a stored object, a chunk at most, from any upstream that may have it.
    ///
    /// # Errors
    /// When there is no such route any more, or none of its upstreams gives those bytes.
    pub async fn refetch(&self, object: &Object, range: Range<u64>) -> Result<Bytes, Irretrievable> {
        let wanted = self.wanted_again(object)?;
        wanted.bandwidth.set_purpose(Purpose::Repair);
        Ok(refetch(&wanted, range, &self.upstreams).await?)
    }

    /// As a client whose request selects this object would ask.
    pub(super) fn wanted_again(&self, object: &Object) -> Result<Wanted, Irretrievable> {
        let selecting = VaryFields::decode(&object.selecting)
            .ok_or_else(|| Irretrievable::Key { key: object.key.clone() })?;
        let mut wanted = self.wanted_for(&object.key, selecting.request())?;
        wanted.variant.clone_from(&object.selecting);
        self.ask_author_first(&mut wanted, object);
        Ok(wanted)
    }

    /// As a client with these fields would ask for what is stored under a key.
    pub(super) fn wanted_for(&self, key: &Arc<str>, asked: HeaderMap) -> Result<Wanted, Irretrievable> {
        let key::KeyParts { route: name, binding, target: normal } = key::split_key(key);
        let route =
            self.policy.find_route(name).ok_or_else(|| Irretrievable::NoRoute { name: name.to_owned() })?;
        let upstreams = match binding {
            None => &route.upstreams,
            Some(name) => {
                let bound = self.policy.find_binding(name);
                bound.ok_or_else(|| Irretrievable::NoBinding { name: name.to_owned() })?.upstreams()
            }
        };
        let target = key::request_target(normal).ok_or_else(|| Irretrievable::Key { key: key.clone() })?;
        let path = normal.split('?').next().unwrap_or_default();
        let classified = self.policy.classify(route, path);
        let bandwidth = self.upstreams.wan().bandwidth_class(path, &classified, None, Purpose::Revalidation);
        Ok(Wanted {
            key: key.clone(),
            variant: String::new(),
            order: upstreams.clone(),
            headers: forwarding::prepare_fill(
                &asked,
                Version::HTTP_11,
                classified.class,
                self.upstreams.instance(),
            ),
            target,
            asked,
            classified,
            stale: None,
            part: None,
            errand: Some(Errand::Revalidation),
            bandwidth,
        })
    }
}

impl Proxy {
    /// Makes a damaged blob what was stored, or removes it if nobody has that any more. One that cannot be repaired now
    /// stays: most of it is sound, no reader is given the rest, and whoever reads it or the next scrub tries again. By
    /// the configuration in force now.
    pub async fn make_good(&self, blob: BlobId) {
        let generation = self.generations.load_full();
        let fetch = |object: Arc<Object>, range| {
            let generation = &generation;
            async move { generation.refetch(&object, range).await }
        };
        let unrepaired = match self.cache.store().repair_blob(blob, fetch).await {
            Ok(fetched) => {
                tracing::warn!(%blob, fetched, "a damaged blob is what was stored again");
                return;
            }
            // A disk or a line that does not answer now says nothing about the bytes.
            Err(error @ (RepairError::Read(ReadError::Io { .. }) | RepairError::Unavailable(_))) => {
                tracing::error!(%blob, %error,
                    "a damaged blob cannot be repaired now; it is when it is read, or by the next scrub");
                return;
            }
            Err(unrepaired) => unrepaired,
        };
        match self.cache.discard_blob(blob).await {
            Ok(()) => tracing::error!(%blob, %unrepaired, "removed a damaged blob that cannot be repaired"),
            Err(error) => tracing::error!(%blob, %error, "a damaged blob could not be removed"),
        }
    }
}
