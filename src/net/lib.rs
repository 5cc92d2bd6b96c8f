//! The network layer: listeners and connections of clients, connections to upstreams and peers, limits and slots, and
//! what all forwarding has in common.
//!
//! Guarantees: every connection, wait and queue is bounded; no byte passes a limit that is in force. It knows nothing
//! of stored content. Main types: [`listen::Connections`], [`upstream::Upstreams`], [`shape::WanLimiter`], [`shape::LanLimiter`],
//! [`redirect::PublicUrls`]. Start reading at [`upstream`] for requests to managers, at [`listen`] for clients.

pub mod listen;
pub mod metrics;
pub mod pem;
pub mod redirect;
pub mod shape;
pub mod upstream;
