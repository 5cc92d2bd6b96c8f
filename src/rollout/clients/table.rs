//! The client table: a bounded segmented LRU of client records, in the order in which clients were last seen.
//! Established clients have seven eighths of it; the rest is for newcomers. So a flood of invented addresses evicts
//! other newcomers, and no client that is seen every day. The table also knows which records differ from the store. It
//! does no I/O.

use std::hash::RandomState;
use std::time::Duration;

use hashlink::{LinkedHashMap, LinkedHashSet};

use super::record::ClientRecord;
use super::report::has_passed;
use super::{ClientId, Observation};
use gupd_config::clock::UnixMillis;

/// Part of the table that is kept for newcomers: 6,250 of 50,000, a quarter's share of a fleet renewed every two years.
const NEWCOMERS: usize = 8;

/// Time without a request after which a client is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(180 * 24 * 3600);

/// Clients, the longest unseen first. `RandomState` because clients choose the names.
type QueueSegment = LinkedHashMap<ClientId, TableEntry, RandomState>;

/// A record to be written under its key, or removed.
pub(super) type RecordChange = (ClientId, Option<Vec<u8>>);

/// All clients.
#[derive(Debug, Default)]
pub(super) struct ClientTable {
    newcomers: QueueSegment,
    established: QueueSegment,
    /// Clients whose stored records are to be written, or removed if they are not in the table. First in, first out,
    /// but removals go first: so the store is as bounded as the table.
    unsaved: LinkedHashSet<ClientId, RandomState>,
}

#[derive(Debug)]
struct TableEntry {
    record: Box<ClientRecord>,
    /// True if the store has a record of the client, of any age.
    is_stored: bool,
}

impl ClientTable {
    /// The table of stored records, and the number of those that are damaged. Keeps the `max` clients last seen.
    pub(super) fn restore(rows: Vec<(String, Vec<u8>)>, now: UnixMillis, max: usize) -> (Self, usize) {
        let (mut table, mut damaged, mut records) = (Self::default(), 0, Vec::new());
        for (key, row) in rows {
            let client = key.parse::<ClientId>().ok().filter(|client| client.to_string() == key);
            match (client, serde_json::from_slice::<Box<ClientRecord>>(&row)) {
                (Some(client), Ok(record)) => records.push((client, record)),
                (client, _) => {
                    damaged += 1;
                    table.unsaved.extend(client);
                }
            }
        }
        // After a clock was set back, a client last seen in the future counts as just seen.
        records.sort_by_key(|(_, record)| record.last_seen.min(now));
        let surplus = records.len().saturating_sub(max);
        table.unsaved.extend(records.drain(..surplus).map(|(client, _)| client));
        for (client, record) in records {
            table.insert(client, TableEntry { record, is_stored: true }, max);
        }
        (table, damaged)
    }

    /// Applies an observation, in a table of at most `max` clients.
    pub(super) fn observe(&mut self, observation: &Observation, now: UnixMillis, max: usize) {
        let client = &observation.client;
        let known = self.established.remove(client).or_else(|| self.newcomers.remove(client));
        let entry = match known {
            Some(mut entry) => {
                entry.record.observe(observation, now);
                entry
            }
            None => TableEntry {
                record: Box::new(ClientRecord::new(observation, now)),
                // The removal of an earlier record may be pending.
                is_stored: self.unsaved.contains(client),
            },
        };
        self.insert(client.clone(), entry, max);
        self.unsaved.get_or_insert(client.clone());
    }

    /// Forgets clients unseen for half a year, and those beyond `max`; at most `limit` at once.
    pub(super) fn expire(&mut self, now: UnixMillis, max: usize, limit: usize) {
        let is_old = |segment: &QueueSegment| {
            segment.front().is_some_and(|(_, entry)| has_passed(entry.record.last_seen, FORGOTTEN, now))
        };
        for _ in 0..limit {
            if is_old(&self.established) {
                let oldest = self.established.pop_front();
                self.forget(oldest);
            } else if is_old(&self.newcomers) || self.len() > max {
                self.evict();
            } else {
                return;
            }
        }
    }

    /// Returns all clients, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ClientId, &ClientRecord)> {
        let entries = self.newcomers.iter().chain(&self.established);
        entries.map(|(client, entry)| (client, &*entry.record))
    }

    /// Takes up to `limit` changes to be saved. They count as saved until [`not_saved`](Self::not_saved) reports them.
    pub(super) fn take_unsaved(&mut self, limit: usize) -> Vec<RecordChange> {
        let mut changes = Vec::new();
        while changes.len() < limit
            && let Some(client) = self.unsaved.pop_front()
        {
            let row = self.get_mut(&client).map(|entry| {
                entry.is_stored = true;
                encode(&entry.record)
            });
            changes.push((client, row));
        }
        changes
    }

    /// Puts back changes that failed to be saved. Any part of them may be in the store.
    pub(super) fn not_saved(&mut self, clients: Vec<ClientId>) {
        for client in clients {
            if let Some(entry) = self.get_mut(&client) {
                entry.is_stored = true;
            }
            self.unsaved.get_or_insert(client);
        }
    }

    fn len(&self) -> usize {
        self.newcomers.len() + self.established.len()
    }

    fn get_mut(&mut self, client: &ClientId) -> Option<&mut TableEntry> {
        self.established.get_mut(client).or_else(|| self.newcomers.get_mut(client))
    }

    /// Adds a client as the latest seen.
    fn insert(&mut self, client: ClientId, entry: TableEntry, max: usize) {
        while self.len() >= max.max(1) {
            self.evict();
        }
        if !entry.record.is_established() {
            self.newcomers.insert(client, entry);
            return;
        }
        self.established.insert(client, entry);
        if self.established.len() > max - max / NEWCOMERS
            && let Some((client, entry)) = self.established.pop_front()
        {
            self.newcomers.insert(client, entry);
        }
    }

    fn evict(&mut self) {
        let oldest = self.newcomers.pop_front().or_else(|| self.established.pop_front());
        self.forget(oldest);
    }

    /// Has the store forget a client that has left the table.
    fn forget(&mut self, client: Option<(ClientId, TableEntry)>) {
        let Some((client, entry)) = client else { return };
        if entry.is_stored {
            self.unsaved.get_or_insert(client.clone());
            self.unsaved.to_front(&client);
        } else {
            self.unsaved.remove(&client);
        }
    }
}

fn encode(record: &ClientRecord) -> Vec<u8> {
    // Plain data: it does not fail. An empty row would count as damaged.
    serde_json::to_vec(record).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::sample::{HOUR, T0, catalog};
    use super::*;

    type Stored = BTreeMap<String, Vec<u8>>;

    const MAX: usize = 80;
    const DAY: UnixMillis = 24 * HOUR;

    fn see(table: &mut ClientTable, client: &str, at: UnixMillis, max: usize) {
        table.observe(&Observation { client: client.parse().unwrap(), at, ..catalog(7) }, at, max);
    }

    fn names(table: &ClientTable) -> Vec<String> {
        let mut names: Vec<String> = table.iter().map(|(client, _)| client.to_string()).collect();
        names.sort();
        names
    }

    fn write(stored: &mut Stored, changes: impl IntoIterator<Item = RecordChange>) {
        for (client, row) in changes {
            match row {
                Some(row) => _ = stored.insert(client.to_string(), row),
                None => _ = stored.remove(&client.to_string()),
            }
        }
    }

    #[test]
    fn invented_addresses_evict_no_daily_client() {
        let mut table = ClientTable::default();
        for day in 0..2 {
            (0..MAX * 7 / 8).for_each(|pc| see(&mut table, &format!("pc-{pc}"), T0 + day * DAY, MAX));
        }
        for number in 0..50_000_u128 {
            let address = std::net::Ipv6Addr::from_bits(number << 64).to_string();
            see(&mut table, &address, T0 + 25 * HOUR, MAX);
        }
        let left = names(&table);
        assert_eq!(left.iter().filter(|name| name.starts_with("pc-")).count(), MAX * 7 / 8);
        assert_eq!(left.len(), MAX);
        assert!(table.newcomers.capacity() < 4 * MAX && table.unsaved.capacity() < 4 * MAX);
    }

    #[test]
    fn longest_unseen_client_is_evicted_first() {
        let mut table = ClientTable::default();
        ["a", "b", "c", "a", "d"].iter().for_each(|client| see(&mut table, client, T0, 3));
        assert_eq!(names(&table), ["a", "c", "d"]);
        table.expire(T0, 1, 10);
        assert_eq!(names(&table), ["d"]);
    }

    #[test]
    fn longest_unseen_established_client_becomes_newcomer() {
        let mut table = ClientTable::default();
        for day in 0..2 {
            ["a", "b", "c", "d", "e", "f", "g", "h"]
                .iter()
                .for_each(|client| see(&mut table, client, T0 + day * DAY, 8));
        }
        assert_eq!((table.newcomers.len(), table.established.len()), (1, 7));
        see(&mut table, "new", T0 + DAY, 8);
        assert_eq!(names(&table), ["b", "c", "d", "e", "f", "g", "h", "new"]);
    }

    #[test]
    fn client_unseen_for_half_a_year_is_forgotten() {
        let mut table = ClientTable::default();
        see(&mut table, "old", T0, MAX);
        see(&mut table, "new", T0 + DAY, MAX);
        table.expire(T0 - 10_000 * HOUR, MAX, 10);
        table.expire(T0 + 180 * DAY, MAX, 10);
        assert_eq!(names(&table), ["new", "old"]);
        table.expire(T0 + 181 * DAY, MAX, 10);
        assert_eq!(names(&table), ["new"]);
    }

    #[test]
    fn restore_keeps_readable_records_of_clients_last_seen() {
        let (mut table, mut stored) = (ClientTable::default(), Stored::new());
        for (client, hour) in ["c", "d", "e", "a", "b"].iter().zip(0..) {
            see(&mut table, client, T0 + hour * HOUR, MAX);
        }
        write(&mut stored, table.take_unsaved(10));
        stored.insert("e".to_owned(), b"no record".to_vec());
        let rows = stored.clone().into_iter().collect();
        let (mut table, damaged) = ClientTable::restore(rows, T0 + DAY, 2);
        write(&mut stored, table.take_unsaved(10));
        assert_eq!((names(&table), damaged), (vec!["a".to_owned(), "b".to_owned()], 1));
        assert_eq!(stored.into_keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn store_follows_the_table_whatever_fails(
            steps in prop::collection::vec((0..4_u8, 0..12_usize, 0..3_usize, 0..100_i64), 0..80),
            max in 1..10_usize,
        ) {
            let (mut table, mut stored) = (ClientTable::default(), Stored::new());
            for (step, number, written, hour) in steps {
                match step {
                    0 => table.expire(T0, number, 2),
                    1 => write(&mut stored, table.take_unsaved(number)),
                    2 => {
                        let failed = table.take_unsaved(number);
                        see(&mut table, "pc-0", T0, max);
                        write(&mut stored, failed.iter().take(written).cloned());
                        table.not_saved(failed.into_iter().map(|(client, _)| client).collect());
                    }
                    _ => see(&mut table, &format!("pc-{number}"), T0 + hour * HOUR, max),
                }
                prop_assert!(table.len() <= max);
            }
            write(&mut stored, table.take_unsaved(usize::MAX));
            let known = table.iter().map(|(client, record)| (client.to_string(), encode(record)));
            prop_assert_eq!(stored, known.collect::<Stored>());
        }
    }
}
