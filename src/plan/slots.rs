//! Download slots of the site and of each group, and the bounded queue for them. The queue is first in, first out, and
//! skips clients of a full group. Clients are indices; the caller keeps the time.

use std::collections::VecDeque;

/// Result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotAnswer {
    /// The download starts.
    Started,
    /// The request is queued with this ticket.
    Queued(u64),
    /// The queue is full.
    Refused,
}

/// A queued client.
#[derive(Clone, Copy, Debug)]
struct QueuedClient {
    ticket: u64,
    client: usize,
}

#[derive(Clone, Debug, Default)]
struct SlotUsage {
    most: Option<u32>,
    now: u32,
}

impl SlotUsage {
    fn has_room(&self) -> bool {
        self.most.is_none_or(|most| self.now < most)
    }
}

/// Slot counts and the queue.
#[derive(Clone, Debug)]
pub(super) struct SlotCounts {
    site: SlotUsage,
    groups: Vec<SlotUsage>,
    /// Queues of each group in order of arrival. Clients that timed out stay until they reach the front.
    queues: Vec<VecDeque<QueuedClient>>,
    /// Ticket of each queued client.
    tickets: Vec<Option<u64>>,
    waiting: u32,
    queue_capacity: u32,
    next_ticket: u64,
}

impl SlotCounts {
    /// Creates the counts of the site and of each group, and the queue.
    pub(super) fn new(
        clients: usize,
        site: Option<u32>,
        groups: impl Iterator<Item = Option<u32>>,
        queue_capacity: u32,
    ) -> Self {
        let groups: Vec<SlotUsage> = groups.map(|most| SlotUsage { most, now: 0 }).collect();
        Self {
            site: SlotUsage { most: site, now: 0 },
            queues: vec![VecDeque::new(); groups.len()],
            groups,
            tickets: vec![None; clients],
            waiting: 0,
            queue_capacity,
            next_ticket: 0,
        }
    }

    /// Requests a slot.
    pub(super) fn request(&mut self, client: usize, group: usize) -> SlotAnswer {
        // A queued client is skipped only if its own group is full, so a free slot is free for this client.
        if self.site.has_room() && self.groups[group].has_room() {
            self.take_slot(group);
            return SlotAnswer::Started;
        }
        if self.waiting >= self.queue_capacity {
            return SlotAnswer::Refused;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting += 1;
        self.tickets[client] = Some(ticket);
        self.queues[group].push_back(QueuedClient { ticket, client });
        SlotAnswer::Queued(ticket)
    }

    /// Removes a client from the queue. Returns true if it was queued with this ticket.
    pub(super) fn remove_queued(&mut self, client: usize, ticket: u64) -> bool {
        let waits = self.tickets[client] == Some(ticket);
        if waits {
            self.tickets[client] = None;
            self.waiting -= 1;
        }
        waits
    }

    /// Releases a slot of a group.
    pub(super) fn release(&mut self, group: usize) {
        self.site.now -= 1;
        self.groups[group].now -= 1;
    }

    /// Starts and returns the next queued client that has a slot.
    pub(super) fn start_next(&mut self) -> Option<usize> {
        if self.waiting == 0 || !self.site.has_room() {
            return None;
        }
        for queue in &mut self.queues {
            while queue.front().is_some_and(|first| self.tickets[first.client] != Some(first.ticket)) {
                queue.pop_front();
            }
        }
        let first = |group: &usize| self.queues[*group].front().map_or(u64::MAX, |first| first.ticket);
        let group =
            (0..self.groups.len()).filter(|group| self.groups[*group].has_room()).min_by_key(first)?;
        let QueuedClient { client, .. } = self.queues[group].pop_front()?;
        self.tickets[client] = None;
        self.waiting -= 1;
        self.take_slot(group);
        Some(client)
    }

    fn take_slot(&mut self, group: usize) {
        self.site.now += 1;
        self.groups[group].now += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_is_bounded_fifo_and_skips_full_groups() {
        let mut slots = SlotCounts::new(9, Some(3), [Some(2), None].into_iter(), 3);
        let asked: Vec<SlotAnswer> = [0, 0, 0, 1, 1, 0]
            .iter()
            .enumerate()
            .map(|(client, group)| slots.request(client, *group))
            .collect();
        use SlotAnswer::{Queued, Refused, Started};
        assert_eq!(asked, [Started, Started, Queued(0), Started, Queued(1), Queued(2)]);
        assert_eq!(slots.request(6, 1), Refused);
        assert_eq!(slots.start_next(), None);
        slots.release(1);
        // Client 2 was first, but its group is full.
        assert_eq!(slots.start_next(), Some(4));
        assert!(slots.remove_queued(2, 0) && !slots.remove_queued(2, 0) && !slots.remove_queued(4, 1));
        slots.release(0);
        assert_eq!((slots.start_next(), slots.start_next()), (Some(5), None));
        slots.release(0);
        assert_eq!((slots.start_next(), slots.request(7, 0)), (None, Started));
    }
}
