//! The rate limits of a relay and its share of them. While one process replaces another, both transfer bytes, so each
//! keeps an equal part of the limits of the site.

use std::sync::{Arc, Mutex, PoisonError};

use gupd_config::Config;
use gupd_net::shape::{LanLimiter, WanLimiter};

/// Rate limits in force, divided between processes.
#[derive(Debug)]
pub struct SharedLimits {
    pub(super) lan: Arc<LanLimiter>,
    pub(super) wan: Arc<WanLimiter>,
    // Locked while a change is applied, so that changes apply one after the other.
    share: Mutex<LimitShare>,
}

#[derive(Debug)]
struct LimitShare {
    config: Config,
    processes: u32,
}

impl SharedLimits {
    pub(super) fn new(config: &Config, lan: Arc<LanLimiter>, wan: Arc<WanLimiter>) -> Self {
        Self { lan, wan, share: Mutex::new(LimitShare { config: config.clone(), processes: 1 }) }
    }

    /// Applies the limits of a configuration.
    pub(super) fn reconfigure(&self, config: &Config) {
        self.update(|share| share.config = config.clone());
    }

    /// Sets the number of processes that share the limits.
    pub fn set_processes(&self, processes: u32) {
        self.update(|share| share.processes = processes.max(1));
    }

    fn update(&self, change: impl FnOnce(&mut LimitShare)) {
        let mut share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut share);
        let part = share.config.divide_limits(share.processes);
        self.lan.reconfigure(&part);
        self.wan.reconfigure(&part);
    }
}
