//! `POST /api/v1/upgrade`: has the program on disk take over, and answers when it is ready to, or with why it does not.
//! It is the guard that does it; without one the answer says what is missing.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use tokio::sync::{mpsc, oneshot};

use super::Admin;
use super::refresh::authorise;

/// Asks for an upgrade that have not been passed on yet.
const ASKS: usize = 4;

/// How a relay that has a guard asks it for an upgrade.
#[derive(Clone, Debug)]
pub struct Upgrades(mpsc::Sender<Ask>);

/// Who waits for what becomes of an upgrade.
pub type Ask = oneshot::Sender<Result<(), String>>;

impl Upgrades {
    /// With the end that the asks come out of.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(ASKS);
        (Self(asks), asked)
    }

    async fn ask(&self) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let lost = || "the guard cannot be asked now; try again".to_owned();
        self.0.try_send(answer).map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    }
}

pub(super) async fn upgrade(State(admin): State<Admin>, headers: HeaderMap) -> (StatusCode, String) {
    if let Err((status, why)) = authorise(admin.token_file, &headers).await {
        return (status, format!("{why}\n"));
    }
    let Some(upgrades) = admin.upgrades else {
        let why =
            "the relay has no guard to hand over to another program; start it with gupd serve --guard\n";
        return (StatusCode::CONFLICT, why.to_owned());
    };
    match upgrades.ask().await {
        Ok(()) => (StatusCode::OK, "the new worker is ready and takes over\n".to_owned()),
        Err(why) => (StatusCode::CONFLICT, format!("{why}\n")),
    }
}
