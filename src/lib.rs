//! gupd: a Group Update Provider as a service.
//!
//! A caching reverse proxy that stands at a remote site in front of the endpoint-protection manager and is the
//! update source of every client there. The modules are the stages of a request, in this order:
//! [`listen`] accepts, [`proxy`] leads a request through, [`policy`] routes and classes it, [`cache`] finds what is
//! stored, [`fill`] fetches what is not from [`upstream`], and [`store`] keeps it. ARCHITECTURE.md has the map.

pub mod cache;
pub mod clock;
pub mod config;
pub mod demo;
pub mod fill;
pub mod policy;
pub mod proxy;
pub mod store;
pub mod telemetry;
pub mod upstream;
