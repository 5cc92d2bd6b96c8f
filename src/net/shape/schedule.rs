//! Schedule of bytes across limits. A flow (a client or a transfer) passes the limits of its path one after the other,
//! one quantum at a time: at each it waits in the queue and takes the quantum's bytes from the limit's bucket. Flows of
//! one owner have one share of a limit, other flows one each. The share that has had the fewest bytes is first, and
//! within it the flow. Bytes that a flow held up by a narrower limit cannot use go to the others: max-min fair at every
//! limit. A flow has one quantum under way, so a wait at one limit delays its next quantum at the others: a limit of its
//! own makes up for that by a larger one.
//!
//! The module is a pure function of the calls and their times: no clock, no lock, no task. `throttle` has those.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use slab::Slab;

use self::limit::{PathStep, ScheduledLimit};
use super::bucket::{Bucket, Nanos};
use super::queue::{Priority, QueuePosition};

mod limit;

/// Maximum of one quantum in bytes: a socket's worth. A larger one would make limits coarse that are far apart.
pub(super) const MAX_QUANTUM: u64 = 64 << 10;

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
struct ScheduledFlow {
    path: Box<[PathStep]>,
    priority: Priority,
    owner: Option<IpAddr>,
    requests: VecDeque<(usize, u64)>,
    /// The current quantum, and its position in a queue.
    quantum: Option<(Quantum, QueuePosition)>,
}

/// A quantum that waits at a limit of its flow's path, having passed the ones before.
#[derive(Clone, Copy, Debug)]
struct Quantum {
    at: usize,
    bytes: u64,
}

impl ScheduledFlow {
    /// Returns the bytes of the flow's quantum, at most the capacity of a limit. The rate of the limit can be lower than
    /// at the start of the quantum.
    fn quantum_within(&self, capacity: u64) -> u64 {
        self.quantum.as_ref().map_or(0, |(quantum, _)| quantum.bytes.min(capacity))
    }
}

impl ByteSchedule {
    /// Adds a limit of `rate` bytes per second, or without a rate for now.
    pub(super) fn add_limit(&mut self, rate: Option<u64>, burst: Duration, now: Nanos) -> LimitId {
        let bucket = rate.map(|rate| Bucket::new(rate, burst, now));
        LimitId(self.limits.insert(ScheduledLimit::new(bucket)))
    }

    /// Removes a limit that no flow passes.
    pub(super) fn remove_limit(&mut self, id: LimitId) {
        if self.limits.get(id.0).is_some_and(ScheduledLimit::is_unused) {
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

    /// Adds a flow that passes these limits, the narrowest first. It has a share of its own at each.
    pub(super) fn add_flow(&mut self, path: &[LimitId]) -> FlowId {
        let join = |id: &LimitId| Some(self.limits.get_mut(id.0)?.join(*id, None));
        let path = path.iter().filter_map(join).collect();
        FlowId(self.flows.insert(ScheduledFlow {
            path,
            priority: Priority::default(),
            owner: None,
            requests: VecDeque::new(),
            quantum: None,
        }))
    }

    /// Makes a flow one of its owner's, which have one share of each limit together. `None` gives it shares of its own.
    pub(super) fn set_owner(&mut self, id: FlowId, owner: Option<IpAddr>) {
        let Some(flow) = self.flows.get_mut(id.0) else { return };
        if std::mem::replace(&mut flow.owner, owner) == owner {
            return;
        }
        for (at, step) in flow.path.iter_mut().enumerate() {
            let Some(limit) = self.limits.get_mut(step.limit.0) else { continue };
            let waiting = flow.quantum.as_ref().filter(|(quantum, _)| quantum.at == at);
            let waiting = waiting.and_then(|(_, position)| limit.queue.remove(*position));
            limit.leave(step);
            *step = limit.join(step.limit, owner);
            if let (Some(_), Some((_, position))) = (waiting, &mut flow.quantum) {
                *position = limit.enqueue(flow.priority, step, id);
            }
        }
    }

    /// Returns the number of an owner's flows at a limit.
    pub(super) fn flows_of(&self, owner: IpAddr, limit: LimitId) -> u64 {
        self.limits.get(limit.0).map_or(0, |limit| limit.flows_of(owner))
    }

    /// Removes a flow. Its open requests are never granted.
    pub(super) fn remove_flow(&mut self, id: FlowId, now: Nanos) {
        self.withdraw_quantum(id, now);
        let Some(flow) = self.flows.try_remove(id.0) else { return };
        for step in &flow.path {
            if let Some(limit) = self.limits.get_mut(step.limit.0) {
                limit.leave(step);
            }
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
            let Some(step) = flow.path.get(quantum.at) else { return };
            let Some(limit) = self.limits.get_mut(step.limit.0) else { return };
            limit.queue.remove(*position);
            *position = limit.enqueue(priority, step, id);
        }
    }

    /// Gives granted bytes that a flow did not use back to its limits.
    pub(super) fn put_back(&mut self, id: FlowId, bytes: u64) {
        let Some(flow) = self.flows.get(id.0) else { return };
        for step in &flow.path {
            let limit = self.limits.get_mut(step.limit.0);
            if let Some(bucket) = limit.and_then(|limit| limit.bucket.as_mut()) {
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
        let next_quantum = |step: &PathStep| Some(self.limits.get_mut(step.limit.0)?.next_quantum(step, now));
        let quanta = flow.path.iter().filter_map(next_quantum);
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
            let limit = self.limits.get_mut(number)?;
            if let Some(bucket) = &mut limit.bucket {
                quantum.bytes = quantum.bytes.min(bucket.capacity());
                if !limit.queue.is_empty() || !bucket.take(quantum.bytes, now) {
                    // Without a timer, the limit is being served and goes on with its queue.
                    let is_served = !limit.queue.is_empty() && limit.armed.is_none();
                    flow.quantum = Some((quantum, limit.enqueue(flow.priority, step, id)));
                    if !is_served {
                        self.arm(number, now);
                    }
                    return None;
                }
            }
            limit.record_pass(step, quantum.bytes);
            quantum.at = quantum.at.saturating_add(1);
        }
        Some(quantum.bytes)
    }

    /// Lets queued flows pass a limit as far as it has bytes, then arms it for the next.
    fn serve(&mut self, number: usize, now: Nanos, grants: &mut Vec<Grant>) {
        loop {
            let Some(limit) = self.limits.get_mut(number) else { return };
            let (flows, capacity) = (&self.flows, limit.capacity());
            let bytes = |id: FlowId| flows.get(id.0).map_or(0, |flow| flow.quantum_within(capacity));
            limit.armed = None;
            let Some(next) = limit.queue.next(bytes) else { return };
            let passing = bytes(next);
            if limit.bucket.as_mut().is_some_and(|bucket| !bucket.take(passing, now)) {
                return self.set_timer(number, passing, now);
            }
            let Some(next) = limit.queue.pop(bytes) else { return };
            let id = next.item;
            let next_start = limit.record_service(&next, passing);
            let Some(flow) = self.flows.get_mut(id.0) else { continue };
            if let Some((Quantum { at, .. }, _)) = flow.quantum.take() {
                if let Some(step) = flow.path.get_mut(at) {
                    step.next = next_start;
                }
                let next = Quantum { at: at.saturating_add(1), bytes: passing };
                self.advance_flow(id, next, now, grants);
            }
        }
    }

    /// Arms a limit for the flow that is next. One that arrives must not wait for the larger quantum of another that the
    /// limit was armed for: it would get one small quantum for each large one, and less than its share.
    fn arm(&mut self, number: usize, now: Nanos) {
        let Some(limit) = self.limits.get_mut(number) else { return };
        let (flows, capacity) = (&self.flows, limit.capacity());
        let bytes = |id: FlowId| flows.get(id.0).map_or(0, |flow| flow.quantum_within(capacity));
        if let Some(bytes) = limit.queue.next(bytes).map(bytes) {
            self.set_timer(number, bytes, now);
        }
    }

    /// Arms a limit for the time at which it has these bytes.
    fn set_timer(&mut self, number: usize, bytes: u64, now: Nanos) {
        let Some(limit) = self.limits.get_mut(number) else { return };
        let at = limit.bucket.as_ref().map_or(now, |bucket| bucket.ready_at(bytes).max(now));
        if limit.armed.replace(at) != Some(at) {
            self.timers.push(Reverse((at, number)));
        }
    }

    /// Withdraws a flow's quantum from its queue. The limits it has passed get their bytes back.
    fn withdraw_quantum(&mut self, id: FlowId, now: Nanos) {
        let Some(flow) = self.flows.get_mut(id.0) else { return };
        let Some((quantum, position)) = flow.quantum.take() else { return };
        for (at, step) in flow.path.iter().enumerate().take(quantum.at.saturating_add(1)) {
            let Some(limit) = self.limits.get_mut(step.limit.0) else { continue };
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

#[cfg(test)]
mod tests;
