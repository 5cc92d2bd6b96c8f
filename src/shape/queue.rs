//! Who waits at one limit: first come, first served within a priority; higher priorities strictly first, but for a
//! share that keeps lower ones from starving. Owns the order only; what may go, and when, its limit's bucket says.

use std::collections::VecDeque;

/// What bytes are for, the most urgent first. Within a purpose deltas go first: they make a client current for a
/// hundredth of a full set's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
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

/// Those who wait.
#[derive(Debug)]
pub(super) struct Queue<T> {
    lanes: [VecDeque<T>; Priority::COUNT],
    /// Bytes that went first while others waited behind.
    ahead: u64,
    /// The lane that last had its share.
    shared: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { lanes: Default::default(), ahead: 0, shared: 0 }
    }
}

impl<T: Copy + PartialEq> Queue<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    pub(super) fn push(&mut self, priority: Priority, item: T) {
        self.lanes[priority as usize].push_back(item);
    }

    /// Who is next; `bytes` says what each would take.
    pub(super) fn next(&self, bytes: impl Fn(T) -> u64) -> Option<T> {
        self.choose(bytes).map(|(_, item)| item)
    }

    /// Takes out who is next.
    pub(super) fn pop(&mut self, bytes: impl Fn(T) -> u64) -> Option<T> {
        let (lane, item) = self.choose(&bytes)?;
        let first = self.lanes.iter().position(|lane| !lane.is_empty())?;
        self.lanes[lane].pop_front();
        if lane > first {
            self.ahead = self.ahead.saturating_sub((STARVATION_SHARE - 1) * bytes(item));
            self.shared = lane;
        } else if self.behind(first).next().is_some() {
            self.ahead = self.ahead.saturating_add(bytes(item));
        } else {
            self.ahead = 0;
        }
        Some(item)
    }

    /// Takes `item` out, wherever it waits; whether it was there.
    pub(super) fn remove(&mut self, item: T) -> bool {
        self.lanes.iter_mut().any(|lane| {
            let at = lane.iter().position(|waiting| *waiting == item);
            at.and_then(|at| lane.remove(at)).is_some()
        })
    }

    fn choose(&self, bytes: impl Fn(T) -> u64) -> Option<(usize, T)> {
        let first = self.lanes.iter().position(|lane| !lane.is_empty())?;
        // In turn, so that the last one has its share too.
        let after = self.behind(first).find(|lane| *lane > self.shared).or(self.behind(first).next());
        let starving = after.and_then(|lane| Some((lane, *self.lanes[lane].front()?)));
        starving
            .filter(|(_, item)| self.ahead >= (STARVATION_SHARE - 1) * bytes(*item))
            .or_else(|| Some((first, *self.lanes[first].front()?)))
    }

    fn behind(&self, first: usize) -> impl Iterator<Item = usize> {
        (first + 1..Priority::COUNT).filter(|lane| !self.lanes[*lane].is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut Queue<(Priority, u32)>, turns: usize) -> Vec<Priority> {
        // Who went comes again at once: nobody ever has nothing to ask for.
        let turn = |_| {
            let (priority, id) = queue.pop(|_| 100).unwrap();
            queue.push(priority, (priority, id));
            priority
        };
        (0..turns).map(turn).collect()
    }

    #[test]
    fn the_urgent_go_first_and_nobody_starves() {
        let mut queue = Queue::default();
        for priority in [Priority::Repair, Priority::Prefetch, Priority::WaitedDelta] {
            queue.push(priority, (priority, 0));
        }
        let went = drain(&mut queue, 4_000);
        let share = |of| went.iter().filter(|priority| **priority == of).count();
        assert_eq!(went[..19], [Priority::WaitedDelta; 19]);
        assert_eq!(share(Priority::WaitedDelta), 3_800);
        assert_eq!((share(Priority::Prefetch), share(Priority::Repair)), (100, 100));
    }

    #[test]
    fn within_a_priority_they_go_in_the_order_they_came() {
        let mut queue = Queue::default();
        for id in 0..3 {
            queue.push(Priority::Waited, (Priority::Waited, id));
        }
        assert!(queue.remove((Priority::Waited, 1)) && !queue.remove((Priority::Waited, 1)));
        assert_eq!(queue.next(|_| 1), Some((Priority::Waited, 0)));
        assert_eq!(queue.pop(|_| 1), Some((Priority::Waited, 0)));
        assert_eq!(queue.pop(|_| 1), Some((Priority::Waited, 2)));
        assert!(queue.is_empty());
    }

    #[test]
    fn who_waits_alone_owes_nobody_anything_later() {
        let mut queue = Queue::default();
        queue.push(Priority::Waited, (Priority::Waited, 0));
        drain(&mut queue, 1_000);
        queue.push(Priority::Repair, (Priority::Repair, 0));
        assert_eq!(drain(&mut queue, 19), [Priority::Waited; 19]);
    }
}
