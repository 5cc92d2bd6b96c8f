//! Where a client stands in rollouts: its ring and step, by the configuration, and what it sees now, which only a running
//! relay knows.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

use super::super::CommandError;
use super::super::admin_client::{AdminClient, AdminRequest};
use gupd_config::{Config, Steps};
use gupd_rollout::rings::{Ring, Rings};
use gupd_rollout::status::{Gate, ViewStatus};

/// Time for the relay to say what a client sees: it is on this machine, or near.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of that, at most.
const MAX_ANSWER: usize = 16 << 10;

/// A client's place in rollouts.
#[derive(Debug, Serialize)]
pub(super) struct Stage {
    pub(super) ring: String,
    /// The ring that it comes after.
    pub(super) after: Option<String>,
    pub(super) gate: Gate,
    /// From 1.
    pub(super) step: usize,
    pub(super) steps: usize,
    /// Which of the ring's clients have moved by then, of one with several steps.
    pub(super) moves: Option<String>,
    pub(super) view: View,
}

/// What a client sees.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum View {
    /// As the relay says.
    Known(ViewStatus),
    /// Why that is not known, and what to do.
    Unknown(String),
}

impl Stage {
    /// That of a client of this group; `None` without rings.
    pub(super) fn of(config: &Config, group: &str, client: IpAddr) -> Result<Option<Self>, CommandError> {
        let Some(rings) = Rings::new(config) else { return Ok(None) };
        let Some(ring) = rings.of_group(group).and_then(|ring| rings.get(ring)) else { return Ok(None) };
        let step = ring.step(client);
        let after = ring.settings.after.and_then(|after| rings.get(after));
        Ok(Some(Self {
            ring: ring.settings.name.clone(),
            after: after.map(|after| after.settings.name.clone()),
            gate: ring.settings.gate.into(),
            step: step + 1,
            steps: ring.steps(),
            moves: moves(ring, step),
            view: View::of(&AdminClient::new(config)?, group, client),
        }))
    }
}

fn moves(ring: &Ring, step: usize) -> Option<String> {
    match &ring.settings.steps {
        Steps::All => None,
        Steps::Shares(shares) => shares.get(step).map(|share| format!("the first {share}%")),
        Steps::Subnets(subnets) => subnets.get(step).map(|subnet| match step + 1 == subnets.len() {
            false => subnet.to_string(),
            true => format!("{subnet} and whoever is in no other"),
        }),
    }
}

impl View {
    fn of(admin: &AdminClient, group: &str, client: IpAddr) -> Self {
        // Names of groups have no characters that a query does not.
        let path = format!("/api/v1/rollout/view?client={client}&group={group}");
        let question =
            AdminRequest { method: Method::GET, path: &path, body: Bytes::new(), max_response: MAX_ANSWER };
        let address = admin.address();
        match admin.try_send(question, PATIENCE) {
            Ok((StatusCode::OK, body)) => match serde_json::from_slice(&body) {
                Ok(view) => Self::Known(view),
                Err(error) => Self::Unknown(format!("{address} does not answer as a relay does: {error}")),
            },
            Ok((_, why)) => Self::Unknown(format!(
                "the relay at {address} does not say: {}",
                String::from_utf8_lossy(&why).trim()
            )),
            Err(error) => Self::Unknown(format!(
                "no relay answers at {address} ({error}), and only a running one knows; start it, or give the \
                 configuration of one that runs"
            )),
        }
    }
}
