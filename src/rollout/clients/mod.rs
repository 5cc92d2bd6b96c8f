//! The client tracker: which clients there are, what each has received, and how it does. Requests send observations
//! through a bounded queue and never wait; an observation that finds the queue full is lost and counted. The tracker
//! only records: no view depends on it. Rings do: their gates ask it for trouble with a revision.

mod id;
mod observation;
mod record;
mod report;
#[cfg(test)]
mod sample;
mod table;
mod tracker;
mod trouble;

use std::time::Duration;

pub use self::id::{ClientId, InvalidClientId};
pub use self::observation::{Observation, RequestKind, RequestOutcome};
pub use self::record::{ClientRecord, RevisionSince};
pub use self::report::{
    ClientFilter, ClientPage, ClientReport, ClientStatus, MAX_LISTED, VisibleRevision, VisibleRevisionOf,
};
pub use self::tracker::{ClientStore, ClientTracker};
pub use self::trouble::Trouble;

/// Settings of the tracker. A reload may change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackerSettings {
    /// Maximum number of clients that are remembered.
    pub max_clients: usize,
    /// Time for a client to receive what is visible to it.
    pub behind: Duration,
    /// Time without a request after which a client no longer counts.
    pub unseen: Duration,
    /// Complete downloads of one object, within one revision, that are trouble.
    pub repeats: u32,
}
