//! The network layer: listeners and client connections, connections to upstreams and peers, limits and slots, and
//! redirects to a manager.
//!
//! Guarantees: every connection, wait and queue is bounded; no byte passes a limit in force. It knows nothing of
//! stored content. Main types: [`listen::HttpServer`], [`upstream::Upstreams`], [`shape::WanLimiter`],
//! [`shape::LanLimiter`], [`shape::SlotLimiter`], [`client_budgets::ClientBudgets`], [`redirect::PublicUrls`]. Start
//! reading at [`upstream`] for requests to managers, at [`listen`] for clients.

// Guaranteed by lints, not by care: these bytes come from the network.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::string_slice, clippy::arithmetic_side_effects))]

mod arrival_times;
pub mod client_budgets;
mod client_variants;
pub mod field_names;
pub mod listen;
pub mod log_limit;
pub mod metrics;
pub mod pem;
pub mod redirect;
pub mod relocation;
pub mod shape;
mod thread;
pub mod traffic;
pub mod upstream;
pub mod webhook;

use gupd_config::policy::PolicyError;

use self::listen::ListenError;
use self::pem::PemError;
use self::upstream::ConnectError;

/// The error that keeps the network side of a process, guard or relay, from starting or reloading: of sockets, certificates, upstreams or rules. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// An address cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificate cannot be loaded.
    #[error(transparent)]
    Tls(#[from] PemError),
    /// TLS to upstreams cannot be set up.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The routes or rules are invalid.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Metrics cannot be registered.
    #[error("metrics: cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A system call failed.
    #[error("operating system: {0}")]
    System(#[from] std::io::Error),
}
