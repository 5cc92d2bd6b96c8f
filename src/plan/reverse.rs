//! A plan in reverse: what would have to be set for a rollout to meet a deadline. Answers are found by halving between
//! one that does and one that does not, so that the answer does and the next step does not. A wider line makes no
//! rollout later: at every moment every fill is at least as far. A longer spread lets no client begin earlier; only where
//! a full queue sends clients away can a shorter one do worse, and then the answer is still one that was simulated.

use super::scenario::{Limit, Scenario};
use super::simulation::{Endless, Rollout, simulate};
use super::timeline::Moment;

/// What is asked of a rollout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deadline {
    /// Seconds since the start.
    pub within: f64,
    /// The share of all clients that must be current by then.
    pub share: f64,
    /// The most that clients may take together in any minute, bytes a second; infinite for whatever they take.
    pub busiest: f64,
}

/// The smallest line.
#[derive(Clone, Debug, PartialEq)]
pub enum LineAnswer {
    /// So many bytes a second, in place of `wan.limit`.
    Smallest(f64),
    /// No line does: with the widest, the share is current after this time, if at all.
    None {
        /// Seconds; `None` for not within the horizon.
        at_best: Option<f64>,
        /// The limits with the widest line that are each in the way: without it the deadline is met.
        because: Vec<Limit>,
        /// When the share is current with the widest line and no limit at all: clients that come late, their heartbeats
        /// and the relay's link to them are what is left.
        unlimited: Option<f64>,
    },
}

/// The spreads, set for every group.
#[derive(Clone, Debug, PartialEq)]
pub enum SpreadAnswer {
    /// All from the shortest to the longest, in seconds.
    Between(f64, f64),
    /// The shortest that is calm enough ends too late, or none is calm enough.
    None {
        /// Seconds of the shortest spread that is calm enough; `None` if none is.
        calm_from: Option<f64>,
        /// When the share is current with it; `None` for not within the horizon.
        current_at: Option<f64>,
    },
}

/// 1 kbit/s: finer than lines are sold.
pub const LINE_STEP: f64 = 125.0;
/// 10 Gbit/s: what the relay's limits go up to.
const WIDEST: f64 = 1.25e9;
/// A spread is set in minutes.
pub const SPREAD_STEP: f64 = 60.0;
/// Of the busiest minute, seconds.
pub(super) const MINUTE: f64 = 60.0;

impl Deadline {
    /// Whether a rollout meets it, busy or not.
    pub fn is_met_by(&self, scenario: &Scenario, rollout: &Rollout) -> bool {
        rollout.current_at(scenario, self.share).is_some_and(|time| time <= self.within)
    }

    /// The smallest line that meets it, all other limits as they are.
    ///
    /// # Errors
    /// When a simulation does not end.
    pub fn smallest_line(&self, scenario: &Scenario) -> Result<LineAnswer, Endless> {
        let with = |rate: f64| Scenario { line: rate, ..self.until(&scenario.without(Limit::Wan)) };
        let steps = (WIDEST / LINE_STEP) as u64;
        let meets = |steps: u64| {
            let scenario = with(steps as f64 * LINE_STEP);
            Ok(self.is_met_by(&scenario, &simulate(&scenario)?))
        };
        if meets(steps)? {
            return Ok(LineAnswer::Smallest(least(0, steps, meets)? as f64 * LINE_STEP));
        }
        let widest = Scenario { line: WIDEST, ..scenario.without(Limit::Wan) };
        let at_best = simulate(&widest)?.current_at(&widest, self.share);
        let mut because = Vec::new();
        for limit in widest.limits().into_iter().filter(|limit| *limit != Limit::Wan) {
            let lifted = widest.without(limit);
            if self.is_met_by(&lifted, &simulate(&lifted)?) {
                because.push(limit);
            }
        }
        let bare = widest.limits().into_iter().fold(widest, |bare, limit| bare.without(limit));
        let unlimited = simulate(&bare)?.current_at(&bare, self.share);
        Ok(LineAnswer::None { at_best, because, unlimited })
    }

    /// The spreads that meet it, all other limits as they are.
    ///
    /// # Errors
    /// When a simulation does not end.
    pub fn spreads(&self, scenario: &Scenario) -> Result<SpreadAnswer, Endless> {
        let with = |steps: u64| spread(scenario, steps as f64 * SPREAD_STEP);
        let most = (self.within / SPREAD_STEP) as u64;
        let calm = |steps: u64| Ok(self.is_calm(&simulate(&with(steps))?));
        let shortest = match (calm(0)?, calm(most)?) {
            (true, _) => 0,
            (false, true) => least(0, most, calm)?,
            (false, false) => return Ok(SpreadAnswer::None { calm_from: None, current_at: None }),
        };
        let meets = |steps: u64| {
            let scenario = self.until(&with(steps));
            Ok(self.is_met_by(&scenario, &simulate(&scenario)?))
        };
        let seconds = |steps: u64| steps as f64 * SPREAD_STEP;
        if !meets(shortest)? {
            let scenario = with(shortest);
            let current_at = simulate(&scenario)?.current_at(&scenario, self.share);
            return Ok(SpreadAnswer::None { calm_from: Some(seconds(shortest)), current_at });
        }
        let longest = match meets(most)? {
            true => most,
            false => least(shortest, most, |steps| meets(steps).map(|met| !met))? - 1,
        };
        Ok(SpreadAnswer::Between(seconds(shortest), seconds(longest)))
    }

    fn is_calm(&self, rollout: &Rollout) -> bool {
        // Rates add up to a limit but for rounding.
        self.busiest.is_infinite() || rollout.timeline.busiest(lan, MINUTE) <= self.busiest * (1.0 + 1e-9)
    }

    /// The same, no longer than it takes to know.
    fn until(&self, scenario: &Scenario) -> Scenario {
        // A client that is done at the deadline is in time.
        Scenario { horizon: scenario.horizon.min(self.within + 1.0), ..scenario.clone() }
    }
}

/// The same site with this spread for every group.
fn spread(scenario: &Scenario, seconds: f64) -> Scenario {
    let mut spread = scenario.clone();
    spread.groups.iter_mut().for_each(|group| group.spread = seconds);
    spread
}

fn lan(moment: &Moment) -> f64 {
    moment.lan
}

/// The first above `fails` that `holds`, which `held` does.
fn least(
    mut fails: u64,
    mut held: u64,
    holds: impl Fn(u64) -> Result<bool, Endless>,
) -> Result<u64, Endless> {
    while held - fails > 1 {
        let between = fails + (held - fails) / 2;
        if holds(between)? { held = between } else { fails = between }
    }
    Ok(held)
}
