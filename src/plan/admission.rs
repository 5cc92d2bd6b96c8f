//! Downloads at once, and who waits for a place: the site's count, each group's, and a bounded queue in order of arrival
//! that passes over those whose group is full. Knows clients by their index only; time is its caller's business.

use std::collections::VecDeque;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Its download begins.
    Begins,
    /// It waits, with this ticket.
    Waits(u64),
    /// The queue is full.
    Refused,
}

/// A client that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: u64,
    client: usize,
}

#[derive(Clone, Debug, Default)]
struct Count {
    most: Option<u32>,
    now: u32,
}

impl Count {
    fn has_room(&self) -> bool {
        self.most.is_none_or(|most| self.now < most)
    }
}

/// The counts and the queue.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    site: Count,
    groups: Vec<Count>,
    /// In order of arrival, for each group. Those that gave up stay until they would have had their turn.
    queues: Vec<VecDeque<Waiting>>,
    /// The ticket of each client that waits.
    tickets: Vec<Option<u64>>,
    waiting: u32,
    places: u32,
    next_ticket: u64,
}

impl Admission {
    /// For so many clients: counts of the site and of each group, and places in the queue.
    pub(super) fn new(
        clients: usize,
        site: Option<u32>,
        groups: impl Iterator<Item = Option<u32>>,
        places: u32,
    ) -> Self {
        let groups: Vec<Count> = groups.map(|most| Count { most, now: 0 }).collect();
        Self {
            site: Count { most: site, now: 0 },
            queues: vec![VecDeque::new(); groups.len()],
            groups,
            tickets: vec![None; clients],
            waiting: 0,
            places,
            next_ticket: 0,
        }
    }

    /// A client asks.
    pub(super) fn ask(&mut self, client: usize, group: usize) -> Entry {
        // Whoever waits has been passed over for its own group's sake only, so a free place is free for this one.
        if self.site.has_room() && self.groups[group].has_room() {
            self.begin(group);
            return Entry::Begins;
        }
        if self.waiting >= self.places {
            return Entry::Refused;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting += 1;
        self.tickets[client] = Some(ticket);
        self.queues[group].push_back(Waiting { ticket, client });
        Entry::Waits(ticket)
    }

    /// A client has waited as long as it may; whether it still had this ticket.
    pub(super) fn give_up(&mut self, client: usize, ticket: u64) -> bool {
        let waits = self.tickets[client] == Some(ticket);
        if waits {
            self.tickets[client] = None;
            self.waiting -= 1;
        }
        waits
    }

    /// A download of a group has ended.
    pub(super) fn leave(&mut self, group: usize) {
        self.site.now -= 1;
        self.groups[group].now -= 1;
    }

    /// The next one that waits and can begin, which it does.
    pub(super) fn next(&mut self) -> Option<usize> {
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
        let Waiting { client, .. } = self.queues[group].pop_front()?;
        self.tickets[client] = None;
        self.waiting -= 1;
        self.begin(group);
        Some(client)
    }

    fn begin(&mut self, group: usize) {
        self.site.now += 1;
        self.groups[group].now += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_is_bounded_fifo_and_skips_full_groups() {
        let mut admission = Admission::new(9, Some(3), [Some(2), None].into_iter(), 3);
        let asked: Vec<Entry> = [0, 0, 0, 1, 1, 0]
            .iter()
            .enumerate()
            .map(|(client, group)| admission.ask(client, *group))
            .collect();
        use Entry::{Begins, Refused, Waits};
        assert_eq!(asked, [Begins, Begins, Waits(0), Begins, Waits(1), Waits(2)]);
        assert_eq!(admission.ask(6, 1), Refused);
        assert_eq!(admission.next(), None);
        admission.leave(1);
        // Client 2 was first, but its group is full.
        assert_eq!(admission.next(), Some(4));
        assert!(admission.give_up(2, 0) && !admission.give_up(2, 0) && !admission.give_up(4, 1));
        admission.leave(0);
        assert_eq!((admission.next(), admission.next()), (Some(5), None));
        admission.leave(0);
        assert_eq!((admission.next(), admission.ask(7, 0)), (None, Begins));
    }
}
