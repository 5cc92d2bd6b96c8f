//! Collects a status report from the parts of a relay. Nothing here changes anything, and nothing waits for a client or
//! an upstream.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use prometheus::core::Collector;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::alarms::foreign_clients;
use super::findings::{CertificateExpiry, Facts, conclude};
use super::{
    Activity, LineStatus, PeriodTraffic, Savings, StatusReport, StoreStatus, UpstreamStatus, timestamp,
};
use crate::AdminApi;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::calendar::Calendar;
use gupd_config::units::Rate;
use gupd_config::{AccessList, AccessSettings, Ceiling, Config, RateSchedule};
use gupd_ledger::{EventPage, EventQuery, IncidentReport, Ledger, QueryError, TrafficQuery};
use gupd_net::listen::LifecycleStage;
use gupd_net::metrics::NetMetrics;
use gupd_net::upstream::Upstream;
use gupd_rollout::status::Status;

/// Milliseconds of 30 days.
const MONTH: UnixMillis = 30 * 86_400_000;

/// Collects the report, and records its alarms.
pub(crate) async fn collect(api: &AdminApi) -> StatusReport {
    let (report, _) = observe(api, EventQuery::default()).await;
    let (zone, now) = (api.generations.load().config.site.time_zone.clone(), api.clock.now());
    let savings = savings(&api.ledger, &zone, now).await.ok();
    StatusReport { savings, ..report }
}

/// Evaluates the state of the relay, and records the alarms that are raised or over. Returns the events of `query` too. The
/// report lacks its savings, which take the longest.
pub(crate) async fn observe(
    api: &AdminApi,
    query: EventQuery,
) -> (StatusReport, Result<EventPage, QueryError>) {
    let (generation, now, instant) = (api.generations.load_full(), api.clock.now(), Instant::now());
    let config = &generation.config;
    let [_, lan_rate] = api.rates.rates(instant, api.line_bytes());
    let calendar = Calendar::new(config.site.time_zone.clone());
    let (incidents, ledger_error) = match incidents(api, instant).await {
        Ok(incidents) => (incidents, None),
        Err(error) => (Arc::default(), Some(error.to_string())),
    };
    let site = AccessSettings { allow: config.site.subnets.clone(), deny: Vec::new() };
    let clients = incidents.seen.iter().map(String::as_str);
    let saturated_for = api.alarms.saturated_for(instant);
    let facts = Facts {
        now,
        is_reload_refused: api.last_reload.get() == 0,
        certificates: certificates(&api.net),
        foreign: foreign_clients(&AccessList::new(&site), clients),
        saturated_for: saturated_for.filter(|time| *time >= config.alarms.saturated_after),
        catalogs_failing_for: catalogs_failing_for(api, now)
            .filter(|time| *time >= config.alarms.catalogs_after),
        incidents: (*incidents).clone(),
        ledger_error,
    };
    let report = StatusReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time: timestamp(now),
        is_draining: api.is_draining(),
        sentence: String::new(),
        findings: Vec::new(),
        savings: None,
        wan: wan_status(api, instant, api.line_bytes()),
        lan: LineStatus { bytes_per_second: lan_rate, limit: limit(&calendar, &config.lan.limit, now) },
        activity: activity(api),
        upstreams: upstreams(&api.net, generation.upstreams.iter()),
        peers: peers(&api.net, config, generation.upstreams.peers()),
        store: store(api),
        rollout: rollout(api, now).await,
    };
    let mut report = conclude(report, &facts);
    let alarms = report.findings.iter().filter(|finding| finding.is_alarm());
    api.exposition.set_alarms(&alarms.map(|alarm| &*alarm.kind).collect::<Vec<_>>());
    // A process that leaves drains without being told to, and the one that takes over observes from now on.
    let is_serving = *api.stage.borrow() == LifecycleStage::Serving;
    let events = if is_serving {
        let observation = api.alarms.observation(&report, api.refresher.has_succeeded(), instant);
        api.ledger.observe(observation, query).await
    } else {
        api.ledger.events(query).await
    };
    if let Ok(page) = &events {
        report.set_since(&page.alarms);
    }
    (report, events)
}

async fn savings(ledger: &Ledger, zone: &TimeZone, now: UnixMillis) -> Result<Savings, QueryError> {
    let midnight = Timestamp::from_millisecond(now).ok().and_then(|now| {
        let day = now.to_zoned(zone.clone()).start_of_day().ok()?;
        Some(day.timestamp().as_millisecond())
    });
    let period = async |since: UnixMillis| {
        let report = ledger.query(TrafficQuery { since, ..TrafficQuery::default() }).await?;
        Ok::<_, QueryError>(PeriodTraffic {
            wan_received: report.wan.received,
            clients: report.clients_total,
        })
    };
    Ok(Savings { today: period(midnight.unwrap_or(now)).await?, month: period(now - MONTH).await? })
}

/// Returns the rate of the line to the upstreams and its limit.
pub(crate) fn wan_status(api: &AdminApi, instant: Instant, counters: [u64; 2]) -> LineStatus {
    let config = &api.generations.load().config;
    let calendar = Calendar::new(config.site.time_zone.clone());
    let [bytes_per_second, _] = api.rates.rates(instant, counters);
    LineStatus { bytes_per_second, limit: limit(&calendar, &config.wan.limit, api.clock.now()) }
}

/// Returns the incidents of clients, at most a minute old.
async fn incidents(api: &AdminApi, now: Instant) -> Result<Arc<IncidentReport>, QueryError> {
    if let Some(known) = api.alarms.incidents(now) {
        return Ok(known);
    }
    let report = Arc::new(api.ledger.incidents().await?);
    api.alarms.remember_incidents(&report, now);
    Ok(report)
}

/// Returns the time for which every refresh has failed. None has failed before the clock was set back.
fn catalogs_failing_for(api: &AdminApi, now: UnixMillis) -> Option<Duration> {
    let since = api.refresher.failing_since()?;
    Some(Duration::from_millis(u64::try_from(now - since).unwrap_or(0)))
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
        downloads: api.requests.slots.downloads.get(),
        queued: api.requests.slots.queued.get(),
        fills: api.fills.metrics().running.get(),
    }
}

fn upstreams<'a>(net: &NetMetrics, list: impl Iterator<Item = &'a Arc<Upstream>>) -> Vec<UpstreamStatus> {
    let status = |upstream: &Arc<Upstream>| UpstreamStatus {
        name: upstream.name.to_string(),
        is_healthy: upstream.is_healthy(),
        received: net.upstream.received_bytes.with_label_values(&[&*upstream.name]).get(),
    };
    list.map(status).collect()
}

fn peers(net: &NetMetrics, config: &Config, list: &[Arc<Upstream>]) -> Vec<UpstreamStatus> {
    let status = |peer: &Arc<Upstream>| UpstreamStatus {
        name: peer.name.to_string(),
        is_healthy: net.peer.healthy.with_label_values(&[&*peer.name]).get() == 1,
        received: net.peer.received_bytes.with_label_values(&[&*peer.name]).get(),
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

/// Returns the state of rollouts; `None` without rings.
pub(crate) async fn rollout(api: &AdminApi, now: UnixMillis) -> Option<Status> {
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
