//! `gupd plan --sites`: the plan of a fleet. Sites of the list with equal clients, line and region are one class. The
//! shared lines are compared with and without a tier; clients are simulated with the one that was asked for.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::site_list::{ListedSite, read_sites};
use super::{PlanFlags, parse_rate};
use crate::CommandError;
use gupd_config::Config;
use gupd_config::units::Rate;
use gupd_plan::{
    PlanFleet, PlanInput, PlanTier, PlannedFleet, Region, SharedLines, SiteClass, TierScope, Timeline,
};

/// Maximum number of clients of all sites. Their times take 320 MB.
const MAX_FLEET_CLIENTS: u64 = 20_000_000;

#[derive(Debug, Args)]
pub(super) struct FleetFlags {
    /// Plan for the sites of this CSV file, with the columns name, clients, line and region.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["clients", "deadline"])]
    pub(super) sites: Option<PathBuf>,
    /// Capacity of the line of the managers that all sites share [default: not limited].
    #[arg(long, value_name = "RATE", value_parser = parse_rate, requires = "sites")]
    manager_line: Option<Rate>,
    /// Capacity of the line that the sites of a region share to the managers; once for each region.
    #[arg(long, value_name = "NAME=RATE", value_parser = parse_region, requires = "sites")]
    region: Vec<RegionLine>,
    /// Sites share a tier: all of them, or those of each region.
    #[arg(long, value_name = "SCOPE", requires = "sites")]
    tier: Option<Scope>,
    /// One relay fills the tier before any site asks for the content.
    #[arg(long, requires = "tier")]
    filled_first: bool,
}

/// Value of `--tier`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scope {
    /// One tier for all sites.
    Fleet,
    /// A tier for each region.
    Region,
}

/// One value of `--region`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RegionLine {
    name: String,
    rate: Rate,
}

/// All results of a fleet's plan.
pub(super) struct FleetReport {
    pub(super) zone: TimeZone,
    pub(super) start: Timestamp,
    pub(super) fleet: PlanFleet,
    /// Sites as listed, each with the index of its class.
    pub(super) sites: Vec<(ListedSite, usize)>,
    pub(super) tier: PlanTier,
    pub(super) lines: SharedLines,
    pub(super) planned: PlannedFleet,
    /// Use of the manager's line with each tier, and without one.
    pub(super) variants: Vec<Variant>,
}

/// Use of the manager's line.
pub(super) struct Variant {
    pub(super) tier: PlanTier,
    pub(super) timeline: Timeline,
    pub(super) manager_bytes: f64,
    pub(super) tier_bytes: f64,
}

impl FleetFlags {
    fn tier(&self) -> PlanTier {
        let scope = self.tier.map(|scope| match scope {
            Scope::Fleet => TierScope::Fleet,
            Scope::Region => TierScope::Region,
        });
        match scope {
            None => PlanTier::None,
            Some(scope) if self.filled_first => PlanTier::FilledFirst(scope),
            Some(scope) => PlanTier::OnRequest(scope),
        }
    }

    /// Returns the regions: those of the list, in its order, with the lines of `--region`.
    fn regions(&self, sites: &[ListedSite]) -> Result<Vec<Region>, CommandError> {
        let mut regions: Vec<Region> = Vec::new();
        let mut known = HashSet::new();
        for name in sites.iter().filter_map(|site| site.region.as_ref()) {
            if known.insert(name) {
                regions.push(Region { name: name.clone(), line: f64::INFINITY });
            }
        }
        for RegionLine { name, rate } in &self.region {
            match regions.iter_mut().find(|region| region.name == *name) {
                Some(region) if region.line.is_infinite() => region.line = rate.0 as f64,
                Some(_) => {
                    let message = format!("--region {name}: is there twice: pass each region once");
                    return Err(CommandError::Configuration(message));
                }
                None => {
                    let message = format!("--region {name}: no site has it: write it to the column region");
                    return Err(CommandError::Configuration(message));
                }
            }
        }
        if self.tier == Some(Scope::Region) && regions.is_empty() {
            let message = "--tier region: no site has a region: fill the column region".to_owned();
            return Err(CommandError::Configuration(message));
        }
        Ok(regions)
    }
}

impl PlanFlags {
    /// Plans the fleet of a list.
    pub(super) fn fleet_report(&self, listed: Vec<ListedSite>) -> Result<FleetReport, CommandError> {
        let config = self.config()?;
        let zone = config.site.time_zone.clone();
        let start = self.start(&zone)?;
        let clients: u64 = listed.iter().map(|site| u64::from(site.clients)).sum();
        if clients > MAX_FLEET_CLIENTS {
            return Err(CommandError::Configuration(format!(
                "--sites: {clients} clients are too many: plan for at most {MAX_FLEET_CLIENTS}"
            )));
        }
        let regions = self.fleet.regions(&listed)?;
        let (classes, sites) = classify(listed, &regions, &self.site(&config, start)?, &config)?;
        let fleet = PlanFleet {
            horizon: self.horizon.as_secs_f64(),
            manager_line: self.fleet.manager_line.map_or(f64::INFINITY, |Rate(bytes)| bytes as f64),
            regions,
            classes,
        };
        let tier = self.fleet.tier();
        let lines = fleet.share_lines(tier);
        let variants = tiers(&fleet).into_iter().map(|of| {
            let other = (of != tier).then(|| fleet.share_lines(of));
            let used = other.as_ref().unwrap_or(&lines);
            Variant {
                tier: of,
                timeline: used.timeline.clone(),
                manager_bytes: used.manager_bytes,
                tier_bytes: used.tier_bytes,
            }
        });
        let variants = variants.collect();
        Ok(FleetReport { planned: fleet.simulate(&lines)?, zone, start, fleet, sites, tier, lines, variants })
    }
}

/// Returns the tiers that a plan compares.
fn tiers(fleet: &PlanFleet) -> Vec<PlanTier> {
    let mut tiers = vec![PlanTier::None];
    let of_regions = (!fleet.regions.is_empty()).then_some(TierScope::Region);
    for scope in of_regions.into_iter().chain([TierScope::Fleet]) {
        tiers.extend([PlanTier::OnRequest(scope), PlanTier::FilledFirst(scope)]);
    }
    tiers
}

/// Sites of a list with the indices of their classes.
type ClassifiedSites = Vec<(ListedSite, usize)>;

/// Returns the classes of equal sites, and the sites with the indices of their classes.
fn classify(
    listed: Vec<ListedSite>,
    regions: &[Region],
    input: &PlanInput,
    config: &Config,
) -> Result<(Vec<SiteClass>, ClassifiedSites), CommandError> {
    let places: HashMap<&str, usize> = regions.iter().map(|region| &*region.name).zip(0..).collect();
    let (mut classes, mut known, mut sites) = (Vec::<SiteClass>::new(), HashMap::new(), Vec::new());
    for site in listed {
        let region = site.region.as_deref().and_then(|name| places.get(name)).copied();
        let line = site.line.or(input.line);
        let class = *known.entry((site.clients, line.map(|rate| rate.0), region)).or_insert(classes.len());
        match classes.get_mut(class) {
            Some(class) => class.sites += 1,
            None => {
                let input = PlanInput { clients: vec![(None, site.clients)], line, ..input.clone() };
                classes.push(SiteClass { scenario: input.scenario(config)?, region, sites: 1 });
            }
        }
        sites.push((site, class));
    }
    Ok((classes, sites))
}

/// Returns the list of `--sites`.
pub(super) fn listed_sites(flags: &PlanFlags) -> Result<Option<Vec<ListedSite>>, CommandError> {
    flags.fleet.sites.as_deref().map(read_sites).transpose()
}

fn parse_region(text: &str) -> Result<RegionLine, String> {
    let Some((name, rate)) = text.rsplit_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
        return Err(format!("{text:?} is not a region's line: use a form such as north=100Mbit/s"));
    };
    Ok(RegionLine { name: name.trim().to_owned(), rate: parse_rate(rate)? })
}
