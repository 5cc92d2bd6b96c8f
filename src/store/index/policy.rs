//! Eviction policy: S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023). New
//! objects enter a small queue. One that was used there moves to the main queue. One that was not is evicted, and
//! its key is remembered for a while as a ghost, so that it enters the main queue if it returns. In the main
//! queue each use buys another round. A scan of files that are requested once thus passes through the small queue
//! and leaves the rest alone.
//!
//! The queues are rows ordered by `entered`, so a step is one index lookup. Three details differ from the paper
//! and measured better on a site's requests (benches/README.md). The small queue has a quarter instead of a
//! tenth, because most clients want new revisions. One use is enough to stay, because uses are recorded once a
//! minute and a crowd counts as one. The number of ghosts is fixed.
//!
//! Retained objects are in no queue, and their bytes do not count. When both queues are empty, the least recently
//! used pinned object is evicted.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::removal::{ObjectRef, RemovedObjects};
use super::row::unsigned;
use super::statements::{BATCH, IndexChange};

/// Percentage of all objects' bytes above which the small queue is evicted first.
const SMALL_SHARE: u64 = 25;

/// Maximum number of uses that count; more buy no further rounds.
pub(super) const USES_MAX: i64 = 3;

/// Maximum number of ghosts: keys evicted from the small queue.
const GHOSTS: i64 = 1024;

/// Number of objects that may be given another round for one eviction. Beyond it the next object is evicted
/// regardless of its uses, so that eviction takes bounded time even if everything was used.
const CHANCES: usize = BATCH;

/// Queue of an object. The numbers are those of the column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// New objects.
    Small = 0,
    /// Objects that were used.
    Main = 1,
}

/// The next object of a queue.
struct EvictionCandidate {
    found: ObjectRef,
    uses: i64,
}

/// Returns the queue that a new object of this key enters.
pub(super) fn initial_queue(connection: &Connection, key: &str) -> Result<Queue> {
    let mut forget = connection.prepare_cached("DELETE FROM ghosts WHERE key = ?1")?;
    Ok(if forget.execute([key_hash(key)])? > 0 { Queue::Main } else { Queue::Small })
}

/// Returns the position after all others of a queue.
pub(super) fn next_position(connection: &Connection, queue: Queue) -> Result<i64> {
    let mut last = connection.prepare_cached(
        "SELECT coalesce(max(entered), 0) + 1 FROM objects WHERE queue = ?1 AND pinned = 0",
    )?;
    last.query_row([queue as i64], |row| row.get(0))
}

/// Evicts objects until their blobs free `enough` bytes: at most [`BATCH`] of them, and at least one if any is
/// evictable.
pub(super) fn evict(change: &mut IndexChange<'_>, enough: u64) -> Result<RemovedObjects> {
    let mut all = RemovedObjects::default();
    let mut chances = CHANCES;
    while all.charged < enough && all.keys.len() < BATCH {
        let first = if is_small_queue_over(change.connection)? { Queue::Small } else { Queue::Main };
        let other = if first == Queue::Small { Queue::Main } else { Queue::Small };
        let (queue, next) = match next_candidate(change.connection, first)? {
            Some(next) => (first, next),
            None => match next_candidate(change.connection, other)? {
                Some(next) => (other, next),
                None => {
                    let Some(removed) = evict_pinned(change)? else { break };
                    all.add(removed);
                    continue;
                }
            },
        };
        if next.uses > 0 && chances > 0 {
            chances -= 1;
            let uses = if queue == Queue::Small { 0 } else { next.uses - 1 };
            move_to_main(change.connection, next.found.id, uses)?;
            continue;
        }
        if queue == Queue::Small {
            remember_ghost(change.connection, &next.found.key)?;
        }
        all.add(change.delete(vec![next.found])?);
    }
    Ok(all)
}

fn is_small_queue_over(connection: &Connection) -> Result<bool> {
    let mut totals =
        connection.prepare_cached("SELECT small_bytes, object_bytes - held_bytes FROM totals")?;
    let (small, all) = totals.query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    Ok(u128::from(small.unsigned_abs()) * 100 > u128::from(all.unsigned_abs()) * u128::from(SMALL_SHARE))
}

fn next_candidate(connection: &Connection, queue: Queue) -> Result<Option<EvictionCandidate>> {
    let mut first = connection.prepare_cached(
        "SELECT id, key, blob, uses FROM objects WHERE queue = ?1 AND pinned = 0 ORDER BY entered, id LIMIT 1",
    )?;
    first
        .query_row([queue as i64], |row| {
            Ok(EvictionCandidate { found: ObjectRef::from_row(row)?, uses: row.get(3)? })
        })
        .optional()
}

/// Evicts the least recently used pinned object.
fn evict_pinned(change: &mut IndexChange<'_>) -> Result<Option<RemovedObjects>> {
    let found = {
        let mut first = change.connection.prepare_cached(
            "SELECT id, key, blob, (SELECT len FROM blobs WHERE id = blob) FROM objects WHERE pinned = 2
             ORDER BY last_used LIMIT 1",
        )?;
        first.query_row([], |row| Ok((ObjectRef::from_row(row)?, unsigned(row, 3)?))).optional()?
    };
    let Some((found, len)) = found else { return Ok(None) };
    let evicted_pins = vec![(found.key.clone(), len)];
    Ok(Some(RemovedObjects { evicted_pins, ..change.delete(vec![found])? }))
}

fn move_to_main(connection: &Connection, object: i64, uses: i64) -> Result<()> {
    let at = next_position(connection, Queue::Main)?;
    let mut enter =
        connection.prepare_cached("UPDATE objects SET queue = ?2, entered = ?3, uses = ?4 WHERE id = ?1")?;
    enter.execute(params![object, Queue::Main as i64, at, uses]).map(drop)
}

fn remember_ghost(connection: &Connection, key: &str) -> Result<()> {
    let mut remember = connection.prepare_cached("INSERT OR REPLACE INTO ghosts (key) VALUES (?1)")?;
    let last = remember.insert([key_hash(key)])?;
    connection.prepare_cached("DELETE FROM ghosts WHERE id <= ?1")?.execute([last - GHOSTS]).map(drop)
}

/// Returns the ghost of a key. Two keys with the same hash cost a wrong guess.
fn key_hash(key: &str) -> i64 {
    xxhash_rust::xxh3::xxh3_64(key.as_bytes()).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;
    use crate::object::EncodedObject;
    use crate::{NewObject, ObjectKey};
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

    /// Bytes charged for the row of an object.
    fn row_charge(key: u8) -> u64 {
        512 + 2 * key.to_string().len() as u64
    }

    /// The same policy on lists.
    #[derive(Default)]
    struct Model {
        queues: [VecDeque<u8>; 2],
        uses: HashMap<u8, i64>,
        sizes: HashMap<u8, u64>,
        ghosts: Vec<u8>,
        pinned: Vec<u8>,
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

        fn pin(&mut self, key: u8) {
            self.queues.iter_mut().for_each(|queue| queue.retain(|other| *other != key));
            self.pinned.push(key);
        }

        fn bytes(&self, keys: impl IntoIterator<Item = u8>) -> u64 {
            keys.into_iter().map(|key| self.sizes[&key]).sum()
        }

        fn evict(&mut self, enough: u64) -> Vec<u8> {
            let (mut evicted, mut freed) = (Vec::new(), 0);
            while freed < enough && !self.sizes.is_empty() {
                if self.queues.iter().all(VecDeque::is_empty) {
                    self.pinned.sort_by_key(|key| self.last_used[key]);
                    let key = self.pinned.remove(0);
                    freed += self.sizes.remove(&key).unwrap() + row_charge(key);
                    evicted.push(key);
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
                freed += self.sizes.remove(&key).unwrap() + row_charge(key);
                evicted.push(key);
            }
            evicted
        }
    }

    fn index() -> Connection {
        let connection = schema::create(std::path::Path::new(":memory:")).unwrap();
        schema::finish(&connection).unwrap();
        connection
    }

    fn insert(change: &mut IndexChange<'_>, key: u8, size: u64, now: i64) -> i64 {
        let blob = change.insert_blob([key; 32].into(), (size, size), None).unwrap();
        change.insert_object(&EncodedObject::new(object(key)), blob, now).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn evictions_match_the_model_and_pinned_objects_are_last(
            steps in proptest::collection::vec((0..6u8, any::<u8>(), 1..5000u64), 1..120),
        ) {
            let connection = index();
            let mut change = IndexChange::new(&connection);
            let (mut model, mut ids) = (Model::default(), HashMap::new());
            for (now, (step, key, size)) in (0..).zip(steps) {
                let key = key % 32;
                match step {
                    0 => {
                        let RemovedObjects { keys, evicted_pins, .. } = evict(&mut change, size).unwrap();
                        let evicted: Vec<u8> = keys.iter().map(|key| key.parse().unwrap()).collect();
                        let pinned = model.pinned.clone();
                        prop_assert_eq!(evicted, model.evict(size));
                        let was_pinned = |key: &&ObjectKey| pinned.contains(&key.parse().unwrap());
                        let expected: Vec<&ObjectKey> = keys.iter().filter(was_pinned).collect();
                        prop_assert_eq!(evicted_pins.iter().map(|(key, _)| key).collect::<Vec<_>>(), expected);
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
                    5 if model.sizes.contains_key(&key) && !model.pinned.contains(&key) => {
                        change.set_pinned(&key.to_string(), true).unwrap();
                        model.pin(key);
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn scan_is_evicted_and_used_objects_stay() {
        let connection = index();
        let mut change = IndexChange::new(&connection);
        let used: Vec<i64> = (0..10).map(|key| insert(&mut change, key, 10, 0)).collect();
        change.record_use(&used.iter().map(|id| (*id, 1)).collect::<Vec<_>>()).unwrap();
        for key in 10..200 {
            insert(&mut change, key, 10, 0);
            if key >= 20 {
                let evicted = evict(&mut change, 10).unwrap().keys;
                assert!(evicted.iter().all(|key| key.parse::<u8>().unwrap() >= 10), "{evicted:?}");
            }
        }
    }

    #[test]
    fn eviction_is_bounded_when_everything_was_used() {
        let connection = index();
        let mut change = IndexChange::new(&connection);
        for row in 0..u16::try_from(2 * CHANCES).unwrap() {
            let mut hash = [0; 32];
            hash[..2].copy_from_slice(&row.to_le_bytes());
            let blob = change.insert_blob(hash.into(), (10, 10), None).unwrap();
            let new = NewObject { key: row.to_string().into(), ..object(0) };
            let id = change.insert_object(&EncodedObject::new(new), blob, 0).unwrap();
            change.record_use(&[(id, 1), (id, 2), (id, 3)]).unwrap();
        }
        assert_eq!(evict(&mut change, 10).unwrap().removed.objects, 1);
    }

    #[test]
    fn ghosts_are_bounded() {
        let connection = index();
        for key in 0..2 * GHOSTS {
            remember_ghost(&connection, &key.to_string()).unwrap();
        }
        let ghosts: i64 = connection.query_row("SELECT count(*) FROM ghosts", [], |row| row.get(0)).unwrap();
        assert_eq!(ghosts, GHOSTS);
    }
}
