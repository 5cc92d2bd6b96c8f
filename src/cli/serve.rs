//! `gupd serve`: runs the relay until it is told to stop, in one of three ways: alone (`standalone`), as the worker of
//! a guard (`worker`), or as the guard (`guarded`). SIGHUP reloads the configuration. SIGTERM and SIGINT drain; a
//! second one stops at once.

mod guarded;
mod standalone;
mod worker;

use clap::Args;

use super::machine::Machine;
use super::{CommandError, CommonFlags, fitness};
use crate::relay::Relay;
use gupd_config::{Config, ConfiguredFile, LogSettings};
use gupd_guard::log::{self, LogGuard};
use gupd_guard::panics;
use gupd_guard::sandbox::{Restrictions, Sandbox};

/// Argument that makes the program a guard.
const GUARD: &str = "--guard";

/// Argument that a guard gives its worker.
const WORKER: &str = "--guarded";

/// Argument that a guard gives the guard that replaces it.
const RESUMED: &str = "--resumed";

/// Argument that a guard without upstreams gives its worker and its replacement: they may start without any too. Without
/// it a file that has lost its upstreams stops an upgrade, not the service.
const UNCONFIGURED: &str = "--unconfigured";

/// Flags of `gupd serve`.
#[derive(Clone, Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    common: CommonFlags,
    /// Run a small parent process that restarts the relay, hands over to a new program, and answers clients meanwhile.
    #[arg(long, conflicts_with = "guarded")]
    guard: bool,
    /// Set by a guard for its worker.
    #[arg(long, hide = true)]
    guarded: bool,
    /// Set by a guard for the guard that replaces it.
    #[arg(long, hide = true, requires = "guard")]
    resumed: bool,
    /// Set by a guard without upstreams.
    #[arg(long, hide = true)]
    unconfigured: bool,
}

pub(super) fn run(serve: Serve) -> Result<(), CommandError> {
    match serve {
        Serve { common, guarded: true, unconfigured, .. } => worker::run(&common, unconfigured),
        Serve { common, guard: true, resumed, unconfigured, .. } => {
            guarded::run(common, resumed, unconfigured || !resumed)
        }
        Serve { common, .. } => standalone::run(&common),
    }
}

fn init_log(settings: &LogSettings) -> Result<LogGuard, CommandError> {
    let log = log::init(settings).map_err(|error| CommandError::Configuration(error.to_string()))?;
    panics::install_hook();
    Ok(log)
}

fn log_start(relay: &Relay, flags: &CommonFlags, sandbox: &Sandbox) {
    let Restrictions { files, calls } = sandbox.restrictions();
    tracing::info!(%files, %calls, "sandbox");
    tracing::info!(
        config = flags.file.path().map(|path| tracing::field::display(path.display())),
        listen = ?relay.addresses(),
        admin = %relay.admin(),
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
}

fn log_warnings(config: &Config) {
    let of_machine = fitness::warnings(config, &Machine::read(config));
    for warning in config.warnings.iter().chain(&of_machine) {
        tracing::warn!(%warning, "configuration warning");
    }
}

/// Reloads the configuration and returns the result for the administrator.
fn reload(relay: &mut Relay, flags: &CommonFlags, sandbox: &Sandbox) -> Result<String, String> {
    const REFUSED: &str = "reload refused; the old configuration stays in force";
    let config = flags.load().map_err(|problems| {
        relay.metrics().record_refused_reload();
        problems.iter().for_each(|problem| tracing::error!(%problem, "{REFUSED}"));
        format!("{REFUSED}\n{problems}")
    })?;
    log_warnings(&config);
    if let Some(ConfiguredFile { setting, path }) = sandbox.hidden_file(&config) {
        relay.metrics().record_refused_reload();
        let error = format!(
            "{setting}: {}: outside the folders that the running relay may read: restart gupd, or use a folder \
             that its configuration named at start",
            path.display()
        );
        tracing::error!(%error, "{REFUSED}");
        return Err(format!("{REFUSED}\n{error}"));
    }
    match relay.reload(config) {
        Ok(sections) if sections.is_empty() => {
            tracing::info!("configuration reloaded");
            Ok("reloaded".to_owned())
        }
        Ok(sections) => {
            tracing::warn!(?sections, "configuration reloaded; some sections need a restart");
            Ok(format!("reloaded; restart gupd to apply these sections: {}", sections.join(", ")))
        }
        Err(error) => {
            tracing::error!(%error, "{REFUSED}");
            Err(format!("{REFUSED}\n{error}"))
        }
    }
}
