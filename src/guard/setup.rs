//! The inputs of a guard, and its result.

use super::workers::Program;
use crate::log::LogGuard;
use gupd_config::{Config, Problems};

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

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("program", &self.program).finish_non_exhaustive()
    }
}
