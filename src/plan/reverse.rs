//! Reverse planning: the line or the spread that a rollout needs to meet a deadline. Bisection finds the value that
//! meets it although the next step does not. A wider line delays no rollout, because every fill is at least as far at
//! all times. A longer spread starts no client earlier. Only with a full queue can a shorter spread be worse; even then
//! the result was simulated.

use super::scenario::{LimitKey, Scenario};
use super::simulation::{PlannedRollout, TooManyEvents, simulate};
use super::timeline::TimelinePoint;

/// Requirements on a rollout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deadline {
    /// Seconds since the start.
    pub within: f64,
    /// Share of all clients that must be current by then.
    pub share: f64,
    /// Maximum mean LAN rate in any minute, bytes a second; infinite for no requirement.
    pub busiest: f64,
}

/// Result of [`Deadline::smallest_line`].
#[derive(Clone, Debug, PartialEq)]
pub enum LineResult {
    /// Bytes a second, in place of `wan.limit`.
    Smallest(f64),
    /// No line meets the deadline.
    None {
        /// Seconds until the share is current with the widest line; `None` if not within the horizon.
        best_time: Option<f64>,
        /// Limits that prevent it with the widest line: without any one of them the deadline is met.
        because: Vec<LimitKey>,
        /// Seconds until the share is current with the widest line and no limit: only late clients, heartbeats and the
        /// relay's LAN link remain.
        unlimited: Option<f64>,
    },
}

/// Result of [`Deadline::spreads`], for a spread set for every group.
#[derive(Clone, Debug, PartialEq)]
pub enum SpreadResult {
    /// All spreads between the shortest and the longest, in seconds.
    Between(f64, f64),
    /// No spread meets the deadline within the maximum rate.
    None {
        /// Shortest spread within the maximum rate, in seconds; `None` if there is none.
        calm_from: Option<f64>,
        /// Seconds until the share is current with it; `None` if not within the horizon.
        current_at: Option<f64>,
    },
}

/// 1 kbit/s, finer than the steps in which lines are sold.
pub const LINE_STEP: f64 = 125.0;
/// 10 Gbit/s, the maximum of the relay's limits.
const WIDEST: f64 = 1.25e9;
/// A spread is set in minutes.
pub const SPREAD_STEP: f64 = 60.0;
/// Seconds of the busiest minute.
pub(super) const MINUTE: f64 = 60.0;

impl Deadline {
    /// Returns true if a rollout meets the deadline, at any LAN rate.
    pub fn is_met_by(&self, scenario: &Scenario, rollout: &PlannedRollout) -> bool {
        rollout.current_at(scenario, self.share).is_some_and(|time| time <= self.within)
    }

    /// Finds the smallest line that meets the deadline with all other limits.
    ///
    /// # Errors
    /// A simulation with too many events.
    pub fn smallest_line(&self, scenario: &Scenario) -> Result<LineResult, TooManyEvents> {
        let with = |rate: f64| Scenario { line: rate, ..self.until(&scenario.without(LimitKey::Wan)) };
        let steps = (WIDEST / LINE_STEP) as u64;
        let meets = |steps: u64| {
            let scenario = with(steps as f64 * LINE_STEP);
            Ok(self.is_met_by(&scenario, &simulate(&scenario)?))
        };
        if meets(steps)? {
            return Ok(LineResult::Smallest(least(0, steps, meets)? as f64 * LINE_STEP));
        }
        let widest = Scenario { line: WIDEST, ..scenario.without(LimitKey::Wan) };
        let best_time = simulate(&widest)?.current_at(&widest, self.share);
        let mut because = Vec::new();
        for limit in widest.limits().into_iter().filter(|limit| *limit != LimitKey::Wan) {
            let lifted = widest.without(limit);
            if self.is_met_by(&lifted, &simulate(&lifted)?) {
                because.push(limit);
            }
        }
        let bare = widest.limits().into_iter().fold(widest, |bare, limit| bare.without(limit));
        let unlimited = simulate(&bare)?.current_at(&bare, self.share);
        Ok(LineResult::None { best_time, because, unlimited })
    }

    /// Finds the spreads that meet the deadline with all other limits.
    ///
    /// # Errors
    /// A simulation with too many events.
    pub fn spreads(&self, scenario: &Scenario) -> Result<SpreadResult, TooManyEvents> {
        let with = |steps: u64| spread(scenario, steps as f64 * SPREAD_STEP);
        let most = (self.within / SPREAD_STEP) as u64;
        let calm = |steps: u64| Ok(self.is_calm(&simulate(&with(steps))?));
        let shortest = match (calm(0)?, calm(most)?) {
            (true, _) => 0,
            (false, true) => least(0, most, calm)?,
            (false, false) => return Ok(SpreadResult::None { calm_from: None, current_at: None }),
        };
        let meets = |steps: u64| {
            let scenario = self.until(&with(steps));
            Ok(self.is_met_by(&scenario, &simulate(&scenario)?))
        };
        let seconds = |steps: u64| steps as f64 * SPREAD_STEP;
        if !meets(shortest)? {
            let scenario = with(shortest);
            let current_at = simulate(&scenario)?.current_at(&scenario, self.share);
            return Ok(SpreadResult::None { calm_from: Some(seconds(shortest)), current_at });
        }
        let longest = match meets(most)? {
            true => most,
            false => least(shortest, most, |steps| meets(steps).map(|met| !met))? - 1,
        };
        Ok(SpreadResult::Between(seconds(shortest), seconds(longest)))
    }

    fn is_calm(&self, rollout: &PlannedRollout) -> bool {
        // Rates add up to a limit except for rounding.
        self.busiest.is_infinite()
            || rollout.timeline.busiest_mean(lan, MINUTE) <= self.busiest * (1.0 + 1e-9)
    }

    /// Returns the scenario, cut off after the deadline.
    fn until(&self, scenario: &Scenario) -> Scenario {
        // A client that is done at the deadline meets it.
        Scenario { horizon: scenario.horizon.min(self.within + 1.0), ..scenario.clone() }
    }
}

/// Returns the scenario with this spread for every group.
fn spread(scenario: &Scenario, seconds: f64) -> Scenario {
    let mut spread = scenario.clone();
    spread.groups.iter_mut().for_each(|group| group.spread = seconds);
    spread
}

fn lan(moment: &TimelinePoint) -> f64 {
    moment.lan
}

/// Finds the first value above `fails` for which `holds` is true, as it is for `held`.
fn least(
    mut fails: u64,
    mut held: u64,
    holds: impl Fn(u64) -> Result<bool, TooManyEvents>,
) -> Result<u64, TooManyEvents> {
    while held - fails > 1 {
        let between = fails + (held - fails) / 2;
        if holds(between)? { held = between } else { fails = between }
    }
    Ok(held)
}
