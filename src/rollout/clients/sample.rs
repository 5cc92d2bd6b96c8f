//! Observations for the tests of this folder.

use std::time::Duration;

use super::{ClientId, Observation, RequestKind, RequestOutcome, TrackerSettings};
use gupd_config::clock::UnixMillis;
use gupd_config::policy::PayloadForm;

/// A time in 2026.
pub(super) const T0: UnixMillis = 1_780_000_000_000;

pub(super) const HOUR: UnixMillis = 3_600_000;

pub(super) const SETTINGS: TrackerSettings = TrackerSettings {
    max_clients: 5_000,
    behind: Duration::from_secs(24 * 3600),
    unseen: Duration::from_secs(7 * 24 * 3600),
    repeats: 3,
};

/// A client receives a catalog of a revision.
pub(super) fn catalog(revision: u64) -> Observation {
    observation("10.0.0.1", revision, RequestKind::Catalog, RequestOutcome::Delivered)
}

/// A client asks for a delta.
pub(super) fn payload(revision: u64, outcome: RequestOutcome) -> Observation {
    observation(
        "10.0.0.1",
        revision,
        RequestKind::payload("/ /content/{a}/2/xdelta1.dax", PayloadForm::Delta),
        outcome,
    )
}

pub(super) fn observation(
    client: &str,
    revision: u64,
    request: RequestKind,
    outcome: RequestOutcome,
) -> Observation {
    let client: ClientId = client.parse().unwrap();
    let address = client.to_string().parse().unwrap_or([10, 0, 0, 1].into());
    let (group, revision) = ("pilot".into(), Some(revision.into()));
    Observation { client, address, group, at: T0, revision, request, outcome, bytes: 0 }
}
