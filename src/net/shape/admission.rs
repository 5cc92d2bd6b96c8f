//! Who may begin a download, and who waits for it. A place is free for a client while the counts of all clients, of its
//! group and of the client have one. Places that come free go to the client whose last turn is longest ago, and among
//! its requests to the one that came first. Who is held up by its own count, or its group's, is passed over, holds up
//! nobody and keeps its turn.
//!
//! A pure function of the calls and their times: no clock, no lock, no task. `places` has those.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::bucket::Nanos;
use super::count::Count;
use gupd_config::Config;

/// A group's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupId(usize);

/// What becomes of a request for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Granted,
    Waits,
    QueueFull,
    ClientQueueFull,
}

/// All places and those who wait for one.
#[derive(Debug, Default)]
pub(super) struct Admission {
    settings: Settings,
    total: Count,
    /// Those that are no longer configured stay, unlimited: downloads of their clients may still run.
    groups: Vec<Group>,
    /// Turns given so far.
    turns: u64,
}

/// What holds for every client.
#[derive(Debug, Default)]
struct Settings {
    client: Option<u32>,
    queue: u32,
    client_queue: u32,
    queue_timeout: Duration,
}

#[derive(Debug)]
struct Group {
    name: String,
    count: Count,
    client: Option<u32>,
    /// Those that have a place or wait for one.
    clients: HashMap<IpAddr, Client>,
    /// By their turn, those that wait and are not held up by their own count.
    in_turn: BTreeMap<u64, IpAddr>,
}

#[derive(Debug, Default)]
struct Client {
    count: Count,
    asks: VecDeque<usize>,
    turn: u64,
}

impl Admission {
    /// Other counts from now on. Whoever has a place keeps it; whoever has one now is put into `granted`.
    pub(super) fn configure(&mut self, config: &Config, now: Nanos, granted: &mut Vec<usize>) {
        let lan = &config.lan;
        self.settings = Settings {
            client: lan.client_downloads,
            queue: lan.queue,
            client_queue: lan.client_queue,
            queue_timeout: lan.queue_timeout,
        };
        self.total.bound(lan.max_downloads, now);
        for group in &config.groups {
            self.group(&group.name);
        }
        for group in &mut self.groups {
            let configured = config.groups.iter().find(|configured| configured.name == group.name);
            group.count.bound(configured.and_then(|group| group.max_downloads), now);
            group.client = configured.and_then(|group| group.client_downloads);
            let most = self.settings.client_most(group);
            for (address, client) in &mut group.clients {
                client.count.bound(most, now);
                client.stand_in(&mut group.in_turn, *address);
            }
        }
        self.settle(now, granted);
    }

    /// The number of the group of this name.
    pub(super) fn group(&mut self, name: &str) -> GroupId {
        let known = self.groups.iter().position(|group| group.name == name);
        GroupId(known.unwrap_or_else(|| {
            self.groups.push(Group::new(name));
            self.groups.len() - 1
        }))
    }

    /// How long a request may wait.
    pub(super) fn queue_timeout(&self) -> Duration {
        self.settings.queue_timeout
    }

    /// Takes a place if one is free. Nobody is overtaken: who waits has none.
    pub(super) fn take(&mut self, group: GroupId, address: IpAddr, now: Nanos) -> bool {
        let group = &mut self.groups[group.0];
        let has_room = |client: &Client| client.count.has_room();
        if !self.total.has_room()
            || !group.count.has_room()
            || !group.clients.get(&address).is_none_or(has_room)
        {
            return false;
        }
        let most = self.settings.client_most(group);
        let client = group.clients.entry(address).or_insert_with(|| Client::new(most, now));
        for count in [&mut self.total, &mut group.count, &mut client.count] {
            count.take(now);
        }
        true
    }

    /// Takes a place, or waits for one.
    pub(super) fn ask(&mut self, group: GroupId, address: IpAddr, ask: usize, now: Nanos) -> Asked {
        if self.take(group, address, now) {
            return Asked::Granted;
        }
        let group = &mut self.groups[group.0];
        let own = group.clients.get(&address).map_or(0, |client| client.count.waiting());
        if own >= self.settings.client_queue {
            return Asked::ClientQueueFull;
        }
        if self.total.waiting() >= self.settings.queue {
            return Asked::QueueFull;
        }
        let most = self.settings.client_most(group);
        let client = group.clients.entry(address).or_insert_with(|| Client::new(most, now));
        for count in [&mut self.total, &mut group.count, &mut client.count] {
            count.wait(own == 0);
        }
        client.asks.push_back(ask);
        if own == 0 {
            self.turns += 1;
            client.turn = self.turns;
            client.stand_in(&mut group.in_turn, address);
        }
        Asked::Waits
    }

    /// Gives a place back.
    pub(super) fn release(&mut self, group: GroupId, address: IpAddr, now: Nanos, granted: &mut Vec<usize>) {
        let group = &mut self.groups[group.0];
        let Some(client) = group.clients.get_mut(&address) else { return };
        for count in [&mut self.total, &mut group.count, &mut client.count] {
            count.release(now);
        }
        client.stand_in(&mut group.in_turn, address);
        group.forget_if_idle(address);
        self.settle(now, granted);
    }

    /// Takes a request out that waits.
    pub(super) fn leave(&mut self, group: GroupId, address: IpAddr, ask: usize) {
        let group = &mut self.groups[group.0];
        let Some(client) = group.clients.get_mut(&address) else { return };
        let Some(at) = client.asks.iter().position(|known| *known == ask) else { return };
        client.asks.remove(at);
        let last = client.asks.is_empty();
        for count in [&mut self.total, &mut group.count, &mut client.count] {
            count.end_wait(last);
        }
        client.stand_in(&mut group.in_turn, address);
        group.forget_if_idle(address);
    }

    /// How long it would take until a request has a place, as far as can be told: one that waits, or one that came
    /// just now. The longest wait of the three counts: at each, as many places must come free as requests go before,
    /// and one. That counts who is passed over as if he were not, so it is rather too long than too short.
    pub(super) fn wait_of(&self, group: GroupId, address: IpAddr, ask: Option<usize>, now: Nanos) -> Nanos {
        let group = &self.groups[group.0];
        let client = group.clients.get(&address);
        let own = client.map_or(0, |client| client.count.waiting());
        let at = client.zip(ask).and_then(|(client, ask)| client.asks.iter().position(|known| *known == ask));
        let before = at.and_then(|at| u32::try_from(at).ok()).unwrap_or(own);
        // Before any has come free, all that is known is when those who wait give up.
        let unknown = u64::try_from(self.settings.queue_timeout.as_nanos()).unwrap_or(u64::MAX);
        let counts = [Some(&self.total), Some(&group.count), client.map(|client| &client.count)];
        let waits = counts.into_iter().flatten().map(|count| count.wait_of(own, before, unknown, now));
        waits.max().unwrap_or(0)
    }

    /// Gives what is free to those who wait.
    fn settle(&mut self, now: Nanos, granted: &mut Vec<usize>) {
        while self.total.has_room() {
            let open = self.groups.iter_mut().filter(|group| group.count.has_room());
            let first = open.filter_map(|group| Some((*group.in_turn.first_key_value()?.0, group)));
            let Some((_, group)) = first.min_by_key(|(turn, _)| *turn) else { return };
            let Some((_, address)) = group.in_turn.pop_first() else { return };
            let Some(client) = group.clients.get_mut(&address) else { continue };
            let Some(ask) = client.asks.pop_front() else { continue };
            let last = client.asks.is_empty();
            for count in [&mut self.total, &mut group.count, &mut client.count] {
                count.end_wait(last);
                count.take(now);
            }
            self.turns += 1;
            client.turn = self.turns;
            client.stand_in(&mut group.in_turn, address);
            granted.push(ask);
        }
    }
}

impl Settings {
    /// Places of each client of a group: the least of what is said for every client and for the group's.
    fn client_most(&self, group: &Group) -> Option<u32> {
        self.client.into_iter().chain(group.client).min()
    }
}

impl Group {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            count: Count::default(),
            client: None,
            clients: HashMap::new(),
            in_turn: BTreeMap::new(),
        }
    }

    fn forget_if_idle(&mut self, address: IpAddr) {
        if self.clients.get(&address).is_some_and(|client| client.count.is_idle()) {
            self.clients.remove(&address);
        }
    }
}

impl Client {
    fn new(most: Option<u32>, now: Nanos) -> Self {
        let mut client = Self::default();
        client.count.bound(most, now);
        client
    }

    /// Stands among those who have turns, if it waits for one that its own count lets it have.
    fn stand_in(&self, in_turn: &mut BTreeMap<u64, IpAddr>, address: IpAddr) {
        if !self.asks.is_empty() && self.count.has_room() {
            in_turn.insert(self.turn, address);
        } else {
            in_turn.remove(&self.turn);
        }
    }
}

#[cfg(test)]
mod tests;
