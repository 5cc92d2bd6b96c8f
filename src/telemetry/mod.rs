//! What an operator sees: `metrics` counts, `access` writes one line for each request, `log` sets up where lines go.
//! It observes; nothing here changes what a client gets.

pub mod access;
mod guard_metrics;
mod health_metrics;
pub mod log;
pub mod metrics;
mod peer_metrics;
mod refresh_metrics;
mod rollout_metrics;
mod store_metrics;

pub use self::guard_metrics::{Answered, Figures, GuardMetrics, Why};
pub use self::health_metrics::HealthMetrics;
pub use self::metrics::Metrics;
pub use self::refresh_metrics::RefreshMetrics;
pub use self::rollout_metrics::RolloutMetrics;
