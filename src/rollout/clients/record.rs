//! The record of one client, and how an observation changes it. Trouble belongs to the visible revision, and is cleared
//! when another becomes visible. The wall clock may be set back: a recorded time that lies in the future is replaced by
//! the next observation's. The store keeps records as JSON.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Observation, RequestKind, RequestOutcome, Trouble};
use crate::revision::RevisionNumber;
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;

/// Time between the first and the latest request after which a client is established: it was there on two days.
const ESTABLISHED: UnixMillis = 12 * 3600 * 1_000;

/// Maximum number of payloads counted per client: enough to find a pattern.
const MAX_PAYLOADS: usize = 8;

/// A client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRecord {
    /// Address of the latest request.
    pub address: IpAddr,
    /// Group of the client at that time.
    pub group: GroupId,
    /// The revision whose catalogs it last received; `None` for a client that its manager tells what to download.
    pub catalogs: Option<RevisionSince>,
    /// The revision visible to it at its latest request.
    pub(super) visible: Option<RevisionSince>,
    pub(super) first_seen: UnixMillis,
    pub(super) last_seen: UnixMillis,
    /// Bytes of body sent.
    pub(super) bytes: u64,
    pub(super) errors: u32,
    pub(super) consecutive_errors: u32,
    /// True if the latest download of the visible revision failed and none has completed since.
    is_failed: bool,
    /// True if content of the visible revision failed verification.
    is_damaged: bool,
    /// Complete downloads within the visible revision.
    payloads: Vec<PayloadCount>,
}

/// A revision, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionSince {
    /// Its number.
    pub revision: RevisionNumber,
    /// Since when.
    pub at: UnixMillis,
}

/// How often one payload was downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PayloadCount {
    /// XXH3-64 of its key.
    hash: u64,
    count: u16,
    is_full_set: bool,
}

impl ClientRecord {
    /// A client at its first observation.
    pub(super) fn new(observation: &Observation, now: UnixMillis) -> Self {
        let mut record = Self {
            address: observation.address,
            group: observation.group.clone(),
            catalogs: None,
            visible: None,
            first_seen: observation.at,
            last_seen: observation.at,
            bytes: 0,
            errors: 0,
            consecutive_errors: 0,
            is_failed: false,
            is_damaged: false,
            payloads: Vec::new(),
        };
        record.observe(observation, now);
        record
    }

    /// Applies an observation.
    pub(super) fn observe(&mut self, observation: &Observation, now: UnixMillis) {
        self.bytes = self.bytes.saturating_add(observation.bytes);
        self.first_seen = self.first_seen.min(observation.at);
        if observation.at >= self.last_seen || self.last_seen > now {
            self.last_seen = observation.at;
            self.address = observation.address;
            if self.group != observation.group {
                self.group = observation.group.clone();
            }
        }
        if matches!(observation.outcome, RequestOutcome::Failed | RequestOutcome::Damaged) {
            self.errors = self.errors.saturating_add(1);
            self.consecutive_errors = self.consecutive_errors.saturating_add(1);
        }
        // A download that began under another view is no evidence about this one.
        if self.follow_view(observation, now) {
            self.apply_outcome(observation);
        }
    }

    /// Returns true if the client was there on two days.
    pub(super) fn is_established(&self) -> bool {
        self.last_seen.saturating_sub(self.first_seen) >= ESTABLISHED
    }

    /// Returns the revision that the client has: that of its catalogs, or the visible one if it fetches payloads only.
    pub(super) fn revision(&self, visible: Option<RevisionNumber>) -> Option<RevisionNumber> {
        self.catalogs.map(|catalogs| catalogs.revision).or(visible)
    }

    /// Returns its trouble; `repeats` downloads of one object are trouble.
    pub(super) fn trouble(&self, repeats: u32) -> Trouble {
        let has_repeated = |is_full_set| {
            let mut payloads = self.payloads.iter();
            payloads.any(|payload| payload.is_full_set == is_full_set && u32::from(payload.count) >= repeats)
        };
        Trouble::of_client(self.is_failed, has_repeated(false), has_repeated(true), self.is_damaged)
    }

    /// Takes over the client's view, and returns true if the observation belongs to it.
    fn follow_view(&mut self, observation: &Observation, now: UnixMillis) -> bool {
        let Some(revision) = observation.revision else { return self.visible.is_none() };
        if let Some(visible) = self.visible {
            if visible.revision == revision {
                return true;
            }
            if observation.at < visible.at && visible.at <= now {
                return false;
            }
        }
        self.visible = Some(RevisionSince { revision, at: observation.at });
        (self.is_failed, self.is_damaged) = (false, false);
        self.payloads.clear();
        true
    }

    fn apply_outcome(&mut self, observation: &Observation) {
        match (observation.outcome, observation.request) {
            (RequestOutcome::Failed, RequestKind::Payload { .. }) => self.is_failed = true,
            (RequestOutcome::Damaged, _) => self.is_damaged = true,
            (RequestOutcome::Delivered, RequestKind::Payload { hash, is_full_set }) => {
                self.count_payload(hash, is_full_set);
                self.is_failed = false;
            }
            (RequestOutcome::Delivered, RequestKind::Catalog) => {
                let has = self.catalogs.map(|catalogs| catalogs.revision);
                if let Some(revision) = observation.revision.filter(|revision| has != Some(*revision)) {
                    self.catalogs = Some(RevisionSince { revision, at: observation.at });
                }
            }
            _ => {}
        }
        // A delivered catalog does not make up for a failed download.
        let is_answered = matches!(observation.outcome, RequestOutcome::Delivered | RequestOutcome::Answered);
        if is_answered && !self.is_failed {
            self.consecutive_errors = 0;
        }
    }

    /// Counts a complete download. The first payloads stay; a new one takes the newest place of the least downloaded.
    /// Keeping the latest instead would forget each object of a long cycle just before it comes again.
    fn count_payload(&mut self, hash: u64, is_full_set: bool) {
        let new = PayloadCount { hash, count: 1, is_full_set };
        if let Some(payload) = self.payloads.iter_mut().find(|payload| payload.hash == hash) {
            payload.count = payload.count.saturating_add(1);
        } else if self.payloads.len() < MAX_PAYLOADS {
            self.payloads.push(new);
        } else if let Some(rarest) = self.payloads.iter_mut().rev().min_by_key(|payload| payload.count) {
            *rarest = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{HOUR, T0, catalog, observation, payload};
    use super::*;
    use RequestOutcome::{Delivered, Failed};
    use gupd_config::policy::PayloadForm;

    fn record(observations: &[Observation]) -> ClientRecord {
        let mut record = ClientRecord::new(&observations[0], observations[0].at);
        observations[1..].iter().for_each(|observation| record.observe(observation, observation.at));
        record
    }

    fn highest_count(hashes: impl Iterator<Item = u64>) -> u16 {
        let download =
            |hash| observation("a", 7, RequestKind::Payload { hash, is_full_set: false }, Delivered);
        let record = record(&hashes.map(download).collect::<Vec<_>>());
        record.payloads.iter().map(|payload| payload.count).max().unwrap()
    }

    #[test]
    fn failed_download_is_cleared_by_a_download_not_a_catalog() {
        let after = record(&[payload(7, Failed), catalog(7)]);
        assert_eq!((after.is_failed, after.errors, after.consecutive_errors), (true, 1, 1));
        let after = record(&[payload(7, Failed), payload(7, Delivered)]);
        assert_eq!((after.is_failed, after.errors, after.consecutive_errors), (false, 1, 0));
    }

    #[test]
    fn repeated_full_set_is_trouble_until_the_view_changes() {
        let full = observation(
            "a",
            7,
            RequestKind::payload("/ /content/{a}/2/full.zip", PayloadForm::Full),
            Delivered,
        );
        assert_eq!(record(&[full.clone(), full.clone()]).trouble(3).troubled, 0);
        let mut after = record(&[full.clone(), full.clone(), full]);
        assert_eq!(after.trouble(3).labels().collect::<Vec<_>>(), ["full-again"]);
        after.observe(&catalog(8), T0);
        assert_eq!(after.trouble(3).troubled, 0);
    }

    #[test]
    fn late_download_of_an_older_view_is_no_evidence() {
        let newer = Observation { at: T0 + HOUR, ..catalog(8) };
        let late = Observation { bytes: 5, ..payload(7, Failed) };
        let mut after = record(&[newer]);
        after.observe(&late, T0 + 2 * HOUR);
        assert_eq!((after.visible.unwrap().revision, after.is_failed, after.bytes), (8.into(), false, 5));
        assert_eq!(after.last_seen, T0 + HOUR);
    }

    #[test]
    fn view_that_goes_back_is_followed() {
        let after = record(&[catalog(8), Observation { at: T0 + 1, ..catalog(7) }]);
        assert_eq!((after.visible.unwrap().revision, after.catalogs.unwrap().revision), (7.into(), 7.into()));
    }

    #[test]
    fn clock_set_back_does_not_hide_a_client() {
        let ahead = Observation { at: T0 + 1_000 * HOUR, ..catalog(7) };
        let after = record(&[ahead, Observation { group: "other".into(), ..catalog(8) }]);
        assert_eq!((after.last_seen, after.first_seen, &*after.group), (T0, T0, "other"));
        assert_eq!(after.visible, Some(RevisionSince { revision: 8.into(), at: T0 }));
    }

    #[test]
    fn only_a_delivered_catalog_sets_the_catalog_revision() {
        assert_eq!(record(&[payload(7, Delivered)]).catalogs, None);
        let again = Observation { at: T0 + HOUR, ..catalog(7) };
        assert_eq!(record(&[catalog(7), again]).catalogs, Some(RevisionSince { revision: 7.into(), at: T0 }));
    }

    #[test]
    fn repeats_are_found_among_more_payloads_than_are_counted() {
        for objects in [1, 8, 9, 100] {
            assert_eq!(highest_count((0..3).flat_map(|_| 0..objects)), 3, "{objects}");
        }
        assert_eq!(highest_count(0..100), 1);
        assert_eq!(highest_count((0..100).chain([100, 100, 100])), 3);
    }
}
