//! Who the clients are, and how they do. Requests tell of them by sightings, which never hold a request up: one that finds
//! the queue full is lost and counted. One task owns what is known (`tracker.rs`); whoever wants to know asks it. It is a
//! record of what was seen and decides nothing: views do not depend on it, so that losing it costs no client anything.

mod changes;
mod codec;
mod identity;
mod light;
mod observed;
mod recency;
mod report;
mod restore;
mod row;
#[cfg(test)]
mod sample;
mod sighting;
mod table;
mod taken;
mod tracker;
mod trouble;

use std::sync::Arc;

use prometheus::IntCounter;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::identity::{Identity, NotAClient};
pub use self::light::{Light, Thresholds, View, Viewer, Who};
pub use self::observed::ObservedRequest;
pub use self::report::{ClientReport, Count, Filter, MAX_LISTED, Summary};
pub use self::sighting::{Outcome, Sighting, Sought};
pub use self::tracker::{Rows, Tracker};
pub use self::trouble::Trouble;

/// Sightings that wait: those of a tenth of a second at the most requests that a relay answers on two cores. About a MiB.
const MAX_SIGHTINGS: usize = 8 << 10;

/// Questions that wait; whoever has another waits for room.
const MAX_QUESTIONS: usize = 16;

/// A handle: tells of clients, and asks about them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clients(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sightings: mpsc::Sender<Sighting>,
    questions: mpsc::Sender<Question>,
    settings: watch::Sender<Settings>,
    lost: IntCounter,
}

/// What a reload may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Clients remembered; the longest unseen go first.
    pub max_clients: usize,
    /// From when on a client is not green.
    pub thresholds: Thresholds,
}

/// The tracker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the relay is stopping, and tells nothing of clients any more")]
pub struct Ended;

#[derive(Debug)]
enum Question {
    Trouble { revision: u64, groups: Vec<Arc<str>>, answer: oneshot::Sender<Trouble> },
    Summary { answer: oneshot::Sender<Summary> },
    List { filter: Filter, limit: usize, answer: oneshot::Sender<Vec<ClientReport>> },
    Forget { client: Identity, answer: oneshot::Sender<bool> },
}

impl Clients {
    /// Tells of a request that has ended. Never waits.
    pub fn sighted(&self, sighting: Sighting) {
        // After the end there is nobody to tell, and nothing is lost.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.0.sightings.try_send(sighting) {
            self.0.lost.inc();
        }
    }

    /// Takes new settings.
    pub fn reconfigure(&self, settings: Settings) {
        self.0.settings.send_replace(settings);
    }

    /// The trouble of those in these groups that see this revision.
    ///
    /// # Errors
    /// When the tracker has ended.
    pub async fn trouble(&self, revision: u64, groups: &[Arc<str>]) -> Result<Trouble, Ended> {
        let groups = groups.to_vec();
        self.ask(|answer| Question::Trouble { revision, groups, answer }).await
    }

    /// How many clients are how.
    ///
    /// # Errors
    /// When the tracker has ended.
    pub async fn summary(&self) -> Result<Summary, Ended> {
        self.ask(|answer| Question::Summary { answer }).await
    }

    /// Up to `limit` clients, and no more than [`MAX_LISTED`], the latest seen first.
    ///
    /// # Errors
    /// When the tracker has ended.
    pub async fn list(&self, filter: Filter, limit: usize) -> Result<Vec<ClientReport>, Ended> {
        self.ask(|answer| Question::List { filter, limit, answer }).await
    }

    /// Forgets a client until it is seen again; whether it was known.
    ///
    /// # Errors
    /// When the tracker has ended.
    pub async fn forget(&self, client: Identity) -> Result<bool, Ended> {
        self.ask(|answer| Question::Forget { client, answer }).await
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Ended> {
        let (answer, answered) = oneshot::channel();
        self.0.questions.send(question(answer)).await.map_err(|_| Ended)?;
        answered.await.map_err(|_| Ended)
    }
}
