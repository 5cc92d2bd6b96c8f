//! `[rollout]`: how many revisions are kept, and what is taken for trouble. It holds where there are `[[ring]]`s.

use std::time::Duration;

use super::defaults;
use super::document::Document;
use super::settings::{count, number, time};

/// `[rollout]`
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutSettings {
    /// Revisions kept, besides those that have a name or that clients still see, 2 to 100.
    pub keep: u32,
    /// Revisions older than this go, but for those, 1 d to 3,650 d.
    pub max_age: Duration,
    /// Percent of a ring's clients that have trouble, from which on the next ring does not open by itself; 1 to 100.
    pub trouble_share: u8,
    /// Clients that must have it, at least; 1 to 1,000,000.
    pub trouble_clients: u32,
    /// How often a client may take the same content whole before that is trouble, 2 to 100.
    pub repeats: u32,
    /// How long a client may see an older revision than it could before it is behind, 1 m to 30 d.
    pub behind: Duration,
    /// A client that was not seen for so long says nothing of a rollout, 1 h to 365 d.
    pub unseen: Duration,
    /// Clients remembered, 1 to 1,000,000.
    pub max_clients: u32,
}

pub(super) fn rollout(document: &mut Document) -> RolloutSettings {
    let mut s = document.section("rollout");
    let share = |text: &str| {
        let digits = text.strip_suffix('%').unwrap_or(text).trim();
        number(digits, defaults::TROUBLE_SHARE)
    };
    let rollout = RolloutSettings {
        keep: count(&mut s, "keep", defaults::KEEP),
        max_age: time(&mut s, "max_age", defaults::MAX_AGE),
        trouble_share: s.one("trouble_share", share).unwrap_or(defaults::TROUBLE_SHARE.default),
        trouble_clients: count(&mut s, "trouble_clients", defaults::TROUBLE_CLIENTS),
        repeats: count(&mut s, "repeats", defaults::REPEATS),
        behind: time(&mut s, "behind", defaults::BEHIND),
        unseen: time(&mut s, "unseen", defaults::UNSEEN),
        max_clients: count(&mut s, "max_clients", defaults::MAX_CLIENTS),
    };
    document.close(s);
    rollout
}
