//! Parts of the relay with a state that outlives a configuration: hot entries, counts, rates, schedules, health checks.
//! Each follows the generation in force. None of them can fail, and no request needs two of them at the same moment.

use std::sync::Arc;

use super::limits::Limits;
use gupd_cache::Cache;
use gupd_net::listen::ConnectionRateLimiter;
use gupd_net::shape::SlotLimiter;
use gupd_net::upstream::health::HealthChecks;
use gupd_proxy::Generation;
use gupd_refresh::Refresher;

/// The parts that follow.
pub(super) struct Followers {
    pub(super) cache: Arc<Cache>,
    pub(super) refresher: Refresher,
    pub(super) checks: HealthChecks,
    pub(super) places: Arc<SlotLimiter>,
    pub(super) newcomers: Arc<ConnectionRateLimiter>,
    pub(super) limits: Arc<Limits>,
}

impl Followers {
    /// Takes the settings of a generation that has just come into force.
    pub(super) fn reconfigure(&self, generation: &Generation) {
        let config = &generation.config;
        self.cache.reconfigure(config.cache.clone());
        self.refresher.reconfigure(config);
        self.checks.reconfigure(generation.upstreams.clone());
        self.places.reconfigure(config);
        self.newcomers.reconfigure(config);
        self.limits.reconfigure(config);
    }
}
