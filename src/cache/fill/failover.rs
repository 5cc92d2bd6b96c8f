//! Order of attempts at several upstreams after a transfer broke: pure. The upstream that gave the last byte is tried
//! first again, because most breaks affect only the connection. A silent or unreachable upstream is tried after all
//! others. Each upstream has its own attempts and its own doubling backoff; one upstream's backoff is spent on the
//! others.

use std::time::Duration;

use tokio::time::Instant;

/// Backoff before the second attempt in a row without a new byte; it doubles with each attempt.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// Maximum backoff: a manager that restarts is found soon after it is back.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Attempts at one upstream before the next one is tried. The second attempt, 0.1 s later, distinguishes a broken
/// connection from a broken manager.
const TRIES_IN_A_ROW: u32 = 2;

/// Reason why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptFailure {
    /// The transfer broke off or the answer was unusable; another attempt may succeed at once.
    Interrupted,
    /// The upstream is unreachable or sends nothing.
    Silent,
    /// The upstream has other content, or none.
    Unsuitable,
}

/// Upstreams that may have the content, by index in the list of candidates.
#[derive(Debug)]
pub(super) struct FailoverOrder {
    upstreams: Vec<UpstreamAttempts>,
    current: usize,
    /// Attempts at the current upstream since it became current.
    tries: u32,
    /// Maximum attempts at each upstream.
    attempts: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct UpstreamAttempts {
    failures: u32,
    /// Time of the next attempt; `None` before the first.
    retry_at: Option<Instant>,
    unsuitable: bool,
}

impl FailoverOrder {
    /// Creates the order for a number of upstreams. `first_failure` is the failure of the first upstream, if it has
    /// just failed.
    pub(super) fn new(upstreams: usize, attempts: u32, first_failure: Option<AttemptFailure>) -> Self {
        let mut failover =
            Self { upstreams: vec![UpstreamAttempts::default(); upstreams], current: 0, tries: 0, attempts };
        if first_failure == Some(AttemptFailure::Silent) {
            failover.advance();
        }
        failover
    }

    /// Delays the first attempt: the current upstream has broken off as often before.
    pub(super) fn after_restarts(mut self, restarts: u32, now: Instant) -> Self {
        if let Some(state) = self.upstreams.get_mut(self.current).filter(|_| restarts > 0) {
            state.retry_at = now.checked_add(backoff(restarts));
        }
        self
    }

    /// Returns the next upstream and the wait before its attempt; `None` when every attempt is used up.
    pub(super) fn next(&self, now: Instant) -> Option<(usize, Duration)> {
        let state = self.upstreams.get(self.current).filter(|state| self.can_try(state))?;
        let wait = state.retry_at.map_or(Duration::ZERO, |retry_at| retry_at.saturating_duration_since(now));
        Some((self.current, wait))
    }

    /// Records that the current upstream brought no byte.
    pub(super) fn record_failure(&mut self, failure: AttemptFailure, now: Instant) {
        self.tries = self.tries.saturating_add(1);
        let Some(state) = self.upstreams.get_mut(self.current) else { return };
        state.failures = state.failures.saturating_add(1);
        state.retry_at = now.checked_add(backoff(state.failures));
        state.unsuitable |= failure == AttemptFailure::Unsuitable;
        let state = *state;
        if failure != AttemptFailure::Interrupted || self.tries >= TRIES_IN_A_ROW || !self.can_try(&state) {
            self.advance();
        }
    }

    /// Moves on to the next upstream that can be tried, if there is one.
    fn advance(&mut self) {
        let count = self.upstreams.len();
        let mut next = (1..count).filter_map(|step| self.current.checked_add(step)?.checked_rem(count));
        let next = next.find(|next| self.upstreams.get(*next).is_some_and(|state| self.can_try(state)));
        if let Some(next) = next {
            self.current = next;
            self.tries = 0;
        }
    }

    fn can_try(&self, state: &UpstreamAttempts) -> bool {
        !state.unsuitable && state.failures < self.attempts
    }
}

fn backoff(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        again => {
            let factor = 2_u32.saturating_pow(again.saturating_sub(1).min(10));
            FIRST_BACKOFF.saturating_mul(factor).min(MAX_BACKOFF)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::AttemptFailure::{Interrupted, Silent, Unsuitable};
    use super::*;

    /// Returns the attempts, each with its wait in milliseconds, for a sequence of immediate failures.
    fn attempts_after(mut failover: FailoverOrder, failures: &[AttemptFailure]) -> Vec<(usize, u64)> {
        let mut now = Instant::now();
        let mut attempted = Vec::new();
        for failure in failures {
            let Some((upstream, wait)) = failover.next(now) else { break };
            attempted.push((upstream, u64::try_from(wait.as_millis()).unwrap()));
            now += wait;
            failover.record_failure(*failure, now);
        }
        attempted
    }

    #[test]
    fn broken_connection_is_retried_before_another_upstream() {
        let failover = FailoverOrder::new(2, 4, Some(Interrupted));
        assert_eq!(
            attempts_after(failover, &[Interrupted; 9]),
            [(0, 0), (0, 100), (1, 0), (1, 100), (0, 100), (0, 400), (1, 0), (1, 400)]
        );
    }

    #[test]
    fn silent_upstream_is_tried_after_all_others() {
        assert_eq!(
            attempts_after(FailoverOrder::new(3, 2, Some(Silent)), &[Silent; 9]),
            [(1, 0), (2, 0), (0, 0), (1, 100), (2, 0), (0, 0)]
        );
        assert_eq!(attempts_after(FailoverOrder::new(1, 2, Some(Silent)), &[Silent; 3]), [(0, 0), (0, 100)]);
    }

    #[test]
    fn upstream_with_other_content_is_not_tried_again() {
        let failover = FailoverOrder::new(2, 3, Some(Interrupted));
        assert_eq!(
            attempts_after(failover, &[Silent, Unsuitable, Interrupted, Interrupted]),
            [(0, 0), (1, 0), (0, 100), (0, 200)]
        );
        assert_eq!(
            attempts_after(FailoverOrder::new(2, 4, None), &[Unsuitable, Unsuitable, Interrupted]),
            [(0, 0), (1, 0)]
        );
    }

    #[test]
    fn backoff_doubles_up_to_the_maximum() {
        assert_eq!(backoff(1), FIRST_BACKOFF);
        assert_eq!(backoff(3), FIRST_BACKOFF * 4);
        assert_eq!(backoff(u32::MAX), MAX_BACKOFF);
    }

    proptest! {
        #[test]
        fn attempts_end_when_each_upstream_has_used_its_own(
            upstreams in 1usize..6,
            attempts in 1u32..10,
            first_failure in prop_oneof![Just(None), Just(Some(Interrupted)), Just(Some(Silent))],
            failures in proptest::collection::vec(prop_oneof![4 => Just(Interrupted), 4 => Just(Silent), 1 => Just(Unsuitable)], 64),
        ) {
            let attempted = attempts_after(FailoverOrder::new(upstreams, attempts, first_failure), &failures);
            for upstream in 0..upstreams {
                let seen = attempted.iter().zip(&failures).filter(|((attempted, _), _)| *attempted == upstream);
                let seen: Vec<_> = seen.map(|(_, failure)| *failure).collect();
                let unsuitable = seen.iter().position(|failure| *failure == Unsuitable);
                prop_assert!(unsuitable.is_none_or(|at| at + 1 == seen.len()), "tried again: {seen:?}");
                prop_assert!(unsuitable.is_some() || seen.len() == attempts as usize, "{upstream}: {seen:?}");
            }
        }
    }
}
