//! `gupd plan`: simulates a rollout with the configuration that is given and says what it will be like. Owns the flags;
//! asks no upstream, and needs no relay. What is there to plan is `gupd_plan`; here it is asked and written down.

mod chart;
mod history;
mod table;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};

use self::history::Sizes;
use super::{CommandError, print_line};
use gupd_config as config;
use gupd_config::clock::Clock;
use gupd_config::units::{Rate, Size, Time};
use gupd_config::{Config, Overrides};
use gupd_plan::{
    Appearance, Cost, Deadline, Endless, LineAnswer, Rollout, Scenario, Site, SiteError, SpreadAnswer, costs,
    share_of, simulate,
};
use gupd_store::Inventory;

/// A plan farther ahead than this is no plan.
const MAX_HORIZON: Duration = Duration::from_secs(365 * 86_400);

#[derive(Debug, Args)]
pub(super) struct Plan {
    /// Configuration file with limits, groups and windows; needs no upstream.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the store that --from-store reads [default: /var/lib/gupd, or the user's state folder].
    #[arg(long, value_name = "DIR")]
    store: Option<String>,
    /// In place of the configuration's wan.limit.
    #[arg(long, value_name = "RATE")]
    wan_limit: Option<String>,
    /// Clients, shared evenly by the groups; or GROUP=N for each group.
    #[arg(long, value_name = "N", required = true, value_parser = clients)]
    clients: Vec<Clients>,
    /// Size of the full set.
    #[arg(long, value_name = "SIZE")]
    full: Option<Size>,
    /// Size of the delta from the revision before.
    #[arg(long, value_name = "SIZE")]
    delta: Option<Size>,
    /// Clients that are too far behind for the delta.
    #[arg(long, value_name = "SHARE", default_value = "5%", value_parser = share)]
    full_share: f64,
    /// Sizes from the newest revisions in the store, all content of a client together.
    #[arg(long)]
    from_store: bool,
    /// What the line to the upstreams carries [default: wan.limit is all that is known of it].
    #[arg(long, value_name = "RATE", value_parser = rate)]
    line: Option<Rate>,
    /// What the relay's link to its clients carries.
    #[arg(long, value_name = "RATE", default_value = "1Gbit/s", value_parser = rate)]
    lan: Rate,
    /// When the content is published: 2026-11-23T20:00 at the site, or with its zone 2026-11-23T19:00:00Z
    /// [default: now].
    #[arg(long, value_name = "TIME", value_parser = start)]
    start: Option<Start>,
    /// When clients come online: always-on; estate, of whose clients 60 % come within a day, 75 % within three, 80 %
    /// within a week and the rest never; or shares by time such as 24h:60%,3d:75%.
    #[arg(long, value_name = "PROFILE", default_value = "always-on")]
    appear: Appearance,
    /// How often clients ask for content.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = ahead)]
    heartbeat: Duration,
    /// How far the plan looks ahead.
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = ahead)]
    horizon: Duration,
    /// Say in reverse which line and which spreads meet this deadline.
    #[arg(long, value_name = "TIME", value_parser = ahead)]
    deadline: Option<Duration>,
    /// Clients that must be current by the deadline.
    #[arg(long, value_name = "SHARE", default_value = "100%", value_parser = share, requires = "deadline")]
    goal: f64,
    /// Clients' downloads may take this together in their busiest minute: the shortest spread that keeps to it is said.
    #[arg(long, value_name = "RATE", value_parser = rate, requires = "deadline")]
    lan_peak: Option<Rate>,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Draw rates and clients over time into this SVG file.
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
}

/// `--clients`, once.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Clients {
    group: Option<String>,
    count: u32,
}

/// `--start`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    At(Timestamp),
    AtSite(civil::DateTime),
}

/// Everything that is said.
struct Report {
    zone: TimeZone,
    start: Timestamp,
    scenario: Scenario,
    rollout: Rollout,
    costs: Vec<Cost>,
    reverse: Option<Reverse>,
}

/// What `--deadline` asks, and the answers.
struct Reverse {
    deadline: Deadline,
    line: LineAnswer,
    spread: SpreadAnswer,
}

pub(super) fn run(plan: &Plan) -> Result<(), CommandError> {
    let report = plan.report()?;
    if let Some(path) = &plan.chart {
        std::fs::write(path, chart::svg(&report)).map_err(|error| {
            CommandError::Failed(format!("cannot write {}: {error}; give another --chart", path.display()))
        })?;
    }
    print_line(&if plan.json { words::json(&report) } else { table::table(&report) });
    Ok(())
}

impl Plan {
    fn report(&self) -> Result<Report, CommandError> {
        let overrides = Overrides {
            store: self.store.clone(),
            wan_limit: self.wan_limit.clone(),
            ..Overrides::default()
        };
        let config =
            Config::load_without_upstreams(&overrides, self.config.as_deref(), config::environment())?;
        let zone = config.site.time_zone.clone();
        let start = self.start(&zone)?;
        let scenario = self.site(&config, start)?.scenario(&config)?;
        let rollout = simulate(&scenario)?;
        Ok(Report {
            costs: costs(&scenario, &rollout)?,
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
            Some(Start::At(time)) => Ok(time),
            Some(Start::AtSite(time)) => zone.to_timestamp(time).map_err(|error| error.to_string()),
        }
        .map_err(|error| CommandError::Configuration(format!("--start is no time at the site: {error}")))
    }

    fn site(&self, config: &Config, start: Timestamp) -> Result<Site, CommandError> {
        let stored =
            if self.from_store { Sizes::of(&Inventory::open(&config.store.dir)?)? } else { Sizes::default() };
        let given = |size: Option<Size>, stored: Option<u64>| size.map(|Size(bytes)| bytes).or(stored);
        if [self.full, self.delta].contains(&Some(Size(0))) {
            return Err(CommandError::Configuration(
                "--full and --delta are more than 0 bytes; leave out what is not there".into(),
            ));
        }
        Ok(Site {
            clients: self.clients.iter().map(|clients| (clients.group.clone(), clients.count)).collect(),
            full: given(self.full, stored.full),
            delta: given(self.delta, stored.delta),
            full_share: self.full_share,
            line: self.line,
            lan: self.lan,
            start: start.as_millisecond(),
            appearance: self.appear.clone(),
            heartbeat: self.heartbeat,
            horizon: self.horizon.max(self.deadline.unwrap_or_default()),
        })
    }

    fn reverse(&self, scenario: &Scenario) -> Result<Option<Reverse>, CommandError> {
        let Some(within) = self.deadline else { return Ok(None) };
        let busiest = self.lan_peak.map_or(f64::INFINITY, |Rate(bytes)| bytes as f64);
        let deadline = Deadline { within: within.as_secs_f64(), share: self.goal, busiest };
        Ok(Some(Reverse {
            line: deadline.smallest_line(scenario)?,
            spread: deadline.spreads(scenario)?,
            deadline,
        }))
    }
}

fn clients(text: &str) -> Result<Clients, String> {
    let (group, count) = match text.rsplit_once('=') {
        Some((group, count)) => (Some(group.to_owned()), count),
        None => (None, text),
    };
    let refused = |_| format!("{count:?} is not a number of clients; write it like 5000, or branch-a=200");
    Ok(Clients { group, count: count.parse().map_err(refused)? })
}

fn share(text: &str) -> Result<f64, String> {
    share_of(text).ok_or_else(|| format!("{text:?} is not a share; write it like 5%, from 0% to 100%"))
}

fn rate(text: &str) -> Result<Rate, String> {
    match text.parse().map_err(|error: config::UnitError| error.to_string())? {
        Rate(0) => Err(format!("{text} moves nothing; give a rate like 8Mbit/s")),
        rate => Ok(rate),
    }
}

fn ahead(text: &str) -> Result<Duration, String> {
    let Time(time) = text.parse().map_err(|error: config::UnitError| error.to_string())?;
    if time > MAX_HORIZON {
        return Err(format!("{text} is too far ahead; the most is {}", Time(MAX_HORIZON)));
    }
    Ok(time)
}

fn start(text: &str) -> Result<Start, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Start::At(time));
    }
    let refused = |_| format!("{text:?} is no time; write it like 2026-11-23T20:00 or 2026-11-23T19:00:00Z");
    text.parse().map(Start::AtSite).map_err(refused)
}

impl From<SiteError> for CommandError {
    fn from(error: SiteError) -> Self {
        Self::Configuration(format!("plan: {error}"))
    }
}

impl From<Endless> for CommandError {
    fn from(error: Endless) -> Self {
        Self::Failed(format!("plan: {error}"))
    }
}
