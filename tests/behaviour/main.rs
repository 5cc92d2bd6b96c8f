//! The relay's behaviour over real sockets, one module a stage. One binary, so that it builds and starts quickly.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by a panic")]

#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "a test bed offers more than one test uses")]
mod support;

mod balance;
mod caching;
mod clock;
mod damage;
mod digests;
mod fill;
mod forward;
mod health;
mod hostile;
mod limits;
mod offline;
mod plan;
mod prefetch;
mod queue;
mod ranges;
mod refresh;
mod refusals;
mod scrub;
mod sparse;
mod tls;
mod windows;
