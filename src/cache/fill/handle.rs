//! A follower's view of one fill: its phase, response, progress and result. Each phase carries the data that is valid
//! in it, so a follower can end only on `Complete`, on `Stored` or with an error. If the task vanishes, the phase
//! channel closes, which is also an error. Dropping a handle wakes the task, because a fill without followers may end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{FillContent, FillError, FillRequest, PrivateResponse};
use crate::CacheEntry;
use gupd_config::UpstreamId;
use gupd_config::clock::UnixMillis;
use gupd_http::status::ForwardOutcome;
use gupd_http::{CacheControl, UnstorableReason, Verdict};
use gupd_net::upstream::{CurrentUpstream, Upstream};
use gupd_store::CHUNK;

/// Phase of a fill.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// There is no response head yet.
    Asking,
    /// Bytes arrive.
    Receiving {
        /// Head and bytes.
        content: Arc<FillContent>,
        /// Number of bytes that have arrived. For content without a length, they are the first bytes.
        arrived: u64,
    },
    /// Every byte has arrived and is verified, or the content will not be kept.
    Complete {
        /// Head and bytes.
        content: Arc<FillContent>,
        /// Complete length in bytes.
        length: u64,
    },
    /// The object is in the store.
    Stored {
        /// Entry of the object.
        entry: Arc<CacheEntry>,
    },
    /// The upstream confirmed the stored response.
    NotModified {
        /// Stored response, updated with the fields of the `304`.
        entry: Arc<CacheEntry>,
    },
    /// The response may not be shared, or cannot be stored.
    Unshared {
        /// Reason.
        why: UnsharedReason,
    },
    /// No more bytes will arrive.
    Failed {
        /// Reason.
        error: FillError,
        /// The fill that replaces this one. It counts as followed while a follower of this one exists.
        successor: Option<Box<FillHandle>>,
    },
}

/// Handle to a running fill.
#[derive(Clone, Debug)]
pub struct FillHandle {
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) flags: Arc<FillFlags>,
    /// Client that follows; `None` for the relay itself.
    client: Option<IpAddr>,
    current_upstream: CurrentUpstream,
    upstream_order: Arc<[UpstreamId]>,
    // Declared after the receiver: the receiver is gone when the task wakes and counts followers.
    leave_notifier: LeaveNotifier,
}

/// Facts about a fill that its handles and its task share.
#[derive(Debug)]
pub(super) struct FillFlags {
    number: u64,
    started: Instant,
    content_type: Arc<str>,
    /// Hash of the fields that it sends.
    pub(super) fields: u64,
    /// Client that started the fill.
    starter: Option<IpAddr>,
    /// Cancelled when a client besides the starter joins.
    shared: CancellationToken,
    /// Number of requests that joined.
    joined: AtomicU64,
    /// A client has joined.
    for_client: AtomicBool,
    /// The object was changed or purged: the content is not stored.
    is_detached: AtomicBool,
}

impl FillFlags {
    pub(super) fn new(request: &FillRequest, is_for_client: bool, number: u64) -> Arc<Self> {
        Arc::new(Self {
            number,
            started: Instant::now(),
            content_type: request.classification.content_type.clone(),
            fields: request.hash_fields(),
            starter: request.client,
            shared: CancellationToken::new(),
            joined: AtomicU64::new(0),
            for_client: AtomicBool::new(is_for_client),
            is_detached: AtomicBool::new(false),
        })
    }

    /// Returns the number of the fill.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Returns the time since the start of the fill.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the number of requests that joined the fill.
    pub(super) fn joined(&self) -> u64 {
        self.joined.load(Ordering::Relaxed)
    }

    /// Returns true if a client has joined.
    pub(super) fn is_for_client(&self) -> bool {
        self.for_client.load(Ordering::Relaxed)
    }

    /// Waits until a client besides the starter has joined.
    pub(super) async fn wait_until_shared(&self) {
        self.shared.cancelled().await;
    }

    /// Returns true if the content must not be stored.
    pub(super) fn is_detached(&self) -> bool {
        self.is_detached.load(Ordering::Acquire)
    }
}

/// Wakes the fill's task when a handle is dropped.
#[derive(Clone, Debug)]
struct LeaveNotifier(Arc<Notify>);

impl Drop for LeaveNotifier {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// How a request joined its fill.
#[derive(Debug)]
pub enum Joined {
    /// The request started the fill, and receives the response if it cannot be shared.
    Started(FillHandle, PrivateResponse),
    /// The request follows a running fill.
    Following(FillHandle),
    /// The whole response of the running fill arrived before the request, which must not use it without validation.
    /// Once this fill has ended, the response can be validated.
    Completed(FillHandle),
    /// The fill ended before the request could join it; a fresh response is stored.
    Stored(Arc<CacheEntry>),
}

/// First decision of a fill about its response.
#[derive(Debug)]
pub enum FillResponse {
    /// Content that every follower may read.
    Content(Arc<FillContent>),
    /// The content has arrived and is stored.
    Stored(Arc<CacheEntry>),
    /// The stored response is still valid.
    NotModified(Arc<CacheEntry>),
    /// Only the client that started the fill may have the response.
    Unshared(UnsharedReason),
    /// There is no response.
    Failed(FillError),
}

impl FillResponse {
    /// Status of a response that every follower may read.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Content(content) => Some(content.head.status),
            Self::Stored(entry) | Self::NotModified(entry) => Some(entry.object.status),
            Self::Unshared(_) | Self::Failed(_) => None,
        }
    }
}

/// Reason why a response is not shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsharedReason {
    /// A field of the response or the request, or the class, forbids it.
    Unstorable(UnstorableReason),
    /// The store is full or cannot be written.
    NoRoom,
    /// A prefetch got this status, and no content. Clients ask for themselves, in their own spelling.
    NotPrefetched(StatusCode),
}

impl UnsharedReason {
    /// Spelling in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unstorable(why) => why.as_str(),
            Self::NoRoom => "no-room",
            Self::NotPrefetched(_) => "not-prefetched",
        }
    }
}

impl From<UnsharedReason> for ForwardOutcome {
    fn from(why: UnsharedReason) -> Self {
        match why {
            UnsharedReason::Unstorable(why) => Self::NotStored(why),
            UnsharedReason::NoRoom | UnsharedReason::NotPrefetched(_) => Self::StoreFailed,
        }
    }
}

/// Progress of a fill.
#[derive(Debug)]
pub enum FillProgress {
    /// At least the requested bytes have arrived; the complete length is unknown.
    Enough,
    /// The complete length is known.
    All {
        /// Complete length in bytes.
        length: u64,
    },
    /// The fill failed.
    Failed(FillError),
}

/// Result of a fill for a follower that wants the complete content.
#[derive(Debug)]
pub enum FillResult {
    /// The response is stored.
    Stored(Arc<CacheEntry>),
    /// The stored response is still valid.
    NotModified(Arc<CacheEntry>),
    /// The response is not kept for other clients.
    NotKept,
    /// There is no response.
    Failed(FillError),
}

/// Keeps a fill fetching every byte while it exists, at a lower priority than bytes that clients read.
#[derive(Debug)]
struct BackgroundDemand(Arc<FillContent>);

impl BackgroundDemand {
    fn new(content: &Arc<FillContent>) -> Self {
        content.background_followers.fetch_add(1, Ordering::AcqRel);
        content.attention.notify_one();
        Self(content.clone())
    }
}

impl Drop for BackgroundDemand {
    fn drop(&mut self) {
        self.0.background_followers.fetch_sub(1, Ordering::AcqRel);
        self.0.attention.notify_one();
    }
}

impl FillHandle {
    /// Returns the fill that replaces this one, after its content changed or did not match its digest.
    pub fn successor(&self) -> Option<Self> {
        match &*self.phase.borrow() {
            Phase::Failed { successor, .. } => successor.as_deref().map(|fill| fill.clone_for(self.client)),
            _ => None,
        }
    }

    pub(super) fn new(
        phase: watch::Receiver<Phase>,
        request: &FillRequest,
        flags: Arc<FillFlags>,
        current_upstream: CurrentUpstream,
        attention: Arc<Notify>,
    ) -> Self {
        let upstream_order = request.upstream_order.clone();
        let leave_notifier = LeaveNotifier(attention);
        Self { phase, flags, client: request.client, current_upstream, upstream_order, leave_notifier }
    }

    /// Waits for the response head, or for the decision that no response will be shared.
    pub async fn response(&self) -> FillResponse {
        let mut phase = self.phase.clone();
        let decided = phase.wait_for(|phase| !matches!(phase, Phase::Asking)).await;
        match decided.as_deref() {
            Ok(Phase::Receiving { content, .. } | Phase::Complete { content, .. }) => {
                FillResponse::Content(content.clone())
            }
            Ok(Phase::Stored { entry }) => FillResponse::Stored(entry.clone()),
            Ok(Phase::NotModified { entry }) => FillResponse::NotModified(entry.clone()),
            Ok(Phase::Unshared { why }) => FillResponse::Unshared(*why),
            Ok(Phase::Failed { error, .. }) => FillResponse::Failed(error.clone()),
            Ok(Phase::Asking) | Err(_) => FillResponse::Failed(FillError::Stopped),
        }
    }

    /// Waits until the first `bytes` have arrived or the fill has ended. Meant for content without a declared length,
    /// which arrives in order.
    pub async fn wait_for(&self, bytes: u64) -> FillProgress {
        let mut phase = self.phase.clone();
        let reached = phase.wait_for(|phase| match phase {
            Phase::Asking => false,
            Phase::Receiving { arrived, .. } => *arrived >= bytes,
            _ => true,
        });
        match reached.await.as_deref() {
            Ok(Phase::Receiving { .. }) => FillProgress::Enough,
            Ok(Phase::Complete { length, .. }) => FillProgress::All { length: *length },
            Ok(Phase::Stored { entry } | Phase::NotModified { entry }) => {
                FillProgress::All { length: entry.object.len }
            }
            Ok(Phase::Failed { error, .. }) => FillProgress::Failed(error.clone()),
            Ok(Phase::Asking | Phase::Unshared { .. }) | Err(_) => FillProgress::Failed(FillError::Stopped),
        }
    }

    /// Requests the complete content and waits until the object is in the cache or the fill has failed.
    pub async fn fetch_all(&self) -> FillResult {
        let mut phase = self.phase.clone();
        let mut demand = None;
        let mut is_complete = false;
        loop {
            let arriving = match &*phase.borrow_and_update() {
                Phase::Asking => None,
                Phase::Receiving { content, .. } => Some(content.clone()),
                Phase::Complete { .. } => {
                    is_complete = true;
                    None
                }
                Phase::Stored { entry } => return FillResult::Stored(entry.clone()),
                Phase::NotModified { entry } => return FillResult::NotModified(entry.clone()),
                Phase::Unshared { .. } => return FillResult::NotKept,
                Phase::Failed { error, .. } => return FillResult::Failed(error.clone()),
            };
            if let (Some(content), None) = (arriving, &demand) {
                demand = Some(BackgroundDemand::new(&content));
            }
            if phase.changed().await.is_err() {
                return if is_complete {
                    FillResult::NotKept
                } else {
                    FillResult::Failed(FillError::Stopped)
                };
            }
        }
    }

    /// Returns true if a client has joined the fill.
    pub fn is_for_client(&self) -> bool {
        self.flags.is_for_client()
    }

    /// Upstreams of the fill, by priority.
    pub fn upstream_order(&self) -> &[UpstreamId] {
        &self.upstream_order
    }

    /// Upstream that the fill asked last.
    pub fn current_upstream(&self) -> Option<Arc<Upstream>> {
        self.current_upstream.get()
    }

    /// Waits for the response head and returns true if a manager sent it. A fill from another relay of the site may
    /// wait for the relay that asks, which would be a deadlock.
    pub async fn is_from_manager(&self) -> bool {
        let mut phase = self.phase.clone();
        let decided = phase.wait_for(|phase| !matches!(phase, Phase::Asking)).await;
        match decided.as_deref() {
            Ok(Phase::Receiving { content, .. } | Phase::Complete { content, .. }) => !content.is_from_peer(),
            Ok(Phase::Stored { .. } | Phase::NotModified { .. }) => true,
            Ok(Phase::Asking | Phase::Unshared { .. } | Phase::Failed { .. }) | Err(_) => false,
        }
    }

    /// Returns false if the whole response has arrived and a new request with these directives must not use it without
    /// validation (RFC 9111 §4), or at all because it may be a page in place of a file. While the response arrives, it
    /// answers every request that joins.
    pub fn is_usable(&self, now: UnixMillis, request: &CacheControl) -> bool {
        let phase = self.phase.borrow();
        let complete = match &*phase {
            Phase::Complete { content, .. } => content,
            Phase::Receiving { content, .. } if content.has_arrived() => content,
            _ => return true,
        };
        // The commit of a small body takes milliseconds and decides about a page. That of a large one may take seconds.
        let is_undecided =
            complete.head.may_be_page() && complete.length.is_some_and(|length| length <= CHUNK);
        !is_undecided && complete.head.freshness.evaluate(now, request) == Verdict::Fresh
    }

    /// Records that a follower joined.
    pub(super) fn join(&self, request: &FillRequest) -> Self {
        self.flags.joined.fetch_add(1, Ordering::Relaxed);
        self.flags.for_client.fetch_or(request.background.is_none(), Ordering::Relaxed);
        if request.client != self.flags.starter {
            self.flags.shared.cancel();
        }
        self.clone_for(request.client)
    }

    /// Returns a handle with which `client` follows the fill.
    pub(super) fn clone_for(&self, client: Option<IpAddr>) -> Self {
        Self { client, ..self.clone() }
    }

    /// Client that follows the fill; `None` for the relay itself.
    pub(super) fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// Label of the content type.
    pub(super) fn content_type(&self) -> &str {
        &self.flags.content_type
    }

    /// Returns the length of the content, if it is known already.
    pub(super) fn length(&self) -> Option<u64> {
        match &*self.phase.borrow() {
            Phase::Receiving { content, .. } => content.length,
            Phase::Complete { length, .. } => Some(*length),
            Phase::Stored { entry } | Phase::NotModified { entry } => Some(entry.object.len),
            Phase::Asking | Phase::Unshared { .. } | Phase::Failed { .. } => None,
        }
    }

    /// Records that the object was changed or purged.
    pub(super) fn mark_detached(&self) {
        self.flags.is_detached.store(true, Ordering::Release);
    }

    pub(super) fn wake_task(&self) {
        self.leave_notifier.0.notify_one();
    }
}
