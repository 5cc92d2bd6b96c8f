//! Shares of the manager's and the regions' lines, from event to event. Rates are max-min fair between sites: each gets
//! an equal share of a line, or what its own line takes. Within a site contents go by priority, as in its relay.
//!
//! Lines form a tree: a transfer from the manager uses the manager's line, its region's and its site's. One from a tier
//! uses the site's line alone. So a wider line of the manager slows no transfer.

use super::super::share::{self, RateDemand};
use super::super::timeline::{Timeline, TimelinePoint};
use super::receiver::{Pull, Receiver, Source};
use super::{Bottleneck, PlanFleet, PlanTier, RegionUse, SharedLines, TierScope};

/// Relative difference below which a rate counts as the limit.
const ROUNDING: f64 = 1e-9;

/// State of the lines and of all transfers.
pub(super) struct LineSharing<'a> {
    fleet: &'a PlanFleet,
    tier: PlanTier,
    now: f64,
    receivers: Vec<Receiver<'a>>,
    /// By tier and content: whether it has the object.
    stored: Vec<Vec<bool>>,
    /// Times at which limits change, the next one last.
    limit_changes: Vec<f64>,
    /// Fair share of each site on its region's line; the last is of sites without a region.
    levels: Vec<f64>,
    /// Rate of each region's line, the last one of sites without a region.
    region_rates: Vec<f64>,
    lines: SharedLines,
}

impl<'a> LineSharing<'a> {
    pub(super) fn new(fleet: &'a PlanFleet, tier: PlanTier) -> Self {
        let scope = match tier {
            PlanTier::None => None,
            PlanTier::OnRequest(scope) | PlanTier::FilledFirst(scope) => Some(scope),
        };
        let mut receivers: Vec<_> = fleet.classes.iter().map(|class| Receiver::sites(class, scope)).collect();
        let contents = receivers.first().map_or(0, |receiver| receiver.pulls.len());
        let tiers: Vec<Option<usize>> = match scope {
            Some(TierScope::Fleet) => vec![None],
            Some(TierScope::Region) => (0..fleet.regions.len()).map(Some).collect(),
            None => Vec::new(),
        };
        if matches!(tier, PlanTier::FilledFirst(_)) {
            let filler =
                |(index, region): (usize, &Option<usize>)| Receiver::filler(index, *region, &receivers);
            let fillers: Vec<_> = tiers.iter().enumerate().map(filler).collect();
            receivers.extend(fillers);
        }
        receivers.iter_mut().for_each(|receiver| receiver.set_limits(0.0));
        Self {
            fleet,
            tier,
            now: 0.0,
            receivers,
            stored: vec![vec![false; contents]; tiers.len()],
            limit_changes: limit_changes(fleet),
            levels: Vec::new(),
            region_rates: vec![0.0; fleet.regions.len() + 1],
            lines: SharedLines {
                timeline: Timeline::default(),
                manager_bytes: 0.0,
                tier_bytes: 0.0,
                regions: vec![RegionUse::default(); fleet.regions.len()],
                sites: Vec::new(),
            },
        }
    }

    /// Runs until every site has its content, or to the horizon.
    pub(super) fn run(mut self) -> SharedLines {
        loop {
            self.start_pulls();
            self.set_rates();
            self.record_point();
            if self.now >= self.fleet.horizon || self.receivers.iter().all(Receiver::is_finished) {
                break;
            }
            self.advance(self.next_event().min(self.fleet.horizon));
            self.complete_pulls();
        }
        let of_all = |source: Source| self.receivers.iter().map(|of| of.copies * of.bytes(source)).sum();
        (self.lines.manager_bytes, self.lines.tier_bytes) = (of_all(Source::Manager), of_all(Source::Tier));
        let sites = self.receivers.into_iter().filter(|receiver| receiver.class.is_some());
        self.lines.sites = sites.map(|receiver| receiver.into_site_arrival(self.fleet.horizon)).collect();
        self.lines
    }

    fn start_pulls(&mut self) {
        let waits_for_tier = matches!(self.tier, PlanTier::FilledFirst(_));
        for receiver in &mut self.receivers {
            let is_site = receiver.class.is_some();
            let tier = receiver.tier.filter(|_| is_site).and_then(|tier| self.stored.get(tier));
            for (content, pull) in receiver.pulls.iter_mut().enumerate() {
                if pull.start_time().is_none_or(|time| time > self.now) {
                    continue;
                }
                match tier {
                    Some(tier) if tier[content] => pull.start(Source::Tier, self.now),
                    Some(_) if waits_for_tier => {}
                    _ => pull.start(Source::Manager, self.now),
                }
            }
        }
    }

    fn set_rates(&mut self) {
        let Self { fleet, receivers, region_rates, .. } = self;
        let lines = fleet.regions.iter().map(|region| region.line).chain([f64::INFINITY]);
        let mut demands: Vec<(f64, Vec<RateDemand>)> = lines.map(|line| (line, Vec::new())).collect();
        for receiver in receivers.iter_mut() {
            receiver.set_demand();
            if receiver.demand > 0.0 {
                let demand = RateDemand { clients: receiver.copies, most: receiver.demand };
                demands[receiver.region.unwrap_or(fleet.regions.len())].1.push(demand);
            }
        }
        self.levels = share::fair_levels(fleet.manager_line, &demands);
        region_rates.fill(0.0);
        for receiver in receivers.iter_mut() {
            let region = receiver.region.unwrap_or(fleet.regions.len());
            receiver.set_share(self.levels[region]);
            region_rates[region] += receiver.copies * receiver.rate(Source::Manager);
        }
    }

    fn count_sites(&self, is_counted: impl Fn(&Receiver<'a>) -> bool) -> u32 {
        let sites = self.receivers.iter().filter(|receiver| is_counted(receiver));
        sites.filter_map(|receiver| receiver.class).map(|class| class.sites).sum()
    }

    fn record_point(&mut self) {
        let tiers = self.receivers.iter().map(|of| of.copies * of.rate(Source::Tier));
        self.lines.timeline.push(TimelinePoint {
            from: self.now,
            wan: self.region_rates.iter().sum(),
            lan: tiers.sum(),
            downloads: self.count_sites(Receiver::is_receiving),
            current: self.count_sites(Receiver::is_finished),
        });
        for (region, rate) in self.lines.regions.iter_mut().zip(&self.region_rates) {
            region.peak = region.peak.max(*rate);
        }
    }

    /// Returns the next time at which rates change.
    fn next_event(&self) -> f64 {
        let left = self.receivers.iter().map(Receiver::time_left).fold(f64::INFINITY, f64::min);
        let pulls = self.receivers.iter().flat_map(|receiver| &receiver.pulls);
        // One that waits for a tier starts when a transfer ends.
        let starts = pulls.filter_map(Pull::start_time).filter(|time| *time > self.now);
        let change = self.limit_changes.last().copied().unwrap_or(f64::INFINITY);
        starts.fold((self.now + left).min(change), f64::min)
    }

    fn advance(&mut self, until: f64) {
        let (now, seconds) = (self.now, until - self.now);
        let is_full: Vec<bool> = (self.fleet.regions.iter().zip(&self.region_rates))
            .map(|(region, rate)| *rate >= region.line * (1.0 - ROUNDING))
            .collect();
        for receiver in &mut self.receivers {
            let region = receiver.region.unwrap_or(is_full.len());
            let limit = match () {
                () if self.levels[region] >= receiver.demand => Bottleneck::Line,
                () if is_full.get(region) == Some(&true) => Bottleneck::Region,
                () => Bottleneck::Manager,
            };
            receiver.advance(now, seconds, limit);
        }
        for (region, rate) in self.lines.regions.iter_mut().zip(&self.region_rates) {
            region.bytes += rate * seconds;
            region.busy += if *rate > 0.0 { seconds } else { 0.0 };
        }
        self.now = until;
        if self.limit_changes.last().is_some_and(|change| *change <= until) {
            self.limit_changes.pop();
            self.receivers.iter_mut().for_each(|receiver| receiver.set_limits(until));
        }
    }

    fn complete_pulls(&mut self) {
        for receiver in &mut self.receivers {
            for content in receiver.complete_pulls(self.now) {
                let stored = receiver.tier.and_then(|tier| self.stored.get_mut(tier));
                if let Some(stored) = stored.and_then(|tier| tier.get_mut(content)) {
                    *stored = true;
                }
            }
        }
    }
}

/// Returns the times at which a limit of any site's transfers changes, in descending order.
fn limit_changes(fleet: &PlanFleet) -> Vec<f64> {
    let mut times = Vec::new();
    for scenario in fleet.classes.iter().map(|class| &class.scenario) {
        let of_contents = scenario.contents.iter().map(|content| &content.limit.value);
        let of_groups = scenario.groups.iter().map(|group| &group.wan_limit);
        let curves =
            [&scenario.wan, &scenario.upstream.value].into_iter().chain(of_contents).chain(of_groups);
        for curve in curves {
            let mut time = 0.0;
            while let Some(next) = curve.next_change(time) {
                times.push(next);
                time = next;
            }
        }
    }
    times.sort_unstable_by(|a, b| b.total_cmp(a));
    times.dedup();
    times
}
