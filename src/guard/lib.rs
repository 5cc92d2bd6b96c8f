//! The guard: a small parent process that holds the sockets, starts the worker that is the relay, and answers clients
//! itself while no worker serves. It redirects them to the manager or relays the manager's response uncached.
//!
//! Guarantee: a client gets an answer on the same port whatever happens to the worker. The guard knows routes,
//! upstreams and limits, and nothing of the store, caches or rollouts: their failures cannot reach it.
//!
//! Start with `handover` (decides whether guard or worker accepts) and `run` (the loop that carries it out).
//! [`control`] is the protocol between guard and worker, `workers` their processes, `listeners` the sockets, `fallback`
//! the responses to clients, `reexec` the replacement of a guard by a newer program, [`log`] the log of every process,
//! [`sandbox`] the restrictions of every process.

mod admin;
pub mod control;
mod fallback;
mod handover;
mod listeners;
pub mod log;
pub mod metrics;
pub mod panics;
mod reexec;
mod response;
mod run;
pub mod sandbox;
pub mod service;
mod signals;
mod workers;

pub use self::run::{GuardOutcome, Setup, run};
pub use self::workers::Program;
