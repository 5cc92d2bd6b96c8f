//! The guard: a tiny parent that holds the sockets, starts the worker that is the relay, and answers clients itself whenever
//! no worker serves: with a redirect to the manager, or with the manager's answer. It may know routes, upstreams and the
//! limits on the line, and nothing of what is stored: whatever breaks there must not reach it.
//!
//! `handover` decides who accepts, `run` does what it says; `control` is what guard and worker say to each other, `workers`
//! their processes, `door` the sockets, `answer` what clients get, `renew` how a guard is replaced by a newer one.

mod admin;
mod answer;
pub mod control;
mod door;
pub mod handover;
pub mod log;
pub mod metrics;
mod renew;
mod response;
mod run;
pub mod service;
mod setup;
mod signals;
mod workers;

pub use self::run::run;
pub use self::setup::{GuardError, Outcome, Setup};
pub use self::workers::Program;
