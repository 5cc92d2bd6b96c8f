//! HTTP caching and forwarding rules as pure functions: freshness, storability, `Vary`, validators, ranges,
//! conditional requests, `Cache-Status`, and the marks that relays leave on what they forward.
//!
//! Guarantees: no I/O, no clock of its own, no panic on any input; each rule names its section of RFC 9110, 9111, 9211
//! or 8586. Main types: [`CacheControl`], [`Freshness`], [`VaryFields`], [`status::CacheStatus`], [`range::Ranges`].
//! Start reading at [`freshness`].

pub mod conditional;
pub mod control;
pub mod field;
pub mod forwarding;
pub mod freshness;
pub mod instance;
pub mod key;
mod lifetime;
pub mod multipart;
pub mod range;
pub mod refusal;
pub mod status;
pub mod storable;
pub mod target;
pub mod update;
pub mod validator;
pub mod vary;

pub use self::control::CacheControl;
pub use self::freshness::{Freshness, Verdict};
pub use self::storable::UnstorableReason;
pub use self::vary::VaryFields;
