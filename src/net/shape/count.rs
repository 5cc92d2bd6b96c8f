//! One bound on downloads at once: what is taken of it, who waits at it, and how often a place comes free. Owns the
//! estimate of a wait; knows no clock and no other bound, callers say the time and the position.

use super::bucket::Nanos;

/// A new gap between two places is this part of the mean, as of round trips in TCP (RFC 6298 §2): eight downloads
/// later, the mean is about what they were.
const WEIGHT: u64 = 8;

/// Places of all clients, of a group or of one client.
#[derive(Debug, Default)]
pub(super) struct Count {
    /// None while there is no bound.
    most: Option<u32>,
    taken: u32,
    /// Requests that wait, and the clients that they are from.
    waiting: u32,
    clients: u32,
    /// Since when all have been taken and none has come free.
    full_since: Option<Nanos>,
    /// Mean time from one that came free to the next, while all were taken: idle time says nothing about downloads.
    gap: Option<Nanos>,
}

impl Count {
    /// Another bound from now on. What is taken stays, also if it is more.
    pub(super) fn bound(&mut self, most: Option<u32>, now: Nanos) {
        self.most = most;
        self.full_since = if self.has_room() { None } else { self.full_since.or(Some(now)) };
    }

    pub(super) fn has_room(&self) -> bool {
        self.most.is_none_or(|most| self.taken < most)
    }

    /// Whether nobody has a place and nobody waits.
    pub(super) fn is_idle(&self) -> bool {
        self.taken == 0 && self.waiting == 0
    }

    pub(super) fn waiting(&self) -> u32 {
        self.waiting
    }

    pub(super) fn take(&mut self, now: Nanos) {
        self.taken += 1;
        if !self.has_room() {
            self.full_since.get_or_insert(now);
        }
    }

    pub(super) fn release(&mut self, now: Nanos) {
        if let Some(since) = self.full_since.take() {
            let latest = now.saturating_sub(since);
            let mean = |gap: Nanos| gap - gap / WEIGHT + latest / WEIGHT;
            self.gap = Some(self.gap.map_or(latest, mean));
        }
        self.taken = self.taken.saturating_sub(1);
        if !self.has_room() {
            self.full_since = Some(now);
        }
    }

    /// A request waits; whether it is its client's first.
    pub(super) fn wait(&mut self, first: bool) {
        self.waiting += 1;
        self.clients += u32::from(first);
    }

    /// A request waits no more; whether it was its client's last.
    pub(super) fn end_wait(&mut self, last: bool) {
        self.waiting = self.waiting.saturating_sub(1);
        self.clients = self.clients.saturating_sub(u32::from(last));
    }

    /// How long a request waits for a place if places go on coming free as they did; 0 if there is one. `own` requests
    /// of its client wait, `before` of them before this one. While none has come free, a gap is `unknown` long, and no
    /// gap is shorter than the present one already is.
    pub(super) fn wait_of(&self, own: u32, before: u32, unknown: Nanos, now: Nanos) -> Nanos {
        if self.has_room() {
            return 0;
        }
        // Clients have turns: of each of the others, as many go before it as of its own, and one more.
        let clients = self.clients.saturating_sub(u32::from(own > 0));
        let of_others = self.waiting.saturating_sub(own).min(clients.saturating_mul(before + 1));
        let present = self.full_since.map_or(0, |since| now.saturating_sub(since));
        let gap = self.gap.unwrap_or(unknown).max(present);
        gap.saturating_mul(u64::from(before) + u64::from(of_others) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    /// One place, which has come free every two seconds, and nobody waits.
    fn every_two_seconds() -> Count {
        let mut count = Count::default();
        count.bound(Some(1), 0);
        for at in 0..20 {
            count.take(2 * at * SECOND);
            count.release(2 * (at + 1) * SECOND);
        }
        count.take(40 * SECOND);
        count
    }

    #[test]
    fn a_wait_is_as_many_gaps_as_requests_go_before_and_one() {
        let mut count = every_two_seconds();
        let wait = |count: &Count, own, before| count.wait_of(own, before, 0, 40 * SECOND) / SECOND;
        assert_eq!(wait(&count, 0, 0), 2);
        // A hundred of one client, one each of two others.
        (0..100).for_each(|number| count.wait(number == 0));
        assert_eq!((wait(&count, 0, 0), wait(&count, 100, 99)), (4, 200));
        count.wait(true);
        count.wait(true);
        // One of each client goes before who is new; before a client's third go three of each other one.
        assert_eq!((wait(&count, 0, 0), wait(&count, 1, 0), wait(&count, 100, 2)), (8, 6, 10));
    }

    #[test]
    fn idle_time_says_nothing_and_a_gap_that_lasts_says_that_it_is_long() {
        let mut count = every_two_seconds();
        count.release(42 * SECOND);
        count.take(1_000 * SECOND);
        assert_eq!(count.wait_of(0, 0, 0, 1_000 * SECOND), 2 * SECOND);
        assert_eq!(count.wait_of(0, 0, 0, 1_090 * SECOND), 90 * SECOND);
        assert_eq!(Count::default().wait_of(0, 0, SECOND, SECOND), 0);
    }

    #[test]
    fn while_none_has_come_free_a_gap_is_what_the_caller_takes_it_for() {
        let mut count = Count::default();
        count.bound(Some(1), 0);
        count.take(0);
        assert_eq!(count.wait_of(0, 0, 30 * SECOND, SECOND), 30 * SECOND);
    }
}
