//! The inputs of a guard, its result, and the errors that keep it from starting.

use std::io;

use super::workers::Program;
use crate::log::LogGuard;
use gupd_config::policy::PolicyError;
use gupd_config::{Config, Problems};
use gupd_net::listen::ListenError;
use gupd_net::pem::PemError;
use gupd_net::upstream::ConnectError;

/// Inputs of a guard.
pub struct Setup {
    /// Configuration.
    pub config: Config,
    /// Reads the configuration again.
    pub load: Box<dyn Fn() -> Result<Config, Problems>>,
    /// Program and arguments of workers.
    pub program: Program,
    /// True if this guard replaces another one; the state of that one is on standard input.
    pub is_replacement: bool,
    /// Log, flushed before the guard is replaced.
    pub log: LogGuard,
}

/// Result of a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardOutcome {
    /// The guard was told to stop.
    Stopped,
    /// The first worker rejected the configuration and has logged why.
    ConfigRejected,
}

/// Error that keeps a guard from starting or reloading.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// An address cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificate cannot be loaded.
    #[error(transparent)]
    Tls(#[from] PemError),
    /// TLS to upstreams cannot be set up.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The routes or rules are invalid.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Metrics cannot be registered.
    #[error("metrics: cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// More sockets than fit in one message to a worker.
    #[error(
        "server.listen: more addresses than the guard can pass to a worker: list fewer, or one that covers all interfaces"
    )]
    TooManyAddresses,
    /// A system call failed.
    #[error("guard: {0}")]
    System(#[from] io::Error),
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("program", &self.program).finish_non_exhaustive()
    }
}
