//! `GET /api/v1/status`: the state of a relay on one page, for `gupd status` and the status page. This file has the
//! types, which the command reads back. `collect` fills them in, `findings` decides what needs attention.

mod alarms;
mod collect;
mod findings;
pub(crate) mod rates;
#[cfg(test)]
mod sample;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::alarms::AlarmWatch;
pub(super) use self::collect::{collect, observe, rollout, wan_status};
pub(super) use self::findings::FindingKind;
use super::auth::ReadAccess;
use super::openapi::Failure;
use super::{AdminApi, json_response};
use gupd_config::clock::UnixMillis;
pub use gupd_ledger::Severity;
use gupd_ledger::{Event, SiteSums};
use gupd_rollout::status::Status;
use jiff::Timestamp;

/// The state of a relay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusReport {
    /// Version of the program.
    pub version: String,
    /// Time of the report, RFC 3339.
    pub time: String,
    /// True while new clients should use another relay.
    pub is_draining: bool,
    /// The state in one sentence, with the one thing to do.
    pub sentence: String,
    /// What needs attention, the most severe first.
    pub findings: Vec<StatusFinding>,
    /// Traffic of today and of 30 days; `None` while the ledger cannot be read.
    pub savings: Option<Savings>,
    /// The line to the upstreams.
    pub wan: LineStatus,
    /// The line to the clients.
    pub lan: LineStatus,
    /// What runs now.
    pub activity: Activity,
    /// Upstreams in the order of the configuration.
    pub upstreams: Vec<UpstreamStatus>,
    /// Peers in the order of the configuration.
    pub peers: Vec<UpstreamStatus>,
    /// The store.
    pub store: StoreStatus,
    /// Rollouts and counts of clients; `None` without rings, when clients are not tracked.
    pub rollout: Option<Status>,
}

/// Something that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusFinding {
    /// Its kind, such as `upstream-failing`.
    #[serde(default)]
    pub kind: String,
    /// The upstream, ring or certificate that it is about; empty for the relay.
    #[serde(default)]
    pub subject: String,
    /// How urgent it is.
    pub severity: Severity,
    /// What happened.
    pub message: String,
    /// What to do.
    pub action: String,
    /// Since when, RFC 3339; `None` if it is no alarm, or if the ledger cannot be read.
    #[serde(default)]
    pub since: Option<String>,
}

/// Traffic of two periods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Savings {
    /// Since midnight at the site.
    pub today: PeriodTraffic,
    /// Of the last 30 days.
    pub month: PeriodTraffic,
}

/// Traffic of a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeriodTraffic {
    /// Bytes received from upstreams.
    pub wan_received: u64,
    /// Responses to clients.
    pub clients: SiteSums,
}

/// A line and its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineStatus {
    /// Mean rate of the last minute.
    pub bytes_per_second: u64,
    /// The limit at this time; `None` without one.
    pub limit: Option<u64>,
}

/// What runs now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Activity {
    /// Open connections of clients.
    pub connections: i64,
    /// Downloads that hold a slot; 0 without a limit.
    pub downloads: i64,
    /// Requests that wait for a slot.
    pub queued: i64,
    /// Fills.
    pub fills: i64,
}

/// An upstream or peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// True if it gets requests.
    pub is_healthy: bool,
    /// Bytes received from it since the start of the process.
    pub received: u64,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreStatus {
    /// `well`, or the kind of failure.
    pub health: String,
    /// The first error.
    pub detail: Option<String>,
    /// Stored objects.
    pub objects: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Maximum bytes on disk.
    pub quota: u64,
}

/// Clients by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClientSummary {
    /// They have the newest revision that they may have.
    pub(super) current: u64,
    /// They have had the time to get it, and have not.
    pub(super) behind: u64,
    /// Their downloads fail.
    pub(super) failing: u64,
    /// They have not been seen for long.
    pub(super) unseen: u64,
}

impl StatusReport {
    /// Returns the clients by state; `None` without rings.
    pub(super) fn clients(&self) -> Option<ClientSummary> {
        let [current, behind, failing, unseen] = findings::lights(&self.rollout.as_ref()?.clients);
        Some(ClientSummary { current, behind, failing, unseen })
    }

    /// Adds the times since which the alarms of these events have been raised.
    fn set_since(&mut self, alarms: &[Event]) {
        for finding in &mut self.findings {
            let raised =
                alarms.iter().find(|alarm| alarm.kind == finding.kind && alarm.subject == finding.subject);
            finding.since = raised.map(|alarm| timestamp(alarm.at));
        }
    }
}

/// Formats a time for a report. A time that no calendar has is empty.
pub(super) fn timestamp(at: UnixMillis) -> String {
    Timestamp::from_millisecond(at).map_or_else(|_| String::new(), |at| at.to_string())
}

impl LineStatus {
    /// Returns the part of the limit that is used, in percent.
    pub fn busy_percent(&self) -> Option<u64> {
        let limit = self.limit.filter(|limit| *limit > 0)?;
        Some(self.bytes_per_second.saturating_mul(100) / limit)
    }
}

#[utoipa::path(
    get, path = "/api/v1/status", operation_id = "status",
    responses((status = 200, body = StatusReport), Failure),
)]
pub(super) async fn status(_: ReadAccess, State(api): State<AdminApi>) -> Response {
    json_response(&collect(&api).await)
}
