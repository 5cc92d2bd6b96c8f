//! Flows that wait at one limit, in order. Higher priorities go strictly first, except for a share that keeps lower
//! ones from starving. Within a priority the order is by start tags, so that quanta of different sizes share by bytes
//! (start-time fair queueing), on two levels: first the shares, which are clients or single flows, then the flows of a
//! share. Deltas are before other content of the same share, but only so far before other shares.

use std::collections::{BTreeMap, HashMap};

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

/// Bytes of the highest priority for each byte of lower ones.
const SHARE_OF_FIRST: u64 = STARVATION_SHARE - 1;

/// Bytes by which a share with deltas may be ahead of its due. A client's deltas, 40 to 200 KB each and 1.5 MB at most,
/// thus go before others' full sets. Any number of files that are named like deltas take no more than this.
pub(super) const DELTA_LEAD: u64 = 2 << 20;

/// Number of a share of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShareId(pub(super) usize);

/// Place in an order: a start tag, then the arrival number.
type Rank = (u64, u64);

/// Position of a waiting item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueuePosition {
    level: usize,
    share: ShareId,
    /// Rank within the share. Its start tag is the bytes that had passed for each flow of the share when this quantum
    /// may begin.
    rank: Rank,
}

/// Start tags of a quantum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StartTags {
    /// Bytes that had passed for each share of the limit.
    pub(super) share: u64,
    /// Bytes that had passed for each flow of the share.
    pub(super) flow: u64,
}

/// An item that left the queue because it was next.
#[derive(Debug)]
pub(super) struct NextItem<T> {
    pub(super) item: T,
    pub(super) share: ShareId,
    pub(super) start: StartTags,
    /// Virtual time of the limit: start tag by which the share was selected.
    pub(super) virtual_time: u64,
}

/// Waiting items.
#[derive(Debug)]
pub(super) struct PriorityQueue<T> {
    /// Shares with waiting items, by priority and rank.
    levels: [BTreeMap<Rank, ShareId>; Priority::COUNT],
    shares: HashMap<ShareId, WaitingShare<T>>,
    arrivals: u64,
    /// Bytes of the highest priority that passed while lower ones waited.
    overtaken: u64,
    /// The level that last had the share of lower priorities.
    last_shared: usize,
}

/// Waiting items of one share.
#[derive(Debug)]
struct WaitingShare<T> {
    start: u64,
    levels: [WaitingLevel<T>; Priority::COUNT],
}

/// Waiting items of one share and priority.
#[derive(Debug)]
struct WaitingLevel<T> {
    /// Rank of the share at this priority, while it has items.
    rank: Rank,
    items: BTreeMap<Rank, T>,
}

impl<T> Default for PriorityQueue<T> {
    fn default() -> Self {
        Self { levels: Default::default(), shares: HashMap::new(), arrivals: 0, overtaken: 0, last_shared: 0 }
    }
}

impl<T> Default for WaitingLevel<T> {
    fn default() -> Self {
        Self { rank: (0, 0), items: BTreeMap::new() }
    }
}

impl<T> WaitingShare<T> {
    fn new(start: u64) -> Self {
        Self { start, levels: Default::default() }
    }
}

impl<T: Copy> PriorityQueue<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// Adds an item. The share's start tag counts only if the share has no other item.
    pub(super) fn push(
        &mut self,
        priority: Priority,
        share: ShareId,
        start: StartTags,
        item: T,
    ) -> QueuePosition {
        self.arrivals = self.arrivals.saturating_add(1);
        let (level, rank) = (priority as usize, (start.flow, self.arrivals));
        let waiting = self.shares.entry(share).or_insert_with(|| WaitingShare::new(start.share));
        if let (Some(of_share), Some(shares)) = (waiting.levels.get_mut(level), self.levels.get_mut(level)) {
            if of_share.items.is_empty() {
                of_share.rank = (order_tag(level, waiting.start), self.arrivals);
                shares.insert(of_share.rank, share);
            }
            of_share.items.insert(rank, item);
        }
        QueuePosition { level, share, rank }
    }

    /// Returns the next item; `bytes` returns the size of each.
    pub(super) fn next(&self, bytes: impl Fn(T) -> u64) -> Option<T> {
        self.choose(bytes).map(|(_, item)| item)
    }

    /// Removes the next item, and moves its share behind by the item's bytes.
    pub(super) fn pop(&mut self, bytes: impl Fn(T) -> u64) -> Option<NextItem<T>> {
        let (position, item) = self.choose(&bytes)?;
        let first = self.first_level()?;
        let passing = bytes(item);
        if position.level > first {
            self.overtaken = self.overtaken.saturating_sub(SHARE_OF_FIRST.saturating_mul(passing));
            self.last_shared = position.level;
        } else if self.lower_levels(first).next().is_some() {
            self.overtaken = self.overtaken.saturating_add(passing);
        } else {
            self.overtaken = 0;
        }
        let waiting = self.shares.get_mut(&position.share)?;
        let start = StartTags { share: waiting.start, flow: position.rank.0 };
        let virtual_time = order_tag(position.level, waiting.start);
        waiting.start = waiting.start.saturating_add(passing);
        self.remove(position);
        self.move_share(position.share);
        Some(NextItem { item, share: position.share, start, virtual_time })
    }

    /// Removes the item at `position`.
    pub(super) fn remove(&mut self, position: QueuePosition) -> Option<T> {
        let waiting = self.shares.get_mut(&position.share)?;
        let of_share = waiting.levels.get_mut(position.level)?;
        let item = of_share.items.remove(&position.rank)?;
        if of_share.items.is_empty() {
            self.levels.get_mut(position.level)?.remove(&of_share.rank);
        }
        if waiting.levels.iter().all(|level| level.items.is_empty()) {
            self.shares.remove(&position.share);
        }
        Some(item)
    }

    /// Gives a share the ranks of its start tag, behind others with the same one.
    fn move_share(&mut self, share: ShareId) {
        let Some(waiting) = self.shares.get_mut(&share) else { return };
        self.arrivals = self.arrivals.saturating_add(1);
        for (level, (of_share, shares)) in waiting.levels.iter_mut().zip(&mut self.levels).enumerate() {
            if !of_share.items.is_empty() {
                shares.remove(&of_share.rank);
                of_share.rank = (order_tag(level, waiting.start), self.arrivals);
                shares.insert(of_share.rank, share);
            }
        }
    }

    fn choose(&self, bytes: impl Fn(T) -> u64) -> Option<(QueuePosition, T)> {
        let first = self.first_level()?;
        // Round robin, so that the lowest level has its share too.
        let after = self
            .lower_levels(first)
            .find(|level| *level > self.last_shared)
            .or(self.lower_levels(first).next());
        let starving = after.and_then(|level| self.head(level));
        starving
            .filter(|(_, item)| self.overtaken >= SHARE_OF_FIRST.saturating_mul(bytes(*item)))
            .or_else(|| self.head(first))
    }

    /// Returns the first item of the first share of a level.
    fn head(&self, level: usize) -> Option<(QueuePosition, T)> {
        let share = *self.levels.get(level)?.first_key_value()?.1;
        let (rank, item) = self.shares.get(&share)?.levels.get(level)?.items.first_key_value()?;
        Some((QueuePosition { level, share, rank: *rank }, *item))
    }

    /// Returns the highest level with items, except that deltas of shares that are too far ahead let other content of
    /// clients pass.
    fn first_level(&self) -> Option<usize> {
        const DELTA: usize = Priority::ClientDelta as usize;
        const CONTENT: usize = Priority::Client as usize;
        let first = self.levels.iter().position(|level| !level.is_empty())?;
        let tag = |level: usize| Some(self.levels.get(level)?.first_key_value()?.0.0);
        let is_ahead = first == DELTA && tag(CONTENT).is_some_and(|content| tag(DELTA) > Some(content));
        Some(if is_ahead { CONTENT } else { first })
    }

    fn lower_levels(&self, first: usize) -> impl Iterator<Item = usize> {
        let lower = self.levels.iter().enumerate().skip(first.saturating_add(1));
        lower.filter(|(_, shares)| !shares.is_empty()).map(|(level, _)| level)
    }
}

/// Returns the tag that orders a share at a priority.
fn order_tag(level: usize, start: u64) -> u64 {
    let lead = if level == Priority::ClientDelta as usize { DELTA_LEAD } else { 0 };
    start.saturating_sub(lead)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items of one priority each, and their shares.
    type Item = (Priority, usize);

    fn push(queue: &mut PriorityQueue<Item>, priority: Priority, share: usize, start: u64) {
        queue.push(priority, ShareId(share), StartTags { share: start, flow: 0 }, (priority, share));
    }

    fn drain(queue: &mut PriorityQueue<Item>, count: usize, bytes: u64) -> Vec<Item> {
        // The item re-queues at once, so that no flow is ever idle.
        let take = |_| {
            let next = queue.pop(|_| bytes).unwrap();
            let start = StartTags { share: next.start.share + bytes, flow: next.start.flow + bytes };
            queue.push(next.item.0, next.share, start, next.item);
            next.item
        };
        (0..count).map(take).collect()
    }

    fn count(order: &[Item], of: impl Fn(&Item) -> bool) -> usize {
        order.iter().filter(|item| of(item)).count()
    }

    #[test]
    fn urgent_items_go_first_and_none_starves() {
        let mut queue = PriorityQueue::default();
        let priorities = [Priority::Repair, Priority::Prefetch, Priority::ClientDelta];
        for (share, priority) in priorities.into_iter().enumerate() {
            push(&mut queue, priority, share, 0);
        }
        let order = drain(&mut queue, 4_000, 100);
        let share = |of| count(&order, |(priority, _)| *priority == of);
        assert_eq!(count(&order[..19], |(priority, _)| *priority == Priority::ClientDelta), 19);
        assert_eq!(share(Priority::ClientDelta), 3_800);
        assert_eq!((share(Priority::Prefetch), share(Priority::Repair)), (100, 100));
    }

    #[test]
    fn equal_priorities_go_by_start_tag_then_arrival() {
        let mut queue = PriorityQueue::default();
        let positions = [(5, 'c'), (0, 'a'), (0, 'b'), (5, 'd')];
        let mut share = 0;
        let positions = positions.map(|(start, item)| {
            share += 1;
            queue.push(Priority::Client, ShareId(share), StartTags { share: start, flow: 0 }, item)
        });
        assert_eq!((queue.remove(positions[2]), queue.remove(positions[2])), (Some('b'), None));
        assert_eq!(queue.next(|_| 1), Some('a'));
        let order: String = std::iter::from_fn(|| queue.pop(|_| 1)).map(|next| next.item).collect();
        assert_eq!(order, "acd");
        assert!(queue.is_empty());
    }

    #[test]
    fn item_without_competition_owes_no_share_later() {
        let mut queue = PriorityQueue::default();
        push(&mut queue, Priority::Client, 0, 0);
        drain(&mut queue, 1_000, 100);
        push(&mut queue, Priority::Repair, 1, 0);
        assert_eq!(count(&drain(&mut queue, 19, 100), |(priority, _)| *priority == Priority::Client), 19);
    }

    #[test]
    fn share_with_many_flows_passes_as_much_as_one_flow() {
        let mut queue = PriorityQueue::default();
        (0..60).for_each(|_| push(&mut queue, Priority::Client, 0, 0));
        push(&mut queue, Priority::Client, 1, 0);
        let order = drain(&mut queue, 1_000, 100);
        assert_eq!(count(&order, |(_, share)| *share == 1), 500);
    }

    #[test]
    fn deltas_of_a_share_are_ahead_by_their_lead_only() {
        let mut queue = PriorityQueue::default();
        (0..60).for_each(|_| push(&mut queue, Priority::ClientDelta, 0, DELTA_LEAD));
        // Full sets of the same client are no way to a second share.
        (0..60).for_each(|_| push(&mut queue, Priority::Client, 0, DELTA_LEAD));
        push(&mut queue, Priority::Client, 1, DELTA_LEAD);
        let quantum = DELTA_LEAD / 256;
        let order = drain(&mut queue, 256, quantum);
        assert_eq!(count(&order, |(_, share)| *share == 0), 244, "all but a twentieth of the lead");
        let order = drain(&mut queue, 2_000, quantum);
        let of_other = count(&order, |(_, share)| *share == 1);
        assert!((950..=1_050).contains(&of_other), "half of the rest: {of_other}");
    }
}
