//! `[guard]`: the response to clients while the worker does not serve, and when the guard restarts the worker.

use std::time::Duration;

use crate::defaults;
use crate::document::Document;
use crate::reader::{choice, time};

/// `[guard]`: settings of `gupd serve --guard`.
#[derive(Clone, Debug, PartialEq)]
pub struct GuardSettings {
    /// Response to clients while no worker serves.
    pub answer: Fallback,
    /// Silence after which a worker is killed and restarted, 100 ms to 10 m.
    pub watchdog: Duration,
    /// Maximum pause before a worker that keeps exiting is restarted, 100 ms to 1 h.
    pub restart_max: Duration,
}

/// Response to clients while no worker serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// `307` to the manager.
    Redirect,
    /// The manager's response, relayed uncached.
    Relay,
}

/// Values of `guard.answer` and of a route's `fallback`.
pub(crate) const FALLBACKS: [(&str, Fallback); 2] =
    [("redirect", Fallback::Redirect), ("relay", Fallback::Relay)];

pub(crate) fn read_guard(document: &mut Document) -> GuardSettings {
    let mut s = document.take_section("guard");
    let guard = GuardSettings {
        answer: s.read("answer", |text| choice(text, &FALLBACKS)).unwrap_or(Fallback::Redirect),
        watchdog: time(&mut s, "watchdog", defaults::WATCHDOG),
        restart_max: time(&mut s, "restart_max", defaults::RESTART_MAX),
    };
    document.close(s);
    guard
}
