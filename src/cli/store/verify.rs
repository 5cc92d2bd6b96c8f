//! `gupd store verify`: verifies the whole store, with a progress bar and one line for each finding. With the lock of
//! the folder it repairs: damaged chunks and missing files are fetched from the upstreams. An object is removed only if
//! an upstream answered that it does not have it, or has other content. Beside a running relay it only reports.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use indicatif::BinaryBytes;
use serde_json::json;

use super::{CommandError, OpenedStore, StoreLocation, bar};
use crate::relay::GenerationBuilder;
use crate::{print_error, print_line};
use gupd_config::Config;
use gupd_config::Quantity;
use gupd_config::clock::Clock;
use gupd_guard::log::escape_invisible;
use gupd_net::SetupError;
use gupd_net::metrics::NetMetrics;
use gupd_proxy::Generation;
use gupd_proxy::background::OriginError;
use gupd_store::{
    BlobId, Finding, Inventory, Object, ReadError, RepairError, StoreError, VerifySummary, verify,
};

/// What to do while a relay has the store.
const LOCKED: &str = "a running relay has the store. It never serves damaged content and repairs it on access. To repair \
                      all now, stop the relay and run this again";

pub(super) fn run(
    location: &StoreLocation,
    upstream: Vec<String>,
    dry_run: bool,
    as_json: bool,
) -> Result<(), CommandError> {
    let mut config = location.load_config(Vec::new())?;
    let source = if upstream.is_empty() { RepairSource::Routes } else { RepairSource::AnyUpstream };
    if !upstream.is_empty() {
        use_upstreams(&mut config, upstream)?;
    }
    let dir = &config.store.dir;
    if !dir.join("blobs").exists() {
        return Err(StoreError::NoStore { path: dir.clone() }.into());
    }
    let (repairs, is_locked) = if dry_run { (None, false) } else { open_repairs(&config, source)? };
    let inventory = Inventory::open(dir)?;
    let bar = bar("verifying", inventory.bytes()?);
    let mut summary = Summary::default();
    if as_json {
        print_line("{\"findings\": [");
    }
    let found = |finding: Finding| {
        let outcome = match &repairs {
            Some(repairs) => repairs.repair(&finding)?,
            None => RepairOutcome::Left(None),
        };
        // Each is written as it is found, so a million findings take no memory.
        let comma = if summary.found() == 0 { "" } else { "," };
        bar.suspend(|| match as_json {
            true => print_line(&format!("{comma}{}", to_json(&finding, &outcome))),
            false => print_error(&format!("{finding}{}", outcome.to_suffix())),
        });
        summary.add(&outcome);
        Ok(())
    };
    let verified = verify(&inventory, |bytes| bar.inc(bytes), found)?;
    bar.finish_and_clear();
    print_line(&match as_json {
        true => summary.to_json_end(verified),
        false => format!("verified {}, {}", Quantity(verified.blobs, "blob"), BinaryBytes(verified.bytes)),
    });
    if summary.is_sound() {
        if summary.found() > 0 && !as_json {
            print_line(&summary.to_line(false));
        }
        return Ok(());
    }
    let left = summary.left;
    Err(CommandError::Failed(match (is_locked, dry_run) {
        (true, _) => format!("{left} found, none repaired: {LOCKED}"),
        (_, true) => format!("{left} found, none repaired: run this without --dry-run"),
        _ => summary.to_line(config.upstreams.is_empty()),
    }))
}

/// Opens the store for repairs. A running relay that has it is told by the flag.
fn open_repairs(config: &Config, source: RepairSource) -> Result<(Option<Repairs>, bool), CommandError> {
    match OpenedStore::open(&config.store) {
        Ok(opened) => Ok((Some(Repairs::new(opened, config, source)?), false)),
        Err(StoreError::Locked { .. }) => Ok((None, true)),
        Err(error) => Err(error.into()),
    }
}

/// Replaces the upstreams of a configuration by those of `--upstream`. One that the configuration has, by its URL, keeps
/// its settings for TLS and proxy.
fn use_upstreams(config: &mut Config, urls: Vec<String>) -> Result<(), CommandError> {
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let given = Config::for_upstreams(&urls)?;
    let configured = std::mem::take(&mut config.upstreams);
    config.upstreams = given.upstreams;
    for upstream in &mut config.upstreams {
        if let Some(known) = configured.iter().find(|known| known.url == upstream.url) {
            *upstream = known.clone();
        }
    }
    (config.routes, config.groups, config.peers) = (given.routes, Vec::new(), Vec::new());
    Ok(())
}

/// Upstreams that an object is fetched from.
#[derive(Clone, Copy)]
enum RepairSource {
    /// Those of its route, by the configuration.
    Routes,
    /// Any, whatever its route: those of `--upstream`.
    AnyUpstream,
}

/// A locked store and the upstreams to repair it from.
struct Repairs {
    opened: OpenedStore,
    generation: Generation,
    source: RepairSource,
}

/// Outcome of the repair of a finding.
enum RepairOutcome {
    /// The original content is restored.
    Repaired {
        /// Bytes fetched from an upstream.
        fetched: u64,
    },
    /// The object is removed; with the error if a repair was possible.
    Removed(Option<RepairError>),
    /// Nothing has changed; with the error if there was one.
    Left(Option<RepairError>),
}

/// Outcomes of all findings.
#[derive(Default)]
struct Summary {
    repaired: u64,
    fetched: u64,
    removed: u64,
    /// Removed because no upstream has them.
    lost: u64,
    left: u64,
    unreachable: u64,
}

impl Repairs {
    fn new(opened: OpenedStore, config: &Config, source: RepairSource) -> Result<Self, SetupError> {
        let metrics = Arc::new(NetMetrics::register(&prometheus::Registry::new())?);
        // Repairs fetch a few blocks, so the WAN limit does not apply.
        let builder = GenerationBuilder::new(config, Clock::system(), metrics).unlimited(config);
        let generation = builder.build(config.clone(), None)?;
        Ok(Self { opened, generation, source })
    }

    async fn fetch(&self, object: Arc<Object>, range: Range<u64>) -> Result<Bytes, OriginError> {
        match self.source {
            RepairSource::Routes => self.generation.fetch_range(&object, range).await,
            RepairSource::AnyUpstream => self.generation.fetch_range_from_any(&object, range).await,
        }
    }

    /// Restores a blob's content: a chunk, or the whole file if it has no usable checksums.
    async fn restore(&self, blob: BlobId) -> Result<u64, RepairError> {
        let (store, fetch) = (&self.opened.store, |object, range| self.fetch(object, range));
        // The request to an upstream is a large future.
        match Box::pin(store.repair_blob(blob, fetch)).await {
            Err(RepairError::Read(ReadError::Damaged { .. } | ReadError::Gone { .. })) => {
                store.restore_blob(blob, fetch).await
            }
            repaired => repaired,
        }
    }

    fn repair(&self, finding: &Finding) -> Result<RepairOutcome, StoreError> {
        let OpenedStore { store, runtime } = &self.opened;
        runtime.block_on(async {
            let mut repair_error = None;
            if let Finding::Damaged { blob, .. } | Finding::Missing { blob, .. } = finding {
                match Box::pin(self.restore(*blob)).await {
                    Ok(fetched) => return Ok(RepairOutcome::Repaired { fetched }),
                    Err(confirmed @ (RepairError::NotOffered(_) | RepairError::Different)) => {
                        repair_error = Some(confirmed);
                    }
                    Err(error) => return Ok(RepairOutcome::Left(Some(error))),
                }
            }
            Ok(if store.remove_finding(finding).await? {
                RepairOutcome::Removed(repair_error)
            } else {
                RepairOutcome::Left(None)
            })
        })
    }
}

impl RepairOutcome {
    /// Formats the outcome to follow the finding.
    fn to_suffix(&self) -> String {
        match self {
            Self::Repaired { fetched } => format!("; repaired, {} fetched", BinaryBytes(*fetched)),
            Self::Removed(Some(unrepaired)) => format!("; removed: {unrepaired}"),
            Self::Removed(None) => "; removed".to_owned(),
            Self::Left(Some(error)) => format!("; not repaired: {error}"),
            Self::Left(None) => String::new(),
        }
    }
}

/// Formats a finding in one line.
fn to_json(finding: &Finding, outcome: &RepairOutcome) -> String {
    let (kind, blob, objects) = match finding {
        Finding::Damaged { blob, objects, .. } => ("damaged", Some(blob), Some(*objects)),
        Finding::Missing { blob, objects } => ("missing", Some(blob), Some(*objects)),
        Finding::Orphan { blob } => ("orphan", Some(blob), None),
        Finding::Foreign { .. } => ("foreign", None, None),
        Finding::Unreadable { .. } => ("unreadable", None, None),
        _ => ("other", None, None),
    };
    let (outcome, fetched, error) = match outcome {
        RepairOutcome::Repaired { fetched } => ("repaired", *fetched, None),
        RepairOutcome::Removed(error) => ("removed", 0, error.as_ref()),
        RepairOutcome::Left(error) => ("left", 0, error.as_ref()),
    };
    let json = json!({
        "kind": kind,
        "blob": blob.map(ToString::to_string),
        "objects": objects,
        "message": finding.to_string(),
        "outcome": outcome,
        "fetched": fetched,
        "error": error.map(ToString::to_string),
    });
    escape_invisible(&json.to_string()).into_owned()
}

impl Summary {
    /// Formats the end of the JSON object, after its findings.
    fn to_json_end(&self, verified: VerifySummary) -> String {
        let Self { repaired, fetched, removed, lost, left, .. } = self;
        let VerifySummary { blobs, bytes } = verified;
        let counts = json!({
            "blobs": blobs, "bytes": bytes, "repaired": repaired, "fetched": fetched, "removed": removed,
            "lost": lost, "left": left,
        });
        // Continues the object that the list of findings began.
        format!("], {}", counts.to_string().trim_start_matches('{'))
    }

    fn add(&mut self, outcome: &RepairOutcome) {
        match outcome {
            RepairOutcome::Repaired { fetched } => {
                self.repaired += 1;
                self.fetched += fetched;
            }
            RepairOutcome::Removed(error) => {
                self.removed += 1;
                self.lost += u64::from(error.is_some());
            }
            RepairOutcome::Left(error) => {
                self.left += 1;
                self.unreachable += u64::from(matches!(error, Some(RepairError::Unavailable(_))));
            }
        }
    }

    /// Returns true if the store is sound now and has lost no content.
    fn is_sound(&self) -> bool {
        self.left == 0 && self.lost == 0
    }

    fn found(&self) -> u64 {
        self.repaired + self.removed + self.left
    }

    /// Formats the last line.
    fn to_line(&self, no_upstream: bool) -> String {
        let Self { repaired, fetched, removed, lost, left, unreachable } = *self;
        let fetched = BinaryBytes(fetched);
        let mut line =
            format!("{} found: {repaired} repaired ({fetched} fetched), {removed} removed", self.found());
        if left > 0 {
            line += &format!(", {left} not repaired");
        }
        if unreachable > 0 && !no_upstream {
            line += "; damaged content is never served: run this again when an upstream answers";
        }
        if lost > 0 {
            line += "; removed objects are fetched again on request";
        }
        if unreachable > 0 && no_upstream {
            line += "; no upstream to repair from: pass --upstream or --config";
        }
        line
    }
}
