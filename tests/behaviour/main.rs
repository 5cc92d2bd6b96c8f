//! The relay's behaviour over real sockets, one module a stage. One binary, so that it builds and starts quickly.

#[path = "../support/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test bed offers more than one test uses, and ends a test by a panic"
)]
mod support;

mod fill;
