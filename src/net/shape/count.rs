//! One bound on concurrent downloads: its used slots, its queue length, and how often a slot is released. It
//! estimates waits; callers pass the time and the position.

use super::bucket::Nanos;

/// Weight of a new interval in the mean, as for round trips in TCP (RFC 6298 §2): the mean follows the last eight
/// downloads.
const WEIGHT: u64 = 8;

/// One in this many slots is for clients that use few.
const RESERVE: u32 = 4;

/// A client uses few slots below one in this many.
const FEW: u32 = 8;

/// Slots of all clients, of a group or of one client.
#[derive(Debug, Default)]
pub(super) struct SlotCount {
    /// `None` without a bound.
    limit: Option<u32>,
    used: u32,
    /// Queued requests, and the number of their clients.
    queued: u32,
    clients: u32,
    /// Time since which all slots have been in use and none was released.
    full_since: Option<Nanos>,
    /// Mean interval between two releases while all slots were in use. Idle time says nothing about downloads.
    interval: Option<Nanos>,
}

impl SlotCount {
    /// Changes the bound. Used slots stay, even above the bound.
    pub(super) fn set_limit(&mut self, limit: Option<u32>, now: Nanos) {
        self.limit = limit;
        self.full_since = if self.has_room() { None } else { self.full_since.or(Some(now)) };
    }

    pub(super) fn has_room(&self) -> bool {
        self.limit.is_none_or(|limit| self.used < limit)
    }

    /// Returns true if a client that uses `own` slots may use another one. The last quarter of the slots is for clients
    /// that use few, so that no client holds all of them.
    pub(super) fn has_room_for(&self, own: u32) -> bool {
        self.limit.is_none_or(|limit| {
            let is_scarce = self.used >= limit.saturating_sub(limit / RESERVE);
            self.used < limit && (!is_scarce || own < (limit / FEW).max(1))
        })
    }

    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// Returns true if no slot is used and no request is queued.
    pub(super) fn is_idle(&self) -> bool {
        self.used == 0 && self.queued == 0
    }

    pub(super) fn queued(&self) -> u32 {
        self.queued
    }

    pub(super) fn take(&mut self, now: Nanos) {
        self.used = self.used.saturating_add(1);
        if !self.has_room() {
            self.full_since.get_or_insert(now);
        }
    }

    pub(super) fn release(&mut self, now: Nanos) {
        if let Some(since) = self.full_since.take() {
            let latest = now.saturating_sub(since);
            let mean =
                |interval: Nanos| interval.saturating_sub(interval / WEIGHT).saturating_add(latest / WEIGHT);
            self.interval = Some(self.interval.map_or(latest, mean));
        }
        self.used = self.used.saturating_sub(1);
        if !self.has_room() {
            self.full_since = Some(now);
        }
    }

    /// Counts a queued request; `first` if it is the only one of its client.
    pub(super) fn enqueue(&mut self, first: bool) {
        self.queued = self.queued.saturating_add(1);
        self.clients = self.clients.saturating_add(u32::from(first));
    }

    /// Counts a request that left the queue; `last` if its client has no other.
    pub(super) fn dequeue(&mut self, last: bool) {
        self.queued = self.queued.saturating_sub(1);
        self.clients = self.clients.saturating_sub(u32::from(last));
    }

    /// Estimates the wait for a slot if releases continue at their rate; 0 if one is free.
    ///
    /// `own` requests of the client are queued, `before` of them ahead of this one. Without a release so far an
    /// interval is `unknown` long. No interval is shorter than the current one already is.
    pub(super) fn estimate_wait(&self, own: u32, before: u32, unknown: Nanos, now: Nanos) -> Nanos {
        if self.has_room() { 0 } else { self.estimate_queue(own, before, unknown, now) }
    }

    /// Estimates the wait for a slot that is not free for this client.
    pub(super) fn estimate_queue(&self, own: u32, before: u32, unknown: Nanos, now: Nanos) -> Nanos {
        // Clients alternate: each other client has as many requests ahead as this one, plus one.
        let clients = self.clients.saturating_sub(u32::from(own > 0));
        let of_others = self.queued.saturating_sub(own).min(clients.saturating_mul(before.saturating_add(1)));
        let present = self.full_since.map_or(0, |since| now.saturating_sub(since));
        let interval = self.interval.unwrap_or(unknown).max(present);
        interval.saturating_mul(u64::from(before).saturating_add(u64::from(of_others)).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    /// One slot, released every two seconds, and an empty queue.
    fn released_every_two_seconds() -> SlotCount {
        let mut count = SlotCount::default();
        count.set_limit(Some(1), 0);
        for at in 0..20 {
            count.take(2 * at * SECOND);
            count.release(2 * (at + 1) * SECOND);
        }
        count.take(40 * SECOND);
        count
    }

    #[test]
    fn wait_is_one_interval_per_request_ahead() {
        let mut count = released_every_two_seconds();
        let enqueue =
            |count: &SlotCount, own, before| count.estimate_wait(own, before, 0, 40 * SECOND) / SECOND;
        assert_eq!(enqueue(&count, 0, 0), 2);
        // A hundred requests of one client, one each of two others.
        (0..100).for_each(|number| count.enqueue(number == 0));
        assert_eq!((enqueue(&count, 0, 0), enqueue(&count, 100, 99)), (4, 200));
        count.enqueue(true);
        count.enqueue(true);
        // A new client waits behind one request of each client; a client's third behind three of each other.
        assert_eq!((enqueue(&count, 0, 0), enqueue(&count, 1, 0), enqueue(&count, 100, 2)), (8, 6, 10));
    }

    #[test]
    fn wait_ignores_idle_time_and_counts_current_interval() {
        let mut count = released_every_two_seconds();
        count.release(42 * SECOND);
        count.take(1_000 * SECOND);
        assert_eq!(count.estimate_wait(0, 0, 0, 1_000 * SECOND), 2 * SECOND);
        assert_eq!(count.estimate_wait(0, 0, 0, 1_090 * SECOND), 90 * SECOND);
        assert_eq!(SlotCount::default().estimate_wait(0, 0, SECOND, SECOND), 0);
    }

    #[test]
    fn wait_without_releases_uses_callers_interval() {
        let mut count = SlotCount::default();
        count.set_limit(Some(1), 0);
        count.take(0);
        assert_eq!(count.estimate_wait(0, 0, 30 * SECOND, SECOND), 30 * SECOND);
    }
}
