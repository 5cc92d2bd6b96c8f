//! What a guard is started with, how it ends, and what keeps it from starting.

use std::io;

use super::workers::Program;
use crate::log::LogGuard;
use gupd_config::policy::PolicyError;
use gupd_config::{Config, Problems};
use gupd_net::listen::ListenError;
use gupd_net::pem::PemError;
use gupd_net::upstream::ConnectError;

/// What a guard is started with.
pub struct Setup {
    /// Its configuration.
    pub config: Config,
    /// Reads it again.
    pub load: Box<dyn Fn() -> Result<Config, Problems>>,
    /// How workers are started.
    pub program: Program,
    /// Whether it takes the place of another guard, whose state is its standard input.
    pub resumed: bool,
    /// The log, which is written out before the guard is replaced.
    pub log: LogGuard,
}

/// How a guard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it was told to.
    Stopped,
    /// Its first worker refused the configuration, and has said why.
    Refused,
}

/// What keeps a guard from starting, or from reloading.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] PemError),
    /// TLS toward upstreams.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Routes or rules.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Metrics.
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    /// More sockets than can be handed to a worker.
    #[error(
        "server.listen has more addresses than a guard can hand on; give fewer, or one for all addresses"
    )]
    TooManyAddresses,
    /// The system.
    #[error("the guard cannot run: {0}")]
    System(#[from] io::Error),
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("program", &self.program).finish_non_exhaustive()
    }
}
