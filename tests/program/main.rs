//! The program as a process: flags, files, signals, sockets, and kills. Responses to requests are tested in
//! `behaviour`; these tests cover the process itself.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step fails the test, and measurements are printed"
)]

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "a test bed offers more than one test uses")]
mod support;

mod admin_access;
mod apt;
mod bad_input;
mod bindings;
mod bounds;
mod browser;
mod bundles;
mod clients_config;
mod colour;
mod copies;
mod crash;
mod default_file;
mod demo;
mod doctor;
mod documented;
mod events;
mod example_blocks;
mod examples;
mod explain;
mod exposition;
mod fault_layer;
mod faults;
mod fitness;
mod fleet;
mod freshclam;
mod guard;
mod guard_process;
mod guarded;
mod held;
mod hints;
mod http2_floods;
mod import;
mod init;
mod inventory;
mod listeners;
mod log;
mod metrics_page;
mod neighbours;
mod orders;
mod page;
mod pair;
mod pasted;
mod plan;
mod plan_sites;
mod process;
mod profile_check;
mod progress;
mod purge;
mod refresh;
mod reports;
mod resumable;
mod rollout;
mod sandbox;
mod secrets;
mod seen;
mod serve;
mod signals;
mod staged;
mod status;
mod store_commands;
mod tier;
mod top;
mod unconfigured;
mod upgrade;
mod warm;
mod why;
