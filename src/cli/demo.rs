//! `gupd demo`: the demo with the real relay in it.

use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use super::Failure;
use crate::relay::Relay;
use crate::tour::{self, Options, RelayAddresses, RunningRelay};
use gupd_config::Recurrence;
use gupd_config::{Clock, Config};

/// When the demo stops its relay, every client has what it wanted.
const DRAIN: Duration = Duration::from_secs(2);

pub(super) fn run(clients: NonZeroU16, exit: bool) -> Result<(), Failure> {
    tour::run(Options { clients, exit }, start_relay).map_err(|error| match error {
        tour::DemoError::TooManyClients(_) => Failure::Configuration(error.to_string()),
        _ => Failure::Failed(error.to_string()),
    })
}

fn start_relay(manager: &str, store: &Path) -> Result<Relay, Box<dyn std::error::Error + Send + Sync>> {
    let mut config = Config::for_upstreams(&[manager])?;
    let any_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    config.server.listen = vec![any_port];
    config.server.admin = any_port;
    config.server.drain_timeout = DRAIN;
    config.store.dir = store.to_owned();
    // The demo's content is 25 MB, wherever its folder is.
    config.store.min_free = 0;
    // What its table shows is what clients asked for.
    config.refresh.schedule = Recurrence::Off;
    config.prefetch.learned = false;
    Ok(Relay::start(config, Clock::system())?)
}

impl RunningRelay for Relay {
    fn addresses(&self) -> RelayAddresses {
        // A relay that started has an address for every `listen`.
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
