//! The admin address: metrics, health, and what an administrator asks for. Owns no state; it reads what others count and
//! says how the relay is. Whatever changes something needs the admin token.

mod clients;
mod exposition;
mod orders;
mod refresh;
mod rollout;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::exposition::Exposition;
pub use self::orders::{Answer, Order, Ordered, Orders};
pub use self::refresh::read_token;
use gupd_config::clock::Clock;
use gupd_net::listen::LifecycleStage;
use gupd_net::redirect::{DrainMode, DrainState};
use gupd_refresh::Refresher;
use gupd_rollout::engine::Rollouts;
use gupd_store::{Degradation, Store};

/// What the admin address tells of.
#[derive(Clone, Debug)]
pub struct Admin {
    /// All metrics.
    pub exposition: Arc<Exposition>,
    /// The store's figures.
    pub store: Arc<Store>,
    /// Bytes the store may have on disk.
    pub quota: u64,
    /// Whether new requests are welcome.
    pub stage: watch::Receiver<LifecycleStage>,
    /// Who refreshes.
    pub refresher: Refresher,
    /// Who does what concerns the process, if anybody does.
    pub orders: Option<Orders>,
    /// Whether clients are to go elsewhere.
    pub drain: Arc<DrainState>,
    /// Which revisions clients see.
    pub rollouts: Rollouts,
    /// The time.
    pub clock: Clock,
    /// Where the admin token is.
    pub token_file: Option<PathBuf>,
}

impl Admin {
    /// Answers on `listener` until the relay has stopped, or has handed it over to another process.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, listener: TcpListener, handed_over: CancellationToken) -> std::io::Result<()> {
        let mut stage = self.stage.clone();
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/api/v1/refresh", post(refresh::refresh))
            .route("/api/v1/reload", post(orders::reload))
            .route("/api/v1/upgrade", post(orders::upgrade))
            .route("/api/v1/drain", post(orders::drain).delete(orders::end_drain))
            .route("/api/v1/rollout", get(rollout::status).post(rollout::order))
            .route("/api/v1/rollout/clients", get(clients::clients))
            .route("/api/v1/rollout/view", get(rollout::view))
            .with_state(self)
            .into_make_service_with_connect_info::<SocketAddr>();
        let stopped = async move {
            tokio::select! {
                () = LifecycleStage::Stopped.wait_until_reached(&mut stage) => {}
                () = handed_over.cancelled() => {}
            }
        };
        axum::serve(listener, router).with_graceful_shutdown(stopped).await
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.exposition.encode(&admin.store.stats(), admin.quota) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The process is alive: it answers.
async fn healthz() -> &'static str {
    "alive\n"
}

/// New clients are welcome. Also while the disk fails: they get everything, only not from the store.
async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    let (status, word) = match (*admin.stage.borrow(), admin.drain.get()) {
        (LifecycleStage::Serving, DrainMode::Off) => (StatusCode::OK, "serving"),
        (LifecycleStage::Serving, DrainMode::Unready | DrainMode::Redirecting)
        | (LifecycleStage::Leaving | LifecycleStage::Draining | LifecycleStage::Stopped, _) => {
            (StatusCode::SERVICE_UNAVAILABLE, "draining")
        }
    };
    let text = match admin.store.degradation() {
        None => format!("{word}\n"),
        Some(Degradation { health, detail }) => {
            format!("{word}; store: {}, passing through: {detail}\n", health.as_str())
        }
    };
    (status, text)
}
