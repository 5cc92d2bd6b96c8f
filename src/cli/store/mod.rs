//! `gupd store`: what an administrator does with the content of a store. The commands open its folder themselves:
//! `ls`, `export` and a `verify` that repairs nothing work beside a running relay; what changes the store needs the
//! folder's lock, and says so if a relay has it.

mod carry;
mod purge;
mod selection;
mod show;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;

use self::selection::Selection;
use super::Failure;
use gupd_config as config;
use gupd_config::clock::Clock;
use gupd_config::{Config, Overrides};
use gupd_store::{Store, StoreError};

/// What is told of beside the command's own lines. Repairs, and what upstreams say to them, are among those.
const WARNINGS: &str = "warn,gupd_store::repair=error,gupd_net::upstream=error";

/// Memory for chunks while a command has the store: it reads nothing twice.
const MEMORY: u64 = 16 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List objects, the oldest first.
    Ls {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        selection: Selection,
        /// A JSON array instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Remove objects that have all that is asked for, with their variants; the next request fetches them again.
    Purge {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        selection: Selection,
        /// List them instead.
        #[arg(long)]
        dry_run: bool,
    },
    /// Read every blob and compare it with its checksums and the index; fetch damaged chunks again, and remove what no
    /// upstream has.
    Verify {
        #[command(flatten)]
        place: Place,
        /// Manager to repair from; may be repeated, by priority [default: those of the configuration].
        #[arg(long, value_name = "URL")]
        upstream: Vec<String>,
        /// Repair nothing. Beside a running relay nothing is repaired either.
        #[arg(long)]
        dry_run: bool,
    },
    /// Write objects into a bundle, for another site to import.
    Export {
        #[command(flatten)]
        place: Place,
        /// Only what came or was confirmed since: a time such as 2026-11-20 or 2026-11-20T18:00:00Z, or 7d ago.
        #[arg(long, value_name = "TIME", value_parser = carry::since)]
        since: Option<carry::Since>,
        /// The bundle.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Verify a bundle and take in what the store does not have.
    Import {
        #[command(flatten)]
        place: Place,
        /// The bundle.
        #[arg(value_name = "FILE")]
        bundle: PathBuf,
    },
}

/// Where the store is.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Configuration file that names the store's folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the store [default: /var/lib/gupd, or the user's state folder].
    #[arg(long, value_name = "DIR")]
    store: Option<String>,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Ls { place, selection, json } => show::run(&place, &selection, json),
        Command::Purge { place, selection, dry_run: true } => purge::rehearse(&place, &selection),
        Command::Purge { place, selection, dry_run: false } => purge::run(&place, &selection),
        Command::Verify { place, upstream, dry_run } => verify::run(&place, upstream, dry_run),
        Command::Export { place, since, output } => carry::export(&place, since, &output),
        Command::Import { place, bundle } => carry::import(&place, &bundle),
    }
}

impl Place {
    fn load(&self) -> Result<config::StoreSettings, Failure> {
        Ok(self.load_all(Vec::new())?.store)
    }

    /// What the relay of this place is told; its upstreams may be none.
    fn load_all(&self, upstream: Vec<String>) -> Result<Config, Failure> {
        let overrides = Overrides { store: self.store.clone(), upstream, ..Overrides::default() };
        let (file, environment) = (self.config.as_deref(), config::environment());
        Ok(Config::load_without_upstreams(&overrides, file, environment)?)
    }
}

/// A store that this process has for itself, and the runtime its calls need.
struct Opened {
    store: Arc<Store>,
    runtime: Runtime,
}

impl Opened {
    /// Takes the folder's lock.
    fn open(config: &config::StoreSettings) -> Result<Self, StoreError> {
        // What the store does on its own account, such as putting a damaged index aside, is not to go unseen.
        let warnings = tracing_subscriber::fmt().with_env_filter(WARNINGS);
        // A second one of the same process changes nothing.
        let _set_up = warnings.with_writer(std::io::stderr).without_time().with_target(false).try_init();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| {
                StoreError::Io { doing: "get an event queue for", path: config.dir.clone(), source }
            })?;
        let store =
            Store::open(&config::StoreSettings { memory: MEMORY, ..config.clone() }, Clock::system())?;
        Ok(Self { store, runtime })
    }
}

/// A bar over bytes on standard error; nothing where that is no terminal.
fn bar(what: &'static str, bytes: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} {bar:28} {binary_bytes} of {binary_total_bytes}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style).with_prefix(what)
}
