//! Records of traffic: the bytes that crossed the line by cause, client and object, and the waits of clients.
//!
//! Invariant: each byte that `gupd_upstream_received_bytes_total` counts is recorded exactly once, under one cause. The
//! records are aggregated in memory by minute or hour until the ledger takes them. The complication is the bound on
//! memory: records beyond it lose their name, never their bytes.

mod batch;
mod recorder;

use std::net::IpAddr;
use std::sync::Arc;

pub use self::batch::{
    ClientTrafficKey, GroupTrafficKey, IncidentCounts, IncidentKey, LineKey, ObjectTrafficKey, TrafficBatch,
    TrafficCounts, WaitCounts, WaitKey,
};
pub use self::recorder::TrafficRecorder;
use gupd_config::GroupId;
use gupd_config::policy::PayloadForm;

/// Reason why bytes crossed the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransferCause {
    /// A client requested content that is not stored.
    Miss,
    /// A client requested a full set that is not stored.
    FullSet,
    /// A client requested a full set after its manager had no delta.
    NoDelta,
    /// Stored content was compared with that of the upstream.
    Revalidation,
    /// The relay fetched content before clients request it.
    Prefetch,
    /// Damaged bytes were fetched again.
    Repair,
    /// The upstream sent bytes again that the relay had.
    ResumeWaste,
    /// The response was for one client alone.
    PassThrough,
    /// The shared tier had content that another relay published.
    Tier,
    /// The relay checked an upstream, or whether a request comes back to it.
    #[default]
    Check,
}

/// Reason why a client waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WaitReason {
    /// A window or a ring deferred its download.
    Deferred,
    /// Its download waited for a slot.
    Queued,
}

/// Request of a client that administrators look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Incident {
    /// A full set was sent to it, from the store or not.
    FullSet,
    /// It was refused: its address is not served.
    Refused,
}

/// Facts of a transfer that its requester knows.
#[derive(Clone, Debug, Default)]
pub struct TransferLabels {
    /// Reason for the request.
    pub cause: TransferCause,
    /// Content type of the path.
    pub content_type: Option<Arc<str>>,
    /// Form of the payload.
    pub form: Option<PayloadForm>,
    /// Group of the client that caused it; `None` for the relay itself.
    pub group: Option<GroupId>,
}

/// One transfer as it is recorded.
#[derive(Clone, Debug)]
pub struct TransferRecord {
    /// Name of the upstream or peer.
    pub upstream: Arc<str>,
    /// True for a peer, and for a tier within the site: its bytes stay on the LAN.
    pub is_peer: bool,
    /// What the requester knows.
    pub labels: TransferLabels,
    /// Client that caused it by a request; `None` for the relay itself.
    pub client: Option<IpAddr>,
    /// Path of the object, without a query.
    pub object: Arc<str>,
    /// Revision that the client updates from, as far as the path tells.
    pub from_revision: Option<Arc<str>>,
}

impl TransferCause {
    /// Every cause.
    pub const ALL: [Self; 10] = [
        Self::Miss,
        Self::FullSet,
        Self::NoDelta,
        Self::Revalidation,
        Self::Prefetch,
        Self::Repair,
        Self::ResumeWaste,
        Self::PassThrough,
        Self::Tier,
        Self::Check,
    ];

    /// Returns the label in reports and in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Miss => "client-miss",
            Self::FullSet => "full-set",
            Self::NoDelta => "full-set-no-delta",
            Self::Revalidation => "revalidation",
            Self::Prefetch => "prefetch",
            Self::Repair => "repair",
            Self::ResumeWaste => "resume-waste",
            Self::PassThrough => "pass-through",
            Self::Tier => "tier",
            Self::Check => "check",
        }
    }

    /// Returns a sentence for administrators.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Miss => "a client requested content that was not stored",
            Self::FullSet => "a client requested a full set that was not stored",
            Self::NoDelta => "full set because the manager has no delta",
            Self::Revalidation => "stored content was compared with the upstream's",
            Self::Prefetch => "fetched before clients request it",
            Self::Repair => "damaged bytes were fetched again",
            Self::ResumeWaste => "bytes that the relay had and the upstream sent again",
            Self::PassThrough => "responses for one client alone, which are never stored",
            Self::Tier => "content that another relay published in the shared tier",
            Self::Check => "health checks of upstreams",
        }
    }
}

impl Incident {
    /// Returns the label in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FullSet => "full-set",
            Self::Refused => "refused",
        }
    }
}

impl WaitReason {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::Deferred, Self::Queued];

    /// Returns the label in reports and in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deferred => "deferred",
            Self::Queued => "queued",
        }
    }
}

/// Returns the label of a form in reports and in the ledger; empty for neither full set nor delta.
pub const fn form_label(form: Option<PayloadForm>) -> &'static str {
    match form {
        Some(PayloadForm::Full) => "full",
        Some(PayloadForm::Delta) => "delta",
        Some(PayloadForm::Other) | None => "",
    }
}
