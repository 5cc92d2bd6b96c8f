//! The admin address: the status page, metrics, health, and the API of `gupd status`, `why`, `refresh`, `reload`,
//! `upgrade`, `drain`, `rollout`, `store purge` and `store warm`.
//!
//! It owns no state: handlers read and call the parts of the relay in [`AdminApi`]. Requests that change something, or
//! return client addresses, need the admin token (`auth`). Connections and requests are bounded (`listener`).
//!
//! Start with [`AdminApi::serve`], the list of routes. `commands` has the commands for the process, `rollout` and
//! `clients` the rollout API, [`Exposition`] the metrics.

mod auth;
mod clients;
mod commands;
mod content;
mod events;
mod exposition;
mod fills;
mod held;
mod inventory;
mod listener;
mod openapi;
mod page;
mod problem;
mod process;
mod purge;
mod request_body;
mod rollout;
mod status;
mod summary;
mod token;
mod traffic;
mod warm;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::auth::TokenFailures;
pub use self::commands::{CommandReply, CommandRequest, ProcessCommand, ProcessCommands};
pub use self::content::{ContentMeter, ContentReport, TypeContent};
pub use self::events::{EventReport, EventRow};
pub use self::exposition::Exposition;
pub use self::fills::{FillMeter, FillReport, FillStatus};
pub use self::held::HeldRequest;
pub use self::inventory::InventoryReport;
pub use self::page::Sessions;
pub use self::problem::ProblemDocument;
pub use self::purge::PurgeRequest;
pub use self::status::rates::RateMeter;
pub use self::status::{
    Activity, AlarmWatch, LineStatus, PeriodTraffic, Savings, Severity, StatusFinding, StatusReport,
    StoreStatus, UpstreamStatus,
};
use self::summary::SummarySchedule;
pub use self::token::{AdminTokens, TokenRole, read_token};
pub use self::warm::WarmRequest;
pub use gupd_cache::digest::HeldDecision;
use gupd_cache::fill::Fills;
use gupd_config::PublicName;
use gupd_config::clock::Clock;
use gupd_ledger::{AlarmCondition, EventQuery, Ledger};
use gupd_net::listen::{ClientListeners, LifecycleStage};
use gupd_net::metrics::NetMetrics;
use gupd_net::redirect::{DrainMode, DrainState};
use gupd_proxy::Generations;
use gupd_proxy::metrics::RequestMetrics;
use gupd_refresh::Refresher;
use gupd_rollout::engine::Rollouts;
use gupd_store::{Degradation, Store};
use prometheus::IntGauge;

/// The parts of a relay that the admin address reads and controls.
#[derive(Clone, Debug)]
pub struct AdminApi {
    /// All metrics.
    pub exposition: Arc<Exposition>,
    /// Store, for its metrics and health.
    pub store: Arc<Store>,
    /// Fills, for purges.
    pub fills: Fills,
    /// Lifecycle of the relay.
    pub stage: watch::Receiver<LifecycleStage>,
    /// Background refresh.
    pub refresher: Refresher,
    /// Channel to the code that runs the process; `None` when the relay is embedded in another program.
    pub commands: Option<ProcessCommands>,
    /// Drain mode set by an administrator.
    pub drain: Arc<DrainState>,
    /// The configuration in force, and its upstreams.
    pub generations: Arc<Generations>,
    /// Metrics of the network layer.
    pub net: Arc<NetMetrics>,
    /// Metrics of requests.
    pub requests: Arc<RequestMetrics>,
    /// 0 after a refused reload.
    pub last_reload: IntGauge,
    /// Sessions of the status page.
    pub sessions: Arc<Sessions>,
    /// Rates of the last minute.
    pub rates: Arc<RateMeter>,
    /// Rates of running fills.
    pub fill_meter: Arc<FillMeter>,
    /// Count of stored objects by content type.
    pub content_meter: Arc<ContentMeter>,
    /// Memory of alarms about time.
    pub alarms: Arc<AlarmWatch>,
    /// History of traffic.
    pub ledger: Ledger,
    /// Rollouts.
    pub rollouts: Rollouts,
    /// Clock.
    pub clock: Clock,
    /// Names under which requests may reach the admin address.
    pub public_names: Vec<PublicName>,
    /// File with the admin token.
    pub token_file: Option<PathBuf>,
}

/// Interval of observations of alarms. Health checks take as long to find a failing upstream.
const OBSERVATION_INTERVAL: Duration = Duration::from_secs(15);

/// `/readyz` of a fresh installation.
const NOT_CONFIGURED: &str =
    "not configured: no upstream: add [[upstream]] to the configuration file and reload gupd";

/// An error: status and one line of text, the detail of its problem document.
type ErrorMessage = (StatusCode, String);

impl AdminApi {
    /// Returns true if new clients should use another relay.
    fn is_draining(&self) -> bool {
        match (*self.stage.borrow(), self.drain.get()) {
            (LifecycleStage::Serving, DrainMode::Off) => false,
            (LifecycleStage::Serving, DrainMode::Unready | DrainMode::Redirecting)
            | (LifecycleStage::Leaving | LifecycleStage::Draining | LifecycleStage::Stopped, _) => true,
        }
    }

    /// Returns the bytes received from upstreams and sent to clients since the start.
    fn line_bytes(&self) -> [u64; 2] {
        let generation = self.generations.load();
        let received = generation
            .upstreams
            .iter()
            .map(|upstream| self.net.upstream.received_bytes.with_label_values(&[&*upstream.name]).get());
        [received.sum(), self.requests.sent_bytes().1]
    }

    /// Reads the counters of both lines every few seconds, and records which alarms are raised or over. Never returns.
    async fn watch(&self) {
        let (mut summaries, mut notifications) = (SummarySchedule::default(), JoinSet::new());
        // The first look finds the time of the next summary.
        let _never = self.take_due_summary(&mut summaries);
        let started = AlarmCondition {
            kind: "started".to_owned(),
            subject: String::new(),
            severity: Severity::Notice,
            message: format!("gupd {} started", env!("CARGO_PKG_VERSION")),
            action: String::new(),
        };
        // A ledger that cannot be written is a finding of its own.
        let _unwritten = self.ledger.note(started).await;
        let (mut ticks, mut observed) = (interval(RateMeter::INTERVAL), Instant::now());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (now, counters) = (Instant::now(), self.line_bytes());
            self.rates.record(now, counters);
            self.record_fills(now);
            self.alarms.record_line(status::wan_status(self, now, counters), now);
            while notifications.try_join_next().is_some() {}
            if self.take_due_summary(&mut summaries) {
                self.summarize(&mut notifications).await;
            }
            if now >= observed + OBSERVATION_INTERVAL {
                observed = now;
                let _recorded = status::observe(self, EventQuery::default()).await;
            }
        }
    }

    /// Serves `listener` until the relay has stopped or has handed over to another process. Connections have the TLS of
    /// `listeners`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        listeners: Arc<ClientListeners>,
        handed_over: CancellationToken,
    ) -> std::io::Result<()> {
        let (mut stage, api) = (self.stage.clone(), self.clone());
        let refused = self.exposition.admin_refused().clone();
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/api/v1/openapi.json", get(openapi::show))
            .route("/api/v1/refresh", post(commands::refresh))
            .route("/api/v1/reload", post(commands::reload))
            .route("/api/v1/upgrade", post(commands::upgrade))
            .route("/api/v1/drain", post(commands::start_drain).delete(commands::end_drain))
            .route("/api/v1/store/purge", post(purge::purge))
            .route("/api/v1/status", get(status::status))
            .route("/api/v1/traffic", get(traffic::report))
            .route("/api/v1/events", get(events::list))
            .route("/api/v1/content", get(content::list))
            .route("/api/v1/fills", get(fills::list))
            .route(
                "/api/v1/inventory",
                get(inventory::show).put(inventory::replace).delete(inventory::remove),
            )
            .route("/api/v1/store/held", get(held::list).post(held::decide))
            .route("/api/v1/store/content", get(warm::list))
            .route("/api/v1/store/warm", post(warm::warm))
            .route("/api/v1/rollout", get(rollout::status).post(rollout::command))
            .route("/api/v1/rollout/clients", get(clients::list))
            .route("/api/v1/rollout/view", get(rollout::view))
            .merge(page::routes())
            .layer(from_fn(problem::describe_routing_error))
            .layer(from_fn_with_state(Arc::new(TokenFailures::new(&self.net)), auth::delay_wrong_token))
            .layer(from_fn_with_state(self.public_names.clone().into(), auth::refuse_foreign_host))
            .with_state(self);
        let stopped = async move {
            tokio::select! {
                () = LifecycleStage::Stopped.wait_until_reached(&mut stage) => {}
                () = handed_over.cancelled() => {}
            }
        };
        tokio::select! {
            served = listener::serve((listener, listeners), router, refused, stopped) => served,
            () = api.watch() => Ok(()),
        }
    }
}

async fn metrics(State(api): State<AdminApi>) -> Response {
    let wan_limit = api.generations.load().upstreams.wan().line_rate();
    // Counts the held objects for their gauge. An index that cannot be read has a metric of its own.
    let _counted = api.fills.digests().held().await;
    match api.exposition.encode(&api.store.stats(), api.store.quota(), api.is_draining(), wan_limit) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => internal_error(&error),
    }
}

/// Liveness: the process answers.
async fn healthz() -> &'static str {
    "alive\n"
}

/// Readiness: new clients are welcome. A failing disk does not change that, because content is passed through.
async fn readyz(State(api): State<AdminApi>) -> (StatusCode, String) {
    let (status, word) = match api.is_draining() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false if api.generations.load().config.upstreams.is_empty() => {
            (StatusCode::SERVICE_UNAVAILABLE, NOT_CONFIGURED)
        }
        false => (StatusCode::OK, "serving"),
    };
    let text = match api.store.degradation() {
        None => format!("{word}\n"),
        Some(Degradation { health, detail }) => {
            format!("{word}; store: {}, passing through: {detail}\n", health.as_str())
        }
    };
    (status, text)
}

/// Returns the result of a command, in words.
fn text_response(text: &str) -> Response {
    format!("{text}\n").into_response()
}

fn internal_error(error: &dyn std::fmt::Display) -> Response {
    problem::respond((StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn json_response(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => internal_error(&error),
    }
}

/// Returns the names and values of a query; no value of this API needs percent-encoding.
fn query_pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}
