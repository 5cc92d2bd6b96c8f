//! Queries of the ledger and their results, as the API gives them. Bytes are those of bodies; times are RFC 3339 in UTC.

use gupd_config::clock::UnixMillis;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Rows that a report may have of each kind.
pub(crate) const MAX_ROWS: usize = 1_000;

/// A question about traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficQuery {
    /// Traffic from this time on.
    pub since: UnixMillis,
    /// Only traffic that this client caused.
    pub client: Option<String>,
    /// Only traffic that clients of this group caused.
    pub group: Option<String>,
    /// Only objects with this text in their path.
    pub object: Option<String>,
    /// Maximum number of rows of each kind, at most 1,000; 0 for sums alone, which take the least time.
    pub top: usize,
    /// Only sums and causes: no clients, objects, waits and points.
    pub without_names: bool,
}

/// The traffic since a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrafficReport {
    /// Beginning of the first interval.
    pub since: String,
    /// Time of the report.
    pub until: String,
    /// Traffic with upstreams, over the WAN.
    pub wan: TrafficSums,
    /// Traffic with peers, on the LAN.
    pub peers: TrafficSums,
    /// Traffic with clients.
    pub clients_total: SiteSums,
    /// Traffic by cause and content, the largest first.
    pub causes: Vec<CauseRow>,
    /// Traffic by client, the largest first.
    pub clients: Vec<ClientRow>,
    /// Traffic by group of the clients, the largest first.
    #[serde(default)]
    pub groups: Vec<GroupRow>,
    /// Traffic by object, the largest first.
    pub objects: Vec<ObjectRow>,
    /// Waits by client, the longest first.
    pub waits: Vec<WaitRow>,
    /// Bytes from upstreams by cause over time, in intervals of `interval_seconds`.
    pub points: Vec<TrafficPoint>,
    /// Bytes to clients by content type, the largest first.
    #[serde(default)]
    pub sent_by_type: Vec<TypeRow>,
    /// Length of an interval of `points`.
    pub interval_seconds: i64,
    /// Bytes from upstreams that this process has recorded since its start.
    pub process_received: u64,
}

/// Sums of transfers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrafficSums {
    /// Transfers that have ended.
    pub transfers: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes of request bodies sent.
    pub sent: u64,
    /// Further requests that these transfers served.
    pub followers: u64,
}

/// Sums of the responses to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteSums {
    /// Bytes sent to clients.
    pub sent: u64,
    /// Those of them that did not cross the WAN again.
    pub saved: u64,
    /// Requests answered.
    pub requests: u64,
    /// Requests answered from the store.
    pub hits: u64,
}

/// Traffic of one cause and kind of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CauseRow {
    /// The cause.
    pub cause: String,
    /// The cause in words.
    pub explanation: String,
    /// Name of the upstream or peer; empty in a report on one client or object.
    pub upstream: String,
    /// True for a peer.
    pub is_peer: bool,
    /// Content type; empty if unknown.
    pub content_type: String,
    /// `full`, `delta` or empty.
    pub form: String,
    /// Revision that the client updates from; empty if unknown.
    pub from_revision: String,
    /// The sums.
    #[serde(flatten)]
    pub sums: TrafficSums,
}

/// Bytes of one content type that clients got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TypeRow {
    /// Content type.
    pub content_type: String,
    /// Bytes sent to clients.
    pub sent: u64,
}

/// Traffic that one client caused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClientRow {
    /// Its address; `relay` for the relay itself, `others` for clients without a row of their own.
    pub client: String,
    /// The sums.
    #[serde(flatten)]
    pub sums: TrafficSums,
}

/// Traffic that the clients of one group caused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupRow {
    /// Its name; `relay` for the relay itself, `others` for groups without a row of their own.
    pub group: String,
    /// The cause of most of it.
    pub cause: String,
    /// The sums.
    #[serde(flatten)]
    pub sums: TrafficSums,
}

/// Traffic of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObjectRow {
    /// Its path; `others` for objects without a row of their own.
    pub object: String,
    /// The cause of most of it.
    pub cause: String,
    /// The sums.
    #[serde(flatten)]
    pub sums: TrafficSums,
}

/// Waits of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitRow {
    /// Its address; `others` for clients without a row of their own.
    pub client: String,
    /// `deferred` by a window or ring, or `queued` for a slot.
    pub reason: String,
    /// Number of waits.
    pub waits: u64,
    /// Their sum in milliseconds.
    pub millis: u64,
}

/// Bytes of one cause in one interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrafficPoint {
    /// Beginning of the interval, in seconds since 1970.
    pub at: i64,
    /// The cause.
    pub cause: String,
    /// Bytes received from upstreams.
    pub received: u64,
}

/// Bytes over both lines in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RatePoint {
    /// Beginning of the interval, in seconds since 1970.
    pub at: i64,
    /// Bytes received from upstreams.
    pub received: u64,
    /// Bytes sent to clients. Those of a response count when it ends.
    pub sent: u64,
}

/// Formats a time for a report. A time that no calendar has is empty.
pub(crate) fn timestamp(at: UnixMillis) -> String {
    Timestamp::from_millisecond(at).map_or_else(|_| String::new(), |at| at.to_string())
}
