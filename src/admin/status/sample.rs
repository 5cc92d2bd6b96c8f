//! Reports of made-up relays for tests.

use super::{Activity, LineStatus, StatusReport, StoreStatus, UpstreamStatus};
use gupd_rollout::status::{ClientCounts, Status, UtcTime};

pub(super) fn healthy() -> StatusReport {
    let upstream = |name: &str| UpstreamStatus { name: name.to_owned(), is_healthy: true, received: 0 };
    StatusReport {
        version: "1".to_owned(),
        time: String::new(),
        is_draining: false,
        sentence: String::new(),
        findings: Vec::new(),
        savings: None,
        wan: LineStatus { bytes_per_second: 410_000, limit: Some(1_000_000) },
        lan: LineStatus::default(),
        activity: Activity::default(),
        upstreams: vec![upstream("one"), upstream("two")],
        peers: Vec::new(),
        store: StoreStatus { health: "well".to_owned(), detail: None, objects: 0, bytes: 0, quota: 1 },
        rollout: None,
    }
}

pub(super) fn rollout(counts: [u64; 4]) -> Status {
    let lights = ["green", "yellow", "red", "grey"].into_iter().zip(counts);
    let clients = ClientCounts {
        known: counts.iter().sum(),
        lights: lights.map(|(light, count)| (light.to_owned(), count)).collect(),
        ..ClientCounts::default()
    };
    Status {
        time: UtcTime(0),
        halted: None,
        revisions: Vec::new(),
        rings: Vec::new(),
        next: Vec::new(),
        groups: Vec::new(),
        clients,
    }
}
