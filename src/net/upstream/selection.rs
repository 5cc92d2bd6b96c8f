//! Which upstream of a route is asked first: the smaller priority, and among equals who has the fewest bytes still to
//! send. A pure order over figures, and the counter that the figures come from: each request holds what it will bring,
//! and gives it back as it comes or when it is dropped.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicU64};

use gupd_config::clock::UnixMillis;

/// What a request counts before it is known how long its response is, and a response that does not say: a head and a
/// small delta, so that a hundred requests weigh as much as one set of some MiB.
const REQUEST: u64 = 64 << 10;

/// No response counts for more, whatever it claims: sums of them must not wrap.
const MOST: u64 = 1 << 50;

/// One upstream, as the order sees it.
#[derive(Clone, Debug)]
pub(super) struct Candidate<T> {
    pub(super) upstream: T,
    /// Others go before it, whatever their priority: it has just cost a request its time.
    pub(super) last: bool,
    /// Smaller goes first.
    pub(super) priority: u32,
    /// Bytes it still has to send.
    pub(super) load: u64,
    /// How much of its share it gets.
    pub(super) share: Share,
    /// When it was last asked, as a number that grows: equals take turns.
    pub(super) asked: u64,
}

/// A part of an even share: less than all for an upstream that has just recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Share(u16);

/// Bytes that upstreams have still to send.
#[derive(Debug, Default)]
pub(super) struct Load(Arc<AtomicU64>);

/// What one request holds of a [`Load`].
#[derive(Debug)]
pub(super) struct Outstanding {
    load: Arc<AtomicU64>,
    bytes: u64,
}

impl<T> Candidate<T> {
    fn compare(&self, other: &Self) -> Ordering {
        let place = |candidate: &Self| (candidate.last, candidate.priority);
        // What a request to it would make of its load, by its share: a/s < b/t is a·t < b·s.
        let load = |of: &Self, by: Share| u128::from(of.load.saturating_add(REQUEST)) * u128::from(by.0);
        place(self)
            .cmp(&place(other))
            .then_with(|| load(self, other.share).cmp(&load(other, self.share)))
            .then_with(|| self.asked.cmp(&other.asked))
    }
}

/// Puts candidates into the order in which they are asked. Equals stay as they are.
pub(super) fn order<T>(candidates: &mut [Candidate<T>]) {
    candidates.sort_by(Candidate::compare);
}

impl Share {
    /// All of it.
    pub(super) const FULL: Self = Self(1_000);

    /// Nothing would never grow.
    const LEAST: Self = Self(10);

    /// The part that has been earned after `since` of `whole`.
    pub(super) fn of(since: UnixMillis, whole: UnixMillis) -> Self {
        if since >= whole {
            return Self::FULL;
        }
        let part = i128::from(since) * i128::from(Self::FULL.0) / i128::from(whole);
        Self(u16::try_from(part).unwrap_or(0)).max(Self::LEAST)
    }
}

impl Load {
    /// Bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(atomic::Ordering::Relaxed)
    }

    /// Counts a request.
    pub(super) fn request(&self) -> Outstanding {
        self.0.fetch_add(REQUEST, atomic::Ordering::Relaxed);
        Outstanding { load: self.0.clone(), bytes: REQUEST }
    }
}

impl Outstanding {
    /// Counts a response of this length in place of its request.
    pub(super) fn expect(&mut self, length: Option<u64>) {
        if let Some(length) = length {
            let length = length.min(MOST);
            self.load.fetch_add(length, atomic::Ordering::Relaxed);
            self.load.fetch_sub(self.bytes, atomic::Ordering::Relaxed);
            self.bytes = length;
        }
    }

    /// So many of its bytes have come.
    pub(super) fn received(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.load.fetch_sub(bytes, atomic::Ordering::Relaxed);
        self.bytes -= bytes;
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.load.fetch_sub(self.bytes, atomic::Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(upstream: usize) -> Candidate<usize> {
        Candidate { upstream, last: false, priority: 1, load: 0, share: Share::FULL, asked: 0 }
    }

    fn first(candidates: &[Candidate<usize>]) -> usize {
        let mut ordered = candidates.to_vec();
        order(&mut ordered);
        ordered[0].upstream
    }

    #[test]
    fn the_smaller_priority_goes_first_whatever_its_load() {
        let busy = Candidate { load: 1 << 40, ..candidate(0) };
        let idle = Candidate { priority: 2, ..candidate(1) };
        assert_eq!(first(&[idle.clone(), busy.clone()]), 0);
        assert_eq!(first(&[idle, Candidate { last: true, ..busy }]), 1);
    }

    #[test]
    fn equals_stay_in_their_order_and_then_take_turns() {
        assert_eq!(first(&[candidate(0), candidate(1)]), 0);
        assert_eq!(first(&[Candidate { asked: 1, ..candidate(0) }, candidate(1)]), 1);
    }

    #[test]
    fn what_is_outstanding_is_given_back_to_the_byte() {
        let load = Load::default();
        let (mut whole, mut broken, unknown) = (load.request(), load.request(), load.request());
        assert_eq!(load.bytes(), 3 * REQUEST);
        whole.expect(Some(1_000_000));
        broken.expect(Some(u64::MAX));
        assert_eq!(load.bytes(), 1_000_000 + MOST + REQUEST);
        whole.received(999_999);
        whole.received(5);
        broken.received(7);
        assert_eq!(load.bytes(), MOST - 7 + REQUEST);
        drop((whole, broken, unknown));
        assert_eq!(load.bytes(), 0);
    }

    /// How many of `requests` that never end the second of two upstreams gets, which has recovered `since` of 30 s ago.
    fn given_to_the_recovered(requests: u64, since: UnixMillis) -> u64 {
        let mut both = [candidate(0), Candidate { share: Share::of(since, 30_000), ..candidate(1) }];
        for turn in 1..=requests {
            let next = first(&both);
            both[next].load += REQUEST;
            both[next].asked = turn;
        }
        both[1].load / REQUEST
    }

    #[test]
    fn who_has_recovered_gets_a_growing_share() {
        let given: Vec<u64> =
            [0, 3_000, 15_000, 30_000].iter().map(|since| given_to_the_recovered(300, *since)).collect();
        // Its part of both shares: 1 %, 10 %, 50 % and 100 % of an even one.
        for (given, share) in given.iter().zip([0.01, 0.1, 0.5, 1.0_f64]) {
            let fair = 300.0 * share / (1.0 + share);
            assert!((*given as f64 - fair).abs() <= 2.0, "{given} is not about {fair}");
        }
        assert_eq!(Share::of(0, 0), Share::FULL);
    }

    proptest! {
        #[test]
        fn loads_of_one_priority_never_differ_by_more_than_the_largest_response(
            lengths in proptest::collection::vec(0..=100_000_000_u64, 1..200),
            upstreams in 2..5_usize,
        ) {
            let mut all: Vec<_> = (0..upstreams).map(candidate).collect();
            for (turn, length) in lengths.iter().enumerate() {
                let next = first(&all);
                all[next].load += length;
                all[next].asked = turn as u64 + 1;
            }
            let loads = || all.iter().map(|candidate| candidate.load);
            prop_assert!(loads().max().unwrap() - loads().min().unwrap() <= *lengths.iter().max().unwrap());
        }
    }
}
