//! HTTP caching and forwarding rules as pure functions: targets and refusals, freshness, storability, `Vary`,
//! validators, ranges, conditional requests, `Cache-Status`, and the marks of relays.
//!
//! Guarantees: no I/O, no panic on any input, and no clock except for the century of a two-digit year. Each rule names
//! its section of RFC 9110, 9111, 9112, 9211, 9213 or 8586. Main types: [`target::Target`], [`refusal::Refusal`], [`CacheControl`], [`Freshness`], [`VaryFields`],
//! [`status::CacheStatus`], [`range::Ranges`]. Start reading at [`target`] for forwarding, at [`freshness`] for
//! caching.

// Guaranteed by lints, not by care.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::string_slice, clippy::arithmetic_side_effects))]

pub mod authentication;
pub mod client_address;
mod coding;
mod compact;
pub mod conditional;
pub mod control;
pub mod date;
pub mod field;
pub mod forwarding;
pub mod framing;
pub mod freshness;
pub mod http2;
pub mod instance;
pub mod internal;
pub mod key;
mod language;
mod lifetime;
pub mod multipart;
pub mod range;
pub mod refusal;
pub mod special;
pub mod spelling;
pub mod status;
pub mod storable;
pub mod target;
mod targeted;
mod unstorable;
pub mod update;
pub mod validator;
pub mod vary;

pub use self::compact::compact;
pub use self::control::CacheControl;
pub use self::freshness::{Freshness, Verdict};
pub use self::unstorable::UnstorableReason;
pub use self::vary::{SelectingRequest, VaryFields};
