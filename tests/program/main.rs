//! The program as its users have it: started as a process, told by flags, files and signals, asked over sockets,
//! killed in the middle. What a relay answers to a request is tested in `behaviour`; here is what only a process has.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "steps of tests: what fails here fails the test, what is measured is told"
)]

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "a test bed offers more than one test uses")]
mod support;

mod bad_input;
mod bindings;
mod bounds;
mod bundles;
mod clients_config;
mod copies;
mod crash;
mod demo;
mod explain;
mod exposition;
mod fault_layer;
mod faults;
mod guard;
mod guarded;
mod orders;
mod pair;
mod plan;
mod process;
mod refresh;
mod resumable;
mod rollout;
mod seen;
mod serve;
mod signals;
mod staged;
mod store_commands;
mod upgrade;
