//! Flows that wait at one limit, in order. Higher priorities go strictly first, except for a share that keeps lower
//! ones from starving. Within a priority the order is by start tags, so that quanta of different sizes share by bytes
//! (start-time fair queueing). The limit's bucket decides how much passes, and when.

use std::collections::BTreeMap;

/// Priority of bytes, the most urgent first. Within a purpose deltas go first: they make a client current for a
/// hundredth of a full set's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// A delta for a waiting client.
    ClientDelta,
    /// Other content for a waiting client.
    #[default]
    Client,
    /// Validation of a stored response.
    Revalidation,
    /// A delta that no client has requested yet.
    PrefetchDelta,
    /// Other content that no client has requested yet.
    Prefetch,
    /// Replacement of damaged content.
    Repair,
}

impl Priority {
    /// Number of priorities.
    const COUNT: usize = 6;
}

/// One in this many bytes goes to lower priorities: 5 %, enough against starvation and too little to notice.
const STARVATION_SHARE: u64 = 20;

/// Position of a waiting item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueuePosition {
    level: usize,
    /// Start tag: bytes that had passed for each flow of the limit when this quantum may begin.
    start: u64,
    /// Arrival number; ties go by arrival.
    arrivals: u64,
}

/// Waiting items.
#[derive(Debug)]
pub(super) struct PriorityQueue<T> {
    levels: [BTreeMap<QueuePosition, T>; Priority::COUNT],
    arrivals: u64,
    /// Bytes of the highest priority that passed while lower ones waited.
    overtaken: u64,
    /// The level that last had the share of lower priorities.
    last_shared: usize,
}

impl<T> Default for PriorityQueue<T> {
    fn default() -> Self {
        Self { levels: Default::default(), arrivals: 0, overtaken: 0, last_shared: 0 }
    }
}

impl QueuePosition {
    pub(super) fn start(&self) -> u64 {
        self.start
    }
}

impl<T: Copy> PriorityQueue<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.levels.iter().all(BTreeMap::is_empty)
    }

    pub(super) fn push(&mut self, priority: Priority, start: u64, item: T) -> QueuePosition {
        self.arrivals += 1;
        let position = QueuePosition { level: priority as usize, start, arrivals: self.arrivals };
        self.levels[position.level].insert(position, item);
        position
    }

    /// Returns the next item; `bytes` returns the size of each.
    pub(super) fn next(&self, bytes: impl Fn(T) -> u64) -> Option<T> {
        self.choose(bytes).map(|(_, item)| item)
    }

    /// Removes the next item.
    pub(super) fn pop(&mut self, bytes: impl Fn(T) -> u64) -> Option<(QueuePosition, T)> {
        let (position, item) = self.choose(&bytes)?;
        let first = self.levels.iter().position(|level| !level.is_empty())?;
        self.levels[position.level].remove(&position);
        if position.level > first {
            self.overtaken = self.overtaken.saturating_sub((STARVATION_SHARE - 1) * bytes(item));
            self.last_shared = position.level;
        } else if self.lower_levels(first).next().is_some() {
            self.overtaken = self.overtaken.saturating_add(bytes(item));
        } else {
            self.overtaken = 0;
        }
        Some((position, item))
    }

    /// Removes the item at `position`.
    pub(super) fn remove(&mut self, position: QueuePosition) -> Option<T> {
        self.levels[position.level].remove(&position)
    }

    fn choose(&self, bytes: impl Fn(T) -> u64) -> Option<(QueuePosition, T)> {
        let head =
            |level: usize| self.levels[level].first_key_value().map(|(position, item)| (*position, *item));
        let first = self.levels.iter().position(|level| !level.is_empty())?;
        // Round robin, so that the lowest level has its share too.
        let after = self
            .lower_levels(first)
            .find(|level| *level > self.last_shared)
            .or(self.lower_levels(first).next());
        let starving = after.and_then(head);
        starving
            .filter(|(_, item)| self.overtaken >= (STARVATION_SHARE - 1) * bytes(*item))
            .or_else(|| head(first))
    }

    fn lower_levels(&self, first: usize) -> impl Iterator<Item = usize> {
        (first + 1..Priority::COUNT).filter(|level| !self.levels[*level].is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut PriorityQueue<(Priority, u32)>, count: usize) -> Vec<Priority> {
        // The item re-queues at once, so that no flow is ever idle.
        let take = |_| {
            let (position, (priority, id)) = queue.pop(|_| 100).unwrap();
            queue.push(priority, position.start() + 100, (priority, id));
            priority
        };
        (0..count).map(take).collect()
    }

    #[test]
    fn urgent_items_go_first_and_none_starves() {
        let mut queue = PriorityQueue::default();
        for priority in [Priority::Repair, Priority::Prefetch, Priority::ClientDelta] {
            queue.push(priority, 0, (priority, 0));
        }
        let order = drain(&mut queue, 4_000);
        let share = |of| order.iter().filter(|priority| **priority == of).count();
        assert_eq!(order[..19], [Priority::ClientDelta; 19]);
        assert_eq!(share(Priority::ClientDelta), 3_800);
        assert_eq!((share(Priority::Prefetch), share(Priority::Repair)), (100, 100));
    }

    #[test]
    fn equal_priorities_go_by_start_tag_then_arrival() {
        let mut queue = PriorityQueue::default();
        let positions = [(5, 'c'), (0, 'a'), (0, 'b'), (5, 'd')];
        let positions = positions.map(|(start, item)| queue.push(Priority::Client, start, item));
        assert_eq!((queue.remove(positions[2]), queue.remove(positions[2])), (Some('b'), None));
        assert_eq!(queue.next(|_| 1), Some('a'));
        let order: String = std::iter::from_fn(|| queue.pop(|_| 1)).map(|(_, item)| item).collect();
        assert_eq!(order, "acd");
        assert!(queue.is_empty());
    }

    #[test]
    fn item_without_competition_owes_no_share_later() {
        let mut queue = PriorityQueue::default();
        queue.push(Priority::Client, 0, (Priority::Client, 0));
        drain(&mut queue, 1_000);
        queue.push(Priority::Repair, 0, (Priority::Repair, 0));
        assert_eq!(drain(&mut queue, 19), [Priority::Client; 19]);
    }
}
