//! Staged rollouts: the revisions of what managers publish, and the revision visible to each client.
//!
//! A revision is a coherent set of catalogs. Rings move clients from one revision to the next, and rollout commands of
//! administrators hold, release, halt or promote. The crate guarantees that no client goes back except by a command,
//! that a change is stored before a client sees it, and that a request never waits for a decision. Fetching is the
//! concern of `gupd-refresh`, serving that of `gupd-proxy`. Without a `[[ring]]` nothing here runs.
//!
//! Start with [`engine::Rollouts`], the handle, and [`state::RolloutState`], a pure value on which every decision is a
//! function: [`progress`] opens steps, [`view`] finds the visible revision, [`command`] applies commands.
//! [`clients::ClientTracker`] records what clients receive, and reports the trouble that closes gates.

pub mod audit;
pub mod clients;
pub mod command;
pub mod dry_run;
pub mod engine;
mod gate;
pub mod metrics;
mod payloads;
pub mod progress;
mod record;
mod retention;
pub mod revision;
pub mod rings;
pub mod schedule;
pub mod state;
pub mod status;
#[cfg(test)]
mod tests;
pub mod view;
