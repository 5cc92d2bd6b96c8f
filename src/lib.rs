//! gupd: a Group Update Provider as a service. The names under which tests and benches reach the crates.

pub use gupd_admin as admin;
pub use gupd_config as config;
pub use gupd_guard as guard;
pub use gupd_plan as plan;
pub use gupd_proxy as proxy;
pub use gupd_refresh as refresh;
pub use gupd_rollout as rollout;
pub use gupd_store as store;

pub use gupd_cache::{digest, fill};
pub use gupd_cli::main;
pub use gupd_cli::relay::{self, Relay, StartError};
pub use gupd_config::{Clock, Config, clock, policy};
pub use gupd_net::{self as net, listen, shape, upstream};

/// Entries, and the rules that judge them.
pub mod cache {
    pub use gupd_cache::*;
    pub use gupd_http::*;
}
