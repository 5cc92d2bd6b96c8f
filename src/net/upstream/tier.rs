//! The shared tier as a source of fills: content that other relays published on an object store. It is asked behind the
//! peers, over a connection within the process, and for the key of an object instead of a path. The module owns its
//! breaker and the race with the managers: a tier that has not sent a first byte in time delays no client.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use prometheus::IntGauge;
use tokio::time::timeout;

use super::breaker::{BreakerSettings, FailureKind, RequestKind};
use super::connect::ConnectError;
use super::dial::{Dialer, Network};
use super::error::{AttemptOutcome, is_unavailable};
use super::pool::Pools;
use super::send::RequestTimeouts;
use super::{Upstream, UpstreamError, UpstreamRequest, UpstreamResponse, Upstreams};
use crate::metrics::TierOutcome;
use crate::shape::WanLimiter;
use gupd_config::{Config, RateSchedule, TierSettings, Trust, UpstreamId, UpstreamSettings};

/// Name of the tier in logs, metrics, the index and the ledger.
pub const TIER: &str = "tier";

/// Field of a request to the tier with the key of the object. The request never leaves the process.
pub const TIER_OBJECT: HeaderName = HeaderName::from_static("gupd-tier-object");

/// Facts about the tier as an upstream.
#[derive(Debug)]
pub(super) struct TierState {
    /// Its bytes cross the WAN.
    is_on_wan: bool,
}

/// The tier of a configuration.
#[derive(Debug)]
pub(super) struct ConfiguredTier {
    upstream: Arc<Upstream>,
    /// Time to the first byte after which managers are asked too.
    hedge: Duration,
    /// Time to the first byte after which the tier counts as silent.
    timeout: Duration,
}

impl Upstreams {
    /// Adds the shared tier, which answers on `network`. No-op without the section `[tier]`.
    ///
    /// # Errors
    /// If the settings of its connections cannot be used.
    pub fn with_tier(mut self, network: Arc<dyn Network>, config: &Config) -> Result<Self, ConnectError> {
        let Some(settings) = &config.tier else { return Ok(self) };
        let wan = match settings.wan {
            true => self.wan.clone(),
            false => Arc::new(WanLimiter::unlimited(config, self.clock.clone())),
        };
        let dialer = Dialer::given(network, config.fill.connect_timeout);
        let as_upstream = as_upstream(settings);
        let pool = Pools::new(config, dialer, wan, &self.metrics)?.create(&as_upstream)?;
        let (limits, received) = (BreakerSettings::new(&config.health), &self.metrics.tier.received_bytes);
        let upstream = Upstream::new(&as_upstream, limits, pool, received.clone());
        self.tier = upstream.map(|upstream| ConfiguredTier {
            upstream: Arc::new(Upstream {
                tier: Some(TierState { is_on_wan: settings.wan }),
                is_origin: AtomicBool::new(true),
                ..upstream
            }),
            hedge: settings.hedge,
            timeout: settings.timeout,
        });
        self.tier().into_iter().for_each(|tier| tier.publish_tier_health(&self.metrics.tier.healthy));
        Ok(self)
    }

    /// Sends a request to the managers of `order`, and first to the tier if it may have the object. The tier has its
    /// hedge time for itself; from then on the first answer wins.
    ///
    /// # Errors
    /// As [`send`](Self::send), if the tier does not have the object either.
    pub async fn send_beside_tier(
        &self,
        order: &[UpstreamId],
        outgoing: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let Some(ConfiguredTier { upstream: tier, hedge, .. }) = &self.tier else {
            return self.send(order, outgoing).await;
        };
        let mut lookup = Box::pin(self.ask_tier(tier, outgoing));
        match timeout(*hedge, &mut lookup).await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => return self.send(order, outgoing).await,
            Err(_late) => {}
        }
        let mut managers = Box::pin(self.send(order, outgoing));
        tokio::select! {
            found = &mut lookup => match found {
                Some(answer) => Ok(answer),
                None => managers.await,
            },
            answer = &mut managers => match answer {
                Ok(answer) if !is_unavailable(answer.response.status()) => {
                    drop(lookup);
                    self.note_late_tier(tier, *hedge);
                    Ok(answer)
                }
                // Late content is better than none.
                failed => match lookup.await {
                    Some(answer) => Ok(answer),
                    None => failed,
                },
            },
        }
    }

    /// Sends a request to the tier, if it is available. `None` also if it lacks the object.
    pub(super) async fn ask_tier(
        &self,
        tier: &Arc<Upstream>,
        outgoing: &UpstreamRequest,
    ) -> Option<UpstreamResponse> {
        let key = HeaderValue::from_bytes(outgoing.tier_key.as_deref()?.as_bytes()).ok()?;
        let permit = tier.admit(&self.clock, RequestKind::Probing, self.next_sequence())?;
        let mut own = UpstreamRequest { headers: HeaderMap::with_capacity(4), ..outgoing.clone() };
        for name in [header::RANGE, header::IF_RANGE] {
            if let Some(value) = outgoing.headers.get(&name) {
                own.headers.insert(name, value.clone());
            }
        }
        own.headers.insert(TIER_OBJECT, key);
        let limit = self.tier.as_ref().map(|tier| tier.timeout).unwrap_or_default();
        let answer = self.send_once(tier, &own, &mut RequestTimeouts::single(limit)).await;
        let (outcome, result) = match &answer {
            Ok(answer) if is_content(answer.response.status()) => {
                (TierOutcome::Served, AttemptOutcome::Healthy)
            }
            Ok(answer) if answer.response.status() == StatusCode::NOT_FOUND => {
                (TierOutcome::Absent, AttemptOutcome::Healthy)
            }
            Ok(answer) => {
                let reason = format!("response status {}", answer.response.status());
                (TierOutcome::Failed, AttemptOutcome::Failed(FailureKind::Unavailable, reason.into()))
            }
            Err(error) => {
                (TierOutcome::Failed, AttemptOutcome::Failed(FailureKind::Silent, error.to_string().into()))
            }
        };
        self.metrics.tier.count(outcome);
        permit.record(&result);
        answer.ok().filter(|answer| is_content(answer.response.status()))
    }

    /// Counts a tier that was slower than its hedge time and the managers: a silent one must not cost each miss that time.
    fn note_late_tier(&self, tier: &Arc<Upstream>, hedge: Duration) {
        self.metrics.tier.count(TierOutcome::Late);
        if let Some(permit) = tier.admit(&self.clock, RequestKind::Probing, self.next_sequence()) {
            let reason = format!("no byte within {hedge:?}, and a manager was faster");
            permit.record(&AttemptOutcome::Failed(FailureKind::Silent, reason.into()));
        }
    }

    /// Takes over the health of the tier.
    pub(super) fn inherit_tier(&mut self, before: &Self) {
        if let (Some(tier), Some(old)) = (&mut self.tier, before.tier())
            && let Some(upstream) = Arc::get_mut(&mut tier.upstream)
        {
            upstream.state = old.state.clone();
        }
    }

    /// The shared tier, if there is one.
    pub(super) fn tier(&self) -> Option<&Arc<Upstream>> {
        self.tier.as_ref().map(|tier| &tier.upstream)
    }
}

impl Upstream {
    /// Returns true for the shared tier, which gets requests only for content that relays published.
    pub fn is_tier(&self) -> bool {
        self.tier.is_some()
    }

    /// Returns true if its bytes cross no WAN.
    pub(super) fn stays_on_lan(&self) -> bool {
        self.is_peer() || self.tier.as_ref().is_some_and(|tier| !tier.is_on_wan)
    }

    fn publish_tier_health(&self, gauge: &IntGauge) {
        let gauge = self.healthy.get_or_init(|| gauge.clone());
        gauge.set(self.is_healthy().into());
    }
}

fn is_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT)
}

/// Returns the settings of its connections, which stay within the process.
fn as_upstream(settings: &TierSettings) -> UpstreamSettings {
    UpstreamSettings {
        name: TIER.to_owned(),
        url: settings.service_url(),
        limit: RateSchedule::unlimited(),
        public_url: None,
        trust: Trust::default(),
        proxy: None,
        priority: None,
        check: None,
    }
}
