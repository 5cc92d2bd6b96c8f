//! The clients that are known: a bounded table with look-ups and updates of constant cost. Owns who is in it and who has to
//! go; what is known of one is its row's business. Without I/O, and with time as an argument.

use std::collections::HashMap;
use std::time::Duration;

use slab::Slab;

use super::changes::Changes;
use super::light::is_over;
use super::recency::{Recency, Standing};
use super::restore::Restored;
use super::row::Row;
use super::{Identity, Sighting, codec};
use gupd_config::clock::UnixMillis;

/// A client that was not seen for so long is forgotten: whoever was on leave is back, and what was replaced is not shown
/// for ever.
const FORGOTTEN: Duration = Duration::from_secs(180 * 24 * 3600);

/// A row to be saved under its key, or to be removed.
pub(super) type Change = (Identity, Option<Vec<u8>>);

/// All clients.
#[derive(Debug, Default)]
pub(super) struct Table {
    // The standard hasher: who makes up names does not know its seed.
    numbers: HashMap<Identity, u32>,
    entries: Slab<Entry>,
    recency: Recency,
    changes: Changes,
}

#[derive(Debug)]
struct Entry {
    client: Identity,
    row: Row,
    /// Whether there is a row of it in the store, of whatever age.
    saved: bool,
}

impl Table {
    /// Takes in a sighting, in a table of at most `room` clients.
    pub(super) fn record(&mut self, sighting: &Sighting, now: UnixMillis, room: usize) {
        let known = self.numbers.get(&sighting.client).copied();
        let at = match known.and_then(|at| Some((at, self.entries.get_mut(at as usize)?))) {
            Some((at, entry)) => {
                entry.row.record(sighting, now);
                at
            }
            None => {
                let row = Row::new(sighting, now);
                self.insert(Entry { client: sighting.client.clone(), row, saved: false }, room)
            }
        };
        self.place(at, room);
        self.changes.changed(at);
    }

    /// Begins with what was saved; returns how many rows could not be read.
    pub(super) fn restore(&mut self, restored: Restored, room: usize) -> usize {
        let (rows, surplus, unread) = restored.finish();
        surplus.into_iter().for_each(|client| self.changes.gone(client));
        for (client, row) in rows {
            let at = self.insert(Entry { client, row, saved: true }, room);
            self.place(at, room);
        }
        unread
    }

    /// Forgets those who were not seen for half a year, and whoever has no room, `most` of them.
    pub(super) fn expire(&mut self, now: UnixMillis, room: usize, most: usize) {
        for _ in 0..most {
            let is_old = |at: &u32| {
                self.entries
                    .get(*at as usize)
                    .is_some_and(|entry| is_over(entry.row.last_seen, FORGOTTEN, now))
            };
            let old = self.recency.longest_unseen().find(is_old);
            let too_many = self.recency.first_to_go().filter(|_| self.numbers.len() > room);
            let Some(at) = old.or(too_many) else { return };
            self.remove(at);
        }
    }

    /// Forgets a client; whether it was known.
    pub(super) fn forget(&mut self, client: &Identity) -> bool {
        let known = self.numbers.get(client).copied();
        known.inspect(|&at| self.remove(at)).is_some()
    }

    /// Every client, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Identity, &Row)> {
        self.entries.iter().map(|(_, entry)| (&entry.client, &entry.row))
    }

    /// What is to be saved next, `most` at once: removals first, so that what is saved is bounded as the table is. What
    /// is given counts as saved until [`not_saved`](Self::not_saved) says otherwise.
    pub(super) fn take_changes(&mut self, most: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some(client) = self.changes.next_gone()
        {
            // Who came back is written again in its turn.
            if let Some(&at) = self.numbers.get(&client) {
                self.changes.changed(at);
            }
            changes.push((client, None));
        }
        while changes.len() < most
            && let Some(at) = self.changes.next_changed()
        {
            if let Some(entry) = self.entries.get_mut(at as usize) {
                entry.saved = true;
                changes.push((entry.client.clone(), Some(codec::encode(&entry.row))));
            }
        }
        changes
    }

    /// These changes were not saved after all.
    pub(super) fn not_saved(&mut self, clients: Vec<Identity>) {
        for client in clients {
            match self.numbers.get(&client) {
                Some(&at) => {
                    // It may be there of an earlier time: what was not saved may be its removal.
                    if let Some(entry) = self.entries.get_mut(at as usize) {
                        entry.saved = true;
                    }
                    self.changes.changed(at);
                }
                None => self.changes.gone(client),
            }
        }
    }

    fn insert(&mut self, entry: Entry, room: usize) -> u32 {
        while self.numbers.len() >= room.max(1)
            && let Some(at) = self.recency.first_to_go()
        {
            self.remove(at);
        }
        let client = entry.client.clone();
        // A table has a million clients at most.
        let at = self.entries.insert(entry) as u32;
        self.numbers.insert(client, at);
        at
    }

    fn place(&mut self, at: u32, room: usize) {
        if let Some(entry) = self.entries.get(at as usize) {
            let standing =
                if entry.row.is_established() { Standing::Established } else { Standing::Newcomer };
            self.recency.seen(at, standing, room);
        }
    }

    fn remove(&mut self, at: u32) {
        self.recency.remove(at);
        if let Some(Entry { client, saved, .. }) = self.entries.try_remove(at as usize) {
            self.numbers.remove(&client);
            if saved {
                self.changes.gone(client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::Sought;
    use super::super::sample::{self, HOUR, T0};
    use super::super::sighting::Outcome;
    use super::*;

    const ROOM: usize = 80;

    fn seen(table: &mut Table, client: &str, at: UnixMillis) {
        let sighting = Sighting { at, ..sample::sighting(client, 7, Sought::Other, Outcome::Fine) };
        table.record(&sighting, at, ROOM);
    }

    fn names(table: &Table) -> Vec<String> {
        let mut names: Vec<String> = table.iter().map(|(client, _)| client.to_string()).collect();
        names.sort();
        names
    }

    fn write(store: &mut BTreeMap<String, Vec<u8>>, changes: Vec<Change>) {
        for (client, row) in changes {
            match row {
                Some(row) => _ = store.insert(client.to_string(), row),
                None => _ = store.remove(&client.to_string()),
            }
        }
    }

    // Two rows at once, as from a store that gives few.
    fn restored(store: &BTreeMap<String, Vec<u8>>, room: usize) -> (Table, usize) {
        let rows: Vec<_> = store.clone().into_iter().collect();
        let mut restored = Restored::new(room, T0 + 24 * HOUR);
        rows.chunks(2).for_each(|page| restored.add(page.to_vec()));
        let mut table = Table::default();
        let unread = table.restore(restored, room);
        (table, unread)
    }

    #[test]
    fn addresses_that_are_made_up_push_out_nobody_who_is_seen_every_day() {
        let mut table = Table::default();
        let daily = |table: &mut Table, day: i64| {
            (0..ROOM * 7 / 8).for_each(|pc| seen(table, &format!("pc-{pc}"), T0 + day * 24 * HOUR));
        };
        daily(&mut table, 0);
        daily(&mut table, 1);
        for made_up in 0..50_000_u128 {
            let address = std::net::Ipv6Addr::from_bits(made_up << 64).to_string();
            seen(&mut table, &address, T0 + 25 * HOUR);
        }
        let left = names(&table);
        assert_eq!(left.iter().filter(|name| name.starts_with("pc-")).count(), ROOM * 7 / 8);
        assert_eq!(left.len(), ROOM);
        assert!(table.numbers.capacity() < 4 * ROOM && table.entries.capacity() < 4 * ROOM);
    }

    #[test]
    fn the_longest_unseen_go_first() {
        let mut table = Table::default();
        (0..ROOM).for_each(|pc| seen(&mut table, &format!("pc-{pc}"), T0));
        seen(&mut table, "pc-0", T0);
        seen(&mut table, "new", T0);
        let left = names(&table);
        assert_eq!(left.len(), ROOM);
        assert!(left.contains(&"pc-0".into()) && !left.contains(&"pc-1".into()));
    }

    #[test]
    fn who_was_not_seen_for_half_a_year_is_forgotten_and_not_because_a_clock_was_set_back() {
        let mut table = Table::default();
        seen(&mut table, "old", T0);
        seen(&mut table, "new", T0 + 24 * HOUR);
        table.expire(T0 - 10_000 * HOUR, ROOM, 10);
        table.expire(T0 + 180 * 24 * HOUR, ROOM, 10);
        assert_eq!(names(&table), ["new", "old"]);
        table.expire(T0 + 181 * 24 * HOUR, ROOM, 10);
        assert_eq!(names(&table), ["new"]);
    }

    #[test]
    fn a_smaller_table_keeps_who_was_seen_last() {
        let mut table = Table::default();
        ["a", "b", "c"].iter().for_each(|name| seen(&mut table, name, T0));
        table.expire(T0, 1, 10);
        assert_eq!(names(&table), ["c"]);
    }

    #[test]
    fn rows_that_cannot_be_read_are_removed_and_the_others_are_there() {
        let mut table = Table::default();
        ["a", "b"].iter().for_each(|name| seen(&mut table, name, T0));
        let mut store = BTreeMap::new();
        write(&mut store, table.take_changes(10));
        store.get_mut("a").unwrap()[0] = 99;
        let (mut next, unread) = restored(&store, ROOM);
        assert_eq!(unread, 1);
        write(&mut store, next.take_changes(10));
        assert_eq!(names(&next), ["b"]);
        assert_eq!(store.into_keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_removal_that_failed_is_made_good_for_a_client_that_came_back_and_went_again() {
        let (mut table, mut store) = (Table::default(), BTreeMap::new());
        seen(&mut table, "a", T0);
        write(&mut store, table.take_changes(10));
        table.forget(&"a".parse().unwrap());
        seen(&mut table, "a", T0 + HOUR);
        let lost = table.take_changes(1);
        table.not_saved(lost.into_iter().map(|(client, _)| client).collect());
        table.forget(&"a".parse().unwrap());
        write(&mut store, table.take_changes(10));
        assert!(store.is_empty(), "{store:?}");
    }

    #[test]
    fn a_full_table_restores_those_seen_last() {
        let mut table = Table::default();
        ["c", "d", "e", "a", "b"]
            .iter()
            .zip(0..)
            .for_each(|(name, hour)| seen(&mut table, name, T0 + hour * HOUR));
        let mut store = BTreeMap::new();
        write(&mut store, table.take_changes(10));
        let (mut next, _) = restored(&store, 2);
        assert_eq!(names(&next), ["a", "b"]);
        write(&mut store, next.take_changes(10));
        assert_eq!(store.into_keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_saved_becomes_what_is_known_whatever_fails_in_between(
            steps in prop::collection::vec((0..4_u8, 0..12_u32, 0..100_i64), 0..80),
            room in 1..10_usize,
        ) {
            let (mut table, mut store) = (Table::default(), BTreeMap::new());
            for (step, who, hour) in steps {
                let client = format!("pc-{who}");
                match step {
                    0 => _ = table.forget(&client.parse().unwrap()),
                    1 => write(&mut store, table.take_changes(who as usize)),
                    2 => {
                        let lost = table.take_changes(who as usize);
                        // Some of it was written before it failed.
                        write(&mut store, lost.iter().take(hour as usize % 3).cloned().collect());
                        table.not_saved(lost.into_iter().map(|(client, _)| client).collect());
                    }
                    _ => {
                        let at = T0 + hour * HOUR;
                        let sighting = sample::sighting(&client, 7, Sought::Other, Outcome::Fine);
                        table.record(&Sighting { at, ..sighting }, at, room);
                    }
                }
                prop_assert!(table.numbers.len() <= room && table.entries.len() == table.numbers.len());
            }
            write(&mut store, table.take_changes(usize::MAX));
            let known: BTreeMap<_, _> =
                table.iter().map(|(client, row)| (client.to_string(), codec::encode(row))).collect();
            prop_assert_eq!(store, known);
        }
    }
}
