//! Plans of rollouts, compared with invariants and with the relay's own decisions. This module has the scenario that
//! all tests start from.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by a panic")]

mod conservation;
mod fleet;
mod reference;
mod reverse;
mod rollouts;
mod site;

use gupd_plan as plan;
use gupd_plan::{
    Appearance, Curve, EarlyAccess, Named, OpenHours, PlanContent, PlanGroup, Scenario, TimelinePoint,
    simulate,
};

pub(crate) const MIB: f64 = 1_048_576.0;
pub(crate) const HOUR: f64 = 3_600.0;
pub(crate) const WAN: plan::RateSelector = |moment: &TimelinePoint| moment.wan;
pub(crate) const LAN: plan::RateSelector = |moment: &TimelinePoint| moment.lan;

pub(crate) fn unnamed(curve: Curve) -> Named<Curve> {
    Named { name: String::new(), value: curve }
}

pub(crate) fn content(name: &'static str, bytes: f64, share: f64) -> PlanContent {
    PlanContent { name, bytes, share, limit: unnamed(Curve::UNLIMITED), arrival: None }
}

pub(crate) fn group(name: &str, clients: u32) -> PlanGroup {
    PlanGroup {
        name: name.to_owned(),
        clients,
        limit: Curve::UNLIMITED,
        client_limit: Curve::UNLIMITED,
        wan_limit: Curve::UNLIMITED,
        downloads: None,
        hours: OpenHours::always(),
        spread: 0.0,
        outside: EarlyAccess::Nothing,
    }
}

/// 1 MiB/s to the manager, 100 MiB/s to clients that are all online and request 100 MiB at once.
pub(crate) fn site(clients: u32) -> Scenario {
    Scenario {
        horizon: 30.0 * 24.0 * HOUR,
        line: MIB,
        wan: Curve::UNLIMITED,
        upstream: unnamed(Curve::UNLIMITED),
        lan_link: 100.0 * MIB,
        lan: Curve::UNLIMITED,
        client: Curve::UNLIMITED,
        downloads: None,
        queue: 1_024,
        queue_timeout: 30.0,
        contents: vec![content("full", 100.0 * MIB, 1.0)],
        groups: vec![group("all", clients)],
        appearance: Appearance::always_on(),
        heartbeat: 0.0,
    }
}

pub(crate) fn near(value: f64, expected: f64) -> bool {
    (value - expected).abs() <= expected.abs() * 1e-6
}

/// When everyone is current.
pub(crate) fn time(scenario: &Scenario) -> f64 {
    simulate(scenario).unwrap().current_at(scenario, 1.0).unwrap()
}
