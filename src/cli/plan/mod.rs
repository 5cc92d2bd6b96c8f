//! `gupd plan`: simulates a rollout under a configuration and prints the result. It needs no upstream and no relay. The
//! simulation is `gupd_plan`; this module has the flags and the output.

mod chart;
mod fleet;
mod fleet_json;
mod fleet_table;
mod format;
mod site_list;
mod stored_sizes;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};

use self::fleet::{FleetFlags, listed_sites};
pub(super) use self::format::{rate, span};
use self::stored_sizes::StoredSizes;
use super::config_file::ConfigFile;
use super::{CommandError, print_line};
use crate::screen::spinner;
use gupd_config as config;
use gupd_config::clock::Clock;
use gupd_config::units::{Rate, Size, Time};
use gupd_config::{Config, Overrides};
use gupd_plan::{
    Appearance, Cost, Deadline, LineResult, PlanError, PlanInput, PlannedRollout, Scenario, SpreadResult,
    TooManyEvents, compute_costs, simulate,
};
use gupd_store::Inventory;

/// Maximum of `--horizon` and other times.
const MAX_HORIZON: Duration = Duration::from_secs(365 * 86_400);

#[derive(Debug, Args)]
pub(super) struct PlanFlags {
    #[command(flatten)]
    file: ConfigFile,
    /// Folder of the store for --from-store [default: /var/lib/gupd, or the user's state folder].
    #[arg(long, value_name = "DIR")]
    store: Option<String>,
    /// Overrides wan.limit of the configuration.
    #[arg(long, value_name = "RATE")]
    wan_limit: Option<String>,
    /// Number of clients, divided evenly between groups; or GROUP=N for each group.
    #[arg(long, value_name = "N", required_unless_present = "sites", value_parser = parse_clients)]
    clients: Vec<ClientCount>,
    #[command(flatten)]
    fleet: FleetFlags,
    /// Size of the full set.
    #[arg(long, value_name = "SIZE")]
    full: Option<Size>,
    /// Size of the delta from the previous revision.
    #[arg(long, value_name = "SIZE")]
    delta: Option<Size>,
    /// Share of clients too far behind for the delta.
    #[arg(long, value_name = "SHARE", default_value = "5%", value_parser = parse_share)]
    full_share: f64,
    /// Take sizes from the newest revisions in the store, all content of a client together.
    #[arg(long)]
    from_store: bool,
    /// Capacity of the line to the upstreams [default: limited by wan.limit only].
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    line: Option<Rate>,
    /// Capacity of the relay's LAN link.
    #[arg(long, value_name = "RATE", default_value = "1Gbit/s", value_parser = parse_rate)]
    lan: Rate,
    /// Time of publication: 2026-11-23T20:00 in the time zone of the site, or 2026-11-23T19:00:00Z [default: now].
    #[arg(long, value_name = "TIME", value_parser = parse_start)]
    start: Option<StartTime>,
    /// When clients come online: always-on; estate (60 % within a day, 75 % within three days, 80 % within a week, the
    /// rest never); or shares by time such as 24h:60%,3d:75%.
    #[arg(long, value_name = "PROFILE", default_value = "always-on")]
    appear: Appearance,
    /// Interval at which clients ask for content.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_span)]
    heartbeat: Duration,
    /// Length of the simulation.
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = parse_span)]
    horizon: Duration,
    /// Find the line and the spreads that meet this deadline.
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    deadline: Option<Duration>,
    /// Share of clients that must be current by the deadline.
    #[arg(long, value_name = "SHARE", default_value = "100%", value_parser = parse_share, requires = "deadline")]
    goal: f64,
    /// Maximum LAN rate in the busiest minute; finds the shortest spread that keeps to it.
    #[arg(long, value_name = "RATE", value_parser = parse_rate, requires = "deadline")]
    lan_peak: Option<Rate>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Write a chart of rates and clients over time to this SVG file.
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
}

/// One value of `--clients`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ClientCount {
    group: Option<String>,
    count: u32,
}

/// Value of `--start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StartTime {
    At(Timestamp),
    AtSite(civil::DateTime),
}

/// All results of a plan.
struct PlanReport {
    zone: TimeZone,
    start: Timestamp,
    scenario: Scenario,
    rollout: PlannedRollout,
    costs: Vec<Cost>,
    reverse: Option<DeadlineReport>,
}

/// Answers to `--deadline`.
struct DeadlineReport {
    deadline: Deadline,
    line: LineResult,
    spread: SpreadResult,
}

pub(super) fn run(plan: &PlanFlags) -> Result<(), CommandError> {
    let listed = listed_sites(plan)?;
    let spinner = spinner("simulating");
    let output = match listed {
        Some(listed) => plan.fleet_report(listed).map(|report| {
            let text = if plan.json { fleet_json::json(&report) } else { fleet_table::table(&report) };
            (text, plan.chart.as_ref().map(|path| (path, fleet_json::svg(&report))))
        }),
        None => plan.report().map(|report| {
            let text = if plan.json { format::json(&report) } else { table::table(&report) };
            (text, plan.chart.as_ref().map(|path| (path, chart::svg(&report))))
        }),
    };
    spinner.finish_and_clear();
    let (text, chart) = output?;
    if let Some((path, svg)) = chart {
        std::fs::write(path, svg).map_err(|error| {
            CommandError::Failed(format!("--chart {}: {error}: choose another file", path.display()))
        })?;
    }
    print_line(&text);
    Ok(())
}

impl PlanFlags {
    fn config(&self) -> Result<Config, CommandError> {
        let overrides = Overrides {
            store: self.store.clone(),
            wan_limit: self.wan_limit.clone(),
            ..Overrides::default()
        };
        Ok(self.file.load_without_upstreams(&overrides)?)
    }

    fn report(&self) -> Result<PlanReport, CommandError> {
        let config = self.config()?;
        let zone = config.site.time_zone.clone();
        let start = self.start(&zone)?;
        let scenario = self.site(&config, start)?.scenario(&config)?;
        let rollout = simulate(&scenario)?;
        Ok(PlanReport {
            costs: compute_costs(&scenario, &rollout)?,
            reverse: self.reverse(&scenario)?,
            rollout,
            scenario,
            zone,
            start,
        })
    }

    fn start(&self, zone: &TimeZone) -> Result<Timestamp, CommandError> {
        match self.start {
            None => Timestamp::from_millisecond(Clock::system().now()).map_err(|error| error.to_string()),
            Some(StartTime::At(time)) => Ok(time),
            Some(StartTime::AtSite(time)) => zone.to_timestamp(time).map_err(|error| error.to_string()),
        }
        .map_err(|error| CommandError::Configuration(format!("--start: not a time at the site: {error}")))
    }

    fn site(&self, config: &Config, start: Timestamp) -> Result<PlanInput, CommandError> {
        let stored = if self.from_store {
            StoredSizes::read(&Inventory::open(&config.store.dir)?)?
        } else {
            StoredSizes::default()
        };
        let size = |size: Option<Size>, stored: Option<u64>| size.map(|Size(bytes)| bytes).or(stored);
        if [self.full, self.delta].contains(&Some(Size(0))) {
            return Err(CommandError::Configuration(
                "--full, --delta: must be more than 0 bytes: omit the one that does not exist".into(),
            ));
        }
        Ok(PlanInput {
            clients: self.clients.iter().map(|clients| (clients.group.clone(), clients.count)).collect(),
            full: size(self.full, stored.full),
            delta: size(self.delta, stored.delta),
            full_share: self.full_share,
            line: self.line,
            lan: self.lan,
            start: start.as_millisecond(),
            appearance: self.appear.clone(),
            heartbeat: self.heartbeat,
            horizon: self.horizon.max(self.deadline.unwrap_or_default()),
        })
    }

    fn reverse(&self, scenario: &Scenario) -> Result<Option<DeadlineReport>, CommandError> {
        let Some(within) = self.deadline else { return Ok(None) };
        let max_busiest = self.lan_peak.map_or(f64::INFINITY, |Rate(bytes)| bytes as f64);
        let deadline = Deadline { within: within.as_secs_f64(), share: self.goal, busiest: max_busiest };
        Ok(Some(DeadlineReport {
            line: deadline.smallest_line(scenario)?,
            spread: deadline.spreads(scenario)?,
            deadline,
        }))
    }
}

fn parse_clients(text: &str) -> Result<ClientCount, String> {
    let (group, count) = match text.rsplit_once('=') {
        Some((group, count)) => (Some(group.to_owned()), count),
        None => (None, text),
    };
    let invalid =
        |_| format!("{count:?} is not a number of clients: use a form such as 5000 or branch-a=200");
    Ok(ClientCount { group, count: count.parse().map_err(invalid)? })
}

fn parse_share(text: &str) -> Result<f64, String> {
    gupd_plan::parse_share(text).ok_or_else(|| format!("{text:?} is not a share: use 0% to 100%"))
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    match text.parse().map_err(|error: config::UnitError| error.to_string())? {
        Rate(0) => Err(format!("{text} is not a usable rate: use a rate such as 8Mbit/s")),
        rate => Ok(rate),
    }
}

fn parse_span(text: &str) -> Result<Duration, String> {
    let Time(time) = text.parse().map_err(|error: config::UnitError| error.to_string())?;
    if time > MAX_HORIZON {
        return Err(format!("{text} is too long: use at most {}", Time(MAX_HORIZON)));
    }
    Ok(time)
}

fn parse_start(text: &str) -> Result<StartTime, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(StartTime::At(time));
    }
    let invalid =
        |_| format!("{text:?} is not a time: use a form such as 2026-11-23T20:00 or 2026-11-23T19:00:00Z");
    text.parse().map(StartTime::AtSite).map_err(invalid)
}

impl From<PlanError> for CommandError {
    fn from(error: PlanError) -> Self {
        Self::Configuration(format!("plan: {error}"))
    }
}

impl From<TooManyEvents> for CommandError {
    fn from(error: TooManyEvents) -> Self {
        Self::Failed(format!("plan: {error}"))
    }
}
