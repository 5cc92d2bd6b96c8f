//! Held content: content that its route does not accept, kept aside for an administrator. The number and the bytes are
//! bounded, because anyone on the line can make more of it. A held name is not fetched again for some minutes, so that
//! refused content does not cross the line for each client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::proof::Unproven;
use super::{ContentProof, Digests, ListedPayload};
use gupd_config::Class;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::Classification;
use gupd_http::field::composed;
use gupd_http::internal::HELD;
use gupd_http::key;
use gupd_store::{BlobWriter, NewObject, Object, ObjectKey, StoreError};

/// Maximum number of held objects: more than an administrator looks at.
const MAX_HELD: usize = 256;

/// Maximum number of names remembered as held, at about 300 bytes each.
pub(super) const MAX_REMEMBERED: usize = 10_000;

/// Time in milliseconds for which a held catalog is not fetched again: the default freshness of a catalog.
const RETRY_CATALOG: UnixMillis = 60_000;

/// The same for a payload, which may have 100 MiB.
const RETRY_PAYLOAD: UnixMillis = 600_000;

/// A refusal that is remembered.
#[derive(Clone, Debug)]
pub(super) struct RememberedHold {
    until: UnixMillis,
    reason: Unproven,
}

/// Maximum bytes of held content.
#[derive(Debug)]
pub(super) struct HeldLimit(pub(super) AtomicU64);

/// Consequence of content that a route does not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldConsequence {
    /// Kept aside.
    Held,
    /// Refused; there is no room to keep it.
    Refused,
    /// Passed on and not stored.
    PassedOn,
    /// Stored in place of the other bytes.
    Replaced,
}

impl HoldConsequence {
    pub(super) const ALL: [Self; 4] = [Self::Held, Self::Refused, Self::PassedOn, Self::Replaced];

    /// Label value of the metric.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Refused => "refused",
            Self::PassedOn => "passed-on",
            Self::Replaced => "replaced",
        }
    }
}

/// A held object, as administrators see it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HeldObject {
    /// Identity: the SHA-256 of its bytes.
    pub sha256: String,
    /// Route of the object.
    pub route: String,
    /// Path and query.
    pub path: String,
    /// Number of bytes.
    pub bytes: u64,
    /// Name of the upstream that sent it.
    #[schema(value_type = String)]
    pub upstream: Arc<str>,
    /// Time at which it arrived, in milliseconds since 1970.
    pub response_time: UnixMillis,
    /// Reason for which it is held.
    pub reason: String,
}

impl HeldObject {
    /// Describes a held object.
    pub fn new(object: &Object) -> Self {
        let held = object.held_key();
        let key::KeyParts { route, target, .. } = key::split_key(held.as_deref().unwrap_or_default());
        let reason = object.headers.get(HELD).and_then(|reason| reason.to_str().ok()).unwrap_or_default();
        Self {
            sha256: object.blob.to_string(),
            route: route.to_owned(),
            path: target.to_owned(),
            bytes: object.len,
            upstream: object.upstream.clone(),
            response_time: object.response_time,
            reason: reason.to_owned(),
        }
    }
}

/// Decision of an administrator about held content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HeldDecision {
    /// Clients get it.
    Release,
    /// It is removed.
    Reject,
}

impl Digests {
    /// Returns the reason if content of this key was refused a moment ago, and is not to be fetched again yet. Listed
    /// content can be proven now.
    pub(crate) fn remembered_hold(&self, key: &ObjectKey) -> Option<Unproven> {
        let hold = self.holds.get(&**key)?;
        let left = hold.until.saturating_sub(self.cache.clock().now());
        let is_listed = || self.listed.get(&**key).is_some_and(|listed| listed.is_signed);
        ((1..=RETRY_PAYLOAD).contains(&left) && !is_listed()).then_some(hold.reason)
    }

    /// Returns true if content of this key was refused a moment ago.
    pub fn is_refused(&self, key: &ObjectKey) -> bool {
        self.remembered_hold(key).is_some()
    }

    /// Keeps refused content aside, if there is room, and reports it.
    pub(crate) async fn hold(&self, writer: BlobWriter, object: NewObject, class: Class, reason: &Unproven) {
        let key = object.key.clone();
        let upstream = object.upstream.clone();
        self.remember_hold(&key, class, reason);
        let consequence = match self.keep_held(writer, object, reason).await {
            Ok(true) => HoldConsequence::Held,
            Ok(false) => HoldConsequence::Refused,
            Err(error) => {
                tracing::error!(%error, key = &*key, "refused content could not be kept aside");
                HoldConsequence::Refused
            }
        };
        self.report_unproven(&key, &upstream, reason, consequence);
    }

    /// Remembers that content of this key is refused.
    pub(crate) fn remember_hold(&self, key: &ObjectKey, class: Class, reason: &Unproven) {
        let time = if class == Class::Payload { RETRY_PAYLOAD } else { RETRY_CATALOG };
        let until = self.cache.clock().now().saturating_add(time);
        self.holds.insert(key.clone(), RememberedHold { until, reason: reason.clone() });
    }

    async fn keep_held(
        &self,
        writer: BlobWriter,
        object: NewObject,
        reason: &Unproven,
    ) -> Result<bool, StoreError> {
        let (blob, key) = (writer.blob_id()?, object.key.to_held());
        let held = self.cache.store().held().await?;
        if held.iter().any(|known| known.key == key && known.blob == blob) {
            writer.discard();
            return Ok(true);
        }
        let others = held.iter().filter(|known| known.key != key);
        let (count, bytes) = others.fold((0_usize, 0_u64), |(count, bytes), one| {
            (count.saturating_add(1), bytes.saturating_add(one.len))
        });
        let length = writer.partial().length().unwrap_or(u64::MAX);
        if count >= MAX_HELD || length.saturating_add(bytes) > self.held_limit.0.load(Ordering::Relaxed) {
            writer.discard();
            return Ok(false);
        }
        let mut headers = object.headers;
        headers.insert(HELD, composed(reason.to_string()));
        writer.commit(NewObject { key, headers, ..object }).await.map(|_| true)
    }

    /// Logs and counts content that its route does not accept.
    pub(crate) fn report_unproven(
        &self,
        key: &str,
        upstream: &str,
        reason: &Unproven,
        consequence: HoldConsequence,
    ) {
        let message = match consequence {
            HoldConsequence::Held => {
                "content held: it is not proven: see gupd store held, then release or reject it"
            }
            HoldConsequence::Refused => {
                "content refused and not kept: it is not proven: see verify.held_bytes and gupd store held"
            }
            HoldConsequence::PassedOn => "content passed on and not stored: it is not proven",
            HoldConsequence::Replaced => {
                "payload changed under its name; stored anew, and revalidated like a catalog from now on: check the manager"
            }
        };
        tracing::error!(key, upstream, %reason, "{message}");
        self.unproven.with_label_values(&[reason.as_str(), consequence.as_str()]).inc();
    }

    /// Returns all held content.
    ///
    /// # Errors
    /// Returns an error if the index cannot be read.
    pub async fn held(&self) -> Result<Vec<Object>, StoreError> {
        let held = self.cache.store().held().await?;
        self.held_objects.set(i64::try_from(held.len()).unwrap_or(i64::MAX));
        Ok(held)
    }

    /// Releases or rejects a held object. Returns false if it is no longer held.
    ///
    /// # Errors
    /// Returns an error if the index cannot be written.
    pub async fn decide_held(&self, held: &Object, decision: HeldDecision) -> Result<bool, StoreError> {
        let Some(key) = held.held_key() else { return Ok(false) };
        let is_done = match decision {
            HeldDecision::Reject => self.cache.store().remove(&held.key).await?.objects > 0,
            HeldDecision::Release => self.release(held, Some(ContentProof::Released)).await?,
        };
        self.forget_hold(&key);
        Ok(is_done)
    }

    /// Releases a held payload whose SHA-256 a catalog lists by now, so that it does not cross the line again. Returns
    /// true if clients can have it.
    pub async fn release_listed(&self, key: &ObjectKey, classification: &Classification) -> bool {
        let Classification { class, verification, .. } = *classification;
        if class != Class::Payload || !verification.refuses_changes() {
            return false;
        }
        if verification.needs_proof() && !self.is_listed(key, verification) {
            self.read_proven_catalogs().await;
        }
        let is_enough = |listed: &ListedPayload| listed.is_signed || !verification.needs_proof();
        let Some(listed) = self.listed.get(&**key).filter(is_enough) else { return false };
        let released = match self.cache.store().lookup(&key.to_held()).await {
            Ok(held) => match held.iter().find(|held| held.blob == listed.blob) {
                // An unsigned list is no proof for a route that needs one later.
                Some(held) => self.release(held, listed.is_signed.then_some(ContentProof::Listed)).await,
                None => return false,
            },
            Err(error) => Err(error),
        };
        match released {
            Ok(true) => {
                tracing::info!(key = &**key, sha256 = %listed.blob, "held content released: a catalog lists it");
                self.forget_hold(key);
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::error!(%error, key = &**key, "held content could not be released");
                false
            }
        }
    }

    /// Gives a held object its own key, with this proof. Returns false if it is no longer held.
    async fn release(&self, held: &Object, proof: Option<ContentProof>) -> Result<bool, StoreError> {
        let mut headers = held.headers.clone();
        headers.remove(HELD);
        if let Some(proof) = proof {
            proof.set(&mut headers);
        }
        self.cache.store().release_held(held, headers).await
    }

    fn forget_hold(&self, key: &ObjectKey) {
        self.cache.forget_evicted();
        self.holds.remove(&**key);
        self.mismatched.remove(&**key);
    }

    /// Finds the held objects with a SHA-256 that begins with `prefix`.
    ///
    /// # Errors
    /// Returns an error if the index cannot be read.
    pub async fn find_held(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let mut held = self.held().await?;
        held.retain(|object| object.blob.to_string().starts_with(&prefix.to_ascii_lowercase()));
        Ok(held)
    }
}

/// Returns true if this can be the beginning of a SHA-256 that tells one content from others.
pub fn is_held_prefix(prefix: &str) -> bool {
    (8..=64).contains(&prefix.len()) && prefix.bytes().all(|byte| byte.is_ascii_hexdigit())
}
