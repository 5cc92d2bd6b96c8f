//! Who waits at one limit: higher priorities strictly first, but for a share that keeps lower ones from starving; within
//! a priority by start tags, so that turns of different sizes still share by bytes (start-time fair queueing). Owns the
//! order only; what may go, and when, its limit's bucket says.

use std::collections::BTreeMap;

/// What bytes are for, the most urgent first. Within a purpose deltas go first: they make a client current for a
/// hundredth of a full set's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// A delta that a client waits for.
    WaitedDelta,
    /// Anything else that a client waits for.
    #[default]
    Waited,
    /// To see whether what is stored is still good.
    Revalidation,
    /// A delta that clients will want.
    PrefetchDelta,
    /// Anything else that clients will want.
    Prefetch,
    /// To mend what rotted.
    Repair,
}

impl Priority {
    /// How many there are.
    const COUNT: usize = 6;
}

/// Of this many bytes, one goes to those who wait behind higher priorities: 5 %, so that nobody starves and nobody
/// notices.
const STARVATION_SHARE: u64 = 20;

/// Where one who waits is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    bandwidth: usize,
    /// Bytes that had begun to pass, of each who shares the limit, when its turn may begin.
    start: u64,
    /// Who came first goes first.
    came: u64,
}

/// Those who wait.
#[derive(Debug)]
pub(super) struct Queue<T> {
    lanes: [BTreeMap<Place, T>; Priority::COUNT],
    came: u64,
    /// Bytes that went first while others waited behind.
    ahead: u64,
    /// The lane that last had its share.
    shared: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { lanes: Default::default(), came: 0, ahead: 0, shared: 0 }
    }
}

impl Place {
    pub(super) fn start(&self) -> u64 {
        self.start
    }
}

impl<T: Copy> Queue<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(BTreeMap::is_empty)
    }

    pub(super) fn push(&mut self, priority: Priority, start: u64, item: T) -> Place {
        self.came += 1;
        let place = Place { bandwidth: priority as usize, start, came: self.came };
        self.lanes[place.bandwidth].insert(place, item);
        place
    }

    /// Who is next; `bytes` says what each would take.
    pub(super) fn next(&self, bytes: impl Fn(T) -> u64) -> Option<T> {
        self.choose(bytes).map(|(_, item)| item)
    }

    /// Takes out who is next.
    pub(super) fn pop(&mut self, bytes: impl Fn(T) -> u64) -> Option<(Place, T)> {
        let (place, item) = self.choose(&bytes)?;
        let first = self.lanes.iter().position(|bandwidth| !bandwidth.is_empty())?;
        self.lanes[place.bandwidth].remove(&place);
        if place.bandwidth > first {
            self.ahead = self.ahead.saturating_sub((STARVATION_SHARE - 1) * bytes(item));
            self.shared = place.bandwidth;
        } else if self.behind(first).next().is_some() {
            self.ahead = self.ahead.saturating_add(bytes(item));
        } else {
            self.ahead = 0;
        }
        Some((place, item))
    }

    /// Takes out who waits at `place`.
    pub(super) fn remove(&mut self, place: Place) -> Option<T> {
        self.lanes[place.bandwidth].remove(&place)
    }

    fn choose(&self, bytes: impl Fn(T) -> u64) -> Option<(Place, T)> {
        let head =
            |bandwidth: usize| self.lanes[bandwidth].first_key_value().map(|(place, item)| (*place, *item));
        let first = self.lanes.iter().position(|bandwidth| !bandwidth.is_empty())?;
        // In turn, so that the last one has its share too.
        let after =
            self.behind(first).find(|bandwidth| *bandwidth > self.shared).or(self.behind(first).next());
        let starving = after.and_then(head);
        starving
            .filter(|(_, item)| self.ahead >= (STARVATION_SHARE - 1) * bytes(*item))
            .or_else(|| head(first))
    }

    fn behind(&self, first: usize) -> impl Iterator<Item = usize> {
        (first + 1..Priority::COUNT).filter(|bandwidth| !self.lanes[*bandwidth].is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut Queue<(Priority, u32)>, turns: usize) -> Vec<Priority> {
        // Who went comes again at once: nobody ever has nothing to ask for.
        let turn = |_| {
            let (place, (priority, id)) = queue.pop(|_| 100).unwrap();
            queue.push(priority, place.start() + 100, (priority, id));
            priority
        };
        (0..turns).map(turn).collect()
    }

    #[test]
    fn the_urgent_go_first_and_nobody_starves() {
        let mut queue = Queue::default();
        for priority in [Priority::Repair, Priority::Prefetch, Priority::WaitedDelta] {
            queue.push(priority, 0, (priority, 0));
        }
        let went = drain(&mut queue, 4_000);
        let share = |of| went.iter().filter(|priority| **priority == of).count();
        assert_eq!(went[..19], [Priority::WaitedDelta; 19]);
        assert_eq!(share(Priority::WaitedDelta), 3_800);
        assert_eq!((share(Priority::Prefetch), share(Priority::Repair)), (100, 100));
    }

    #[test]
    fn within_a_priority_they_go_by_what_they_had_and_then_in_the_order_they_came() {
        let mut queue = Queue::default();
        let places = [(5, 'c'), (0, 'a'), (0, 'b'), (5, 'd')];
        let places = places.map(|(start, item)| queue.push(Priority::Waited, start, item));
        assert_eq!((queue.remove(places[2]), queue.remove(places[2])), (Some('b'), None));
        assert_eq!(queue.next(|_| 1), Some('a'));
        let order: String = std::iter::from_fn(|| queue.pop(|_| 1)).map(|(_, item)| item).collect();
        assert_eq!(order, "acd");
        assert!(queue.is_empty());
    }

    #[test]
    fn who_waits_alone_owes_nobody_anything_later() {
        let mut queue = Queue::default();
        queue.push(Priority::Waited, 0, (Priority::Waited, 0));
        drain(&mut queue, 1_000);
        queue.push(Priority::Repair, 0, (Priority::Repair, 0));
        assert_eq!(drain(&mut queue, 19), [Priority::Waited; 19]);
    }
}
