//! `gupd store`: commands on a store. They open its folder themselves. `ls`, `export` and `verify --dry-run` work
//! beside a running relay; other commands need the lock of the folder. `purge` asks the relay that has it, and so does
//! `warm`.

mod held;
mod list;
mod owner;
mod purge;
mod selection;
mod transfer;
mod types;
mod verify;
mod warm;
mod warm_source;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use self::selection::Selection;
use super::CommandError;
use super::config_file::ConfigFile;
use gupd_admin::HeldDecision;
use gupd_config as config;
use gupd_config::clock::Clock;
use gupd_config::{Config, Overrides};
use gupd_guard::log::has_colour;
use gupd_store::{Inventory, Store, StoreError};

/// Modules whose warnings a command does not log, because it prints repairs and upstream errors itself.
const QUIET_TARGETS: [&str; 2] = ["gupd_store::repair", "gupd_net::upstream"];

/// Memory for chunks: a command reads nothing twice.
const CHUNK_MEMORY: u64 = 16 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// List objects, oldest first.
    Ls {
        #[command(flatten)]
        location: StoreLocation,
        #[command(flatten)]
        selection: Selection,
        /// Print the sums of each content type instead of the objects.
        #[arg(long)]
        by_type: bool,
        /// Print a JSON array instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Remove objects that match all conditions, with their variants; the next request fetches them again.
    Purge {
        #[command(flatten)]
        location: StoreLocation,
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        flags: purge::PurgeFlags,
    },
    /// List content that is kept aside because it is not proven, or changed under its name.
    Held {
        #[command(flatten)]
        location: StoreLocation,
        /// Print a JSON array instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Give held content to clients.
    Release {
        #[command(flatten)]
        location: StoreLocation,
        #[command(flatten)]
        flags: held::DecisionFlags,
    },
    /// Remove held content.
    Reject {
        #[command(flatten)]
        location: StoreLocation,
        #[command(flatten)]
        flags: held::DecisionFlags,
    },
    /// Compare every blob with its checksums and the index; fetch damaged chunks again, remove what no upstream has.
    Verify {
        #[command(flatten)]
        location: StoreLocation,
        /// Manager to repair from; repeatable, in order of priority [default: those of the configuration].
        #[arg(long, value_name = "URL")]
        upstream: Vec<String>,
        /// Only report damage. Beside a running relay this is always so.
        #[arg(long)]
        dry_run: bool,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Write objects to a bundle that another site can import.
    Export {
        #[command(flatten)]
        location: StoreLocation,
        /// Only objects fetched or revalidated since: 2026-11-20, 2026-11-20T18:00:00Z, or 7d for the last 7 days.
        #[arg(long, value_name = "TIME", value_parser = transfer::since)]
        since: Option<transfer::Since>,
        /// Bundle to write.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Make the running relay fetch what another relay or the shared tier has, inside its windows and limits.
    Warm(warm::WarmFlags),
    /// Verify a bundle and add the objects that the store does not have.
    Import {
        #[command(flatten)]
        location: StoreLocation,
        /// Bundle to read.
        #[arg(value_name = "FILE")]
        bundle: PathBuf,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Flags that locate the store.
#[derive(Debug, Args)]
pub(super) struct StoreLocation {
    #[command(flatten)]
    file: ConfigFile,
    /// Folder of the store [default: /var/lib/gupd, or the user's state folder].
    #[arg(long, value_name = "DIR")]
    store: Option<String>,
}

pub(super) fn run(command: StoreCommand) -> Result<(), CommandError> {
    match command {
        StoreCommand::Ls { location, selection, by_type: true, json } => {
            types::run(&location, &selection, json)
        }
        StoreCommand::Ls { location, selection, by_type: false, json } => {
            list::run(&location, &selection, json)
        }
        StoreCommand::Purge { location, selection, flags } => purge::run(&location, &selection, flags),
        StoreCommand::Held { location, json } => held::list(&location, json),
        StoreCommand::Release { location, flags } => held::decide(&location, flags, HeldDecision::Release),
        StoreCommand::Reject { location, flags } => held::decide(&location, flags, HeldDecision::Reject),
        StoreCommand::Verify { location, upstream, dry_run, json } => {
            verify::run(&location, upstream, dry_run, json)
        }
        StoreCommand::Export { location, since, output, json } => {
            transfer::export(&location, since, &output, json)
        }
        StoreCommand::Warm(flags) => warm::run(&flags),
        StoreCommand::Import { location, bundle, json } => transfer::import(&location, &bundle, json),
    }
}

impl StoreLocation {
    /// Opens the list of objects, and checks that the selection can have any.
    fn open(&self, selection: &Selection) -> Result<Inventory, CommandError> {
        Ok(self.open_with(Overrides::default(), selection)?.1)
    }

    fn open_with(
        &self,
        overrides: Overrides,
        selection: &Selection,
    ) -> Result<(Config, Inventory), CommandError> {
        let config = self.load_with(overrides)?;
        let inventory = Inventory::open(&config.store.dir)?;
        selection.check(&config, &inventory).map_err(CommandError::Configuration)?;
        Ok((config, inventory))
    }

    fn load(&self) -> Result<config::StoreSettings, CommandError> {
        Ok(self.load_config(Vec::new())?.store)
    }

    /// Loads the whole configuration; upstreams are optional.
    fn load_config(&self, upstream: Vec<String>) -> Result<Config, CommandError> {
        self.load_with(Overrides { upstream, ..Overrides::default() })
    }

    fn load_with(&self, overrides: Overrides) -> Result<Config, CommandError> {
        let overrides = Overrides { store: self.store.clone(), ..overrides };
        Ok(self.file.load_without_upstreams(&overrides)?)
    }
}

/// A locked store and the runtime for its calls.
struct OpenedStore {
    store: Arc<Store>,
    runtime: Runtime,
}

impl OpenedStore {
    /// Locks the folder and opens the store, with the rights of its owner.
    fn open(config: &config::StoreSettings) -> Result<Self, StoreError> {
        owner::become_owner(&config.dir)?;
        // Shows what the store does by itself, such as setting a damaged index aside.
        let warnings = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let warnings = warnings.with_ansi(has_colour(std::io::stderr().is_terminal()));
        let warnings = warnings.without_time().with_target(false);
        let filter = Targets::new().with_default(LevelFilter::WARN);
        let filter = filter.with_targets(QUIET_TARGETS.map(|target| (target, LevelFilter::ERROR)));
        // Has no effect the second time in a process.
        let _set_up = tracing_subscriber::registry().with(filter).with(warnings).try_init();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| {
                StoreError::Io { doing: "create an event queue for", path: config.dir.clone(), source }
            })?;
        let store =
            Store::open(&config::StoreSettings { memory: CHUNK_MEMORY, ..config.clone() }, Clock::system())?;
        Ok(Self { store, runtime })
    }
}

/// A bar over objects on standard error.
fn object_bar(what: &'static str, objects: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} objects {bar:28} {pos} of {len}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(u64::try_from(objects).unwrap_or(u64::MAX)).with_style(style).with_prefix(what)
}

/// A bar over bytes on standard error; nothing where that is no terminal.
fn bar(what: &'static str, bytes: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} {bar:28} {binary_bytes} of {binary_total_bytes}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style).with_prefix(what)
}
