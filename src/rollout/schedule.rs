//! Schedule of one step of a ring: when each client moves to the new revision. Each client has a share of its own for
//! the revision, from 0 to 1. It moves when that part of the spread has passed while windows were open. Pure; a
//! scheduled start never becomes later, so that no client goes back.
//!
//! The clients that a step has moved are always those below some share. So a step that was interrupted, by a halt or
//! while the relay was down, resumes at that share, and moved clients stay where they are.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rings::{Ring, Rings};
use gupd_config::clock::UnixMillis;
use gupd_config::policy::calendar::Calendar;
use gupd_config::policy::window;
use gupd_config::{GroupSettings, WeekWindows};

/// A part of a spread; 2^64 stands for all of it.
type ClientShare = u64;

/// An opened step in its stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedStep {
    /// Time of its opening, or of its latest resumption.
    pub at: UnixMillis,
    /// Start of the delay before the next step: the opening, put off by the time that views stood still.
    pub since: UnixMillis,
    /// Clients with a smaller share had moved before `at`.
    pub done: ClientShare,
    /// All clients had moved before `at`.
    pub all: bool,
}

/// An opened step with the windows and spread of its ring applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepSchedule {
    done: ClientShare,
    all: bool,
    /// The first time in which clients move, from share `done` on.
    first: OpenInterval,
    /// The next one, for clients that do not fit before the window closes.
    next: Option<OpenInterval>,
}

/// A time in which clients move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenInterval {
    starts: UnixMillis,
    spread: Duration,
    closes: Option<UnixMillis>,
}

impl OpenedStep {
    /// A step opened now, from its beginning.
    pub fn now(now: UnixMillis) -> Self {
        Self { at: now, since: now, done: 0, all: false }
    }

    /// Resumes the step at `now` after views stood still since `since`: moved clients stay moved.
    pub fn resumed(self, schedule: &StepSchedule, since: UnixMillis, now: UnixMillis) -> Self {
        let stood = now - since.max(self.since);
        let after = Self { since: self.since + stood, ..self };
        match schedule.reached_share(since) {
            // Delays that start at its completion are put off as well.
            None if self.all => Self { at: self.at + (now - since.max(self.at)), ..after },
            None => Self { at: now - (since - schedule.completion()), done: 0, all: true, ..after },
            Some(done) => Self { at: now, done, all: false, ..after },
        }
    }
}

impl StepSchedule {
    /// Schedules a step of a ring with these windows and this spread.
    pub fn new(opened: OpenedStep, windows: &WeekWindows, spread: Duration, calendar: &Calendar) -> Self {
        let interval = |from: UnixMillis| {
            let held = calendar.current(windows, from);
            // No configuration has a window that never opens.
            let Some(starts) = (if held.value { Some(from) } else { held.until }) else {
                return OpenInterval { starts: UnixMillis::MAX, spread, closes: None };
            };
            let closes = calendar.current(windows, starts).until;
            let spread = match (calendar.current_since(windows, starts), closes) {
                (Some(opens), Some(closes)) => {
                    GroupSettings::fit_spread(spread, Duration::from_millis(opens.abs_diff(closes)))
                }
                _ => spread,
            };
            OpenInterval { starts, spread, closes }
        };
        let first = interval(opened.at);
        let next = first.closes.map(interval);
        Self { done: opened.done, all: opened.all, first, next }
    }

    pub(super) fn for_ring(opened: OpenedStep, ring: &Ring, rings: &Rings) -> Self {
        Self::new(opened, &ring.settings.windows, ring.settings.spread, rings.calendar())
    }

    /// Returns when the client with this share moves; [`UnixMillis::MIN`] if it has moved.
    pub fn scheduled_start(&self, share: ClientShare) -> UnixMillis {
        if self.all || share < self.done {
            return UnixMillis::MIN;
        }
        let at = self.first.time_of(share - self.done);
        match (self.first.closes, &self.next) {
            (Some(closes), Some(next)) if at >= closes => next.time_of(share - self.done),
            _ => at,
        }
    }

    /// Returns when all clients have moved.
    pub fn completion(&self) -> UnixMillis {
        if self.all { UnixMillis::MIN } else { self.scheduled_start(ClientShare::MAX) }
    }

    /// Returns the part of the clients that have moved, from 0 to 1.
    pub fn moved(&self, now: UnixMillis) -> f64 {
        // 2^64 stands for all of them.
        self.reached_share(now).map_or(1.0, |reached| reached as f64 / 2.0_f64.powi(64))
    }

    /// Returns the share below which clients have moved; `None` if all have.
    pub fn reached_share(&self, now: UnixMillis) -> Option<ClientShare> {
        if self.completion() <= now {
            return None;
        }
        // The least share that has not moved: starts rise with shares.
        let (mut moved, mut not) = (self.done, ClientShare::MAX);
        if self.scheduled_start(moved) > now {
            return Some(self.done);
        }
        while not - moved > 1 {
            let middle = moved + (not - moved) / 2;
            if self.scheduled_start(middle) <= now { moved = middle } else { not = middle }
        }
        Some(not)
    }
}

impl OpenInterval {
    fn time_of(&self, share: ClientShare) -> UnixMillis {
        let millis = u64::try_from(self.spread.as_millis()).unwrap_or(u64::MAX);
        let offset = (u128::from(share) * u128::from(millis)) >> 64;
        self.starts.saturating_add(i64::try_from(offset).unwrap_or(i64::MAX))
    }
}

/// Returns a client's share of the spread of a revision: uniform over clients, and independent between revisions.
pub fn client_share(client: IpAddr, revision: &str) -> ClientShare {
    window::client_hash(client, revision)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use gupd_config::{Config, Overrides};

    const HOUR: i64 = 3_600_000;

    // Windows, and the calendar of a zone with daylight saving time.
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

    // Around the end of daylight saving time in autumn 2026.
    fn time() -> impl Strategy<Value = UnixMillis> {
        (0..20 * 24 * 60_i64).prop_map(|minutes| 1_792_000_000_000 + minutes * 60_000)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn clients_move_by_share_and_only_in_open_windows(
            (windows, calendar) in any_windows(),
            at in time(),
            hours in 0..60_u64,
            mut shares in prop::collection::vec(any::<u64>(), 2..20),
        ) {
            let schedule = StepSchedule::new(OpenedStep::now(at), &windows, Duration::from_secs(hours * 3600), &calendar);
            shares.sort_unstable();
            let starts: Vec<_> = shares.iter().map(|share| schedule.scheduled_start(*share)).collect();
            prop_assert!(starts.is_sorted());
            for start in starts {
                prop_assert!(start >= at && start <= schedule.completion());
                prop_assert!(calendar.current(&windows, start).value);
            }
        }

        #[test]
        fn interruption_keeps_exactly_the_moved_clients(
            (windows, calendar) in any_windows(),
            at in time(),
            hours in 0..60_u64,
            stood in 0..200 * HOUR,
            away in 0..900 * HOUR,
            shares in prop::collection::vec(any::<u64>(), 1..40),
        ) {
            let spread = Duration::from_secs(hours * 3600);
            let before = StepSchedule::new(OpenedStep::now(at), &windows, spread, &calendar);
            let (since, now) = (at + stood, at + stood + away);
            let after = OpenedStep::now(at).resumed(&before, since, now);
            let after = StepSchedule::new(after, &windows, spread, &calendar);
            for share in shares.into_iter().chain([0, u64::MAX]) {
                let moved = before.scheduled_start(share) <= since;
                prop_assert_eq!(moved, after.scheduled_start(share) < now, "{}", share);
                prop_assert!(moved || after.scheduled_start(share) >= now);
            }
        }
    }

    #[test]
    fn step_without_spread_moves_all_clients_at_once() {
        let (windows, calendar) = windows("always");
        let schedule = StepSchedule::new(OpenedStep::now(5), &windows, Duration::ZERO, &calendar);
        assert_eq!(
            (schedule.scheduled_start(0), schedule.scheduled_start(u64::MAX), schedule.completion()),
            (5, 5, 5)
        );
    }
}
