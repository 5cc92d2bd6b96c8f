//! Simulation of a rollout at a site: content crosses the line once and is served to every client under the site's
//! limits, windows and spreads.
//!
//! Pure: no socket, no clock, no file. The same scenario gives the same result. [`PlanInput`] builds a [`Scenario`]
//! from the configuration, [`simulate`] runs it, [`compute_costs`] gives the cost of each limit, and [`Deadline`] finds
//! the line or the spread that a deadline needs. A [`PlanFleet`] is many sites behind shared lines. Start
//! reading at `simulation`.

mod appearance;
mod clients;
mod curve;
mod download;
mod fleet;
mod input;
mod reverse;
mod scenario;
mod share;
mod simulation;
mod slots;
mod timeline;

pub use self::appearance::{Appearance, ParseAppearanceError, parse_share};
pub use self::curve::{Curve, OpenHours};
pub use self::fleet::{
    Bottleneck, MAX_SITES, PlanFleet, PlanTier, PlannedFleet, PlannedSite, Region, RegionUse, SharedLines,
    SiteArrival, SiteClass, TierScope,
};
pub use self::input::{MAX_CLIENTS, PlanError, PlanInput};
pub use self::reverse::{Deadline, LINE_STEP, LineResult, SPREAD_STEP, SpreadResult};
pub use self::scenario::{EarlyAccess, GroupLimit, LimitKey, Named, PlanContent, PlanGroup, Scenario};
pub use self::simulation::{PlannedRollout, TooManyEvents, simulate};
pub use self::timeline::{MeanRates, RateSelector, Timeline, TimelinePoint};

/// Cost of one limit.
#[derive(Clone, Debug)]
pub struct Cost {
    /// The limit.
    pub limit: LimitKey,
    /// The rollout without it.
    pub lifted: PlannedRollout,
}

/// Shares of all clients for which a plan reports times.
pub const MARKS: [f64; 4] = [0.5, 0.9, 0.99, 1.0];

/// Relative difference below which two times count as equal.
const TOLERANCE: f64 = 0.01;

/// Returns the limits that cost time, each with the rollout without it. Two limits of which each hides the other cost
/// nothing alone and are not returned.
///
/// # Errors
/// A simulation with too many events.
pub fn compute_costs(scenario: &Scenario, rollout: &PlannedRollout) -> Result<Vec<Cost>, TooManyEvents> {
    let mut costs = Vec::new();
    for limit in scenario.limits() {
        let lifted = simulate(&scenario.without(limit))?;
        if is_different(scenario, rollout, &lifted) {
            costs.push(Cost { limit, lifted });
        }
    }
    Ok(costs)
}

/// Returns true if a reported time differs.
fn is_different(scenario: &Scenario, a: &PlannedRollout, b: &PlannedRollout) -> bool {
    let times = |rollout: &PlannedRollout| -> Vec<Option<f64>> {
        let all = MARKS.iter().map(|share| rollout.current_at(scenario, *share));
        all.chain([rollout.all_current_at()]).collect()
    };
    times(a).into_iter().zip(times(b)).any(|times| match times {
        (Some(a), Some(b)) => (a - b).abs() > a.max(b) * TOLERANCE,
        (a, b) => a != b,
    })
}

impl PlannedRollout {
    /// Returns the time at which this share of the site's clients was current; `None` if not within the horizon.
    pub fn current_at(&self, scenario: &Scenario, share: f64) -> Option<f64> {
        // A share such as 0.9 of 10 is 9, not 9.000001.
        let clients = (share * f64::from(scenario.clients()) - 1e-6).ceil();
        self.timeline.current_at(clients as u32)
    }

    /// Returns the time at which every client that came online was current; `None` if not within the horizon.
    pub fn all_current_at(&self) -> Option<f64> {
        self.timeline.current_at(self.appeared)
    }

    /// Number of clients that are current at the end.
    pub fn current(&self) -> u32 {
        self.timeline.moments().last().map_or(0, |moment| moment.current)
    }
}
