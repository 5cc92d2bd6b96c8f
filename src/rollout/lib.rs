//! What a client sees of what its manager publishes, and when it sees more: revisions of the catalogs, rings that move
//! clients from one to the next, and what an administrator orders beside them. Owns these decisions, as pure functions of
//! state and time; fetching is `refresh`'s, serving is `proxy`'s. Where the configuration has no ring nothing here runs.

pub mod advance;
pub mod audit;
pub mod clients;
pub mod engine;
pub mod metrics;
pub mod moment;
pub mod orders;
mod payloads;
pub mod preview;
mod record;
mod retire;
pub mod revision;
pub mod rings;
pub mod state;
pub mod status;
#[cfg(test)]
mod tests;
mod troubled;
pub mod views;
