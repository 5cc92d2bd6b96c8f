//! The application of a configuration: it is compiled into a [`Generation`], and the parts of the relay whose state
//! outlives a configuration take its settings when it comes into force. The second step cannot fail.

use std::sync::Arc;

use super::limits::SharedLimits;
use gupd_cache::Cache;
use gupd_cache::digest::SignatureRoots;
use gupd_cache::fill::Fills;
use gupd_config::Config;
use gupd_config::clock::Clock;
use gupd_http::instance::RelayInstance;
use gupd_net::SetupError;
use gupd_net::listen::ConnectionRateLimiter;
use gupd_net::metrics::NetMetrics;
use gupd_net::shape::WanLimiter;
use gupd_net::upstream::Upstreams;
use gupd_net::upstream::health::HealthChecks;
use gupd_proxy::{ClientLimits, Generation};
use gupd_refresh::Refresher;
use gupd_tier::{Tier, TierService};

/// Compiles configurations into generations that share the WAN limiter, the metrics and the identity of one relay.
#[derive(Debug)]
pub(crate) struct GenerationBuilder {
    pub(super) clock: Clock,
    pub(super) wan: Arc<WanLimiter>,
    metrics: Arc<NetMetrics>,
    /// The shared tier, kept over reloads.
    tier: Option<Arc<Tier>>,
    // Kept over reloads: a request sent under an earlier configuration may still loop back.
    instance: Arc<RelayInstance>,
}

impl GenerationBuilder {
    pub(crate) fn new(config: &Config, clock: Clock, metrics: Arc<NetMetrics>) -> Self {
        let wan = Arc::new(WanLimiter::new(config, clock.clone()));
        Self { clock, wan, metrics, tier: None, instance: Arc::default() }
    }

    /// Lets fills ask the shared tier.
    pub(super) fn with_tier(self, tier: Option<Arc<Tier>>) -> Self {
        Self { tier, ..self }
    }

    /// The shared tier.
    pub(super) fn tier(&self) -> Option<&Arc<Tier>> {
        self.tier.as_ref()
    }

    /// Removes the WAN limit, for a command that fetches little.
    pub(crate) fn unlimited(self, config: &Config) -> Self {
        Self { wan: Arc::new(WanLimiter::unlimited(config, self.clock.clone())), ..self }
    }

    /// Compiles a configuration. Upstreams inherit health and load from `current`.
    pub(crate) fn build(
        &self,
        config: Config,
        current: Option<&Upstreams>,
    ) -> Result<Generation, SetupError> {
        let roots = SignatureRoots::load(&config.verify)?;
        let upstreams = Upstreams::new(&config, self.clock.clone(), self.wan.clone(), self.metrics.clone())?;
        let mut upstreams = upstreams.with_instance(self.instance.clone());
        if let Some(tier) = &self.tier {
            upstreams = upstreams.with_tier(Arc::new(TierService::new(tier.clone())), &config)?;
        }
        if let Some(current) = current {
            upstreams = upstreams.inherit_state(current);
        }
        Ok(Generation::new(config, Arc::new(upstreams))?.with_signature_roots(roots))
    }
}

/// The parts with a state that outlives a configuration: hot entries, the store, counts, rates, schedules, health checks. No
/// request depends on two of them changing at the same moment.
pub(super) struct LongLivedParts {
    pub(super) cache: Arc<Cache>,
    pub(super) fills: Fills,
    pub(super) refresher: Refresher,
    pub(super) health: HealthChecks,
    pub(super) client_limits: ClientLimits,
    pub(super) connection_limiter: Arc<ConnectionRateLimiter>,
    pub(super) limits: Arc<SharedLimits>,
}

impl LongLivedParts {
    /// Applies the settings of a generation that has just come into force.
    pub(super) fn reconfigure(&self, generation: &Generation) {
        let config = &generation.config;
        self.cache.reconfigure(config.cache.clone());
        self.fills.digests().configure(generation.signature_roots.clone(), &config.verify);
        self.cache.store().reconfigure(&config.store);
        self.refresher.reconfigure(config);
        self.health.reconfigure(generation.upstreams.clone());
        self.client_limits.slots.reconfigure(config);
        self.client_limits.budgets.reconfigure(config);
        self.connection_limiter.reconfigure(config);
        self.limits.reconfigure(config);
    }
}
