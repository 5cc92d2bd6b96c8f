//! gupd: a Group Update Provider as a service.
//!
//! A caching reverse proxy that stands at a remote site in front of the endpoint-protection manager and is the
//! update source of every client there. The modules are the stages of a request, in this order:
//! [`listen`] accepts, [`proxy`] leads a request through, [`policy`] routes and classes it, [`cache`] finds what is
//! stored, [`fill`] fetches what is not from [`upstream`], [`digest`] says whether it is what was announced, and [`store`] keeps it. [`refresh`] does what no
//! request asks for; [`telemetry`] and [`admin`] observe; [`Relay`] puts it all together. ARCHITECTURE.md has the map.

pub mod admin;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod digest;
pub mod fill;
pub mod forward;
pub mod guard;
pub mod instance;
pub mod listen;
pub mod pem;
pub mod plan;
pub mod policy;
pub mod proxy;
pub mod refresh;
mod relay;
pub mod rollout;
pub mod service;
pub mod shape;
pub mod store;
pub mod telemetry;
pub mod upstream;

pub use self::clock::Clock;
pub use self::config::Config;
pub use self::relay::{Limits, Pulse, Ready, Relay, StartError};
