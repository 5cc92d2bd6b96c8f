//! The network layer: listeners and client connections, connections to upstreams and peers, limits and slots, and
//! redirects to a manager.
//!
//! Guarantees: every connection, wait and queue is bounded; no byte passes a limit in force. It knows nothing of
//! stored content. Main types: [`listen::HttpServer`], [`upstream::Upstreams`], [`shape::WanLimiter`],
//! [`shape::LanLimiter`], [`shape::SlotLimiter`], [`redirect::PublicUrls`]. Start reading at [`upstream`] for
//! requests to managers, at [`listen`] for clients.

pub mod field_names;
pub mod listen;
pub mod metrics;
pub mod pem;
pub mod redirect;
pub mod relocation;
mod setup;
pub mod shape;
pub mod upstream;

pub use self::setup::SetupError;
