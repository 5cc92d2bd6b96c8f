//! When each client moves within one step of a ring. Owns the arithmetic of an opening: a client has a share of the
//! spread that is its own for the revision, from 0 to 1, and moves when that much of the spread has passed while windows
//! were open. Pure; a moment never comes later than it was, so that no client goes back.
//!
//! What an opening has moved is always everyone below some share. So one that is interrupted, by a halt or because the
//! relay was away, is gone on with from that share, and those who have moved stay.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use gupd_config::clock::UnixMillis;
use gupd_config::policy::calendar::Calendar;
use gupd_config::policy::window;
use gupd_config::{GroupSettings, WeekWindows};

/// A part of a spread: 2^64 stands for all of it.
type Share = u64;

/// A step that was opened, as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// When, or when it was gone on with.
    pub at: UnixMillis,
    /// What the time until the next step counts from: when it was opened, and later by as long as views stood still.
    pub since: UnixMillis,
    /// Whoever has a smaller share had moved before that.
    pub done: Share,
    /// Everyone had.
    pub all: bool,
}

/// The same with what its ring's windows make of it, ready to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    done: Share,
    all: bool,
    /// When the share `done` moves, and who is behind it follows.
    first: Stretch,
    /// When whoever does not fit before the window closes goes on.
    next: Option<Stretch>,
}

/// A time in which clients move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    starts: UnixMillis,
    spread: Duration,
    closes: Option<UnixMillis>,
}

impl Opened {
    /// The same, gone on with at `now` after views stood still since `since`: those who had moved have.
    pub fn interrupted(self, opening: &Opening, since: UnixMillis, now: UnixMillis) -> Self {
        let stood = now - since.max(self.since);
        let after = Self { since: self.since + stood, ..self };
        match opening.reached(since) {
            // What counts from its end is put off as well.
            None if self.all => Self { at: self.at + (now - since.max(self.at)), ..after },
            None => Self { at: now - (since - opening.complete()), done: 0, all: true, ..after },
            Some(done) => Self { at: now, done, all: false, ..after },
        }
    }

    /// Opened now, from its beginning.
    pub fn at(now: UnixMillis) -> Self {
        Self { at: now, since: now, done: 0, all: false }
    }
}

impl Opening {
    /// Of a step of a ring with these windows and spread.
    pub fn new(opened: Opened, windows: &WeekWindows, spread: Duration, calendar: &Calendar) -> Self {
        let stretch = |from: UnixMillis| {
            let held = calendar.current(windows, from);
            // A window that never opens is in no configuration.
            let Some(starts) = (if held.value { Some(from) } else { held.until }) else {
                return Stretch { starts: UnixMillis::MAX, spread, closes: None };
            };
            let closes = calendar.current(windows, starts).until;
            let spread = match (calendar.current_since(windows, starts), closes) {
                (Some(opens), Some(closes)) => {
                    GroupSettings::fit_spread(spread, Duration::from_millis(opens.abs_diff(closes)))
                }
                _ => spread,
            };
            Stretch { starts, spread, closes }
        };
        let first = stretch(opened.at);
        let next = first.closes.map(stretch);
        Self { done: opened.done, all: opened.all, first, next }
    }

    /// When the client whose share this is moves; before everything if it has.
    pub fn moment(&self, share: Share) -> UnixMillis {
        if self.all || share < self.done {
            return UnixMillis::MIN;
        }
        let at = self.first.at(share - self.done);
        match (self.first.closes, &self.next) {
            (Some(closes), Some(next)) if at >= closes => next.at(share - self.done),
            _ => at,
        }
    }

    /// When everyone has moved.
    pub fn complete(&self) -> UnixMillis {
        if self.all { UnixMillis::MIN } else { self.moment(Share::MAX) }
    }

    /// The part of the clients that have moved, from 0 to 1.
    pub fn moved(&self, now: UnixMillis) -> f64 {
        // 2^64 stands for all of them.
        self.reached(now).map_or(1.0, |reached| reached as f64 / 2.0_f64.powi(64))
    }

    /// How far it has come at `now`: the share below which everyone has moved, `None` if everyone has.
    pub fn reached(&self, now: UnixMillis) -> Option<Share> {
        if self.complete() <= now {
            return None;
        }
        // The least share that has not moved: moments rise with shares.
        let (mut moved, mut not) = (self.done, Share::MAX);
        if self.moment(moved) > now {
            return Some(self.done);
        }
        while not - moved > 1 {
            let middle = moved + (not - moved) / 2;
            if self.moment(middle) <= now { moved = middle } else { not = middle }
        }
        Some(not)
    }
}

impl Stretch {
    fn at(&self, behind: Share) -> UnixMillis {
        let millis = u64::try_from(self.spread.as_millis()).unwrap_or(u64::MAX);
        let offset = (u128::from(behind) * u128::from(millis)) >> 64;
        self.starts.saturating_add(i64::try_from(offset).unwrap_or(i64::MAX))
    }
}

/// A client's share of the spread of a revision: evenly spread over clients, of no relation between revisions.
pub fn share(client: IpAddr, revision: &str) -> Share {
    window::client_hash(client, revision)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use gupd_config::{Config, Overrides};

    const HOUR: i64 = 3_600_000;

    // Windows and the calendar of a zone whose clocks are moved.
    fn windows(text: &str) -> (WeekWindows, Calendar) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gupd.toml");
        let text = format!(
            "[site]\ntime_zone = \"Europe/Berlin\"\n[[upstream]]\nurl = \"http://m\"\n\
             [[ring]]\nname = \"a\"\ngroups = \"default\"\nwindows = \"{text}\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&Overrides::default(), Some(&file), std::iter::empty()).unwrap();
        (config.rings[0].windows.clone(), Calendar::new(config.site.time_zone))
    }

    fn any_windows() -> impl Strategy<Value = (WeekWindows, Calendar)> {
        prop::sample::select(vec!["always", "20:00-06:00", "mon-fri 12:00-12:30", "sun 01:00-05:00"])
            .prop_map(windows)
    }

    // Around the change of clocks of autumn 2026.
    fn time() -> impl Strategy<Value = UnixMillis> {
        (0..20 * 24 * 60_i64).prop_map(|minutes| 1_792_000_000_000 + minutes * 60_000)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn clients_move_in_the_order_of_their_shares_and_only_while_windows_are_open(
            (windows, calendar) in any_windows(),
            at in time(),
            hours in 0..60_u64,
            mut shares in prop::collection::vec(any::<u64>(), 2..20),
        ) {
            let opening = Opening::new(Opened::at(at), &windows, Duration::from_secs(hours * 3600), &calendar);
            shares.sort_unstable();
            let moments: Vec<_> = shares.iter().map(|share| opening.moment(*share)).collect();
            prop_assert!(moments.is_sorted());
            for moment in moments {
                prop_assert!(moment >= at && moment <= opening.complete());
                prop_assert!(calendar.current(&windows, moment).value);
            }
        }

        #[test]
        fn who_has_moved_before_an_interruption_has_moved_after_it_and_nobody_else(
            (windows, calendar) in any_windows(),
            at in time(),
            hours in 0..60_u64,
            stood in 0..200 * HOUR,
            away in 0..900 * HOUR,
            shares in prop::collection::vec(any::<u64>(), 1..40),
        ) {
            let spread = Duration::from_secs(hours * 3600);
            let before = Opening::new(Opened::at(at), &windows, spread, &calendar);
            let (since, now) = (at + stood, at + stood + away);
            let after = Opened::at(at).interrupted(&before, since, now);
            let after = Opening::new(after, &windows, spread, &calendar);
            for share in shares.into_iter().chain([0, u64::MAX]) {
                let moved = before.moment(share) <= since;
                prop_assert_eq!(moved, after.moment(share) < now, "{}", share);
                prop_assert!(moved || after.moment(share) >= now);
            }
        }
    }

    #[test]
    fn without_windows_and_spread_all_move_when_it_opens() {
        let (windows, calendar) = windows("always");
        let opening = Opening::new(Opened::at(5), &windows, Duration::ZERO, &calendar);
        assert_eq!((opening.moment(0), opening.moment(u64::MAX), opening.complete()), (5, 5, 5));
    }
}
