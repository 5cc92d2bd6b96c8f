//! What an administrator asks of the process as a whole: `POST /api/v1/reload` and `/api/v1/upgrade`. Passed on to who runs
//! the relay, and answered when it is done, with what came of it. `POST` and `DELETE` of `/api/v1/drain` begin and end the
//! sending away of clients, which the relay does itself.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use tokio::sync::{mpsc, oneshot};

use super::Admin;
use super::refresh::authorise;
use gupd_net::redirect::DrainMode;

/// Orders that have not been passed on yet.
const WAITING: usize = 4;

/// How a relay passes orders on to who runs it.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<Ordered>);

/// An order, and who waits for what comes of it.
#[derive(Debug)]
pub struct Ordered {
    /// What is to be done.
    pub order: Order,
    /// Takes the line that the administrator reads.
    pub answer: Answer,
}

/// Where the outcome goes, for better or worse in words.
pub type Answer = oneshot::Sender<Result<String, String>>;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Read the configuration again.
    Reload,
    /// Hand over to the program on disk.
    Upgrade,
}

impl Orders {
    /// With the end that the orders come out of.
    pub fn new() -> (Self, mpsc::Receiver<Ordered>) {
        let (orders, ordered) = mpsc::channel(WAITING);
        (Self(orders), ordered)
    }

    async fn give(&self, order: Order) -> Result<String, String> {
        let (answer, answered) = oneshot::channel();
        let lost = || "it cannot be done now; try again".to_owned();
        self.0.try_send(Ordered { order, answer }).map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    }
}

pub(super) async fn reload(State(admin): State<Admin>, headers: HeaderMap) -> (StatusCode, String) {
    pass_on(admin, &headers, Order::Reload).await
}

pub(super) async fn upgrade(State(admin): State<Admin>, headers: HeaderMap) -> (StatusCode, String) {
    pass_on(admin, &headers, Order::Upgrade).await
}

async fn pass_on(admin: Admin, headers: &HeaderMap, order: Order) -> (StatusCode, String) {
    if let Err((status, why)) = authorise(admin.token_file, headers).await {
        return (status, format!("{why}\n"));
    }
    let Some(orders) = admin.orders else {
        return (StatusCode::CONFLICT, "nobody runs this relay who could do that\n".to_owned());
    };
    match orders.give(order).await {
        Ok(done) => (StatusCode::OK, format!("{done}\n")),
        Err(why) => (StatusCode::CONFLICT, format!("{why}\n")),
    }
}

pub(super) async fn drain(State(admin): State<Admin>, uri: Uri, headers: HeaderMap) -> (StatusCode, String) {
    if let Err((status, why)) = authorise(admin.token_file, &headers).await {
        return (status, format!("{why}\n"));
    }
    let (draining, what) = match uri.query() {
        None | Some("redirect=false") => {
            (DrainMode::Unready, "draining: /readyz says 503, and who comes is served")
        }
        Some("redirect=true") => (DrainMode::Redirecting, "draining: who comes is sent to the manager"),
        Some(_) => {
            return (
                StatusCode::BAD_REQUEST,
                "ask for /api/v1/drain, or /api/v1/drain?redirect=true\n".to_owned(),
            );
        }
    };
    admin.drain.set(draining);
    tracing::info!(redirect = draining == DrainMode::Redirecting, "draining, as an administrator asks");
    (StatusCode::OK, format!("{what}; {} connections are open\n", admin.exposition.connections()))
}

pub(super) async fn end_drain(State(admin): State<Admin>, headers: HeaderMap) -> (StatusCode, String) {
    if let Err((status, why)) = authorise(admin.token_file, &headers).await {
        return (status, format!("{why}\n"));
    }
    admin.drain.set(DrainMode::Off);
    tracing::info!("serving again, as an administrator asks");
    (StatusCode::OK, "serving\n".to_owned())
}
