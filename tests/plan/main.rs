//! What a plan says of a rollout, against what must be true of any, and against the relay's own verdicts. Here is what
//! all of it stands on: a site in numbers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by a panic")]

mod conservation;
mod reference;
mod reverse;
mod rollouts;
mod site;

use gupd_plan as plan;
use gupd_plan::{Appearance, Content, Curve, Group, Hours, Moment, Named, Outside, Scenario, simulate};

pub(crate) const MIB: f64 = 1_048_576.0;
pub(crate) const HOUR: f64 = 3_600.0;
pub(crate) const WAN: plan::Rate = |moment: &Moment| moment.wan;
pub(crate) const LAN: plan::Rate = |moment: &Moment| moment.lan;

pub(crate) fn unnamed(curve: Curve) -> Named<Curve> {
    Named { name: String::new(), value: curve }
}

pub(crate) fn content(name: &'static str, bytes: f64, share: f64) -> Content {
    Content { name, bytes, share, limit: unnamed(Curve::UNLIMITED) }
}

pub(crate) fn group(name: &str, clients: u32) -> Group {
    Group {
        name: name.to_owned(),
        clients,
        limit: Curve::UNLIMITED,
        client_limit: Curve::UNLIMITED,
        wan_limit: Curve::UNLIMITED,
        downloads: None,
        hours: Hours::always(),
        spread: 0.0,
        outside: Outside::Nothing,
    }
}

/// 1 MiB/s to the manager, 100 MiB/s to clients that are all there and ask at once for 100 MiB.
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
