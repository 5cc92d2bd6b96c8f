//! `gupd demo`: a manager, a slow line, a relay and the clients of a site in one process on loopback. Manager, line and
//! clients are those of the crate `site`; the relay is a real one. `run` has the course of the demo, `report` its
//! output, `record` its HTML page. For the `tour` the relay is a process of its own.

mod downloads;
mod folder;
mod process;
mod record;
mod report;
mod run;
mod tour;

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use self::process::RelayProcess;
use self::run::DEFAULT_CLIENTS;
use self::run::{DemoError, DemoOptions, DemoRelay, RelayAddresses};
use super::CommandError;
use crate::relay::Relay;
use gupd_config::Recurrence;
use gupd_config::{Clock, Config};

/// All clients have their content when the demo stops its relay.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Flags of `gupd demo`.
#[derive(Debug, Args)]
pub(super) struct DemoFlags {
    /// Number of clients.
    #[arg(long, default_value_t = DEFAULT_CLIENTS)]
    clients: NonZeroU16,
    /// Exit after the table instead of keeping the relay running.
    #[arg(long)]
    exit: bool,
    /// Then show failures and what clients see of them: manager, relay, limit, bad revision.
    #[arg(long)]
    tour: bool,
    /// Write the measurements with charts to this HTML file.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

pub(super) fn run(flags: DemoFlags) -> Result<(), CommandError> {
    let DemoFlags { clients, exit, tour, record } = flags;
    let options = DemoOptions { clients, exit, record };
    let ended = if tour { run::run(options, RelayProcess::start) } else { run::run(options, start_relay) };
    ended.map_err(|error| match error {
        DemoError::TooManyClients(_) => CommandError::Configuration(error.to_string()),
        _ => CommandError::Failed(error.to_string()),
    })
}

fn start_relay(manager: &str, store: &Path) -> Result<Relay, Box<dyn std::error::Error + Send + Sync>> {
    let mut config = Config::for_upstreams(&[manager])?;
    let any_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    config.server.listen = vec![any_port];
    config.server.admin = any_port;
    config.server.drain_timeout = DRAIN_TIMEOUT;
    config.store.dir = store.to_owned();
    // The content of the demo is 25 MB, which fits on any disk.
    config.store.min_free = 0;
    // The table must show requests of clients only.
    config.refresh.schedule = Recurrence::Off;
    config.prefetch.learned = false;
    Ok(Relay::start(config, Clock::system())?)
}

impl DemoRelay for Relay {
    fn addresses(&self) -> RelayAddresses {
        // A running relay has an address for each `listen`.
        let unspecified = self.admin();
        RelayAddresses {
            relay: Relay::addresses(self).first().copied().unwrap_or(unspecified),
            admin: self.admin(),
        }
    }

    fn stop(self) {
        Relay::stop(self);
    }
}
