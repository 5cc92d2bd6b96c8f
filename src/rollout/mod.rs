//! What a client sees of what its manager publishes, and when it sees more: revisions of the catalogs, rings that move
//! clients from one to the next, and what an administrator orders beside them. Owns these decisions, as pure functions of
//! state and time; fetching is `refresh`'s, serving is `proxy`'s. Where the configuration has no ring nothing here runs.

pub mod advance;
pub mod audit;
pub mod moment;
pub mod orders;
pub mod preview;
mod retire;
pub mod revision;
pub mod rings;
pub mod state;
pub mod status;
pub mod views;
