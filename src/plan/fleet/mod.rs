//! A fleet: sites that get their content over shared lines, with or without a tier. The lines are shared first; then
//! each site is simulated with the content as it arrives. Equal sites are one class and are simulated once.
//!
//! Every byte that a site receives comes from the manager or from a tier, and is counted there. The complication:
//! clients decide when a site starts its transfers, and the lines decide when clients are done. A site's transfers
//! therefore start with the first request of a client, also if that request were to wait for a slot.

mod arrival;
mod receiver;
mod upstream;

use self::upstream::LineSharing;
use super::MARKS;
use super::curve::Curve;
use super::scenario::Scenario;
use super::simulation::{TooManyEvents, simulate};
use super::timeline::Timeline;

/// Maximum number of sites.
pub const MAX_SITES: usize = 10_000;

/// Sites and the lines that they share.
#[derive(Clone, Debug)]
pub struct PlanFleet {
    /// Time at which the simulation ends.
    pub horizon: f64,
    /// Capacity of the manager's line; infinite if it never limits.
    pub manager_line: f64,
    /// Regions.
    pub regions: Vec<Region>,
    /// Classes of equal sites.
    pub classes: Vec<SiteClass>,
}

/// Sites behind one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Capacity of its line to the manager; infinite if it never limits.
    pub line: f64,
}

/// Equal sites.
#[derive(Clone, Debug)]
pub struct SiteClass {
    /// The site; its line and its limits are its own.
    pub scenario: Scenario,
    /// Index of its region.
    pub region: Option<usize>,
    /// Number of sites.
    pub sites: u32,
}

/// Shared storage that sites ask before the manager. They reach it over their own line alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanTier {
    /// No tier.
    None,
    /// The first site that has an object publishes it. Sites that ask before get it from the manager.
    OnRequest(TierScope),
    /// One relay gets each object at the start, and no site asks before the tier has it.
    FilledFirst(TierScope),
}

/// Sites that share a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierScope {
    /// All sites.
    Fleet,
    /// The sites of a region; sites without a region have none.
    Region,
}

/// Transfers over the shared lines.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedLines {
    /// Rates over time: of the manager as `wan`, of the tiers as `lan`. Sites that receive as `downloads`, those that
    /// have all their content as `current`.
    pub timeline: Timeline,
    /// Bytes that the manager sent.
    pub manager_bytes: f64,
    /// Bytes that tiers sent.
    pub tier_bytes: f64,
    /// Use of each region's line.
    pub regions: Vec<RegionUse>,
    /// Arrivals at a site of each class.
    pub sites: Vec<SiteArrival>,
}

/// Use of a region's line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RegionUse {
    /// Bytes that crossed it.
    pub bytes: f64,
    /// Maximum rate, bytes a second.
    pub peak: f64,
    /// Seconds in which it was in use.
    pub busy: f64,
}

/// Arrival of content at a site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteArrival {
    /// Rates over time by content; `None` without a transfer.
    pub contents: Vec<Option<Curve>>,
    /// Bytes that arrived.
    pub bytes: f64,
    /// Time at which all content that its clients request was there; `None` if not within the horizon.
    pub complete_at: Option<f64>,
    /// Seconds in which its line was in use.
    pub busy: f64,
    /// What limited its transfers for most of the time.
    pub bottleneck: Bottleneck,
}

/// Cause of a site's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bottleneck {
    /// The manager's line.
    Manager,
    /// The line of its region.
    Region,
    /// Its own line or `[wan]` limits.
    #[default]
    Line,
    /// What follows the arrival: times of its clients, windows, spreads, LAN limits.
    Site,
}

/// Result of a fleet's plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedFleet {
    /// Clients of all sites.
    pub clients: u64,
    /// Clients that came online.
    pub appeared: u64,
    /// Clients that are current at the end.
    pub current: u64,
    /// Times at which the shares of [`MARKS`] of all clients were current.
    pub client_marks: [Option<f64>; MARKS.len()],
    /// Times at which the shares of [`MARKS`] of all sites had finished.
    pub site_marks: [Option<f64>; MARKS.len()],
    /// Bytes sent to clients.
    pub lan_bytes: f64,
    /// Requests refused for want of a slot.
    pub refused: u64,
    /// A site of each class.
    pub sites: Vec<PlannedSite>,
}

/// Result of a site.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlannedSite {
    /// Time at which every client that came online was current; `None` if not within the horizon.
    pub finished_at: Option<f64>,
    /// What limits that time.
    pub bottleneck: Bottleneck,
}

/// Share of a site's time after the arrival of its content, from which the site itself is the cause.
const SITE_SHARE: f64 = 0.5;

impl PlanFleet {
    /// Number of sites.
    pub fn sites(&self) -> u32 {
        self.classes.iter().map(|class| class.sites).sum()
    }

    /// Shares the lines between the sites that receive at each time.
    pub fn share_lines(&self, tier: PlanTier) -> SharedLines {
        LineSharing::new(self, tier).run()
    }

    /// Simulates every class with its content as it arrives.
    ///
    /// # Errors
    /// A simulation with too many events.
    pub fn simulate(&self, lines: &SharedLines) -> Result<PlannedFleet, TooManyEvents> {
        let mut fleet = PlannedFleet {
            clients: 0,
            appeared: 0,
            current: 0,
            client_marks: [None; MARKS.len()],
            site_marks: [None; MARKS.len()],
            lan_bytes: 0.0,
            refused: 0,
            sites: Vec::with_capacity(self.classes.len()),
        };
        let (mut clients, mut sites) = (Vec::new(), Vec::new());
        for (class, arrival) in self.classes.iter().zip(&lines.sites) {
            let scenario = class.with_arrival(arrival);
            let rollout = simulate(&scenario)?;
            let copies = u64::from(class.sites);
            fleet.clients += copies * u64::from(scenario.clients());
            fleet.appeared += copies * u64::from(rollout.appeared);
            fleet.current += copies * u64::from(rollout.current());
            fleet.lan_bytes += f64::from(class.sites) * rollout.lan_bytes;
            fleet.refused += copies * rollout.refused;
            let mut before = 0;
            for point in rollout.timeline.moments().iter().filter(|point| point.current > 0) {
                if point.current > before {
                    clients.push((point.from, copies * u64::from(point.current - before)));
                    before = point.current;
                }
            }
            let finished_at = rollout.all_current_at();
            sites.extend(finished_at.map(|at| (at, copies)));
            fleet.sites.push(PlannedSite { finished_at, bottleneck: arrival.cause_of(finished_at) });
        }
        fleet.client_marks = marks(&mut clients, fleet.clients);
        fleet.site_marks = marks(&mut sites, self.sites().into());
        Ok(fleet)
    }
}

impl SiteClass {
    /// Returns a site whose content arrives so.
    fn with_arrival(&self, arrival: &SiteArrival) -> Scenario {
        let mut scenario = self.scenario.clone();
        for (content, curve) in scenario.contents.iter_mut().zip(&arrival.contents) {
            content.arrival.clone_from(curve);
        }
        scenario
    }
}

impl SiteArrival {
    /// Returns what a site's time is due to.
    fn cause_of(&self, finished_at: Option<f64>) -> Bottleneck {
        match (self.complete_at, finished_at) {
            (Some(complete), Some(finished)) if complete < finished * (1.0 - SITE_SHARE) => Bottleneck::Site,
            (Some(_), None) => Bottleneck::Site,
            _ => self.bottleneck,
        }
    }
}

/// Returns the times by which these shares of `all` are counted, from times and counts in any order.
fn marks(counted: &mut [(f64, u64)], all: u64) -> [Option<f64>; MARKS.len()] {
    counted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut marks = [None; MARKS.len()];
    let (mut sum, mut next) = (0, 0);
    for (time, count) in counted {
        sum += *count;
        // A share such as 0.9 of 10 is 9, not 9.000001.
        while next < MARKS.len() && sum as f64 >= (MARKS[next] * all as f64 - 1e-6).ceil() {
            marks[next] = Some(*time);
            next += 1;
        }
    }
    marks
}
