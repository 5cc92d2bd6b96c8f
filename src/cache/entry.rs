//! A stored response with its freshness, as requests find it. It decides by arithmetic how the response may be used, and
//! is immutable except for its marks: the last use, the last revalidation for a client, and whether a newer response has
//! replaced it. No mark takes a lock.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use http::{HeaderMap, HeaderName, header};

use crate::digest::ContentProof;
use crate::negative;
use gupd_config::Class;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::Classification;
use gupd_http::control::Directive;
use gupd_http::freshness::RevalidationReason;
use gupd_http::{CacheControl, Freshness, VaryFields, Verdict};
use gupd_store::{BodySource, Object};

/// Weight of an entry besides its fields, in bytes.
const ENTRY_OVERHEAD: usize = 512;

/// Minimum time in milliseconds between revalidations of a payload for requests with `no-cache`: a wrong payload can be
/// replaced, and updaters that send `no-cache` each time cost one revalidation.
const RELOAD_INTERVAL: u64 = 60_000;

/// Maximum length of a payload without a validator that is revalidated for `no-cache`: it crosses the WAN in full.
const MAX_UNVALIDATED_RELOAD: u64 = 1 << 20;

/// Maximum number of last uses of dropped entries kept until the next flush. Beyond it, objects look a little older to
/// eviction than they are.
const MAX_PENDING_USES: usize = 100_000;

const VALIDATORS: [HeaderName; 2] = [header::ETAG, header::LAST_MODIFIED];

/// Stored response with its freshness.
#[derive(Debug)]
pub struct CacheEntry {
    /// Object in the index.
    pub object: Object,
    /// Freshness.
    pub freshness: Freshness,
    /// Selection among the key's variants.
    pub selecting: VaryFields,
    /// Class and content type of the path.
    pub classification: Classification,
    /// Fields as clients receive them, built on first use: a hit copies a map instead of building one.
    pub client_headers: OnceLock<HeaderMap>,
    /// Location of the bytes of a negative entry.
    body: Option<BodySource>,
    recorded_use: AtomicI64,
    used: AtomicBool,
    /// Time of the last revalidation at a client's request.
    last_reload: AtomicI64,
    outdated: AtomicBool,
    /// The route needs a proof of the content, and none is stored.
    awaits_proof: AtomicBool,
    /// Gets the last use when the entry is dropped.
    pending_uses: Arc<PendingUses>,
}

/// Rows and last uses of entries that are in memory no more.
// Locked to push or to take, never across I/O.
#[derive(Debug, Default)]
pub(crate) struct PendingUses(Mutex<Vec<(i64, UnixMillis)>>);

impl CacheEntry {
    pub(crate) fn new(
        object: Object,
        freshness: Freshness,
        selecting: VaryFields,
        classification: Classification,
        pending_uses: &Arc<PendingUses>,
    ) -> Self {
        let needs_proof = classification.verification.needs_proof() && !negative::is_negative(object.status);
        let has_proof = || ContentProof::from_headers(&object.headers).is_some();
        Self {
            awaits_proof: AtomicBool::new(needs_proof && !has_proof()),
            freshness,
            selecting,
            client_headers: OnceLock::new(),
            body: None,
            recorded_use: AtomicI64::new(object.last_used()),
            used: AtomicBool::new(false),
            last_reload: AtomicI64::new(object.response_time),
            outdated: AtomicBool::new(false),
            pending_uses: pending_uses.clone(),
            classification,
            object,
        }
    }

    /// Makes the entry that of a response without content, with its body in memory.
    pub(crate) fn with_body(mut self, body: BodySource) -> Self {
        self.body = Some(body);
        self
    }

    /// Returns true for a response without content, which is in memory only.
    pub(crate) fn is_negative(&self) -> bool {
        self.body.is_some()
    }

    /// Location of the bytes.
    pub fn body_source(&self) -> BodySource {
        let stored = || BodySource::Blob { id: self.object.blob, len: self.object.len };
        self.body.clone().unwrap_or_else(stored)
    }

    /// Marks the entry as used, and returns true on the first use since it became hot.
    pub fn mark_first_use(&self) -> bool {
        !self.used.load(Ordering::Relaxed) && !self.used.swap(true, Ordering::Relaxed)
    }

    /// Returns true if a request with these directives has this payload revalidated, although a payload is fresh for
    /// ever. [`claim_reload`](Self::claim_reload) decides between several of them.
    pub fn is_reload_due(&self, now: UnixMillis, request: &CacheControl) -> bool {
        self.is_reload_due_since(self.last_reload.load(Ordering::Relaxed), now, request)
    }

    /// Returns true if this request is the one that has the payload revalidated.
    pub fn claim_reload(&self, now: UnixMillis, request: &CacheControl) -> bool {
        let last = self.last_reload.load(Ordering::Relaxed);
        self.is_reload_due_since(last, now, request)
            && self.last_reload.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn is_reload_due_since(&self, last: UnixMillis, now: UnixMillis, request: &CacheControl) -> bool {
        let has_validator = || VALIDATORS.iter().any(|name| self.object.headers.contains_key(name));
        request.has(Directive::NoCache)
            && !request.has(Directive::OnlyIfCached)
            && self.classification.class == Class::Payload
            && now.abs_diff(last) >= RELOAD_INTERVAL
            && (self.object.len <= MAX_UNVALIDATED_RELOAD || has_validator())
    }

    /// Returns true if the content has no proof, and its route needs one: no request may use it before
    /// [`Digests::prove_stored`](crate::digest::Digests::prove_stored).
    pub fn awaits_proof(&self) -> bool {
        self.awaits_proof.load(Ordering::Acquire)
    }

    /// Records that the content is proven.
    pub(crate) fn confirm_proof(&self) {
        self.awaits_proof.store(false, Ordering::Release);
    }

    /// Decides how the response may be used for a request. A response that a newer one replaces is stale.
    pub fn evaluate(&self, now: UnixMillis, request: &CacheControl) -> Verdict {
        match self.outdated.load(Ordering::Acquire) || self.awaits_proof() {
            true => Verdict::Revalidate(RevalidationReason::Stale),
            false => self.freshness.evaluate(now, request),
        }
    }

    /// Records that a client may have a newer response: no later client may get this one as fresh.
    pub(crate) fn mark_outdated(&self) {
        self.outdated.store(true, Ordering::Release);
    }

    /// Records a use.
    pub fn touch(&self, now: UnixMillis) {
        self.object.touch(now);
    }

    /// Returns the row and the time of the last use, if not yet recorded.
    pub(crate) fn unrecorded_use(&self) -> Option<(i64, UnixMillis)> {
        let used = self.object.last_used();
        (self.recorded_use.swap(used, Ordering::Relaxed) != used).then_some((self.object.id, used))
    }

    /// Returns the bytes that the entry takes in memory, about.
    pub(crate) fn weight(&self) -> usize {
        let fields = self
            .object
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len().saturating_add(value.len()).saturating_add(64));
        // Twice: the stored and the client fields.
        fields.sum::<usize>().saturating_mul(2).saturating_add(ENTRY_OVERHEAD)
    }
}

impl Drop for CacheEntry {
    fn drop(&mut self) {
        // A negative entry has no row.
        if let Some(unrecorded) = self.unrecorded_use().filter(|_| !self.is_negative()) {
            self.pending_uses.push(unrecorded);
        }
    }
}

impl PendingUses {
    /// Removes and returns all uses.
    pub(crate) fn take(&self) -> Vec<(i64, UnixMillis)> {
        std::mem::take(&mut *self.lock())
    }

    fn push(&self, unrecorded: (i64, UnixMillis)) {
        let mut uses = self.lock();
        if uses.len() < MAX_PENDING_USES {
            uses.push(unrecorded);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(i64, UnixMillis)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
