//! Collects a status report from the parts of a relay. Nothing here changes anything, and nothing waits for a client or
//! an upstream.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use prometheus::core::Collector;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::findings::{CertificateExpiry, Facts, conclude};
use super::{Activity, LineStatus, PeriodTraffic, Savings, StatusReport, StoreStatus, UpstreamStatus};
use crate::AdminApi;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::calendar::Calendar;
use gupd_config::units::Rate;
use gupd_config::{Ceiling, Config, RateSchedule};
use gupd_ledger::{Ledger, QueryError, TrafficQuery};
use gupd_net::metrics::NetMetrics;
use gupd_net::traffic::TransferCause;
use gupd_net::upstream::Upstream;
use gupd_rollout::status::Status;

/// Milliseconds of a day.
const DAY: UnixMillis = 86_400_000;

/// Rows that are added up: more than there are causes and content types.
const MAX_CAUSES: usize = 1_000;

/// Milliseconds of 30 days.
const MONTH: UnixMillis = 30 * 86_400_000;

/// Collects the report.
pub(crate) async fn collect(api: &AdminApi) -> StatusReport {
    let (generation, now) = (api.generations.load_full(), api.clock.now());
    let config = &generation.config;
    let savings = savings(&api.ledger, &config.site.time_zone, now).await;
    let (day_received, day_full_sets) = full_sets(&api.ledger, now).await.unwrap_or_default();
    let [wan_rate, lan_rate] = api.rates.rates(Instant::now(), api.line_bytes());
    let calendar = Calendar::new(config.site.time_zone.clone());
    let facts = Facts {
        now,
        is_reload_refused: api.last_reload.get() == 0,
        certificates: certificates(&api.net),
        day_received,
        day_full_sets,
        ledger_error: savings.as_ref().err().map(ToString::to_string),
    };
    let report = StatusReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time: Timestamp::from_millisecond(now).map_or_else(|_| String::new(), |now| now.to_string()),
        is_draining: api.is_draining(),
        sentence: String::new(),
        findings: Vec::new(),
        savings: savings.ok(),
        wan: LineStatus { bytes_per_second: wan_rate, limit: limit(&calendar, &config.wan.limit, now) },
        lan: LineStatus { bytes_per_second: lan_rate, limit: limit(&calendar, &config.lan.limit, now) },
        activity: activity(api),
        upstreams: upstreams(&api.net, generation.upstreams.iter()),
        peers: peers(&api.net, config, generation.upstreams.peers()),
        store: store(api),
        rollout: rollout(api, now).await,
    };
    conclude(report, &facts)
}

async fn savings(ledger: &Ledger, zone: &TimeZone, now: UnixMillis) -> Result<Savings, QueryError> {
    let midnight = Timestamp::from_millisecond(now).ok().and_then(|now| {
        let day = now.to_zoned(zone.clone()).start_of_day().ok()?;
        Some(day.timestamp().as_millisecond())
    });
    let period = async |since: UnixMillis| {
        let report = ledger.query(TrafficQuery { since, top: 1, ..TrafficQuery::default() }).await?;
        Ok::<_, QueryError>(PeriodTraffic {
            wan_received: report.wan.received,
            clients: report.clients_total,
        })
    };
    Ok(Savings { today: period(midnight.unwrap_or(now)).await?, month: period(now - MONTH).await? })
}

/// Returns the bytes of 24 hours from upstreams, and those of full sets.
async fn full_sets(ledger: &Ledger, now: UnixMillis) -> Result<(u64, u64), QueryError> {
    let query = TrafficQuery { since: now - DAY, top: MAX_CAUSES, ..TrafficQuery::default() };
    let report = ledger.query(query).await?;
    let is_full = |cause: &str| {
        [TransferCause::FullSet, TransferCause::NoDelta].iter().any(|full| full.as_str() == cause)
    };
    let full = report.causes.iter().filter(|row| !row.is_peer && is_full(&row.cause));
    Ok((report.wan.received, full.map(|row| row.sums.received).sum()))
}

fn limit(calendar: &Calendar, schedule: &RateSchedule, now: UnixMillis) -> Option<u64> {
    match calendar.current(schedule, now).value {
        Ceiling::Rate(Rate(bytes)) => Some(bytes),
        Ceiling::Unlimited => None,
    }
}

fn activity(api: &AdminApi) -> Activity {
    Activity {
        connections: api.exposition.connections(),
        downloads: api.requests.downloads.get(),
        queued: api.requests.queued.get(),
        fills: api.fills.metrics().running.get(),
    }
}

fn upstreams<'a>(net: &NetMetrics, list: impl Iterator<Item = &'a Arc<Upstream>>) -> Vec<UpstreamStatus> {
    let status = |upstream: &Arc<Upstream>| UpstreamStatus {
        name: upstream.name.to_string(),
        is_healthy: upstream.is_healthy(),
        received: net.upstream_bytes.with_label_values(&[&*upstream.name]).get(),
    };
    list.map(status).collect()
}

fn peers(net: &NetMetrics, config: &Config, list: &[Arc<Upstream>]) -> Vec<UpstreamStatus> {
    let status = |peer: &Arc<Upstream>| UpstreamStatus {
        name: peer.name.to_string(),
        is_healthy: net.peer_healthy.with_label_values(&[&*peer.name]).get() == 1,
        received: net.peer_bytes.with_label_values(&[&*peer.name]).get(),
    };
    list.iter().take(config.peers.len()).map(status).collect()
}

fn store(api: &AdminApi) -> StoreStatus {
    let (stats, degradation) = (api.store.stats(), api.store.degradation());
    StoreStatus {
        health: degradation.as_ref().map_or("well", |degradation| degradation.health.as_str()).to_owned(),
        detail: degradation.map(|degradation| degradation.detail.to_string()),
        objects: stats.objects,
        bytes: stats.disk_bytes,
        quota: api.store.quota(),
    }
}

async fn rollout(api: &AdminApi, now: UnixMillis) -> Option<Status> {
    let snapshot = api.rollouts.snapshot();
    let rings = snapshot.rings.clone()?;
    let clients = api.rollouts.clients().summary().await;
    spawn_blocking(move || Status::new(&snapshot, &rings, &clients, false, now)).await.ok()
}

/// Reads the expiry of certificates from their metric, the only place that knows all of them.
fn certificates(net: &NetMetrics) -> Vec<CertificateExpiry> {
    let families = net.certificate_expiry.collect();
    let metrics = families.iter().flat_map(|family| family.get_metric());
    let expiry = |metric: &prometheus::proto::Metric| {
        let label = |name: &str| {
            let label = metric.get_label().iter().find(|label| label.name() == name);
            label.map(|label| label.value().to_owned()).unwrap_or_default()
        };
        CertificateExpiry {
            certificate: label("certificate"),
            upstream: label("upstream"),
            at: (metric.get_gauge().get_value() as UnixMillis).saturating_mul(1_000),
        }
    };
    metrics.map(expiry).collect()
}
