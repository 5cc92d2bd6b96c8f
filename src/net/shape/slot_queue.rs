//! Slots for downloads and the queues for them. A slot is free for a client while the counts of all clients, of its
//! group and of the client have one. A released slot goes to the client that was served longest ago, and to its
//! oldest request. A client that is held up by its own count or its group's is passed over: it delays no other client
//! and keeps its position. A lent slot counts for its client only, while that client takes next to nothing.
//!
//! The module is a pure function of the calls and their times: no clock, no lock, no task. `slots` has those.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::bucket::Nanos;
use super::count::SlotCount;
use gupd_config::Config;

/// Index of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupIndex(usize);

/// Decision on a request for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotDecision {
    Granted,
    Queued,
    QueueFull,
    ClientQueueFull,
}

/// All slots and the requests queued for them.
#[derive(Debug, Default)]
pub(super) struct SlotQueue {
    settings: SlotSettings,
    total: SlotCount,
    /// Groups that are no longer configured stay, unlimited: downloads of their clients may still run.
    groups: Vec<GroupSlots>,
    /// Slots granted and clients queued so far; orders the clients.
    sequence: u64,
}

/// Settings that hold for every client.
#[derive(Debug, Default)]
struct SlotSettings {
    client: Option<u32>,
    queue: u32,
    client_queue: u32,
    queue_timeout: Duration,
}

#[derive(Debug)]
struct GroupSlots {
    name: String,
    count: SlotCount,
    client: Option<u32>,
    /// Clients that use a slot or are queued.
    clients: HashMap<IpAddr, ClientSlots>,
    /// Queued clients that their own count does not hold up, by the sequence number of their last service.
    queue: BTreeMap<u64, IpAddr>,
}

#[derive(Debug, Default)]
struct ClientSlots {
    count: SlotCount,
    requests: VecDeque<usize>,
    last_served: u64,
}

impl SlotQueue {
    /// Applies other counts. Used slots stay used. Requests that get a slot now are added to `granted`.
    pub(super) fn configure(&mut self, config: &Config, now: Nanos, granted: &mut Vec<usize>) {
        let lan = &config.lan;
        self.settings = SlotSettings {
            client: lan.client_downloads,
            queue: lan.queue,
            client_queue: lan.client_queue,
            queue_timeout: lan.queue_timeout,
        };
        self.total.set_limit(lan.max_downloads, now);
        for group in &config.groups {
            self.group(&group.name);
        }
        for group in &mut self.groups {
            let configured = config.groups.iter().find(|configured| configured.name == group.name);
            group.count.set_limit(configured.and_then(|group| group.max_downloads), now);
            group.client = configured.and_then(|group| group.client_downloads);
            let limit = self.settings.client_limit(group);
            for (address, client) in &mut group.clients {
                client.count.set_limit(limit, now);
                client.update_position(&mut group.queue, *address);
            }
        }
        self.grant_free(now, granted);
    }

    /// Returns the index of the group with this name.
    pub(super) fn group(&mut self, name: &str) -> GroupIndex {
        let known = self.groups.iter().position(|group| group.name == name);
        let index = known.unwrap_or(self.groups.len());
        if known.is_none() {
            self.groups.push(GroupSlots::new(name));
        }
        GroupIndex(index)
    }

    /// Returns the maximum time in the queue.
    pub(super) fn queue_timeout(&self) -> Duration {
        self.settings.queue_timeout
    }

    /// Takes a slot if one is free; it overtakes no queued request, because none of those could take it.
    pub(super) fn take(&mut self, group: GroupIndex, address: IpAddr, now: Nanos) -> bool {
        let Some(group) = self.groups.get_mut(group.0) else { return false };
        let has_room = |client: &ClientSlots| client.count.has_room();
        let own = group.clients.get(&address).map_or(0, |client| client.count.used());
        if !self.total.has_room_for(own)
            || !group.count.has_room()
            || !group.clients.get(&address).is_none_or(has_room)
        {
            return false;
        }
        let limit = self.settings.client_limit(group);
        let client = group.clients.entry(address).or_insert_with(|| ClientSlots::new(limit, now));
        for count in [&mut self.total, &mut group.count, &mut client.count] {
            count.take(now);
        }
        true
    }

    /// Takes a slot, or queues the request.
    pub(super) fn enqueue(
        &mut self,
        group: GroupIndex,
        address: IpAddr,
        request: usize,
        now: Nanos,
    ) -> SlotDecision {
        if self.take(group, address, now) {
            return SlotDecision::Granted;
        }
        let Some(group) = self.groups.get_mut(group.0) else { return SlotDecision::QueueFull };
        let own = group.clients.get(&address).map_or(0, |client| client.count.queued());
        if own >= self.settings.client_queue {
            return SlotDecision::ClientQueueFull;
        }
        if self.total.queued() >= self.settings.queue {
            return SlotDecision::QueueFull;
        }
        let limit = self.settings.client_limit(group);
        let client = group.clients.entry(address).or_insert_with(|| ClientSlots::new(limit, now));
        for count in [&mut self.total, &mut group.count, &mut client.count] {
            count.enqueue(own == 0);
        }
        client.requests.push_back(request);
        if own == 0 {
            self.sequence = self.sequence.saturating_add(1);
            client.last_served = self.sequence;
            client.update_position(&mut group.queue, address);
        }
        SlotDecision::Queued
    }

    /// Lends a slot to the queue: it counts for its client only.
    pub(super) fn lend(&mut self, group: GroupIndex, now: Nanos, granted: &mut Vec<usize>) {
        self.total_and_group(group).for_each(|count| count.release(now));
        self.grant_free(now, granted);
    }

    /// Counts a lent slot again, even above the counts.
    pub(super) fn reclaim(&mut self, group: GroupIndex, now: Nanos) {
        self.total_and_group(group).for_each(|count| count.take(now));
    }

    fn total_and_group(&mut self, group: GroupIndex) -> impl Iterator<Item = &mut SlotCount> {
        let group = self.groups.get_mut(group.0).map(|group| &mut group.count);
        std::iter::once(&mut self.total).chain(group)
    }

    /// Releases a slot.
    pub(super) fn release(
        &mut self,
        group: GroupIndex,
        address: IpAddr,
        now: Nanos,
        granted: &mut Vec<usize>,
    ) {
        let Some(group) = self.groups.get_mut(group.0) else { return };
        let Some(client) = group.clients.get_mut(&address) else { return };
        for count in [&mut self.total, &mut group.count, &mut client.count] {
            count.release(now);
        }
        client.update_position(&mut group.queue, address);
        group.remove_if_idle(address);
        self.grant_free(now, granted);
    }

    /// Removes a queued request.
    pub(super) fn cancel(&mut self, group: GroupIndex, address: IpAddr, request: usize) {
        let Some(group) = self.groups.get_mut(group.0) else { return };
        let Some(client) = group.clients.get_mut(&address) else { return };
        let Some(at) = client.requests.iter().position(|known| *known == request) else { return };
        client.requests.remove(at);
        let last = client.requests.is_empty();
        for count in [&mut self.total, &mut group.count, &mut client.count] {
            count.dequeue(last);
        }
        client.update_position(&mut group.queue, address);
        group.remove_if_idle(address);
    }

    /// Estimates the time until a request gets a slot; `request` is `None` for a request that is not queued.
    ///
    /// The result is the longest wait of the three counts. It counts requests that will be passed over, so it tends
    /// to be too long.
    pub(super) fn estimate_wait(
        &self,
        group: GroupIndex,
        address: IpAddr,
        request: Option<usize>,
        now: Nanos,
    ) -> Nanos {
        let Some(group) = self.groups.get(group.0) else { return 0 };
        let client = group.clients.get(&address);
        let own = client.map_or(0, |client| client.count.queued());
        let at = client
            .zip(request)
            .and_then(|(client, request)| client.requests.iter().position(|known| *known == request));
        let before = at.and_then(|at| u32::try_from(at).ok()).unwrap_or(own);
        // Before the first release the only known time is that at which queued requests time out.
        let unknown = u64::try_from(self.settings.queue_timeout.as_nanos()).unwrap_or(u64::MAX);
        let used = client.map_or(0, |client| client.count.used());
        let total = match self.total.has_room_for(used) {
            true => 0,
            false => self.total.estimate_queue(own, before, unknown, now),
        };
        let counts = [Some(&group.count), client.map(|client| &client.count)];
        let waits = counts.into_iter().flatten().map(|count| count.estimate_wait(own, before, unknown, now));
        waits.fold(total, Nanos::max)
    }

    /// Grants free slots to queued requests.
    fn grant_free(&mut self, now: Nanos, granted: &mut Vec<usize>) {
        while self.total.has_room() {
            let open = self.groups.iter_mut().filter(|group| group.count.has_room());
            let heads = open.filter_map(|group| Some((group.first_queued(&self.total)?, group)));
            let Some((last_served, group)) = heads.min_by_key(|(last_served, _)| *last_served) else {
                return;
            };
            let Some(address) = group.queue.remove(&last_served) else { return };
            let Some(client) = group.clients.get_mut(&address) else { continue };
            let Some(request) = client.requests.pop_front() else { continue };
            let last = client.requests.is_empty();
            for count in [&mut self.total, &mut group.count, &mut client.count] {
                count.dequeue(last);
                count.take(now);
            }
            self.sequence = self.sequence.saturating_add(1);
            client.last_served = self.sequence;
            client.update_position(&mut group.queue, address);
            granted.push(request);
        }
    }
}

impl SlotSettings {
    /// Returns the slots of each client of a group: the lower of the limit for every client and the group's.
    fn client_limit(&self, group: &GroupSlots) -> Option<u32> {
        self.client.into_iter().chain(group.client).min()
    }
}

impl GroupSlots {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            count: SlotCount::default(),
            client: None,
            clients: HashMap::new(),
            queue: BTreeMap::new(),
        }
    }

    /// Returns the last service of the first queued client that may use a slot of `total`. Clients that use more than few
    /// are passed over while slots are scarce; there are not many of them.
    fn first_queued(&self, total: &SlotCount) -> Option<u64> {
        let used = |address: &IpAddr| self.clients.get(address).map_or(0, |client| client.count.used());
        let mut queue = self.queue.iter();
        queue.find(|(_, address)| total.has_room_for(used(address))).map(|(last_served, _)| *last_served)
    }

    fn remove_if_idle(&mut self, address: IpAddr) {
        if self.clients.get(&address).is_some_and(|client| client.count.is_idle()) {
            self.clients.remove(&address);
        }
    }
}

impl ClientSlots {
    fn new(limit: Option<u32>, now: Nanos) -> Self {
        let mut client = Self::default();
        client.count.set_limit(limit, now);
        client
    }

    /// Updates the client's position in `queue`: present if it has a request that its own count permits.
    fn update_position(&self, queue: &mut BTreeMap<u64, IpAddr>, address: IpAddr) {
        if !self.requests.is_empty() && self.count.has_room() {
            queue.insert(self.last_served, address);
        } else {
            queue.remove(&self.last_served);
        }
    }
}

#[cfg(test)]
mod tests;
