//! A client's state as a light. Pure: what is known of it, what its view is now, and the thresholds decide.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Identity;
use super::row::{Ills, Row};
use gupd_config::clock::UnixMillis;

/// How a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Light {
    /// Current: it has what its view shows, or has not had time for it.
    Green,
    /// Behind: its view has long shown what it was not given.
    Yellow,
    /// Failing: its requests fail, or what it gets does not help it.
    Red,
    /// Not seen lately.
    Grey,
}

/// From when on a client is not green.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Time for a client to be given what its view shows.
    pub behind: Duration,
    /// Time after which a client that was not seen says nothing any more.
    pub unseen: Duration,
    /// Errors in a row that make a client a failing one.
    pub failing: u32,
    /// How often a client takes the same content whole for that to be trouble.
    pub repeats: u32,
}

/// A client, as whoever works out views asks for one.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Who it is.
    pub client: &'a Identity,
    /// Where its latest request came from.
    pub address: IpAddr,
    /// The group that it was in then.
    pub group: &'a Arc<str>,
    /// The revision of which it was last given a catalog.
    pub given: Option<u64>,
}

/// The revision that a client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Its number.
    pub revision: u64,
    /// Since when it is another than the one that the client was given: not since when it is this one, or nobody would
    /// be behind where revisions come faster than clients may fall behind. Without meaning if the two are the same.
    pub since: UnixMillis,
}

/// Says what the view of a client is at this time; `None` while there is no revision.
pub type Viewer = dyn Fn(&Who<'_>, UnixMillis) -> Option<View> + Send + Sync;

impl Thresholds {
    /// Errors in a row: one is chance, and clients try a second time at once.
    pub const FAILING: u32 = 3;
}

impl Light {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Green, Self::Yellow, Self::Red, Self::Grey];

    /// Its name in logs, reports and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
            Self::Grey => "grey",
        }
    }

    /// The light of a client whose view is `view`. One failed download is no failing client: it is for the ring to
    /// count them.
    pub(super) fn of(row: &Row, view: Option<View>, thresholds: &Thresholds, now: UnixMillis) -> Self {
        let ills = Ills { failed: false, ..row.ills(thresholds.repeats) };
        if is_over(row.last_seen, thresholds.unseen, now) {
            Self::Grey
        } else if row.errors_in_a_row >= thresholds.failing || ills.any() {
            Self::Red
        } else if is_behind(row, view, thresholds.behind, now) {
            Self::Yellow
        } else {
            Self::Green
        }
    }
}

fn is_behind(row: &Row, view: Option<View>, behind: Duration, now: UnixMillis) -> bool {
    // Who is given no catalogs is told by its manager what there is.
    let (Some(view), Some(given)) = (view, row.given) else { return false };
    view.revision != given.revision && is_over(view.since, behind, now)
}

/// Whether more than `time` has passed since; never, of a moment that has not come by a clock that was set back.
pub(super) fn is_over(since: UnixMillis, time: Duration, now: UnixMillis) -> bool {
    let passed = u64::try_from(now.saturating_sub(since)).unwrap_or(0);
    u128::from(passed) > time.as_millis()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample::{self, HOUR, T0, THRESHOLDS};
    use super::super::sighting::{Outcome, Sighting};
    use super::*;

    const DAY: UnixMillis = 24 * HOUR;

    fn light(row: &Row, view: u64, now: UnixMillis) -> Light {
        Light::of(row, Some(View { revision: view, since: T0 + HOUR }), &THRESHOLDS, now)
    }

    #[test]
    fn a_client_is_behind_a_day_after_its_view_has_moved_without_it() {
        let mut row = Row::new(&sample::catalog(7), T0);
        assert_eq!(light(&row, 7, T0 + 3 * DAY), Light::Green);
        assert_eq!(light(&row, 8, T0 + HOUR + DAY), Light::Green);
        assert_eq!(light(&row, 8, T0 + HOUR + DAY + 1), Light::Yellow);
        row.record(&Sighting { at: T0 + 2 * DAY, ..sample::catalog(8) }, T0 + 2 * DAY);
        assert_eq!(light(&row, 8, T0 + 2 * DAY), Light::Green);
    }

    #[test]
    fn a_client_that_takes_payloads_alone_is_never_behind() {
        let row = Row::new(&sample::payload(7, Outcome::Given), T0);
        assert_eq!(light(&row, 8, T0 + 5 * DAY), Light::Green);
    }

    #[test]
    fn three_errors_in_a_row_are_red_until_something_comes_whole() {
        let failed = sample::payload(7, Outcome::Failed);
        let mut row = Row::new(&failed, T0);
        row.record(&failed, T0);
        assert_eq!(light(&row, 7, T0), Light::Green);
        row.record(&failed, T0);
        assert_eq!(light(&row, 7, T0), Light::Red);
        row.record(&sample::payload(7, Outcome::Given), T0);
        assert_eq!(light(&row, 7, T0), Light::Green);
    }

    #[test]
    fn damage_is_red_and_a_week_without_a_request_is_grey() {
        let row = Row::new(&sample::payload(7, Outcome::Damaged), T0);
        assert_eq!(light(&row, 7, T0 + 7 * DAY), Light::Red);
        assert_eq!(light(&row, 7, T0 + 7 * DAY + 1), Light::Grey);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn time_alone_takes_a_light_from_green_to_yellow_to_grey_and_never_back(
            sightings in sample::sightings(8),
            view in 0..4_u64,
            mut times in prop::collection::vec(T0..T0 + 30 * DAY, 2..10),
        ) {
            let mut row = Row::new(&sightings[0], T0);
            sightings.iter().for_each(|sighting| row.record(sighting, T0));
            times.sort_unstable();
            let lights: Vec<Light> = times.iter().map(|&now| light(&row, view, now)).collect();
            prop_assert!(lights.is_sorted(), "{lights:?}");
        }

        #[test]
        fn whoever_was_just_given_what_its_view_shows_is_green_or_red(sightings in sample::sightings(8), view in 1..4_u64) {
            let mut row = Row::new(&sightings[0], T0);
            sightings.iter().for_each(|sighting| row.record(sighting, T0));
            let at = T0 + 60 * DAY;
            row.record(&Sighting { at, ..sample::catalog(view) }, at);
            prop_assert!(matches!(light(&row, view, at), Light::Green | Light::Red));
        }
    }
}
