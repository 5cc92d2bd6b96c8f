//! Who may send how many bytes when. A flow (a client, or a fill) passes the limits of its path one after the other, a
//! turn at a time: at each it waits its turn among the others and takes the turn's bytes from the limit's bucket. Who has
//! had the fewest bytes of a limit is first there, so whoever shares it gets the same from it, and what some cannot use,
//! held up by a narrower limit, the others get: max-min fair at every limit.
//!
//! A pure function of the calls and their times: no clock, no lock, no task. `pace` has those.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use slab::Slab;

use super::bucket::{Bucket, LEAST, Nanos};
use super::queue::{Place, Priority, Queue};

/// Bytes of one turn, at most: what a socket takes at once, and more would make limits coarse that are far apart.
pub(super) const TURN_MAX: u64 = 64 << 10;

/// The largest turn is a second's bytes divided by this: 8 ms, more than the time between two looks at who may go, so that
/// one who goes first can have all there is, and less than a tenth of the 100 ms in which rates are even.
const SHARE: u64 = 125;

/// With more flows than this, turns are that divided by all of them: what each has stays even in any tenth of a second.
const FEW: u64 = 4;

/// Turns a second at one limit, at most. Each costs 5 to 10 us, to wake somebody: 4 % of a core.
const TURNS: u64 = 4_000;

/// A limit's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LimitId(usize);

/// A flow's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowId(usize);

/// Bytes that one ask of a flow may send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) ask: usize,
    pub(super) bytes: u64,
}

/// All limits and flows of one direction.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    limits: Slab<Limit>,
    flows: Slab<Flow>,
    /// When limits have something to give again. A limit's entry counts only if the limit is armed for that time.
    timers: BinaryHeap<Reverse<(Nanos, usize)>>,
}

#[derive(Debug)]
struct Limit {
    /// None while there is no limit.
    bucket: Option<Bucket>,
    queue: Queue<FlowId>,
    /// The start tag of the turn that passed last: those who come from now on have had nothing before it.
    passed: u64,
    /// Flows that pass here.
    flows: u64,
    armed: Option<Nanos>,
}

#[derive(Debug)]
struct Flow {
    path: Box<[Step]>,
    priority: Priority,
    asks: VecDeque<(usize, u64)>,
    /// The turn under way, and where it waits.
    turn: Option<(Turn, Place)>,
}

/// A limit on a flow's path.
#[derive(Clone, Copy, Debug)]
struct Step {
    limit: LimitId,
    /// The start tag of the flow's next turn there.
    next: u64,
}

/// A turn that is at a limit of its flow's path, having passed those before.
#[derive(Clone, Copy, Debug)]
struct Turn {
    at: usize,
    bytes: u64,
}

impl Schedule {
    /// A limit of `rate` bytes a second, or none for the time being.
    pub(super) fn add_limit(&mut self, rate: Option<u64>, burst: Duration, now: Nanos) -> LimitId {
        let bucket = rate.map(|rate| Bucket::new(rate, burst, now));
        LimitId(self.limits.insert(Limit {
            bucket,
            queue: Queue::default(),
            passed: 0,
            flows: 0,
            armed: None,
        }))
    }

    /// Forgets a limit that no flow passes any more.
    pub(super) fn remove_limit(&mut self, id: LimitId) {
        if self.limits.get(id.0).is_some_and(|limit| limit.flows == 0) {
            self.limits.remove(id.0);
        }
    }

    /// Another rate for a limit, from now on.
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
            (Some(bucket), Some(rate)) => bucket.set(rate, burst, now),
            (bucket, rate) => *bucket = rate.map(|rate| Bucket::new(rate, burst, now)),
        }
        self.serve(id.0, now, grants);
    }

    /// A flow that passes these limits, the narrowest first.
    pub(super) fn join(&mut self, path: &[LimitId]) -> FlowId {
        let known = path.iter().filter(|id| self.limits.contains(id.0));
        let path: Box<[_]> = known.map(|id| Step { limit: *id, next: 0 }).collect();
        for step in &path {
            self.limits[step.limit.0].flows += 1;
        }
        FlowId(self.flows.insert(Flow {
            path,
            priority: Priority::default(),
            asks: VecDeque::new(),
            turn: None,
        }))
    }

    /// The flow has ended. Whatever it still asks for is never granted.
    pub(super) fn leave(&mut self, id: FlowId, now: Nanos) {
        self.take_back_turn(id, now);
        let Some(flow) = self.flows.try_remove(id.0) else { return };
        for step in flow.path {
            self.limits[step.limit.0].flows -= 1;
        }
    }

    /// Asks for up to `want` bytes. A flow's asks have turns one after the other, and each is granted once.
    pub(super) fn ask(&mut self, id: FlowId, ask: usize, want: u64, now: Nanos, grants: &mut Vec<Grant>) {
        let Some(flow) = self.flows.get_mut(id.0) else { return };
        flow.asks.push_back((ask, want));
        if flow.turn.is_none() {
            self.begin(id, now, grants);
        }
    }

    /// Takes an ask back.
    pub(super) fn cancel(&mut self, id: FlowId, ask: usize, now: Nanos, grants: &mut Vec<Grant>) {
        let Some(flow) = self.flows.get_mut(id.0) else { return };
        let had_turn = flow.asks.front().is_some_and(|(first, _)| *first == ask);
        flow.asks.retain(|(known, _)| *known != ask);
        if had_turn {
            self.take_back_turn(id, now);
            self.begin(id, now, grants);
        }
    }

    /// How urgent a flow is from now on, also where it waits.
    pub(super) fn set_priority(&mut self, id: FlowId, priority: Priority) {
        let Some(flow) = self.flows.get_mut(id.0) else { return };
        if std::mem::replace(&mut flow.priority, priority) == priority {
            return;
        }
        if let Some((turn, place)) = &mut flow.turn {
            let queue = &mut self.limits[flow.path[turn.at].limit.0].queue;
            queue.remove(*place);
            *place = queue.push(priority, place.start(), id);
        }
    }

    /// Gives back what was granted to a flow and not used.
    pub(super) fn give_back(&mut self, id: FlowId, bytes: u64) {
        let Some(flow) = self.flows.get(id.0) else { return };
        for step in &flow.path {
            if let Some(bucket) = &mut self.limits[step.limit.0].bucket {
                bucket.give_back(bytes);
            }
        }
    }

    /// When there will be something to grant, if nobody asks meanwhile.
    pub(super) fn next(&mut self) -> Option<Nanos> {
        while let Some(Reverse((at, limit))) = self.timers.peek() {
            if self.limits.get(*limit).is_some_and(|limit| limit.armed == Some(*at)) {
                return Some(*at);
            }
            self.timers.pop();
        }
        None
    }

    /// Grants what can be granted by now.
    pub(super) fn advance(&mut self, now: Nanos, grants: &mut Vec<Grant>) {
        while let Some(at) = self.next()
            && at <= now
            && let Some(Reverse((_, limit))) = self.timers.pop()
        {
            self.serve(limit, now, grants);
        }
    }

    /// Begins the turn of a flow's first ask.
    fn begin(&mut self, id: FlowId, now: Nanos, grants: &mut Vec<Grant>) {
        if let Some(turn) = self.first_turn(id) {
            self.go_on(id, turn, now, grants);
        }
    }

    fn first_turn(&self, id: FlowId) -> Option<Turn> {
        let flow = self.flows.get(id.0)?;
        let (_, want) = flow.asks.front()?;
        let bytes = flow.path.iter().map(|step| self.limits[step.limit.0].turn()).min().unwrap_or(TURN_MAX);
        Some(Turn { at: 0, bytes: bytes.min((*want).max(1)) })
    }

    /// Takes a turn, and then those of the flow's other asks, past every limit that lets them.
    fn go_on(&mut self, id: FlowId, turn: Turn, now: Nanos, grants: &mut Vec<Grant>) {
        let mut next = Some(turn);
        while let Some(turn) = next
            && let Some(bytes) = self.pass(id, turn, now)
        {
            let Some(flow) = self.flows.get_mut(id.0) else { return };
            if let Some((ask, _)) = flow.asks.pop_front() {
                grants.push(Grant { ask, bytes });
            }
            // Its other asks wait behind those of other flows.
            next = self.first_turn(id);
        }
    }

    /// The bytes of a turn that has passed all limits of its flow; `None` if it waits at one.
    fn pass(&mut self, id: FlowId, mut turn: Turn, now: Nanos) -> Option<u64> {
        let flow = self.flows.get_mut(id.0)?;
        while let Some(step) = flow.path.get_mut(turn.at) {
            let number = step.limit.0;
            let limit = &mut self.limits[number];
            let start = step.next.max(limit.passed);
            if let Some(bucket) = &mut limit.bucket {
                turn.bytes = turn.bytes.min(bucket.capacity());
                if !limit.queue.is_empty() || !bucket.take(turn.bytes, now) {
                    // Behind others, it is they whom the limit is armed for, or is being served to.
                    if limit.queue.is_empty() {
                        let at = bucket.ready_at(turn.bytes);
                        limit.armed = Some(at);
                        self.timers.push(Reverse((at, number)));
                    }
                    flow.turn = Some((turn, limit.queue.push(flow.priority, start, id)));
                    return None;
                }
            }
            limit.passed = start;
            step.next = start.saturating_add(turn.bytes);
            turn.at += 1;
        }
        Some(turn.bytes)
    }

    /// Lets those who wait at a limit pass, as far as it has something to give; else waits until it has.
    fn serve(&mut self, number: usize, now: Nanos, grants: &mut Vec<Grant>) {
        loop {
            let Some(limit) = self.limits.get_mut(number) else { return };
            // The rate may be lower than when the turn began: no turn may be more than the limit can ever save up.
            let most = limit.bucket.as_ref().map_or(TURN_MAX, Bucket::capacity);
            let flows = &self.flows;
            let turn = |id: FlowId| flows.get(id.0).and_then(|flow| flow.turn);
            let bytes = |id: FlowId| turn(id).map_or(0, |(turn, _)| turn.bytes.min(most));
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
            let Some((place, next)) = limit.queue.pop(bytes) else { return };
            limit.passed = limit.passed.max(place.start());
            let Some(flow) = self.flows.get_mut(next.0) else { continue };
            if let Some((Turn { at, .. }, _)) = flow.turn.take() {
                flow.path[at].next = place.start().saturating_add(passing);
                self.go_on(next, Turn { at: at + 1, bytes: passing }, now, grants);
            }
        }
    }

    /// Takes a flow's turn out of where it waits; the limits that it has passed get their bytes back.
    fn take_back_turn(&mut self, id: FlowId, now: Nanos) {
        let Some(flow) = self.flows.get_mut(id.0) else { return };
        let Some((turn, place)) = flow.turn.take() else { return };
        for (at, step) in flow.path.iter().enumerate().take(turn.at + 1) {
            let limit = &mut self.limits[step.limit.0];
            if at == turn.at {
                limit.queue.remove(place);
            } else if let Some(bucket) = &mut limit.bucket {
                bucket.give_back(turn.bytes);
            }
            // Somebody else is first now, or has more to take from.
            if limit.armed.is_some() {
                limit.armed = Some(now);
                self.timers.push(Reverse((now, step.limit.0)));
            }
        }
    }
}

impl Limit {
    /// Bytes of one turn here: such that a round of all flows is short, as far as turns are neither too small nor too
    /// many.
    fn turn(&self) -> u64 {
        let Some(bucket) = &self.bucket else { return TURN_MAX };
        let even = bucket.rate() / SHARE / if self.flows > FEW { self.flows } else { 1 };
        even.max(bucket.rate() / TURNS).clamp(LEAST, TURN_MAX).min(bucket.capacity())
    }
}

#[cfg(test)]
mod tests;
