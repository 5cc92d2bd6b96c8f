//! Beginning with what was saved. The store gives rows in the order of their keys; the table wants them in the order in
//! which clients were seen, and no more than it has room for. So they are collected, and the oldest dropped, in between.

use std::collections::HashSet;
use std::sync::Arc;

use super::row::Row;
use super::{Identity, codec};
use gupd_config::clock::UnixMillis;

/// Rows of clients that were saved.
#[derive(Debug)]
pub(super) struct Restored {
    room: usize,
    now: UnixMillis,
    groups: HashSet<Arc<str>>,
    rows: Vec<(Identity, Row)>,
    /// What is saved and is not to be.
    surplus: Vec<Identity>,
    unread: usize,
}

impl Restored {
    /// For a table of at most `room` clients.
    pub(super) fn new(room: usize, now: UnixMillis) -> Self {
        let (groups, rows, surplus) = Default::default();
        Self { room, now, groups, rows, surplus, unread: 0 }
    }

    /// Takes in some rows of the store.
    pub(super) fn add(&mut self, page: Vec<(String, Vec<u8>)>) {
        for (key, bytes) in page {
            let client = key.parse::<Identity>().ok().filter(|client| client.to_string() == key);
            match (client, codec::decode(&bytes)) {
                (Some(client), Some(row)) => {
                    let row = Row { group: self.shared(row.group), ..row };
                    self.rows.push((client, row));
                }
                (client, _) => {
                    self.unread += 1;
                    self.surplus.extend(client);
                }
            }
        }
        if self.rows.len() > 2 * self.room {
            self.keep_latest();
        }
    }

    /// The rows, the latest seen last; the clients whose rows are to be removed; and how many could not be read.
    pub(super) fn finish(mut self) -> (Vec<(Identity, Row)>, Vec<Identity>, usize) {
        self.keep_latest();
        (self.rows, self.surplus, self.unread)
    }

    fn keep_latest(&mut self) {
        // By a clock that was set back, who was seen in what is now the future was just seen.
        self.rows.sort_by_key(|(_, row)| row.last_seen.min(self.now));
        let oldest = self.rows.len().saturating_sub(self.room);
        self.surplus.extend(self.rows.drain(..oldest).map(|(client, _)| client));
    }

    // One name for all clients of a group.
    fn shared(&mut self, group: Arc<str>) -> Arc<str> {
        if let Some(known) = self.groups.get(&group) {
            return known.clone();
        }
        self.groups.insert(group.clone());
        group
    }
}
