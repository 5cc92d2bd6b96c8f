//! `[rollout]`: how many revisions are kept, and when clients count as failing. Applies only with `[[ring]]`s.

use std::time::Duration;

use crate::defaults;
use crate::document::Document;
use crate::reader::{count, number, time};

/// `[rollout]`
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutSettings {
    /// Revisions kept, besides those that have a name or that clients still see; 2 to 100.
    pub keep: u32,
    /// Age at which other revisions are removed, 1 d to 3,650 d.
    pub max_age: Duration,
    /// Percentage of failing clients of a ring that keeps the next ring closed, 1 to 100.
    pub trouble_share: u8,
    /// Minimum number of failing clients that does so, 1 to 1,000,000.
    pub trouble_clients: u32,
    /// Complete downloads of the same content by one client that count as a failure, 2 to 100.
    pub repeats: u32,
    /// Time that a client may lag behind its visible revision before it counts as behind, 1 m to 30 d.
    pub behind: Duration,
    /// Time without a request after which a client is left out of a rollout's figures, 1 h to 365 d.
    pub unseen: Duration,
    /// Maximum number of clients remembered, 1 to 1,000,000.
    pub max_clients: u32,
}

pub(crate) fn read_rollout(document: &mut Document) -> RolloutSettings {
    let mut s = document.take_section("rollout");
    let share = |text: &str| {
        let digits = text.strip_suffix('%').unwrap_or(text).trim();
        number(digits, defaults::TROUBLE_SHARE)
    };
    let rollout = RolloutSettings {
        keep: count(&mut s, "keep", defaults::KEEP),
        max_age: time(&mut s, "max_age", defaults::MAX_AGE),
        trouble_share: s.read("trouble_share", share).unwrap_or(defaults::TROUBLE_SHARE.default),
        trouble_clients: count(&mut s, "trouble_clients", defaults::TROUBLE_CLIENTS),
        repeats: count(&mut s, "repeats", defaults::REPEATS),
        behind: time(&mut s, "behind", defaults::BEHIND),
        unseen: time(&mut s, "unseen", defaults::UNSEEN),
        max_clients: count(&mut s, "max_clients", defaults::MAX_CLIENTS),
    };
    document.close(s);
    rollout
}
