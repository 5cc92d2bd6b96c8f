//! Selection of an upstream: the lower priority first, among equals the one with the fewest outstanding bytes. A pure
//! order over figures, and the counter that supplies them: each request holds its expected bytes and returns them as
//! they arrive or when it is dropped.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicU64};

use gupd_config::clock::UnixMillis;

/// Expected bytes of a request before its response states a length: a head and a small delta, so that a hundred
/// requests weigh as much as one set of some MiB.
const ESTIMATE: u64 = 64 << 10;

/// Maximum that one response counts, regardless of its claim: sums must not overflow.
const MAX_RESPONSE: u64 = 1 << 50;

/// One upstream with the figures that order it.
#[derive(Clone, Debug)]
pub(super) struct UpstreamCandidate<T> {
    pub(super) upstream: T,
    /// True if others go first regardless of priority, because it has just cost a request its time-out.
    pub(super) is_last_resort: bool,
    /// Lower goes first.
    pub(super) priority: u32,
    /// Outstanding bytes.
    pub(super) load: u64,
    /// Weight of the slow start.
    pub(super) weight: SlowStartWeight,
    /// Sequence number of the last request; the lower goes first among equals.
    pub(super) last_request: u64,
}

/// Weight in thousandths of an even share; less than 1,000 during the slow start of an upstream that has recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlowStartWeight(u16);

/// Outstanding bytes of an upstream.
#[derive(Debug, Default)]
pub(super) struct OutstandingBytes(Arc<AtomicU64>);

/// Outstanding bytes of one request.
#[derive(Debug)]
pub(super) struct OutstandingRequest {
    load: Arc<AtomicU64>,
    bytes: u64,
}

impl<T> UpstreamCandidate<T> {
    fn compare(&self, other: &Self) -> Ordering {
        let rank = |candidate: &Self| (candidate.is_last_resort, candidate.priority);
        // The load after one more request, relative to the weight: a/s < b/t is a·t < b·s.
        let load = |of: &Self, by: SlowStartWeight| {
            u128::from(of.load.saturating_add(ESTIMATE)).saturating_mul(by.0.into())
        };
        rank(self)
            .cmp(&rank(other))
            .then_with(|| load(self, other.weight).cmp(&load(other, self.weight)))
            .then_with(|| self.last_request.cmp(&other.last_request))
    }
}

/// Sorts candidates by preference. Equals keep their order.
pub(super) fn sort_by_preference<T>(candidates: &mut [UpstreamCandidate<T>]) {
    candidates.sort_by(UpstreamCandidate::compare);
}

impl SlowStartWeight {
    /// Full weight.
    pub(super) const FULL: Self = Self(1_000);

    /// Minimum: a share of zero would never grow.
    const LEAST: Self = Self(10);

    /// Returns the weight of an upstream that recovered `elapsed` ms ago, with a slow start of `slow_start` ms.
    pub(super) fn after(elapsed: UnixMillis, slow_start: UnixMillis) -> Self {
        if elapsed >= slow_start {
            return Self::FULL;
        }
        let part = i128::from(elapsed)
            .saturating_mul(Self::FULL.0.into())
            .checked_div(slow_start.into())
            .unwrap_or(0);
        Self(u16::try_from(part).unwrap_or(0)).max(Self::LEAST)
    }
}

impl OutstandingBytes {
    /// Returns the bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(atomic::Ordering::Relaxed)
    }

    /// Adds a request.
    pub(super) fn add_request(&self) -> OutstandingRequest {
        self.0.fetch_add(ESTIMATE, atomic::Ordering::Relaxed);
        OutstandingRequest { load: self.0.clone(), bytes: ESTIMATE }
    }
}

impl OutstandingRequest {
    /// Replaces the estimate by the response's length.
    pub(super) fn expect(&mut self, length: Option<u64>) {
        if let Some(length) = length {
            let length = length.min(MAX_RESPONSE);
            self.load.fetch_add(length, atomic::Ordering::Relaxed);
            self.load.fetch_sub(self.bytes, atomic::Ordering::Relaxed);
            self.bytes = length;
        }
    }

    /// Subtracts received bytes.
    pub(super) fn received(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.load.fetch_sub(bytes, atomic::Ordering::Relaxed);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Drop for OutstandingRequest {
    fn drop(&mut self) {
        self.load.fetch_sub(self.bytes, atomic::Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(upstream: usize) -> UpstreamCandidate<usize> {
        UpstreamCandidate {
            upstream,
            is_last_resort: false,
            priority: 1,
            load: 0,
            weight: SlowStartWeight::FULL,
            last_request: 0,
        }
    }

    fn first(candidates: &[UpstreamCandidate<usize>]) -> usize {
        let mut ordered = candidates.to_vec();
        sort_by_preference(&mut ordered);
        ordered[0].upstream
    }

    #[test]
    fn lower_priority_goes_first_at_any_load() {
        let busy = UpstreamCandidate { load: 1 << 40, ..candidate(0) };
        let idle = UpstreamCandidate { priority: 2, ..candidate(1) };
        assert_eq!(first(&[idle.clone(), busy.clone()]), 0);
        assert_eq!(first(&[idle, UpstreamCandidate { is_last_resort: true, ..busy }]), 1);
    }

    #[test]
    fn equals_keep_their_order_then_alternate() {
        assert_eq!(first(&[candidate(0), candidate(1)]), 0);
        assert_eq!(first(&[UpstreamCandidate { last_request: 1, ..candidate(0) }, candidate(1)]), 1);
    }

    #[test]
    fn outstanding_bytes_are_returned_exactly() {
        let load = OutstandingBytes::default();
        let (mut whole, mut broken, unknown) = (load.add_request(), load.add_request(), load.add_request());
        assert_eq!(load.bytes(), 3 * ESTIMATE);
        whole.expect(Some(1_000_000));
        broken.expect(Some(u64::MAX));
        assert_eq!(load.bytes(), 1_000_000 + MAX_RESPONSE + ESTIMATE);
        whole.received(999_999);
        whole.received(5);
        broken.received(7);
        assert_eq!(load.bytes(), MAX_RESPONSE - 7 + ESTIMATE);
        drop((whole, broken, unknown));
        assert_eq!(load.bytes(), 0);
    }

    /// Returns how many of `requests` that never end the second of two upstreams gets, which recovered `since` of 30
    /// s ago.
    fn requests_to_recovered(requests: u64, since: UnixMillis) -> u64 {
        let mut both = [
            candidate(0),
            UpstreamCandidate { weight: SlowStartWeight::after(since, 30_000), ..candidate(1) },
        ];
        for turn in 1..=requests {
            let next = first(&both);
            both[next].load += ESTIMATE;
            both[next].last_request = turn;
        }
        both[1].load / ESTIMATE
    }

    #[test]
    fn recovered_upstream_gets_a_growing_share() {
        let given: Vec<u64> =
            [0, 3_000, 15_000, 30_000].iter().map(|since| requests_to_recovered(300, *since)).collect();
        // Its part of both shares: 1 %, 10 %, 50 % and 100 % of an even one.
        for (given, share) in given.iter().zip([0.01, 0.1, 0.5, 1.0_f64]) {
            let fair = 300.0 * share / (1.0 + share);
            assert!((*given as f64 - fair).abs() <= 2.0, "{given} is not about {fair}");
        }
        assert_eq!(SlowStartWeight::after(0, 0), SlowStartWeight::FULL);
    }

    proptest! {
        #[test]
        fn loads_differ_by_at_most_the_largest_response(
            lengths in proptest::collection::vec(0..=100_000_000_u64, 1..200),
            upstreams in 2..5_usize,
        ) {
            let mut all: Vec<_> = (0..upstreams).map(candidate).collect();
            for (turn, length) in lengths.iter().enumerate() {
                let next = first(&all);
                all[next].load += length;
                all[next].last_request = turn as u64 + 1;
            }
            let loads = || all.iter().map(|candidate| candidate.load);
            prop_assert!(loads().max().unwrap() - loads().min().unwrap() <= *lengths.iter().max().unwrap());
        }
    }
}
