//! RemovalTarget objects give way to others: S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache EvictionReason", SOSP
//! 2023). New objects are on probation in a small queue; one that was used there moves on to the main queue, one that
//! was not goes, and its key is remembered for a while, so that it begins in the main queue if it comes back. In the
//! main queue each use buys another round. A scan of whole files that nobody asks for again thus goes through the
//! small queue and leaves the rest alone.
//!
//! Here the queues are rows in the order of `entered`, so a turn is one look-up by an index. Three things are not the
//! paper's, and measured better on a site's requests (benches/README.md): the small queue has a quarter instead of a
//! tenth, because new revisions are what most clients want; one use is enough to stay, because uses are written down
//! once a minute and a crowd counts as one; and the number of ghosts is fixed.
//!
//! What is held has no turn, and its bytes are none of the queues'. When no object has a turn, what is kept and not
//! pinned goes, the longest unused first.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::row::unsigned;
use super::statements::{BATCH, IndexChange, ObjectRef, RemovedObjects};

/// Percent of all objects' bytes above which the small queue gives way first.
const SMALL_SHARE: u64 = 25;

/// Uses that count; more buy no further rounds.
pub(super) const USES_MAX: i64 = 3;

/// Keys remembered of objects that went from the small queue.
const GHOSTS: i64 = 1024;

/// Objects given another chance for one that goes. Beyond it the next goes whatever its uses, so that room is made
/// in bounded time even if everything was used.
const CHANCES: usize = BATCH;

/// Where an object waits for its turn. The numbers are the column's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// On probation.
    Small = 0,
    /// Used before.
    Main = 1,
}

/// An object whose turn it is.
struct EvictionCandidate {
    found: ObjectRef,
    uses: i64,
}

/// The queue a new object of this key begins in.
pub(super) fn begins_in(connection: &Connection, key: &str) -> Result<Queue> {
    let mut forget = connection.prepare_cached("DELETE FROM ghosts WHERE key = ?1")?;
    Ok(if forget.execute([ghost(key)])? > 0 { Queue::Main } else { Queue::Small })
}

/// The place behind all others of a queue.
pub(super) fn last(connection: &Connection, queue: Queue) -> Result<i64> {
    let mut last = connection.prepare_cached(
        "SELECT coalesce(max(entered), 0) + 1 FROM objects WHERE queue = ?1 AND pinned = 0",
    )?;
    last.query_row([queue as i64], |row| row.get(0))
}

/// Removes objects until their blobs give back `enough` bytes, at most [`BATCH`] of them, at least one if there is
/// one that is not pinned.
pub(super) fn evict(change: &mut IndexChange<'_>, enough: u64) -> Result<RemovedObjects> {
    let mut all = RemovedObjects::default();
    let mut chances = CHANCES;
    while all.removed.bytes < enough && all.keys.len() < BATCH {
        let first = if small_is_over(change.connection)? { Queue::Small } else { Queue::Main };
        let other = if first == Queue::Small { Queue::Main } else { Queue::Small };
        let (queue, next) = match candidate(change.connection, first)? {
            Some(next) => (first, next),
            None => match candidate(change.connection, other)? {
                Some(next) => (other, next),
                None => {
                    let Some(removed) = give_up(change)? else { break };
                    all.add(removed);
                    continue;
                }
            },
        };
        if next.uses > 0 && chances > 0 {
            chances -= 1;
            let left = if queue == Queue::Small { 0 } else { next.uses - 1 };
            enter_main(change.connection, next.found.id, left)?;
            continue;
        }
        if queue == Queue::Small {
            remember(change.connection, &next.found.key)?;
        }
        all.add(change.delete(vec![next.found])?);
    }
    Ok(all)
}

fn small_is_over(connection: &Connection) -> Result<bool> {
    let mut totals =
        connection.prepare_cached("SELECT small_bytes, object_bytes - held_bytes FROM totals")?;
    let (small, all) = totals.query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    Ok(u128::from(small.unsigned_abs()) * 100 > u128::from(all.unsigned_abs()) * u128::from(SMALL_SHARE))
}

fn candidate(connection: &Connection, queue: Queue) -> Result<Option<EvictionCandidate>> {
    let mut first = connection.prepare_cached(
        "SELECT id, key, blob, uses FROM objects WHERE queue = ?1 AND pinned = 0 ORDER BY entered, id LIMIT 1",
    )?;
    first
        .query_row([queue as i64], |row| {
            Ok(EvictionCandidate { found: ObjectRef::of(row)?, uses: row.get(3)? })
        })
        .optional()
}

/// Removes the kept object that was not used for longest.
fn give_up(change: &mut IndexChange<'_>) -> Result<Option<RemovedObjects>> {
    let found = {
        let mut first = change.connection.prepare_cached(
            "SELECT id, key, blob, (SELECT len FROM blobs WHERE id = blob) FROM objects WHERE pinned = 2
             ORDER BY last_used LIMIT 1",
        )?;
        first.query_row([], |row| Ok((ObjectRef::of(row)?, unsigned(row, 3)?))).optional()?
    };
    let Some((found, len)) = found else { return Ok(None) };
    let given_up = vec![(found.key.clone(), len)];
    Ok(Some(RemovedObjects { given_up, ..change.delete(vec![found])? }))
}

fn enter_main(connection: &Connection, object: i64, uses: i64) -> Result<()> {
    let at = last(connection, Queue::Main)?;
    let mut enter =
        connection.prepare_cached("UPDATE objects SET queue = ?2, entered = ?3, uses = ?4 WHERE id = ?1")?;
    enter.execute(params![object, Queue::Main as i64, at, uses]).map(drop)
}

fn remember(connection: &Connection, key: &str) -> Result<()> {
    let mut remember = connection.prepare_cached("INSERT OR REPLACE INTO ghosts (key) VALUES (?1)")?;
    let last = remember.insert([ghost(key)])?;
    connection.prepare_cached("DELETE FROM ghosts WHERE id <= ?1")?.execute([last - GHOSTS]).map(drop)
}

/// What is remembered of a key. Two keys with one hash cost a wrong guess.
fn ghost(key: &str) -> i64 {
    xxhash_rust::xxh3::xxh3_64(key.as_bytes()).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::super::{retention::Retention, schema};
    use super::*;
    use crate::NewObject;
    use crate::ObjectKey;
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;
    use std::collections::{HashMap, VecDeque};

    fn object(key: u8) -> NewObject {
        NewObject {
            key: key.to_string().into(),
            selecting: String::new(),
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            content_type: "test".into(),
            upstream: "manager".into(),
            request_time: 0,
            response_time: 0,
        }
    }

    /// The same policy as lists.
    #[derive(Default)]
    struct Model {
        queues: [VecDeque<u8>; 2],
        uses: HashMap<u8, i64>,
        sizes: HashMap<u8, u64>,
        ghosts: Vec<u8>,
        kept: Vec<u8>,
        last_used: HashMap<u8, i64>,
    }

    impl Model {
        fn insert(&mut self, key: u8, size: u64, now: i64) {
            self.last_used.insert(key, now);
            let ghost = self.ghosts.contains(&key);
            self.ghosts.retain(|ghost| *ghost != key);
            self.queues[usize::from(ghost)].push_back(key);
            self.uses.insert(key, 0);
            self.sizes.insert(key, size);
        }

        fn keep(&mut self, key: u8) {
            self.queues.iter_mut().for_each(|queue| queue.retain(|other| *other != key));
            self.kept.push(key);
        }

        fn bytes(&self, keys: impl IntoIterator<Item = u8>) -> u64 {
            keys.into_iter().map(|key| self.sizes[&key]).sum()
        }

        fn evict(&mut self, enough: u64) -> Vec<u8> {
            let (mut gone, mut freed) = (Vec::new(), 0);
            while freed < enough && !self.sizes.is_empty() {
                if self.queues.iter().all(VecDeque::is_empty) {
                    self.kept.sort_by_key(|key| self.last_used[key]);
                    let key = self.kept.remove(0);
                    freed += self.sizes.remove(&key).unwrap();
                    gone.push(key);
                    continue;
                }
                let small = self.bytes(self.queues[0].iter().copied()) * 100;
                let over = small > self.bytes(self.queues.iter().flatten().copied()) * SMALL_SHARE;
                let queue = usize::from(!over || self.queues[0].is_empty());
                let queue = if self.queues[queue].is_empty() { 1 - queue } else { queue };
                let key = self.queues[queue].pop_front().unwrap();
                let uses = self.uses[&key];
                if uses > 0 {
                    self.uses.insert(key, if queue == 0 { 0 } else { uses - 1 });
                    self.queues[1].push_back(key);
                    continue;
                }
                self.ghosts.extend((queue == 0).then_some(key));
                freed += self.sizes.remove(&key).unwrap();
                gone.push(key);
            }
            gone
        }
    }

    fn index() -> Connection {
        let connection = schema::begin(std::path::Path::new(":memory:")).unwrap();
        schema::finish(&connection).unwrap();
        connection
    }

    fn insert(change: &mut IndexChange<'_>, key: u8, size: u64, now: i64) -> i64 {
        let blob = change.insert_blob([key; 32].into(), size, size).unwrap();
        change.insert_object(&object(key), blob, now).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_goes_is_what_the_paper_says_and_what_is_kept_goes_last(
            steps in proptest::collection::vec((0..6u8, any::<u8>(), 1..50u64), 1..120),
        ) {
            let connection = index();
            let mut change = IndexChange::new(&connection);
            let (mut model, mut ids) = (Model::default(), HashMap::new());
            for (now, (what, key, size)) in (0..).zip(steps) {
                let key = key % 32;
                match what {
                    0 => {
                        let RemovedObjects { keys, given_up, .. } = evict(&mut change, size).unwrap();
                        let gone: Vec<u8> = keys.iter().map(|key| key.parse().unwrap()).collect();
                        let kept = model.kept.clone();
                        prop_assert_eq!(gone, model.evict(size));
                        let was_kept = |key: &&ObjectKey| kept.contains(&key.parse().unwrap());
                        let expected: Vec<&ObjectKey> = keys.iter().filter(was_kept).collect();
                        prop_assert_eq!(given_up.iter().map(|(key, _)| key).collect::<Vec<_>>(), expected);
                    }
                    1 | 2 if !model.sizes.contains_key(&key) => {
                        ids.insert(key, insert(&mut change, key, size, now));
                        model.insert(key, size, now);
                    }
                    3 | 4 if model.sizes.contains_key(&key) => {
                        change.record_use(&[(ids[&key], now)]).unwrap();
                        model.last_used.insert(key, now);
                        model.uses.entry(key).and_modify(|uses| *uses = (*uses + 1).min(USES_MAX));
                    }
                    5 if model.sizes.contains_key(&key) && !model.kept.contains(&key) => {
                        change.hold(&key.to_string(), |hold| Retention { kept: true, ..hold }).unwrap();
                        model.keep(key);
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn a_scan_goes_and_what_is_used_stays() {
        let connection = index();
        let mut change = IndexChange::new(&connection);
        let used: Vec<i64> = (0..10).map(|key| insert(&mut change, key, 10, 0)).collect();
        change.record_use(&used.iter().map(|id| (*id, 1)).collect::<Vec<_>>()).unwrap();
        for key in 10..200 {
            insert(&mut change, key, 10, 0);
            if key >= 20 {
                let gone = evict(&mut change, 10).unwrap().keys;
                assert!(gone.iter().all(|key| key.parse::<u8>().unwrap() >= 10), "{gone:?}");
            }
        }
    }

    #[test]
    fn room_is_made_in_bounded_time_though_everything_was_used() {
        let connection = index();
        let mut change = IndexChange::new(&connection);
        for row in 0..u16::try_from(2 * CHANCES).unwrap() {
            let mut hash = [0; 32];
            hash[..2].copy_from_slice(&row.to_le_bytes());
            let blob = change.insert_blob(hash.into(), 10, 10).unwrap();
            let new = NewObject { key: row.to_string().into(), ..object(0) };
            let id = change.insert_object(&new, blob, 0).unwrap();
            change.record_use(&[(id, 1), (id, 2), (id, 3)]).unwrap();
        }
        assert_eq!(evict(&mut change, 10).unwrap().removed.objects, 1);
    }

    #[test]
    fn ghosts_are_bounded() {
        let connection = index();
        for key in 0..2 * GHOSTS {
            remember(&connection, &key.to_string()).unwrap();
        }
        let ghosts: i64 = connection.query_row("SELECT count(*) FROM ghosts", [], |row| row.get(0)).unwrap();
        assert_eq!(ghosts, GHOSTS);
    }
}
