//! What a rollout will be like at a site, before it is one: a simulation of content that crosses the line once and goes
//! to every client under the site's limits, windows and spreads. Pure: no socket, no clock, no file; the same scenario
//! gives the same answer. [`Site`] makes a [`Scenario`] of the configuration, [`simulate`] plays it, [`costs`] says
//! what each limit of it costs, [`Deadline`] asks in reverse.

mod admission;
mod appearance;
mod clients;
mod curve;
mod download;
mod reverse;
mod scenario;
mod share;
mod simulation;
mod site;
mod timeline;

pub use self::appearance::{Appearance, NotAProfile, share_of};
pub use self::curve::{Curve, Hours};
pub use self::reverse::{Deadline, LINE_STEP, LineAnswer, SPREAD_STEP, SpreadAnswer};
pub use self::scenario::{Content, Group, GroupLimit, Limit, Named, Outside, Scenario};
pub use self::simulation::{Endless, Rollout, simulate};
pub use self::site::{MAX_CLIENTS, Site, SiteError};
pub use self::timeline::{Mean, Moment, Rate, Timeline};

/// What a rollout is like without one of its limits.
#[derive(Clone, Debug)]
pub struct Cost {
    /// The limit.
    pub limit: Limit,
    /// The rollout without it.
    pub lifted: Rollout,
}

/// The shares of all clients whose times a plan gives.
pub const MARKS: [f64; 4] = [0.5, 0.9, 0.99, 1.0];

/// A time that is nearer to another than this share of it is the same to whoever plans.
const SAME: f64 = 0.01;

/// The limits that cost time: what the rollout is without each of them, in turn. Two limits that hold each other's place
/// cost nothing by themselves, and are not among them.
///
/// # Errors
/// When a simulation does not end.
pub fn costs(scenario: &Scenario, rollout: &Rollout) -> Result<Vec<Cost>, Endless> {
    let mut costs = Vec::new();
    for limit in scenario.limits() {
        let lifted = simulate(&scenario.without(limit))?;
        if differ(scenario, rollout, &lifted) {
            costs.push(Cost { limit, lifted });
        }
    }
    Ok(costs)
}

/// Whether a time that a plan gives is another.
fn differ(scenario: &Scenario, a: &Rollout, b: &Rollout) -> bool {
    let times = |rollout: &Rollout| -> Vec<Option<f64>> {
        let all = MARKS.iter().map(|share| rollout.current_at(scenario, *share));
        all.chain([rollout.everyone_at()]).collect()
    };
    times(a).into_iter().zip(times(b)).any(|times| match times {
        (Some(a), Some(b)) => (a - b).abs() > a.max(b) * SAME,
        (a, b) => a != b,
    })
}

impl Rollout {
    /// When this share of all clients of the site was current; `None` if that was not within the horizon.
    pub fn current_at(&self, scenario: &Scenario, share: f64) -> Option<f64> {
        // A share such as 0.9 of 10 is 9, not 9.000001.
        let clients = (share * f64::from(scenario.clients()) - 1e-6).ceil();
        self.timeline.current_at(clients as u32)
    }

    /// When every client that came was current; `None` if one was not within the horizon.
    pub fn everyone_at(&self) -> Option<f64> {
        self.timeline.current_at(self.appeared)
    }

    /// Clients that are current at the end.
    pub fn current(&self) -> u32 {
        self.timeline.moments().last().map_or(0, |moment| moment.current)
    }
}
