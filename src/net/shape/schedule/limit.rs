//! One limit of the byte schedule: its bucket, its queue, and its shares. A share is for all flows of one owner, or for a
//! single flow. A share that is ahead of its due is remembered after its last flow, so that an owner
//! gains nothing by one short flow after the other.

use std::collections::HashMap;
use std::net::IpAddr;

use slab::Slab;

use super::super::bucket::{Bucket, MIN_CAPACITY, Nanos};
use super::super::queue::{DELTA_LEAD, NextItem, Priority, PriorityQueue, QueuePosition, ShareId, StartTags};
use super::{FlowId, LimitId, MAX_QUANTUM};

/// The largest quantum is a second's bytes divided by this: 8 ms. That is more than the interval between two grants,
/// so that one urgent flow can have everything, and less than a tenth of the 100 ms in which rates are even.
const QUANTA_PER_SECOND: u64 = 125;

/// With more flows than this, the quantum is divided by their number, so that shares stay even in any 100 ms.
const FEW_FLOWS: u64 = 4;

/// Maximum of quanta per second at one limit. Each costs 5 to 10 µs for a wake-up: 4 % of a core.
const MAX_QUANTA_PER_SECOND: u64 = 4_000;

/// Number of owners from which on those without flows are forgotten.
const REMEMBERED_OWNERS: usize = 1_024;

/// A limit, the flows that pass it, and those that wait at it.
#[derive(Debug)]
pub(super) struct ScheduledLimit {
    /// `None` without a rate.
    pub(super) bucket: Option<Bucket>,
    pub(super) queue: PriorityQueue<FlowId>,
    pub(super) armed: Option<Nanos>,
    /// Start tag of the share that was served last; the base of shares that arrive later.
    virtual_time: u64,
    /// Number of flows that pass this limit.
    flows: u64,
    /// Number of shares with flows.
    active: u64,
    shares: Slab<Share>,
    owners: HashMap<IpAddr, ShareId>,
}

/// The part of a limit that the flows of one owner, or one flow, have.
#[derive(Debug)]
struct Share {
    owner: Option<IpAddr>,
    flows: u64,
    /// Start tag of the share's next quantum.
    next: u64,
    /// Start tag of the flow that was served last; the base of flows that arrive later.
    virtual_time: u64,
}

/// One limit on a flow's path.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathStep {
    pub(super) limit: LimitId,
    share: ShareId,
    /// Start tag of the flow's next quantum within its share.
    pub(super) next: u64,
}

impl ScheduledLimit {
    pub(super) fn new(bucket: Option<Bucket>) -> Self {
        Self {
            bucket,
            queue: PriorityQueue::default(),
            armed: None,
            virtual_time: DELTA_LEAD,
            flows: 0,
            active: 0,
            shares: Slab::new(),
            owners: HashMap::new(),
        }
    }

    /// Returns true if no flow passes the limit.
    pub(super) fn is_unused(&self) -> bool {
        self.flows == 0
    }

    /// Maximum of bytes that pass at once.
    pub(super) fn capacity(&self) -> u64 {
        self.bucket.as_ref().map_or(MAX_QUANTUM, Bucket::capacity)
    }

    /// Adds a flow, to the share of its owner if it has one. `id` is the id of this limit.
    pub(super) fn join(&mut self, id: LimitId, owner: Option<IpAddr>) -> PathStep {
        self.flows = self.flows.saturating_add(1);
        let share = match owner.and_then(|owner| self.owners.get(&owner)) {
            Some(share) => *share,
            None => self.add_share(owner),
        };
        if let Some(joined) = self.shares.get_mut(share.0) {
            self.active = self.active.saturating_add(u64::from(joined.flows == 0));
            joined.flows = joined.flows.saturating_add(1);
        }
        PathStep { limit: id, share, next: 0 }
    }

    /// Removes a flow that does not wait here.
    pub(super) fn leave(&mut self, step: &PathStep) {
        self.flows = self.flows.saturating_sub(1);
        let Some(share) = self.shares.get_mut(step.share.0) else { return };
        share.flows = share.flows.saturating_sub(1);
        if share.flows == 0 {
            self.active = self.active.saturating_sub(1);
            if share.owner.is_none() || share.next <= self.virtual_time {
                self.remove_share(step.share);
            }
        }
    }

    /// Returns the number of an owner's flows.
    pub(super) fn flows_of(&self, owner: IpAddr) -> u64 {
        self.owners.get(&owner).map_or(0, |share| self.flows_in(*share))
    }

    /// Queues a flow.
    pub(super) fn enqueue(&mut self, priority: Priority, step: &PathStep, id: FlowId) -> QueuePosition {
        self.queue.push(priority, step.share, self.start(step), id)
    }

    /// Records that a quantum passed without a wait.
    pub(super) fn record_pass(&mut self, step: &mut PathStep, bytes: u64) {
        let start = self.start(step);
        self.virtual_time = start.share;
        step.next = self.charge(step.share, start, bytes);
    }

    /// Records that a quantum of the queue passed. Returns the start tag of the flow's next quantum.
    pub(super) fn record_service(&mut self, next: &NextItem<FlowId>, bytes: u64) -> u64 {
        self.virtual_time = self.virtual_time.max(next.virtual_time);
        self.charge(next.share, next.start, bytes)
    }

    /// Returns the bytes that a flow may take at once. A limit with one flow grants all that it has saved while the flow
    /// waited elsewhere: with small quanta the flow would get less than its share of the other limits, up to a quarter.
    pub(super) fn next_quantum(&mut self, step: &PathStep, now: Nanos) -> u64 {
        let quantum = self.quantum(step);
        match &mut self.bucket {
            Some(bucket) if self.flows == 1 => quantum.max(bucket.available(now)).min(MAX_QUANTUM),
            _ => quantum,
        }
    }

    /// Returns the quantum of a flow here: its part of a round that is short enough for all, within the bounds for size
    /// and frequency.
    fn quantum(&self, step: &PathStep) -> u64 {
        let Some(bucket) = &self.bucket else { return MAX_QUANTUM };
        let flows = self.active.saturating_mul(self.flows_in(step.share));
        let largest = bucket.rate() / QUANTA_PER_SECOND;
        let even = largest.checked_div(flows).filter(|_| flows > FEW_FLOWS).unwrap_or(largest);
        even.max(bucket.rate() / MAX_QUANTA_PER_SECOND)
            .clamp(MIN_CAPACITY, MAX_QUANTUM)
            .min(bucket.capacity())
    }

    fn start(&self, step: &PathStep) -> StartTags {
        let share = self.shares.get(step.share.0);
        let (next, virtual_time) = share.map_or((0, 0), |share| (share.next, share.virtual_time));
        StartTags { share: next.max(self.virtual_time), flow: step.next.max(virtual_time) }
    }

    fn flows_in(&self, share: ShareId) -> u64 {
        self.shares.get(share.0).map_or(0, |share| share.flows)
    }

    fn charge(&mut self, share: ShareId, start: StartTags, bytes: u64) -> u64 {
        if let Some(share) = self.shares.get_mut(share.0) {
            share.next = start.share.saturating_add(bytes);
            share.virtual_time = share.virtual_time.max(start.flow);
        }
        start.flow.saturating_add(bytes)
    }

    fn add_share(&mut self, owner: Option<IpAddr>) -> ShareId {
        if self.owners.len() >= REMEMBERED_OWNERS {
            self.remove_idle_shares();
        }
        let share = ShareId(self.shares.insert(Share { owner, flows: 0, next: 0, virtual_time: 0 }));
        if let Some(owner) = owner {
            self.owners.insert(owner, share);
        }
        share
    }

    fn remove_idle_shares(&mut self) {
        let idle = self.owners.values().filter(|share| self.flows_in(**share) == 0);
        for share in idle.copied().collect::<Vec<_>>() {
            self.remove_share(share);
        }
    }

    fn remove_share(&mut self, share: ShareId) {
        if let Some(owner) = self.shares.try_remove(share.0).and_then(|share| share.owner) {
            self.owners.remove(&owner);
        }
    }
}
