//! What is known of one client, and what a sighting changes of it. Pure. What it had of trouble is of the revision that it
//! sees, and begins anew with another.
//!
//! The wall clock may be set back: a time that has not come yet, by the clock as it is now, is replaced by the next one.

use std::net::IpAddr;
use std::sync::Arc;

use super::sighting::{Outcome, Sighting, Sought};
use super::taken::Taken;
use gupd_config::clock::UnixMillis;

/// Time between a client's first and its latest sighting after which it is established: who is there on two days, and no
/// address that is made up and thrown away.
const ESTABLISHED: UnixMillis = 12 * 3600 * 1_000;

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Where its latest request came from.
    pub(super) address: IpAddr,
    /// The group that it was in then.
    pub(super) group: Arc<str>,
    pub(super) first_seen: UnixMillis,
    pub(super) last_seen: UnixMillis,
    /// What its view was at its latest request.
    pub(super) sees: Option<Since>,
    /// The newest state of catalogs that it has been given; `None` of a client that takes payloads alone, whose manager
    /// tells it what there is.
    pub(super) given: Option<Since>,
    /// Bytes of body that it was sent.
    pub(super) bytes: u64,
    pub(super) errors: u32,
    pub(super) errors_in_a_row: u32,
    /// Of the revision that it sees: whether its latest download failed, and none was whole since.
    pub(super) failed: bool,
    /// Of the revision that it sees: whether content was not what it has to be.
    pub(super) damaged: bool,
    /// Of the revision that it sees.
    pub(super) taken: Taken,
}

/// A revision, and when it became that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Since {
    pub(super) revision: u64,
    pub(super) at: UnixMillis,
}

/// What trouble a client has with the revision that it sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ills {
    /// A download failed, and it has had none since.
    pub(super) failed: bool,
    /// It takes the same object whole, again and again; not a full set.
    pub(super) repeated: bool,
    /// It takes the same full set, again and again.
    pub(super) full_again: bool,
    /// What it was sent was not what it has to be.
    pub(super) damaged: bool,
}

impl Row {
    /// A client that was never seen before.
    pub(super) fn new(sighting: &Sighting, now: UnixMillis) -> Self {
        let mut row = Self {
            address: sighting.address,
            group: sighting.group.clone(),
            first_seen: sighting.at,
            last_seen: sighting.at,
            sees: None,
            given: None,
            bytes: 0,
            errors: 0,
            errors_in_a_row: 0,
            failed: false,
            damaged: false,
            taken: Taken::default(),
        };
        row.record(sighting, now);
        row
    }

    /// Takes in what a sighting tells; `now` is when.
    pub(super) fn record(&mut self, sighting: &Sighting, now: UnixMillis) {
        self.bytes = self.bytes.saturating_add(sighting.bytes);
        self.first_seen = self.first_seen.min(sighting.at);
        if sighting.at >= self.last_seen || self.last_seen > now {
            self.last_seen = sighting.at;
            self.address = sighting.address;
            if self.group != sighting.group {
                self.group = sighting.group.clone();
            }
        }
        if matches!(sighting.end, Outcome::Failed | Outcome::Damaged) {
            self.errors = self.errors.saturating_add(1);
            self.errors_in_a_row = self.errors_in_a_row.saturating_add(1);
        }
        // A download that began under another view says nothing of this one.
        if self.look_at(sighting, now) {
            self.fare(sighting);
        }
    }

    /// Whether it is no passer-by.
    pub(super) fn is_established(&self) -> bool {
        self.last_seen.saturating_sub(self.first_seen) >= ESTABLISHED
    }

    /// The trouble it has; `repeats` is how often one takes the same for it to be one.
    pub(super) fn ills(&self, repeats: u32) -> Ills {
        let again = |full: bool| {
            self.taken
                .objects()
                .iter()
                .any(|object| object.full == full && u32::from(object.times) >= repeats)
        };
        Ills { failed: self.failed, repeated: again(false), full_again: again(true), damaged: self.damaged }
    }

    /// Follows the client's view; whether the sighting is of the view that it has.
    fn look_at(&mut self, sighting: &Sighting, now: UnixMillis) -> bool {
        let Some(revision) = sighting.sees else { return self.sees.is_none() };
        if let Some(sees) = self.sees {
            if sees.revision == revision {
                return true;
            }
            if sighting.at < sees.at && sees.at <= now {
                return false;
            }
        }
        self.sees = Some(Since { revision, at: sighting.at });
        (self.failed, self.damaged, self.taken) = (false, false, Taken::default());
        true
    }

    /// What became of a request under the view that it has.
    fn fare(&mut self, sighting: &Sighting) {
        match (sighting.end, sighting.sought) {
            (Outcome::Failed, Sought::Payload { .. }) => self.failed = true,
            (Outcome::Damaged, _) => self.damaged = true,
            (Outcome::Given, Sought::Payload { object, full }) => {
                self.taken.add(object, full);
                self.failed = false;
                self.errors_in_a_row = 0;
            }
            (Outcome::Given, Sought::Catalog) => {
                let given =
                    sighting.sees.filter(|sees| self.given.is_none_or(|given| given.revision != *sees));
                self.given = given.map(|revision| Since { revision, at: sighting.at }).or(self.given);
            }
            _ => {}
        }
        // Catalogs that come do not make good downloads that fail.
        if matches!(sighting.end, Outcome::Given | Outcome::Fine) && !self.failed {
            self.errors_in_a_row = 0;
        }
    }
}

impl Ills {
    /// Whether there are any.
    pub(super) fn any(self) -> bool {
        self != Self::default()
    }

    /// Those that are, in words.
    pub(super) fn words(self) -> impl Iterator<Item = &'static str> {
        let named = [
            (self.failed, "failed"),
            (self.repeated, "repeated"),
            (self.full_again, "full-again"),
            (self.damaged, "damaged"),
        ];
        named.into_iter().filter_map(|(is, word)| is.then_some(word))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, HOUR, T0};
    use super::*;

    fn after(sightings: &[Sighting]) -> Row {
        let mut row = Row::new(&sightings[0], sightings[0].at);
        sightings[1..].iter().for_each(|sighting| row.record(sighting, sighting.at));
        row
    }

    #[test]
    fn a_failed_download_is_made_good_by_one_that_comes_whole_and_not_by_a_catalog() {
        let failed = sample::payload(7, Outcome::Failed);
        let row = after(&[failed.clone(), sample::catalog(7)]);
        assert_eq!((row.failed, row.errors, row.errors_in_a_row), (true, 1, 1));
        let row = after(&[failed, sample::payload(7, Outcome::Given)]);
        assert_eq!((row.failed, row.errors, row.errors_in_a_row), (false, 1, 0));
    }

    #[test]
    fn the_same_full_set_again_and_again_is_trouble_until_another_revision_is_seen() {
        let full = sample::full_set(7);
        assert_eq!(after(&[full.clone(), full.clone()]).ills(3), Ills::default());
        let mut row = after(&[full.clone(), full.clone(), full]);
        assert_eq!(row.ills(3), Ills { full_again: true, ..Ills::default() });
        row.record(&sample::catalog(8), T0);
        assert_eq!(row.ills(3), Ills::default());
    }

    #[test]
    fn a_download_that_began_under_an_older_view_says_nothing_of_the_newer_one() {
        let newer = Sighting { at: T0 + HOUR, ..sample::catalog(8) };
        let late = Sighting { bytes: 5, ..sample::payload(7, Outcome::Failed) };
        let mut row = after(&[newer]);
        row.record(&late, T0 + 2 * HOUR);
        assert_eq!((row.sees.unwrap().revision, row.failed, row.bytes), (8, false, 5));
        assert_eq!(row.last_seen, T0 + HOUR);
    }

    #[test]
    fn a_view_that_goes_back_is_followed() {
        let row = after(&[sample::catalog(8), Sighting { at: T0 + 1, ..sample::catalog(7) }]);
        assert_eq!((row.sees.unwrap().revision, row.given.unwrap().revision), (7, 7));
    }

    #[test]
    fn after_the_clock_was_set_back_a_client_is_seen_as_before() {
        let ahead = Sighting { at: T0 + 1_000 * HOUR, ..sample::catalog(7) };
        let row = after(&[ahead, Sighting { group: "other".into(), ..sample::catalog(8) }]);
        assert_eq!((row.last_seen, row.first_seen, &*row.group), (T0, T0, "other"));
        assert_eq!(row.sees, Some(Since { revision: 8, at: T0 }));
    }

    #[test]
    fn only_a_client_that_was_given_a_catalog_has_a_revision_of_its_own() {
        assert_eq!(after(&[sample::payload(7, Outcome::Given)]).given, None);
        let again = Sighting { at: T0 + HOUR, ..sample::catalog(7) };
        assert_eq!(after(&[sample::catalog(7), again]).given, Some(Since { revision: 7, at: T0 }));
    }
}
