//! Schedule of bytes across limits. A flow (a client or a fill) passes the limits of its path one after the other,
//! one quantum at a time: at each it waits in the queue and takes the quantum's bytes from the limit's bucket. The
//! flow that has had the fewest bytes of a limit is first, so flows share it evenly. Bytes that a flow held up by a
//! narrower limit cannot use go to the others: max-min fair at every limit. A flow has one quantum under way, so a wait
//! at one limit delays its next quantum at the others: a limit of its own makes up for that by a larger one.
//!
//! The module is a pure function of the calls and their times: no clock, no lock, no task. `throttle` has those.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use slab::Slab;

use super::bucket::{Bucket, MIN_CAPACITY, Nanos};
use super::queue::{Priority, PriorityQueue, QueuePosition};

/// Maximum of one quantum in bytes: a socket's worth. A larger one would make limits coarse that are far apart.
pub(super) const MAX_QUANTUM: u64 = 64 << 10;

/// The largest quantum is a second's bytes divided by this: 8 ms. That is more than the interval between two grants,
/// so that one urgent flow can have everything, and less than a tenth of the 100 ms in which rates are even.
const QUANTA_PER_SECOND: u64 = 125;

/// With more flows than this, the quantum is divided by their number, so that shares stay even in any 100 ms.
const FEW_FLOWS: u64 = 4;

/// Maximum of quanta per second at one limit. Each costs 5 to 10 µs for a wake-up: 4 % of a core.
const MAX_QUANTA_PER_SECOND: u64 = 4_000;

/// Index of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LimitId(usize);

/// Index of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowId(usize);

/// Bytes that one request of a flow may send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) request: usize,
    pub(super) bytes: u64,
}

/// All limits and flows of one direction.
#[derive(Debug, Default)]
pub(super) struct ByteSchedule {
    limits: Slab<ScheduledLimit>,
    flows: Slab<ScheduledFlow>,
    /// Times at which limits can grant again. An entry counts only if its limit is armed for that time.
    timers: BinaryHeap<Reverse<(Nanos, usize)>>,
}

#[derive(Debug)]
struct ScheduledLimit {
    /// `None` without a rate.
    bucket: Option<Bucket>,
    queue: PriorityQueue<FlowId>,
    /// Start tag of the quantum that passed last; the base of flows that arrive later.
    last_start: u64,
    /// Number of flows that pass this limit.
    flows: u64,
    armed: Option<Nanos>,
}

#[derive(Debug)]
struct ScheduledFlow {
    path: Box<[PathStep]>,
    priority: Priority,
    requests: VecDeque<(usize, u64)>,
    /// The current quantum, and its position in a queue.
    quantum: Option<(Quantum, QueuePosition)>,
}

/// One limit on a flow's path.
#[derive(Clone, Copy, Debug)]
struct PathStep {
    limit: LimitId,
    /// Start tag of the flow's next quantum there.
    next: u64,
}

/// A quantum that waits at a limit of its flow's path, having passed the ones before.
#[derive(Clone, Copy, Debug)]
struct Quantum {
    at: usize,
    bytes: u64,
}

impl ByteSchedule {
    /// Adds a limit of `rate` bytes per second, or without a rate for now.
    pub(super) fn add_limit(&mut self, rate: Option<u64>, burst: Duration, now: Nanos) -> LimitId {
        let bucket = rate.map(|rate| Bucket::new(rate, burst, now));
        LimitId(self.limits.insert(ScheduledLimit {
            bucket,
            queue: PriorityQueue::default(),
            last_start: 0,
            flows: 0,
            armed: None,
        }))
    }

    /// Removes a limit that no flow passes.
    pub(super) fn remove_limit(&mut self, id: LimitId) {
        if self.limits.get(id.0).is_some_and(|limit| limit.flows == 0) {
            self.limits.remove(id.0);
        }
    }

    /// Changes the rate of a limit.
    pub(super) fn set_rate(
        &mut self,
        id: LimitId,
        rate: Option<u64>,
        burst: Duration,
        now: Nanos,
        grants: &mut Vec<Grant>,
    ) {
        let Some(limit) = self.limits.get_mut(id.0) else { return };
        match (&mut limit.bucket, rate) {
            (Some(bucket), Some(rate)) => bucket.set_rate(rate, burst, now),
            (bucket, rate) => *bucket = rate.map(|rate| Bucket::new(rate, burst, now)),
        }
        self.serve(id.0, now, grants);
    }

    /// Adds a flow that passes these limits, the narrowest first.
    pub(super) fn add_flow(&mut self, path: &[LimitId]) -> FlowId {
        let known = path.iter().filter(|id| self.limits.contains(id.0));
        let path: Box<[_]> = known.map(|id| PathStep { limit: *id, next: 0 }).collect();
        for step in &path {
            self.limits[step.limit.0].flows += 1;
        }
        FlowId(self.flows.insert(ScheduledFlow {
            path,
            priority: Priority::default(),
            requests: VecDeque::new(),
            quantum: None,
        }))
    }

    /// Removes a flow. Its open requests are never granted.
    pub(super) fn remove_flow(&mut self, id: FlowId, now: Nanos) {
        self.withdraw_quantum(id, now);
        let Some(flow) = self.flows.try_remove(id.0) else { return };
        for step in flow.path {
            self.limits[step.limit.0].flows -= 1;
        }
    }

    /// Requests up to `want` bytes. Requests of a flow are served in order, each granted once.
    pub(super) fn enqueue(
        &mut self,
        id: FlowId,
        request: usize,
        want: u64,
        now: Nanos,
        grants: &mut Vec<Grant>,
    ) {
        let Some(flow) = self.flows.get_mut(id.0) else { return };
        flow.requests.push_back((request, want));
        if flow.quantum.is_none() {
            self.start_next(id, now, grants);
        }
    }

    /// Cancels a request.
    pub(super) fn cancel(&mut self, id: FlowId, request: usize, now: Nanos, grants: &mut Vec<Grant>) {
        let Some(flow) = self.flows.get_mut(id.0) else { return };
        let is_current = flow.requests.front().is_some_and(|(first, _)| *first == request);
        flow.requests.retain(|(known, _)| *known != request);
        if is_current {
            self.withdraw_quantum(id, now);
            self.start_next(id, now, grants);
        }
    }

    /// Changes the priority of a flow, also where it waits.
    pub(super) fn set_priority(&mut self, id: FlowId, priority: Priority) {
        let Some(flow) = self.flows.get_mut(id.0) else { return };
        if std::mem::replace(&mut flow.priority, priority) == priority {
            return;
        }
        if let Some((quantum, position)) = &mut flow.quantum {
            let queue = &mut self.limits[flow.path[quantum.at].limit.0].queue;
            queue.remove(*position);
            *position = queue.push(priority, position.start(), id);
        }
    }

    /// Returns bytes that were granted to a flow and not used.
    pub(super) fn put_back(&mut self, id: FlowId, bytes: u64) {
        let Some(flow) = self.flows.get(id.0) else { return };
        for step in &flow.path {
            if let Some(bucket) = &mut self.limits[step.limit.0].bucket {
                bucket.put_back(bytes);
            }
        }
    }

    /// Returns the time of the next grant, if nothing is requested meanwhile.
    pub(super) fn next(&mut self) -> Option<Nanos> {
        while let Some(Reverse((at, limit))) = self.timers.peek() {
            if self.limits.get(*limit).is_some_and(|limit| limit.armed == Some(*at)) {
                return Some(*at);
            }
            self.timers.pop();
        }
        None
    }

    /// Grants everything possible at `now`.
    pub(super) fn advance(&mut self, now: Nanos, grants: &mut Vec<Grant>) {
        while let Some(at) = self.next()
            && at <= now
            && let Some(Reverse((_, limit))) = self.timers.pop()
        {
            self.serve(limit, now, grants);
        }
    }

    /// Starts the quantum of a flow's first request.
    fn start_next(&mut self, id: FlowId, now: Nanos, grants: &mut Vec<Grant>) {
        if let Some(quantum) = self.first_quantum(id, now) {
            self.advance_flow(id, quantum, now, grants);
        }
    }

    fn first_quantum(&mut self, id: FlowId, now: Nanos) -> Option<Quantum> {
        let flow = self.flows.get(id.0)?;
        let (_, want) = flow.requests.front()?;
        let quanta = flow.path.iter().map(|step| self.limits[step.limit.0].next_quantum(now));
        let bytes = quanta.min().unwrap_or(MAX_QUANTUM);
        Some(Quantum { at: 0, bytes: bytes.min((*want).max(1)) })
    }

    /// Moves a quantum, and then those of the flow's other requests, past every limit that permits them.
    fn advance_flow(&mut self, id: FlowId, quantum: Quantum, now: Nanos, grants: &mut Vec<Grant>) {
        let mut next = Some(quantum);
        while let Some(quantum) = next
            && let Some(bytes) = self.pass(id, quantum, now)
        {
            let Some(flow) = self.flows.get_mut(id.0) else { return };
            if let Some((request, _)) = flow.requests.pop_front() {
                grants.push(Grant { request, bytes });
            }
            // Its other requests queue behind those of other flows.
            next = self.first_quantum(id, now);
        }
    }

    /// Returns the bytes of a quantum that passed all limits of its flow; `None` if it waits at one.
    fn pass(&mut self, id: FlowId, mut quantum: Quantum, now: Nanos) -> Option<u64> {
        let flow = self.flows.get_mut(id.0)?;
        while let Some(step) = flow.path.get_mut(quantum.at) {
            let number = step.limit.0;
            let limit = &mut self.limits[number];
            let start = step.next.max(limit.last_start);
            if let Some(bucket) = &mut limit.bucket {
                quantum.bytes = quantum.bytes.min(bucket.capacity());
                if !limit.queue.is_empty() || !bucket.take(quantum.bytes, now) {
                    // Behind others, the limit is armed for those, or is being served to them.
                    if limit.queue.is_empty() {
                        let at = bucket.ready_at(quantum.bytes);
                        limit.armed = Some(at);
                        self.timers.push(Reverse((at, number)));
                    }
                    flow.quantum = Some((quantum, limit.queue.push(flow.priority, start, id)));
                    return None;
                }
            }
            limit.last_start = start;
            step.next = start.saturating_add(quantum.bytes);
            quantum.at += 1;
        }
        Some(quantum.bytes)
    }

    /// Lets queued flows pass a limit as far as it has bytes, then arms it for the next.
    fn serve(&mut self, number: usize, now: Nanos, grants: &mut Vec<Grant>) {
        loop {
            let Some(limit) = self.limits.get_mut(number) else { return };
            // The rate can be lower than at the start of the quantum, which must not exceed the bucket's capacity.
            let capacity = limit.bucket.as_ref().map_or(MAX_QUANTUM, Bucket::capacity);
            let flows = &self.flows;
            let quantum = |id: FlowId| flows.get(id.0).and_then(|flow| flow.quantum);
            let bytes = |id: FlowId| quantum(id).map_or(0, |(quantum, _)| quantum.bytes.min(capacity));
            limit.armed = None;
            let Some(next) = limit.queue.next(bytes) else { return };
            let passing = bytes(next);
            if let Some(bucket) = &mut limit.bucket
                && !bucket.take(passing, now)
            {
                let at = bucket.ready_at(passing);
                limit.armed = Some(at);
                self.timers.push(Reverse((at, number)));
                return;
            }
            let Some((position, next)) = limit.queue.pop(bytes) else { return };
            limit.last_start = limit.last_start.max(position.start());
            let Some(flow) = self.flows.get_mut(next.0) else { continue };
            if let Some((Quantum { at, .. }, _)) = flow.quantum.take() {
                flow.path[at].next = position.start().saturating_add(passing);
                self.advance_flow(next, Quantum { at: at + 1, bytes: passing }, now, grants);
            }
        }
    }

    /// Withdraws a flow's quantum from its queue. The limits it has passed get their bytes back.
    fn withdraw_quantum(&mut self, id: FlowId, now: Nanos) {
        let Some(flow) = self.flows.get_mut(id.0) else { return };
        let Some((quantum, position)) = flow.quantum.take() else { return };
        for (at, step) in flow.path.iter().enumerate().take(quantum.at + 1) {
            let limit = &mut self.limits[step.limit.0];
            if at == quantum.at {
                limit.queue.remove(position);
            } else if let Some(bucket) = &mut limit.bucket {
                bucket.put_back(quantum.bytes);
            }
            // Another flow is first now, or more bytes are available.
            if limit.armed.is_some() {
                limit.armed = Some(now);
                self.timers.push(Reverse((now, step.limit.0)));
            }
        }
    }
}

impl ScheduledLimit {
    /// Returns the bytes that a flow may take of this limit at once. A limit with one flow grants all that it has saved
    /// while the flow waited elsewhere: with small quanta the flow would get less than its share of the other limits, up
    /// to a quarter.
    fn next_quantum(&mut self, now: Nanos) -> u64 {
        let quantum = self.quantum();
        match &mut self.bucket {
            Some(bucket) if self.flows == 1 => quantum.max(bucket.available(now)).min(MAX_QUANTUM),
            _ => quantum,
        }
    }

    /// Returns the quantum of this limit: small enough for short rounds of all flows, within the bounds for size and
    /// frequency.
    fn quantum(&self) -> u64 {
        let Some(bucket) = &self.bucket else { return MAX_QUANTUM };
        let even = bucket.rate() / QUANTA_PER_SECOND / if self.flows > FEW_FLOWS { self.flows } else { 1 };
        even.max(bucket.rate() / MAX_QUANTA_PER_SECOND)
            .clamp(MIN_CAPACITY, MAX_QUANTUM)
            .min(bucket.capacity())
    }
}

#[cfg(test)]
mod tests;
