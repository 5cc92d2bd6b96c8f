//! The origin of stored content: from an object's key back to its route, the upstreams of that route or of its binding,
//! and a target that they accept. Damaged blobs that the scrub found are repaired from there; those that no upstream
//! has any more are removed, so that the next request fetches them anew. The store's checksums decide which bytes are
//! right.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Version};

use super::Background;
use crate::Generation;
use gupd_cache::fill::{BackgroundFetch, FillError, FillRequest, RangeFetchError, fetch_range};
use gupd_http::forwarding;
use gupd_http::{VaryFields, key, spelling};
use gupd_net::field_names::FieldNames;
use gupd_net::shape::Purpose;
use gupd_store::{BlobId, Object, ObjectKey, ReadError, RepairError, StoreError};

/// Error of fetching an object again.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The configuration has changed since the object was stored.
    #[error("route {name:?}: no longer configured")]
    NoRoute {
        /// The route of the object.
        name: String,
    },
    /// The configuration has changed since the object was stored.
    #[error("upstreams {name:?}: no group is bound to them any more")]
    NoBinding {
        /// The binding of the object.
        name: String,
    },
    /// The key does not make a request.
    #[error("key {key:?}: not a valid request target")]
    Key {
        /// The key.
        key: ObjectKey,
    },
    /// The path is refused, or no route takes it.
    #[error("path {path}: no route takes it")]
    Path {
        /// The path.
        path: PathAndQuery,
    },
    /// The index cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No upstream that may have the bytes gives them.
    #[error(transparent)]
    Fetch(#[from] RangeFetchError),
    /// The fill failed.
    #[error(transparent)]
    Fill(#[from] FillError),
}

impl From<OriginError> for RepairError {
    fn from(error: OriginError) -> Self {
        match error {
            OriginError::Fetch(error) => error.into(),
            // No upstream was asked: it may have the content.
            error => Self::Unavailable(Arc::from(error.to_string())),
        }
    }
}

impl Generation {
    /// Fetches `range` of a stored object, a chunk at most, from any upstream that may have it.
    ///
    /// # Errors
    /// When the object's route is no longer configured, or none of its upstreams gives the bytes.
    pub async fn fetch_range(&self, object: &Object, range: Range<u64>) -> Result<Bytes, OriginError> {
        let request = self.refetch_request(object)?;
        request.bandwidth.set_purpose(Purpose::Repair);
        Ok(fetch_range(&request, range, &self.upstreams).await?)
    }

    /// Fetches `range` of a stored object, a chunk at most, from any upstream, whatever the object's route. For a command
    /// that names the upstreams.
    ///
    /// # Errors
    /// When no upstream gives the bytes.
    pub async fn fetch_range_from_any(
        &self,
        object: &Object,
        range: Range<u64>,
    ) -> Result<Bytes, OriginError> {
        let key::KeyParts { target, .. } = key::split_key(object.copy_mark().1);
        let target_error = || OriginError::Key { key: object.key.clone() };
        let normal = target.split('?').next().unwrap_or_default();
        let route = self.policy.route(None, normal).ok_or_else(target_error)?;
        let key = ObjectKey::from(format!("{} {target}", route.name));
        let selecting = VaryFields::decode(&object.selecting).ok_or_else(target_error)?;
        let mut request = self.fill_request(&key, selecting.request())?;
        request.upstream_order = self.upstreams.iter().map(|upstream| upstream.id.clone()).collect();
        request.target = spelling::stored_target(&object.headers, &key).ok_or_else(target_error)?;
        request.bandwidth.set_purpose(Purpose::Repair);
        Ok(fetch_range(&request, range, &self.upstreams).await?)
    }

    /// The fill of a stored object, as a client whose request selects it would ask.
    pub(super) fn refetch_request(&self, object: &Object) -> Result<FillRequest, OriginError> {
        let selecting = VaryFields::decode(&object.selecting)
            .ok_or_else(|| OriginError::Key { key: object.key.clone() })?;
        let mut request = self.fill_request(&object.key, selecting.request())?;
        request.target = spelled_target(object)?;
        request.variant.clone_from(&object.selecting);
        self.prefer_author(&mut request, object);
        Ok(request)
    }

    /// The fill of a key, as a client with these fields would ask.
    pub(super) fn fill_request(&self, key: &ObjectKey, asked: HeaderMap) -> Result<FillRequest, OriginError> {
        let key::KeyParts { route: name, binding, target: normal } = key::split_key(key);
        let route =
            self.policy.find_route(name).ok_or_else(|| OriginError::NoRoute { name: name.to_owned() })?;
        let upstreams = match binding {
            None => &route.upstreams,
            Some(name) => {
                let bound = self.policy.find_binding(name);
                bound.ok_or_else(|| OriginError::NoBinding { name: name.to_owned() })?.upstreams()
            }
        };
        let target = self.configured_targets.get(normal).cloned().or_else(|| key::request_target(normal));
        let target = target.ok_or_else(|| OriginError::Key { key: key.clone() })?;
        let path = normal.split('?').next().unwrap_or_default();
        let classification = self.policy.classify(route, path);
        let bandwidth =
            self.upstreams.wan().bandwidth_class(path, &classification, None, Purpose::Revalidation);
        Ok(FillRequest {
            key: key.clone(),
            variant: String::new(),
            upstream_order: upstreams.clone(),
            headers: forwarding::prepare_fill(
                &asked,
                Version::HTTP_11,
                &classification,
                self.upstreams.instance(),
            ),
            target,
            client_headers: asked,
            field_names: FieldNames::default(),
            classification,
            stale: None,
            part: None,
            background: Some(BackgroundFetch::Revalidation),
            bandwidth,
            client: None,
            group: None,
        })
    }
}

/// Returns the target of a stored object, as it was sent upstream.
pub(super) fn spelled_target(object: &Object) -> Result<PathAndQuery, OriginError> {
    spelling::stored_target(&object.headers, &object.key)
        .ok_or_else(|| OriginError::Key { key: object.key.clone() })
}

impl Background {
    /// Repairs a damaged blob by the configuration in force, or removes it if no upstream has the bytes any more. A
    /// blob that cannot be repaired now stays: most of it is intact, no reader gets the rest, and the next read or
    /// scrub tries again.
    pub async fn repair_blob(&self, blob: BlobId) {
        let generation = self.generations.load_full();
        let fetch = |object: Arc<Object>, range| {
            let generation = &generation;
            async move { generation.fetch_range(&object, range).await }
        };
        let unrepaired = match self.cache.store().repair_blob(blob, fetch).await {
            Ok(fetched) => {
                tracing::warn!(%blob, fetched, "damaged blob repaired");
                return;
            }
            // A disk or a line that fails now says nothing about the bytes.
            Err(error @ (RepairError::Read(ReadError::Io { .. }) | RepairError::Unavailable(_))) => {
                tracing::error!(%blob, %error, "damaged blob not repaired now: retried by the next read or scrub");
                return;
            }
            Err(unrepaired) => unrepaired,
        };
        match self.cache.discard_blob(blob).await {
            Ok(()) => tracing::error!(%blob, %unrepaired, "damaged blob removed: no upstream has it"),
            Err(error) => tracing::error!(%blob, %error, "damaged blob not removed"),
        }
    }
}
