//! Records of rollouts in the store: one for the state, one for each kept payload, and for each revision parts of a
//! bounded size, since a record is bounded. Only changed records are written. This file owns their names and form, and
//! the treatment of records that cannot be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::payloads::RevisionRange;
use super::revision::{Catalog, Revision, RevisionNumber};
use super::state::RolloutState;
use gupd_config::clock::UnixMillis;
use gupd_store::ObjectKey;

/// Prefix of all names.
pub(super) const PREFIX: &str = "rollout/";
const STATE: &str = "rollout/state";
const ALIVE: &str = "rollout/alive";
const REVISION: &str = "rollout/revision/";
const PAYLOAD: &str = "rollout/payload/";

/// Version of the form below. A later gupd with another form raises it.
const VERSION: u32 = 1;

/// Bytes of a part after which the next one begins; a record of the store has at most 512 KiB, a key 64 KiB.
const PART: usize = 256 << 10;

/// A named value to be written, or removed.
pub(super) type Record = (String, Option<Vec<u8>>);

/// The restored records.
#[derive(Debug, Default)]
pub(super) struct Restored {
    pub(super) state: RolloutState,
    /// When the relay was last known to run.
    pub(super) alive: Option<UnixMillis>,
    /// The first and the last revision of each payload, by its key.
    pub(super) payloads: BTreeMap<ObjectKey, RevisionRange>,
    /// Removals of records that are of no use any more.
    pub(super) stray: Vec<Record>,
    /// A message for each loss.
    pub(super) losses: Vec<String>,
}

/// The stored form of the state.
#[derive(Serialize, Deserialize)]
struct StateRecord<S> {
    version: u32,
    state: S,
}

/// A part of a revision.
#[derive(Serialize, Deserialize)]
struct RevisionPart {
    /// Number of the revision's parts.
    of: usize,
    published: UnixMillis,
    catalogs: BTreeMap<ObjectKey, Catalog>,
    sequences: BTreeMap<Arc<str>, u64>,
}

/// A later gupd has stored the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the state of the rollouts has version {found}, and this gupd knows {VERSION}: run the gupd that wrote it, or a later one"
)]
pub struct NewerVersion {
    found: u32,
}

/// Returns the records to write for a change.
pub(super) fn changes(before: &RolloutState, after: &RolloutState) -> Vec<Record> {
    let mut records = Vec::new();
    if before != after {
        let record = StateRecord { version: VERSION, state: after };
        records.extend(serde_json::to_vec(&record).ok().map(|value| (STATE.to_owned(), Some(value))));
    }
    for revision in after.revisions() {
        let was = before.revision(revision.number);
        if was.is_some_and(|was| Arc::ptr_eq(was, revision) || was == revision) {
            continue;
        }
        // A revision only grows, so no part is left over.
        let parts = parts(revision).into_iter().enumerate();
        records.extend(parts.map(|(at, part)| (part_name(revision.number, at), Some(part))));
    }
    for removed in before.revisions().filter(|revision| after.revision(revision.number).is_none()) {
        records.extend((0..parts(removed).len()).map(|at| (part_name(removed.number, at), None)));
    }
    records
}

/// The record that says when the relay ran.
pub(super) fn alive(now: UnixMillis) -> Record {
    (ALIVE.to_owned(), Some(now.to_string().into_bytes()))
}

/// The record of a payload.
pub(super) fn payload(key: &str, range: Option<RevisionRange>) -> Record {
    (format!("{PAYLOAD}{key}"), range.map(|(first, last)| format!("{first} {last}").into_bytes()))
}

/// Restores the records. Those that cannot be read are lost, with a message for each.
///
/// # Errors
/// When a later gupd has written them: their meaning is unknown.
pub(super) fn restore(records: Vec<(String, Vec<u8>)>) -> Result<Restored, NewerVersion> {
    let mut restored = Restored::default();
    let mut contents: BTreeMap<RevisionNumber, Revision> = BTreeMap::new();
    let mut parts: Vec<(RevisionNumber, usize, String)> = Vec::new();
    for (name, value) in records {
        if name == STATE {
            restored.restore_state(&value)?;
        } else if name == ALIVE {
            restored.alive = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        } else if let Some(key) = name.strip_prefix(PAYLOAD) {
            match parse_range(&value) {
                Some(range) => drop(restored.payloads.insert(key.into(), range)),
                None => restored.stray.push((name, None)),
            }
        } else if let Some((number, part)) = parse_part(&name, &value) {
            let revision = contents.entry(number).or_insert_with(|| Revision {
                number,
                published: part.published,
                catalogs: BTreeMap::new(),
                sequences: BTreeMap::new(),
            });
            revision.catalogs.extend(part.catalogs);
            revision.sequences.extend(part.sequences);
            parts.push((number, part.of, name));
        } else {
            restored.losses.push(format!("{name} cannot be read"));
            restored.stray.push((name, None));
        }
    }
    // An incomplete revision is lost. No number is given twice, whatever is lost.
    let found = |number: RevisionNumber| parts.iter().filter(|(of, ..)| *of == number).count();
    contents.retain(|number, _| parts.iter().all(|(of, count, _)| of != number || *count == found(*number)));
    restored.state.last =
        parts.iter().map(|(number, ..)| *number).fold(restored.state.last, RevisionNumber::max);
    restored.losses.extend(restored.state.attach_contents(contents));
    let kept: BTreeSet<RevisionNumber> = restored.state.revisions().map(|revision| revision.number).collect();
    let stray = parts.into_iter().filter(|(number, ..)| !kept.contains(number));
    restored.stray.extend(stray.map(|(.., name)| (name, None)));
    Ok(restored)
}

impl Restored {
    fn restore_state(&mut self, value: &[u8]) -> Result<(), NewerVersion> {
        let record = serde_json::from_slice::<StateRecord<serde_json::Value>>(value);
        let state = match record {
            Ok(record) if record.version > VERSION => return Err(NewerVersion { found: record.version }),
            Ok(record) => serde_json::from_value(record.state),
            Err(error) => Err(error),
        };
        match state {
            Ok(state) => self.state = state,
            Err(error) => self.losses.push(format!("the state cannot be read: {error}")),
        }
        Ok(())
    }
}

fn parts(revision: &Revision) -> Vec<Vec<u8>> {
    let empty = || RevisionPart {
        of: 0,
        published: revision.published,
        catalogs: BTreeMap::new(),
        sequences: BTreeMap::new(),
    };
    let mut parts = vec![RevisionPart { sequences: revision.sequences.clone(), ..empty() }];
    let mut bytes = 0;
    for (key, catalog) in &revision.catalogs {
        if bytes > PART {
            parts.push(empty());
            bytes = 0;
        }
        // Its hash, numbers and punctuation take 160 bytes.
        bytes += key.len() + 160;
        if let Some(part) = parts.last_mut() {
            part.catalogs.insert(key.clone(), *catalog);
        }
    }
    let of = parts.len();
    let encode = |part| serde_json::to_vec(&RevisionPart { of, ..part }).unwrap_or_default();
    parts.into_iter().map(encode).collect()
}

fn part_name(number: RevisionNumber, part: usize) -> String {
    format!("{REVISION}{number}/{part}")
}

fn parse_part(name: &str, value: &[u8]) -> Option<(RevisionNumber, RevisionPart)> {
    let (number, _) = name.strip_prefix(REVISION)?.split_once('/')?;
    Some((number.parse().ok()?, serde_json::from_slice(value).ok()?))
}

fn parse_range(value: &[u8]) -> Option<RevisionRange> {
    let (first, last) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{CollectedCatalog, PublishOutcome, SourceCatalogs};

    fn state(catalogs: usize) -> RolloutState {
        let mut state = RolloutState::default();
        let collected = |seed: u8| SourceCatalogs {
            source: "route".into(),
            catalogs: (0..catalogs)
                .map(|at| {
                    let found = (at % 7 != 0).then_some(CollectedCatalog::of_version(seed));
                    (format!("route /{at}_livetri.zip").into(), found)
                })
                .collect(),
        };
        assert_eq!(state.publish(&[collected(1)], 10), Ok(PublishOutcome::New(1.into())));
        assert_eq!(state.publish(&[collected(2)], 20), Ok(PublishOutcome::New(2.into())));
        state.announce("route /content/{a}", 7, 30).unwrap();
        state
    }

    fn stored(records: Vec<Record>) -> Vec<(String, Vec<u8>)> {
        records.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    #[test]
    fn state_is_restored_from_parts_of_bounded_size() {
        let state = state(3_000);
        let mut records = stored(changes(&RolloutState::default(), &state));
        assert!(records.len() > 3 && records.iter().all(|(_, value)| value.len() < 400 << 10));
        records.extend(stored(vec![alive(99), payload("route /p", Some((1.into(), 2.into())))]));
        let restored = restore(records).unwrap();
        assert_eq!((restored.state, restored.alive), (state, Some(99)));
        assert_eq!(restored.payloads.get("route /p"), Some(&(1.into(), 2.into())));
        assert!(restored.losses.is_empty() && restored.stray.is_empty());
    }

    #[test]
    fn only_changes_are_stored_and_removed() {
        let before = state(10);
        assert_eq!(changes(&before, &before), []);
        let mut after = before.clone();
        after.revisions.remove(0);
        let names: Vec<_> =
            changes(&before, &after).into_iter().map(|(name, value)| (name, value.is_some())).collect();
        assert_eq!(names, [("rollout/state".to_owned(), true), ("rollout/revision/1/0".to_owned(), false)]);
    }

    #[test]
    fn lost_contents_remove_revision_and_names() {
        let mut state = state(10);
        state.names.insert("good".to_owned(), 1.into());
        let mut records = stored(changes(&RolloutState::default(), &state));
        records.retain(|(name, _)| !name.starts_with("rollout/revision/1/"));
        records.push(("rollout/revision/x".to_owned(), b"{".to_vec()));
        let restored = restore(records).unwrap();
        assert_eq!(
            restored.state.revisions().map(|revision| revision.number).collect::<Vec<_>>(),
            [2.into()]
        );
        assert!(restored.state.names.is_empty());
        assert_eq!(restored.losses.len(), 2, "{:?}", restored.losses);
        assert_eq!(restored.stray, [("rollout/revision/x".to_owned(), None)]);
    }

    #[test]
    fn incomplete_revision_is_lost_and_its_number_stays_used() {
        let state = state(3_000);
        let mut records = stored(changes(&RolloutState::default(), &state));
        records.retain(|(name, _)| name != "rollout/revision/2/1");
        let restored = restore(records.clone()).unwrap();
        assert_eq!(
            restored.state.revisions().map(|revision| revision.number).collect::<Vec<_>>(),
            [1.into()]
        );
        assert!(restored.stray.iter().all(|(name, _)| name.starts_with("rollout/revision/2/")));
        records.retain(|(name, _)| name != "rollout/state");
        let restored = restore(records).unwrap();
        assert_eq!((restored.state.revisions().count(), restored.state.last), (0, 2.into()));
    }

    #[test]
    fn newer_version_is_rejected() {
        let later = br#"{"version":2,"state":{"anything":1}}"#.to_vec();
        let error = restore(vec![("rollout/state".to_owned(), later)]).unwrap_err();
        assert!(error.to_string().contains("version 2"), "{error}");
    }
}
