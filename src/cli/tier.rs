//! `gupd tier`: the objects of the shared tier. All commands are safe while relays use it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use prometheus::Registry;
use serde::Serialize;

use super::config_file::ConfigFile;
use super::{CommandError, new_runtime, print_line, table, to_json};
use gupd_config::Quantity;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::policy::Policy;
use gupd_config::units::Time;
use gupd_config::{Config, Overrides, TierSettings};
use gupd_http::key;
use gupd_tier::metrics::TierMetrics;
use gupd_tier::{CollectionReport, ListedObject, ListedState, Tier, TierError};

/// Time for one operation of a command: a list of a large bucket takes a minute.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Minimum grace time: longer than the upload of the largest object.
const MIN_GRACE: Duration = Duration::from_secs(3600);

#[derive(Debug, Subcommand)]
pub(super) enum TierCommand {
    /// List objects of the shared tier.
    Ls {
        #[command(flatten)]
        file: ConfigFile,
        /// Print a JSON array instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Read every object, and compare it with its checksums and SHA-256. Changes nothing.
    Verify {
        #[command(flatten)]
        file: ConfigFile,
        /// Print a JSON object instead of lines.
        #[arg(long)]
        json: bool,
    },
    /// Remove objects by age or revision, and blobs that no object names.
    Gc {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        retention: TierRetention,
        /// Only count.
        #[arg(long)]
        dry_run: bool,
        /// Print a JSON object instead of a line.
        #[arg(long)]
        json: bool,
    },
}

/// Objects that a collection removes.
#[derive(Debug, Args)]
pub(super) struct TierRetention {
    /// Remove objects that were published longer ago, such as 30d.
    #[arg(long, value_name = "AGE")]
    older: Option<Time>,
    /// Remove objects of all but the newest revisions of each content, as the profiles know them.
    #[arg(long, value_name = "REVISIONS", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Age of a blob before it may be removed; at least 1h. Publications may still name it.
    #[arg(long, value_name = "AGE", default_value = "1d")]
    grace: Time,
}

/// One object in the output.
#[derive(Debug, Serialize)]
struct ObjectLine {
    name: String,
    state: &'static str,
    published: UnixMillis,
    key: Option<String>,
    content_type: Option<String>,
    bytes: u64,
    sha256: Option<String>,
}

pub(super) fn run(command: TierCommand) -> Result<(), CommandError> {
    match command {
        TierCommand::Ls { file, json } => list(&file, json),
        TierCommand::Verify { file, json } => verify(&file, json),
        TierCommand::Gc { file, retention, dry_run, json } => collect(&file, &retention, dry_run, json),
    }
}

/// Loads the configuration, and opens its tier.
pub(super) fn open(file: &ConfigFile) -> Result<(Config, Arc<Tier>), CommandError> {
    let config = file.load_without_upstreams(&Overrides::default())?;
    let Some(settings) = &config.tier else {
        let why = config.warnings.iter().find(|warning| warning.key.as_deref() == Some("tier.url"));
        let remedy = file.where_to_set("tier.url");
        let text = why.map_or_else(|| format!("no tier is configured: {remedy}"), ToString::to_string);
        return Err(CommandError::Configuration(format!("tier: {text}")));
    };
    let metrics = TierMetrics::register(&Registry::new());
    let metrics = metrics.map_err(|error| CommandError::Failed(format!("metrics: {error}")))?;
    let settings = TierSettings { timeout: TIMEOUT, ..settings.clone() };
    let tier = Tier::new(&settings, Arc::new(metrics)).map_err(|error| failed(&settings.url, &error))?;
    Ok((config, Arc::new(tier)))
}

pub(super) fn failed(url: &str, error: &TierError) -> CommandError {
    CommandError::Failed(format!("tier {url}: {error}"))
}

fn list(file: &ConfigFile, as_json: bool) -> Result<(), CommandError> {
    let (_, tier) = open(file)?;
    let objects = new_runtime()?.block_on(tier.list());
    let objects = objects.map_err(|error| failed(&tier.settings().url, &error))?;
    let lines: Vec<_> = objects.iter().map(ObjectLine::new).collect();
    if as_json {
        print_line(&to_json(&lines)?);
        return Ok(());
    }
    let now = Clock::system().now();
    let mut table = table::new(&["AGE", "SIZE", "STATE", "CONTENT TYPE", "KEY"], &[0, 1]);
    for line in &lines {
        let age = u64::try_from(now.saturating_sub(line.published)).unwrap_or(0);
        table.add_row([
            table::span(age),
            table::bytes(line.bytes),
            line.state.to_owned(),
            line.content_type.clone().unwrap_or_default(),
            line.key.as_deref().unwrap_or(&line.name).escape_debug().to_string(),
        ]);
    }
    table::pad(&mut table);
    let bytes = lines.iter().map(|line| line.bytes).sum();
    print_line(&table::text(&table));
    print_line(&format!("{}, {}", Quantity(lines.len(), "object"), table::bytes(bytes)));
    Ok(())
}

/// Result of a verification.
#[derive(Debug, Default, Serialize)]
struct TierVerification {
    objects: u64,
    bytes: u64,
    later: u64,
    damaged: Vec<String>,
}

fn verify(file: &ConfigFile, as_json: bool) -> Result<(), CommandError> {
    let (_, tier) = open(file)?;
    let verified = new_runtime()?.block_on(verify_all(&tier));
    let verified = verified.map_err(|error| failed(&tier.settings().url, &error))?;
    if as_json {
        print_line(&to_json(&verified)?);
    } else {
        for key in &verified.damaged {
            print_line(&format!("damaged: {}", key.escape_debug()));
        }
        let (objects, bytes) = (Quantity(verified.objects, "object"), table::bytes(verified.bytes));
        print_line(&format!("{objects}, {bytes}: {} damaged", verified.damaged.len()));
    }
    if verified.damaged.is_empty() {
        return Ok(());
    }
    let damaged = Quantity(verified.damaged.len(), "object").with_verb("is", "are");
    let remedy = "the next relay that needs one replaces it";
    Err(CommandError::Failed(format!("tier: {damaged} damaged: {remedy}")))
}

async fn verify_all(tier: &Arc<Tier>) -> Result<TierVerification, TierError> {
    let mut verified = TierVerification::default();
    for object in tier.list().await? {
        match object.state {
            ListedState::Usable(record) => {
                verified.objects += 1;
                verified.bytes += record.length;
                if !tier.verify(&record).await? {
                    verified.damaged.push(record.key.clone());
                }
            }
            ListedState::Later => verified.later += 1,
            ListedState::Damaged => {
                verified.objects += 1;
                verified.damaged.push(object.name);
            }
        }
    }
    Ok(verified)
}

fn collect(
    file: &ConfigFile,
    retention: &TierRetention,
    dry_run: bool,
    as_json: bool,
) -> Result<(), CommandError> {
    let Time(grace) = retention.grace;
    if grace < MIN_GRACE {
        let least = Time(MIN_GRACE);
        return Err(CommandError::Configuration(format!(
            "tier gc: --grace {} is too short: use {least} or more",
            retention.grace
        )));
    }
    let (config, tier) = open(file)?;
    let policy = Policy::new(&config).map_err(|error| CommandError::Configuration(error.to_string()))?;
    let now = Clock::system().now();
    let before = |age: Duration| now.saturating_sub(UnixMillis::try_from(age.as_millis()).unwrap_or(now));
    let report = new_runtime()?.block_on(async {
        let kept = match retention.keep {
            Some(revisions) => newest_revisions(&policy, &tier.list().await?, revisions),
            None => HashMap::new(),
        };
        let is_outdated = |object: &ListedObject| {
            let is_old = retention.older.is_some_and(|Time(age)| object.published < before(age));
            let is_damaged = matches!(object.state, ListedState::Damaged) && object.published < before(grace);
            is_old || is_damaged || is_superseded(&policy, &kept, object)
        };
        tier.collect(is_outdated, before(grace), dry_run).await
    });
    let report = report.map_err(|error| failed(&tier.settings().url, &error))?;
    print_report(&report, dry_run, as_json)
}

fn print_report(report: &CollectionReport, dry_run: bool, as_json: bool) -> Result<(), CommandError> {
    let CollectionReport { records, blobs, bytes, later } = *report;
    if as_json {
        let json = serde_json::json!({
            "records": records, "blobs": blobs, "bytes": bytes, "later": later, "dry_run": dry_run,
        });
        print_line(&to_json(&json)?);
        return Ok(());
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    print_line(&format!(
        "{verb} {} and {}, {}",
        Quantity(records, "object"),
        Quantity(blobs, "blob"),
        table::bytes(bytes)
    ));
    if later > 0 {
        let later = Quantity(later, "record").with_verb("is", "are");
        print_line(&format!("{later} of a later version of gupd: no blob is removed"));
    }
    Ok(())
}

/// Returns the numbers of the newest revisions of each content.
fn newest_revisions(
    policy: &Policy,
    objects: &[ListedObject],
    revisions: u32,
) -> HashMap<String, BTreeSet<u64>> {
    let mut newest: HashMap<String, BTreeSet<u64>> = HashMap::new();
    for object in objects {
        let ListedState::Usable(record) = &object.state else { continue };
        let Some(file) = key::revision_file(policy, &record.key) else { continue };
        let numbers = newest.entry(file.series.to_owned()).or_default();
        numbers.insert(file.number);
        if numbers.len() > usize::try_from(revisions).unwrap_or(usize::MAX) {
            numbers.pop_first();
        }
    }
    newest
}

/// Returns true for an object of a revision that is not among the newest ones. Keys without a revision are kept.
fn is_superseded(policy: &Policy, kept: &HashMap<String, BTreeSet<u64>>, object: &ListedObject) -> bool {
    let ListedState::Usable(record) = &object.state else { return false };
    let Some(file) = key::revision_file(policy, &record.key) else { return false };
    // A revision that appeared since is newer.
    kept.get(file.series).and_then(BTreeSet::first).is_some_and(|oldest| file.number < *oldest)
}

impl ObjectLine {
    fn new(object: &ListedObject) -> Self {
        let record = match &object.state {
            ListedState::Usable(record) => Some(record),
            ListedState::Later | ListedState::Damaged => None,
        };
        Self {
            name: object.name.clone(),
            state: match object.state {
                ListedState::Usable(_) => "usable",
                ListedState::Later => "later version",
                ListedState::Damaged => "damaged",
            },
            published: object.published,
            key: record.map(|record| record.key.clone()),
            content_type: record.map(|record| record.content_type.clone()),
            bytes: record.map_or(0, |record| record.length),
            sha256: record.map(|record| record.digest_text()),
        }
    }
}
