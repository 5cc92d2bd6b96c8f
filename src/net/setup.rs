//! The error that keeps the network side of a process, guard or relay, from starting or reloading.

use gupd_config::policy::PolicyError;

use crate::listen::ListenError;
use crate::pem::PemError;
use crate::upstream::ConnectError;

/// Error of sockets, certificates, upstreams or rules. Each is one line that says what to do.
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
