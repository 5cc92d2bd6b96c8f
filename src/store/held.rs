//! Held content: objects that are kept aside for an administrator and given to no client. A held object has a key of its
//! own, [`HELD`] and the object's key, which no route has. It is evicted like any other object. Held content belongs to
//! this store: no bundle contains it.

use http::HeaderMap;

use super::error::StoreError;
use super::evict;
use super::index::{IndexChange, RemovalTarget};
use super::{NewObject, Object, ObjectKey, Store};

/// First characters of the key of a held object, and of no other key.
const HELD: &str = "!held ";

/// Stored field with the proof of an object's content. It is a statement of this relay: no bundle has it.
pub(super) const PROOF_FIELD: &str = "gupd-proof";

impl Object {
    /// Returns true if the object is held.
    pub fn is_held(&self) -> bool {
        is_held(&self.key)
    }

    /// Returns the key under which a held object would be served; `None` for other objects.
    pub fn held_key(&self) -> Option<ObjectKey> {
        self.key.strip_prefix(HELD).map(ObjectKey::from)
    }
}

impl ObjectKey {
    /// Returns the key under which content of this key is held.
    pub fn to_held(&self) -> Self {
        Self::from(format!("{HELD}{}", self.as_str()))
    }
}

/// Returns true for the key of a held object.
pub(super) fn is_held(key: &str) -> bool {
    key.starts_with(HELD)
}

impl Store {
    /// Returns all held objects, ordered by key.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn held(&self) -> Result<Vec<Object>, StoreError> {
        self.health.observe(self.index.held().await)
    }

    /// Gives a held object its own key and these header fields, in one transaction. It replaces the object there. Returns
    /// false if it is no longer held.
    ///
    /// # Errors
    /// When the index cannot be written. Nothing is changed then.
    pub async fn release_held(&self, held: &Object, headers: HeaderMap) -> Result<bool, StoreError> {
        self.health.check()?;
        let Some(key) = held.held_key() else { return Ok(false) };
        let _write_token = self.lease.begin_write()?;
        let new = NewObject {
            key: key.clone(),
            selecting: held.selecting.clone(),
            status: held.status,
            headers,
            content_type: held.content_type.clone(),
            upstream: held.upstream.clone(),
            request_time: held.request_time,
            response_time: held.response_time,
        };
        let (id, blob, held_key, now) = (held.id, held.blob, held.key.to_string(), self.clock.now());
        let map_error = self.index.error_mapper();
        let release = move |change: &mut IndexChange<'_>| {
            let is_moved = change.move_object(id, blob, new, now).map_err(&map_error)?;
            if is_moved {
                change.remove(&RemovalTarget::Key(held_key)).map_err(&map_error)?;
            }
            Ok(is_moved)
        };
        let (is_released, files) = self.health.observe(self.index.change(release).await)?;
        evict::delete_files(files).await?;
        self.queue_removed_keys(vec![key]);
        Ok(is_released)
    }
}
