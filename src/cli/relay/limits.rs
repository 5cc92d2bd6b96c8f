//! The rates that the relay keeps, and what share of them is this process's: while one process follows another, both keep
//! limits that are the site's. Owns the change of either; `lan` and `wan` keep them.

use std::sync::{Arc, Mutex, PoisonError};

use gupd_config::Config;
use gupd_net::shape::{LanLimiter, WanLimiter};

/// The rates in force.
#[derive(Debug)]
pub struct Limits {
    lan: Arc<LanLimiter>,
    wan: Arc<WanLimiter>,
    // Held to change what is kept: one change after the other.
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    config: Config,
    processes: u32,
}

impl Limits {
    pub(super) fn new(config: &Config, lan: Arc<LanLimiter>, wan: Arc<WanLimiter>) -> Self {
        Self { lan, wan, kept: Mutex::new(Kept { config: config.clone(), processes: 1 }) }
    }

    /// Keeps those of a new configuration.
    pub(super) fn reconfigure(&self, config: &Config) {
        self.change(|kept| kept.config = config.clone());
    }

    /// Keeps them together with others, so many processes in all: each has an equal part.
    pub fn share(&self, processes: u32) {
        self.change(|kept| kept.processes = processes.max(1));
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut kept);
        let part = kept.config.divide_limits(kept.processes);
        self.lan.reconfigure(&part);
        self.wan.reconfigure(&part);
    }
}
