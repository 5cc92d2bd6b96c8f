//! How rollouts are written down: records of the store, of which only those that changed are written. The state is one;
//! each revision's contents are parts of a bounded size, since a store's record is; each payload that clients of kept
//! revisions took is one. Owns their names and form, and what is made of records that cannot be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::revision::{Catalog, Revision, RevisionNumber};
use super::state::State;
use gupd_config::clock::UnixMillis;
use gupd_store::ObjectKey;

/// What the names of all records begin with.
pub(super) const PREFIX: &str = "rollout/";
const STATE: &str = "rollout/state";
const ALIVE: &str = "rollout/alive";
const REVISION: &str = "rollout/revision/";
const PAYLOAD: &str = "rollout/payload/";

/// Of the form below. A later gupd that writes another one raises it.
const VERSION: u32 = 1;

/// Bytes of a part after which another one begins; a record of the store has 512 KiB, a key 64 KiB at most.
const PART: usize = 256 << 10;

/// A named value to be written, or removed.
pub(super) type Record = (String, Option<Vec<u8>>);

/// What was read back.
#[derive(Debug, Default)]
pub(super) struct Restored {
    pub(super) state: State,
    /// When the relay was last known to run.
    pub(super) alive: Option<UnixMillis>,
    /// The first and the last revision whose clients took a payload, by its key.
    pub(super) payloads: BTreeMap<ObjectKey, (RevisionNumber, RevisionNumber)>,
    /// Records that say nothing any more.
    pub(super) stray: Vec<Record>,
    /// What was lost, a line each.
    pub(super) losses: Vec<String>,
}

/// The state as it is written down.
#[derive(Serialize, Deserialize)]
struct Written<S> {
    version: u32,
    state: S,
}

/// A part of a revision's contents.
#[derive(Serialize, Deserialize)]
struct Part {
    /// How many there are.
    of: usize,
    published: UnixMillis,
    catalogs: BTreeMap<ObjectKey, Catalog>,
    sequences: BTreeMap<Arc<str>, u64>,
}

/// The state was written by a gupd that knows more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the state of the rollouts has version {found}, and this gupd knows {VERSION}; run the gupd that wrote it, or a later one"
)]
pub struct Newer {
    found: u32,
}

/// What is to be written after a change.
pub(super) fn changes(before: &State, after: &State) -> Vec<Record> {
    let mut records = Vec::new();
    if before != after {
        let written = Written { version: VERSION, state: after };
        records.extend(serde_json::to_vec(&written).ok().map(|value| (STATE.to_owned(), Some(value))));
    }
    for revision in after.revisions() {
        let was = before.revision(revision.number);
        if was.is_some_and(|was| Arc::ptr_eq(was, revision) || was == revision) {
            continue;
        }
        let parts = parts(revision);
        // It only grows, so no part is left over.
        records.extend(
            parts.into_iter().enumerate().map(|(at, part)| (part_name(revision.number, at), Some(part))),
        );
    }
    for gone in before.revisions().filter(|revision| after.revision(revision.number).is_none()) {
        records.extend((0..parts(gone).len()).map(|at| (part_name(gone.number, at), None)));
    }
    records
}

/// That the relay runs.
pub(super) fn alive(now: UnixMillis) -> Record {
    (ALIVE.to_owned(), Some(now.to_string().into_bytes()))
}

/// Which revisions' clients took a payload, or that it is not kept any more.
pub(super) fn payload(key: &str, of: Option<(RevisionNumber, RevisionNumber)>) -> Record {
    (format!("{PAYLOAD}{key}"), of.map(|(first, last)| format!("{first} {last}").into_bytes()))
}

/// Reads everything back. What cannot be read is lost, and told.
///
/// # Errors
/// When a later gupd wrote it: nothing is known then of what it means.
pub(super) fn restore(records: Vec<(String, Vec<u8>)>) -> Result<Restored, Newer> {
    let mut restored = Restored::default();
    let mut contents: BTreeMap<RevisionNumber, Revision> = BTreeMap::new();
    let mut parts: Vec<(RevisionNumber, usize, String)> = Vec::new();
    for (name, value) in records {
        if name == STATE {
            match serde_json::from_slice::<Written<serde_json::Value>>(&value) {
                Ok(written) if written.version > VERSION => return Err(Newer { found: written.version }),
                Ok(written) => match serde_json::from_value(written.state) {
                    Ok(state) => restored.state = state,
                    Err(error) => restored.losses.push(format!("the state cannot be read: {error}")),
                },
                Err(error) => restored.losses.push(format!("the state cannot be read: {error}")),
            }
        } else if name == ALIVE {
            restored.alive = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        } else if let Some(key) = name.strip_prefix(PAYLOAD) {
            let text = std::str::from_utf8(&value).ok();
            let numbers = text.and_then(|text| text.split_once(' '));
            let range = numbers.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
            match range {
                Some(range) => drop(restored.payloads.insert(key.into(), range)),
                None => restored.stray.push((name, None)),
            }
        } else if let Some((number, part)) = part_of(&name, &value) {
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
    // One that is not whole is none. No number is given twice, whatever is lost.
    let there = |number: RevisionNumber| parts.iter().filter(|(of, ..)| *of == number).count();
    contents.retain(|number, _| parts.iter().all(|(of, count, _)| of != number || *count == there(*number)));
    restored.state.last =
        parts.iter().map(|(number, ..)| *number).fold(restored.state.last, RevisionNumber::max);
    restored.losses.extend(restored.state.take_contents(contents));
    let kept: BTreeSet<RevisionNumber> = restored.state.revisions().map(|revision| revision.number).collect();
    restored.stray.extend(
        parts.into_iter().filter(|(number, ..)| !kept.contains(number)).map(|(.., name)| (name, None)),
    );
    Ok(restored)
}

fn parts(revision: &Revision) -> Vec<Vec<u8>> {
    let empty = || Part {
        of: 0,
        published: revision.published,
        catalogs: BTreeMap::new(),
        sequences: BTreeMap::new(),
    };
    let mut parts = vec![Part { sequences: revision.sequences.clone(), ..empty() }];
    let mut bytes = 0;
    for (key, catalog) in &revision.catalogs {
        if bytes > PART {
            parts.push(empty());
            bytes = 0;
        }
        // A catalog's hash, numbers and punctuation.
        bytes += key.len() + 160;
        if let Some(part) = parts.last_mut() {
            part.catalogs.insert(key.clone(), *catalog);
        }
    }
    let of = parts.len();
    parts.into_iter().map(|part| serde_json::to_vec(&Part { of, ..part }).unwrap_or_default()).collect()
}

fn part_name(number: RevisionNumber, part: usize) -> String {
    format!("{REVISION}{number}/{part}")
}

fn part_of(name: &str, value: &[u8]) -> Option<(RevisionNumber, Part)> {
    let (number, _) = name.strip_prefix(REVISION)?.split_once('/')?;
    Some((number.parse().ok()?, serde_json::from_slice(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Collected, Published};

    fn state(catalogs: usize) -> State {
        let mut state = State::default();
        let collected = |seed: u8| Collected {
            source: "route".into(),
            catalogs: (0..catalogs)
                .map(|at| {
                    let found = (at % 7 != 0).then_some(([seed; 32].into(), 5));
                    (format!("route /{at}_livetri.zip").into(), found)
                })
                .collect(),
        };
        assert_eq!(state.publish(&[collected(1)], 10), Ok(Published::New(1.into())));
        assert_eq!(state.publish(&[collected(2)], 20), Ok(Published::New(2.into())));
        state.announce("route /content/{a}", 7, 30).unwrap();
        state
    }

    fn written(records: Vec<Record>) -> Vec<(String, Vec<u8>)> {
        records.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    #[test]
    fn what_is_written_down_is_read_back_whole_in_parts_of_a_bounded_size() {
        let state = state(3_000);
        let mut records = written(changes(&State::default(), &state));
        assert!(records.len() > 3 && records.iter().all(|(_, value)| value.len() < 400 << 10));
        records.extend(written(vec![alive(99), payload("route /p", Some((1.into(), 2.into())))]));
        let restored = restore(records).unwrap();
        assert_eq!((restored.state, restored.alive), (state, Some(99)));
        assert_eq!(restored.payloads.get("route /p"), Some(&(1.into(), 2.into())));
        assert!(restored.losses.is_empty() && restored.stray.is_empty());
    }

    #[test]
    fn only_what_changed_is_written_and_what_went_is_removed() {
        let before = state(10);
        assert_eq!(changes(&before, &before), []);
        let mut after = before.clone();
        after.revisions.remove(0);
        let names: Vec<_> =
            changes(&before, &after).into_iter().map(|(name, value)| (name, value.is_some())).collect();
        assert_eq!(names, [("rollout/state".to_owned(), true), ("rollout/revision/1/0".to_owned(), false)]);
    }

    #[test]
    fn a_revision_whose_contents_are_lost_goes_with_its_names_and_is_told() {
        let mut state = state(10);
        state.names.insert("good".to_owned(), 1.into());
        let mut records = written(changes(&State::default(), &state));
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
    fn a_revision_that_is_not_whole_is_lost_and_its_number_is_not_given_again() {
        let state = state(3_000);
        let mut records = written(changes(&State::default(), &state));
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
    fn what_a_later_gupd_wrote_is_not_guessed_at() {
        let later = br#"{"version":2,"state":{"anything":1}}"#.to_vec();
        let error = restore(vec![("rollout/state".to_owned(), later)]).unwrap_err();
        assert!(error.to_string().contains("version 2"), "{error}");
    }
}
