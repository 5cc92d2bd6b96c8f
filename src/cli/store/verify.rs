//! `gupd store verify`: the whole store now, with a bar, one line for each thing that is wrong. With the folder's lock
//! it makes good as it goes: damaged chunks are fetched from the configured upstreams, and what none of them has any
//! more is removed. What they cannot be asked for now is left. Beside a running relay it only tells.

use std::sync::Arc;

use indicatif::{BinaryBytes, HumanCount};

use super::{Failure, Opened, Place, bar};
use crate::relay::{StartError, generation};
use crate::{answer, complain};
use gupd_config::Config;
use gupd_config::clock::Clock;
use gupd_net::metrics::NetMetrics;
use gupd_net::shape::WanLimiter;
use gupd_proxy::Generation;
use gupd_store::{Finding, Inventory, Object, ReadError, RepairError, StoreError, verify};

pub(super) fn run(place: &Place, upstream: Vec<String>, dry_run: bool) -> Result<(), Failure> {
    let config = place.load_all(upstream)?;
    let dir = &config.store.dir;
    if !dir.join("blobs").exists() {
        return Err(StoreError::NoStore { path: dir.clone() }.into());
    }
    let (repairs, relay_runs) = match dry_run {
        true => (None, false),
        false => match Opened::open(&config.store) {
            Ok(opened) => (Some(Repairs::new(opened, &config)?), false),
            Err(StoreError::Locked { .. }) => (None, true),
            Err(error) => return Err(error.into()),
        },
    };
    let inventory = Inventory::open(dir)?;
    let bar = bar("verifying", inventory.bytes()?);
    let mut sum = Sum::default();
    let found = |finding: Finding| {
        let outcome = match &repairs {
            Some(repairs) => repairs.make_good(&finding)?,
            None => Outcome::Left(None),
        };
        sum.add(&outcome);
        bar.suspend(|| complain(&format!("{finding}{}", outcome.told())));
        Ok(())
    };
    let verified = verify(&inventory, |bytes| bar.inc(bytes), found)?;
    bar.finish_and_clear();
    answer(&format!("verified {} blobs, {}", HumanCount(verified.blobs), BinaryBytes(verified.bytes)));
    let left = sum.left;
    if sum.found() == 0 {
        return Ok(());
    }
    Err(Failure::Failed(if relay_runs {
        format!(
            "{left} found, nothing repaired: a relay has the store. It never serves them, and repairs damaged blobs \
             when it meets them; to repair all now, stop it and run this again"
        )
    } else if dry_run {
        format!("{left} found, nothing repaired; run this without --dry-run")
    } else {
        sum.told(config.upstreams.is_empty())
    }))
}

/// A store of which what is wrong can be made good.
struct Repairs {
    opened: Opened,
    generation: Generation,
}

/// What became of a finding.
enum Outcome {
    /// It is what was stored again.
    Repaired {
        /// Bytes that crossed the WAN for it.
        fetched: u64,
    },
    /// It is gone; why it could not be repaired, if it might have been.
    Removed(Option<RepairError>),
    /// It is as it was, and maybe why.
    Left(Option<RepairError>),
}

/// What became of all of them.
#[derive(Default)]
struct Sum {
    repaired: u64,
    fetched: u64,
    removed: u64,
    unrepaired: u64,
    left: u64,
    unreachable: u64,
}

impl Repairs {
    fn new(opened: Opened, config: &Config) -> Result<Self, StartError> {
        let metrics = Arc::new(NetMetrics::register(&prometheus::Registry::new())?);
        // What it fetches is a few blocks.
        let wan = Arc::new(WanLimiter::unlimited(config, Clock::system()));
        let generation = generation(config.clone(), &Clock::system(), &wan, &metrics, &Arc::default(), None)?;
        Ok(Self { opened, generation })
    }

    fn make_good(&self, finding: &Finding) -> Result<Outcome, StoreError> {
        let Self { opened: Opened { store, runtime }, generation } = self;
        runtime.block_on(async {
            let mut why = None;
            if let Finding::Damaged { blob, .. } = finding {
                let fetch =
                    |object: Arc<Object>, range| async move { generation.refetch(&object, range).await };
                match store.repair_blob(*blob, fetch).await {
                    Ok(fetched) => return Ok(Outcome::Repaired { fetched }),
                    Err(error @ (RepairError::Read(ReadError::Io { .. }) | RepairError::Unavailable(_))) => {
                        return Ok(Outcome::Left(Some(error)));
                    }
                    // The finding says it.
                    Err(RepairError::Read(_)) => {}
                    Err(unrepaired) => why = Some(unrepaired),
                }
            }
            Ok(if store.remove_finding(finding).await? { Outcome::Removed(why) } else { Outcome::Left(None) })
        })
    }
}

impl Outcome {
    /// Behind what was found.
    fn told(&self) -> String {
        match self {
            Self::Repaired { fetched } => format!("; repaired, {} fetched", BinaryBytes(*fetched)),
            Self::Removed(Some(unrepaired)) => format!("; removed: {unrepaired}"),
            Self::Removed(None) => "; removed".to_owned(),
            Self::Left(Some(error)) => format!("; left: {error}"),
            Self::Left(None) => String::new(),
        }
    }
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Repaired { fetched } => {
                self.repaired += 1;
                self.fetched += fetched;
            }
            Outcome::Removed(why) => {
                self.removed += 1;
                self.unrepaired += u64::from(why.is_some());
            }
            Outcome::Left(why) => {
                self.left += 1;
                self.unreachable += u64::from(matches!(why, Some(RepairError::Unavailable(_))));
            }
        }
    }

    fn found(&self) -> u64 {
        self.repaired + self.removed + self.left
    }

    /// The last line.
    fn told(&self, no_upstream: bool) -> String {
        let Self { repaired, fetched, removed, unrepaired, left, unreachable } = *self;
        let fetched = BinaryBytes(fetched);
        let mut line =
            format!("{} found: {repaired} repaired ({fetched} fetched), {removed} removed", self.found());
        if left > 0 {
            line += &format!(", {left} left as they are");
        }
        if unreachable > 0 {
            line += "; damage is never served: run this again when an upstream answers";
        }
        if removed > 0 {
            line += "; what is removed is fetched again when asked for";
        }
        if unrepaired > 0 && no_upstream {
            line += "; no upstream to repair from is configured, give --upstream or --config";
        }
        line
    }
}
