//! The stage of a client in rollouts: ring and step from the configuration, and the visible revision from the running
//! relay.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

use super::super::CommandError;
use super::super::admin_client::{AdminClient, AdminRequest};
use gupd_config::{Config, Gate, Steps};
use gupd_rollout::rings::{Ring, Rings};
use gupd_rollout::status::ViewStatus;

/// Timeout for the relay, which is on this machine or near.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum bytes of its response.
const MAX_RESPONSE: usize = 16 << 10;

/// Stage of a client in rollouts.
#[derive(Debug, Serialize)]
pub(super) struct RolloutStage {
    pub(super) ring: String,
    /// Ring that the ring follows.
    pub(super) after: Option<String>,
    pub(super) gate: Gate,
    /// From 1.
    pub(super) step: usize,
    pub(super) steps: usize,
    /// Clients that have moved after this step, if the ring has several.
    pub(super) moves: Option<String>,
    pub(super) view: ClientView,
}

/// Visible revision of a client.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ClientView {
    /// Response of the relay.
    Known(ViewStatus),
    /// Reason why it is unknown, and the remedy.
    Unknown(String),
}

impl RolloutStage {
    /// Returns the stage of a client of this group; `None` without rings.
    pub(super) fn find(config: &Config, group: &str, client: IpAddr) -> Result<Option<Self>, CommandError> {
        let Some(rings) = Rings::new(config) else { return Ok(None) };
        let Some(ring) = rings.ring_of_group(group).and_then(|ring| rings.get(ring)) else { return Ok(None) };
        let step = ring.step_of(client);
        let after = ring.settings.after.and_then(|after| rings.get(after));
        Ok(Some(Self {
            ring: ring.settings.name.clone(),
            after: after.map(|after| after.settings.name.clone()),
            gate: ring.settings.gate,
            step: step + 1,
            steps: ring.step_count(),
            moves: moves(ring, step),
            view: ClientView::fetch(&AdminClient::for_reading(config)?, group, client),
        }))
    }
}

fn moves(ring: &Ring, step: usize) -> Option<String> {
    match &ring.settings.steps {
        Steps::All => None,
        Steps::Shares(shares) => shares.get(step).map(|share| format!("the first {share}%")),
        Steps::Subnets(subnets) => subnets.get(step).map(|subnet| match step + 1 == subnets.len() {
            false => subnet.to_string(),
            true => format!("{subnet} and all clients in no other subnet"),
        }),
    }
}

impl ClientView {
    fn fetch(admin: &AdminClient, group: &str, client: IpAddr) -> Self {
        // Group names need no percent-encoding.
        let path = format!("/api/v1/rollout/view?client={client}&group={group}");
        let request =
            AdminRequest { method: Method::GET, path: &path, body: Bytes::new(), max_response: MAX_RESPONSE };
        let address = admin.address();
        match admin.try_send(request, TIMEOUT) {
            Ok((StatusCode::OK, body)) => match serde_json::from_slice(&body) {
                Ok(view) => Self::Known(view),
                Err(error) => Self::Unknown(format!("admin address {address}: unexpected response: {error}")),
            },
            Ok((_, message)) => Self::Unknown(format!(
                "admin address {address}: {}",
                String::from_utf8_lossy(&message).trim()
            )),
            Err(error) => Self::Unknown(format!(
                "unknown: admin address {address}: {error}: start the relay, or pass the --config of a running one"
            )),
        }
    }
}
