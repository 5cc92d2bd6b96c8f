//! Whose turn it is when a transfer broke: pure. The upstream that gave the last byte is asked again first, for most
//! breaks are the connection's; one that cannot be reached or says nothing only after all others. Each has its attempts
//! and its waits, which double; the wait for one is time for the others, so that several make no client wait longer.

use std::time::Duration;

use tokio::time::Instant;

/// The wait before an upstream's second attempt in a row without a new byte; it doubles with each.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest wait: a manager that restarts is met soon after it is back.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Attempts at one upstream before another has a turn: the second tells a connection that broke from a manager that
/// does, a tenth of a second later.
const TRIES_IN_A_ROW: u32 = 2;

/// Why an upstream did not give what was wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptFailure {
    /// It broke off, or its answer is of no use: another attempt may do better at once.
    Interrupted,
    /// It cannot be reached, or says nothing.
    Silent,
    /// It has other content, or none.
    Unsuitable,
}

/// The upstreams that may have the content, by their place in a list that begins with who gave the last byte.
#[derive(Debug)]
pub(super) struct FailoverOrder {
    upstreams: Vec<UpstreamAttempts>,
    current: usize,
    /// Attempts at the one whose turn it is, since it began.
    tries: u32,
    /// How many each has in all.
    attempts: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct UpstreamAttempts {
    failures: u32,
    /// Not before; at once, if it was not attempts_made yet.
    retry_at: Option<Instant>,
    unsuitable: bool,
}

impl FailoverOrder {
    /// Of so many upstreams. `broke` says how the first one has just failed, if it has.
    pub(super) fn new(upstreams: usize, attempts: u32, broke: Option<AttemptFailure>) -> Self {
        let mut failover =
            Self { upstreams: vec![UpstreamAttempts::default(); upstreams], current: 0, tries: 0, attempts };
        if broke == Some(AttemptFailure::Silent) {
            failover.advance();
        }
        failover
    }

    /// Who is asked next, and after which wait; `None` if nobody is any more.
    pub(super) fn next(&self, now: Instant) -> Option<(usize, Duration)> {
        let attempts_made =
            self.upstreams.get(self.current).filter(|attempts_made| self.can_try(attempts_made))?;
        let wait =
            attempts_made.retry_at.map_or(Duration::ZERO, |retry_at| retry_at.saturating_duration_since(now));
        Some((self.current, wait))
    }

    /// The one whose turn it is brought no byte.
    pub(super) fn record_failure(&mut self, failure: AttemptFailure, now: Instant) {
        self.tries += 1;
        let Some(attempts_made) = self.upstreams.get_mut(self.current) else { return };
        attempts_made.failures += 1;
        attempts_made.retry_at = Some(now + backoff(attempts_made.failures));
        attempts_made.unsuitable |= failure == AttemptFailure::Unsuitable;
        let attempts_made = *attempts_made;
        if failure != AttemptFailure::Interrupted
            || self.tries >= TRIES_IN_A_ROW
            || !self.can_try(&attempts_made)
        {
            self.advance();
        }
    }

    /// The turn is the next one's that may have the content, if there is another.
    fn advance(&mut self) {
        let count = self.upstreams.len();
        let next = (1..count).map(|step| (self.current + step) % count);
        let next = next.into_iter().find(|next| self.can_try(&self.upstreams[*next]));
        if let Some(next) = next {
            self.current = next;
            self.tries = 0;
        }
    }

    fn can_try(&self, attempts_made: &UpstreamAttempts) -> bool {
        !attempts_made.unsuitable && attempts_made.failures < self.attempts
    }
}

fn backoff(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        again => FIRST_BACKOFF.saturating_mul(1 << (again - 1).min(10)).min(MAX_BACKOFF),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::AttemptFailure::{Interrupted, Silent, Unsuitable};
    use super::*;

    /// Who is asked, after how many milliseconds, when all that happens is this, and at once.
    fn asked(mut failover: FailoverOrder, failures_seen: &[AttemptFailure]) -> Vec<(usize, u64)> {
        let mut now = Instant::now();
        let mut asked = Vec::new();
        for failure in failures_seen {
            let Some((who, wait)) = failover.next(now) else { break };
            asked.push((who, u64::try_from(wait.as_millis()).unwrap()));
            now += wait;
            failover.record_failure(*failure, now);
        }
        asked
    }

    #[test]
    fn a_connection_that_broke_is_made_again_before_another_upstream_is_asked() {
        let failover = FailoverOrder::new(2, 4, Some(Interrupted));
        assert_eq!(
            asked(failover, &[Interrupted; 9]),
            [(0, 0), (0, 100), (1, 0), (1, 100), (0, 100), (0, 400), (1, 0), (1, 400)]
        );
    }

    #[test]
    fn one_that_says_nothing_is_asked_after_all_others() {
        assert_eq!(
            asked(FailoverOrder::new(3, 2, Some(Silent)), &[Silent; 9]),
            [(1, 0), (2, 0), (0, 0), (1, 100), (2, 0), (0, 0)]
        );
        assert_eq!(asked(FailoverOrder::new(1, 2, Some(Silent)), &[Silent; 3]), [(0, 0), (0, 100)]);
    }

    #[test]
    fn one_that_has_other_content_is_not_asked_again() {
        let failover = FailoverOrder::new(2, 3, Some(Interrupted));
        assert_eq!(
            asked(failover, &[Silent, Unsuitable, Interrupted, Interrupted]),
            [(0, 0), (1, 0), (0, 100), (0, 200)]
        );
        assert_eq!(
            asked(FailoverOrder::new(2, 4, None), &[Unsuitable, Unsuitable, Interrupted]),
            [(0, 0), (1, 0)]
        );
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        assert_eq!(backoff(1), FIRST_BACKOFF);
        assert_eq!(backoff(3), FIRST_BACKOFF * 4);
        assert_eq!(backoff(u32::MAX), MAX_BACKOFF);
    }

    proptest! {
        #[test]
        fn trying_ends_when_each_that_may_have_it_had_its_attempts(
            upstreams in 1usize..6,
            attempts in 1u32..10,
            broke in prop_oneof![Just(None), Just(Some(Interrupted)), Just(Some(Silent))],
            failures_seen in proptest::collection::vec(prop_oneof![4 => Just(Interrupted), 4 => Just(Silent), 1 => Just(Unsuitable)], 64),
        ) {
            let asked = asked(FailoverOrder::new(upstreams, attempts, broke), &failures_seen);
            for who in 0..upstreams {
                let came = asked.iter().zip(&failures_seen).filter(|((asked, _), _)| *asked == who);
                let came: Vec<_> = came.map(|(_, failure)| *failure).collect();
                let unsuitable = came.iter().position(|failure| *failure == Unsuitable);
                prop_assert!(unsuitable.is_none_or(|at| at + 1 == came.len()), "asked again: {came:?}");
                prop_assert!(unsuitable.is_some() || came.len() == attempts as usize, "{who}: {came:?}");
            }
        }
    }
}
