//! Whose turn it is when a transfer broke: pure. The upstream that gave the last byte is asked again first, for most
//! breaks are the connection's; one that cannot be reached or says nothing only after all others. Each has its attempts
//! and its waits, which double; the wait for one is time for the others, so that several make no client wait longer.

use std::time::Duration;

use tokio::time::Instant;

/// The wait before an upstream's second attempt in a row without a new byte; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait: a manager that restarts is met soon after it is back.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Attempts at one upstream before another has a turn: the second tells a connection that broke from a manager that
/// does, a tenth of a second later.
const TRIES: u32 = 2;

/// Why an upstream did not give what was wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setback {
    /// It broke off, or its answer is of no use: another attempt may do better at once.
    Broke,
    /// It cannot be reached, or says nothing.
    Silent,
    /// It has other content, or none.
    Unfit,
}

/// The upstreams that may have the content, by their place in a list that begins with who gave the last byte.
#[derive(Debug)]
pub(super) struct Turns {
    upstreams: Vec<Tried>,
    at: usize,
    /// Attempts at the one whose turn it is, since it began.
    tries: u32,
    /// How many each has in all.
    attempts: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    fruitless: u32,
    /// Not before; at once, if it was not tried yet.
    ready: Option<Instant>,
    unfit: bool,
}

impl Turns {
    /// Of so many upstreams. `broke` says how the first one has just failed, if it has.
    pub(super) fn new(upstreams: usize, attempts: u32, broke: Option<Setback>) -> Self {
        let mut turns = Self { upstreams: vec![Tried::default(); upstreams], at: 0, tries: 0, attempts };
        if broke == Some(Setback::Silent) {
            turns.pass_on();
        }
        turns
    }

    /// Who is asked next, and after which wait; `None` if nobody is any more.
    pub(super) fn next(&self, now: Instant) -> Option<(usize, Duration)> {
        let tried = self.upstreams.get(self.at).filter(|tried| self.may_be_asked(tried))?;
        let wait = tried.ready.map_or(Duration::ZERO, |ready| ready.saturating_duration_since(now));
        Some((self.at, wait))
    }

    /// The one whose turn it is brought no byte.
    pub(super) fn failed(&mut self, setback: Setback, now: Instant) {
        self.tries += 1;
        let Some(tried) = self.upstreams.get_mut(self.at) else { return };
        tried.fruitless += 1;
        tried.ready = Some(now + wait_before(tried.fruitless));
        tried.unfit |= setback == Setback::Unfit;
        let tried = *tried;
        if setback != Setback::Broke || self.tries >= TRIES || !self.may_be_asked(&tried) {
            self.pass_on();
        }
    }

    /// The turn is the next one's that may have the content, if there is another.
    fn pass_on(&mut self) {
        let count = self.upstreams.len();
        let next = (1..count).map(|step| (self.at + step) % count);
        let next = next.into_iter().find(|next| self.may_be_asked(&self.upstreams[*next]));
        if let Some(next) = next {
            self.at = next;
            self.tries = 0;
        }
    }

    fn may_be_asked(&self, tried: &Tried) -> bool {
        !tried.unfit && tried.fruitless < self.attempts
    }
}

fn wait_before(fruitless: u32) -> Duration {
    match fruitless {
        0 => Duration::ZERO,
        again => FIRST_WAIT.saturating_mul(1 << (again - 1).min(10)).min(LONGEST_WAIT),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Setback::{Broke, Silent, Unfit};
    use super::*;

    /// Who is asked, after how many milliseconds, when all that happens is this, and at once.
    fn asked(mut turns: Turns, setbacks: &[Setback]) -> Vec<(usize, u64)> {
        let mut now = Instant::now();
        let mut asked = Vec::new();
        for setback in setbacks {
            let Some((who, wait)) = turns.next(now) else { break };
            asked.push((who, u64::try_from(wait.as_millis()).unwrap()));
            now += wait;
            turns.failed(*setback, now);
        }
        asked
    }

    #[test]
    fn a_connection_that_broke_is_made_again_before_another_upstream_is_asked() {
        let turns = Turns::new(2, 4, Some(Broke));
        assert_eq!(
            asked(turns, &[Broke; 9]),
            [(0, 0), (0, 100), (1, 0), (1, 100), (0, 100), (0, 400), (1, 0), (1, 400)]
        );
    }

    #[test]
    fn one_that_says_nothing_is_asked_after_all_others() {
        assert_eq!(
            asked(Turns::new(3, 2, Some(Silent)), &[Silent; 9]),
            [(1, 0), (2, 0), (0, 0), (1, 100), (2, 0), (0, 0)]
        );
        assert_eq!(asked(Turns::new(1, 2, Some(Silent)), &[Silent; 3]), [(0, 0), (0, 100)]);
    }

    #[test]
    fn one_that_has_other_content_is_not_asked_again() {
        let turns = Turns::new(2, 3, Some(Broke));
        assert_eq!(asked(turns, &[Silent, Unfit, Broke, Broke]), [(0, 0), (1, 0), (0, 100), (0, 200)]);
        assert_eq!(asked(Turns::new(2, 4, None), &[Unfit, Unfit, Broke]), [(0, 0), (1, 0)]);
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        assert_eq!(wait_before(1), FIRST_WAIT);
        assert_eq!(wait_before(3), FIRST_WAIT * 4);
        assert_eq!(wait_before(u32::MAX), LONGEST_WAIT);
    }

    proptest! {
        #[test]
        fn trying_ends_when_each_that_may_have_it_had_its_attempts(
            upstreams in 1usize..6,
            attempts in 1u32..10,
            broke in prop_oneof![Just(None), Just(Some(Broke)), Just(Some(Silent))],
            setbacks in proptest::collection::vec(prop_oneof![4 => Just(Broke), 4 => Just(Silent), 1 => Just(Unfit)], 64),
        ) {
            let asked = asked(Turns::new(upstreams, attempts, broke), &setbacks);
            for who in 0..upstreams {
                let came = asked.iter().zip(&setbacks).filter(|((asked, _), _)| *asked == who);
                let came: Vec<_> = came.map(|(_, setback)| *setback).collect();
                let unfit = came.iter().position(|setback| *setback == Unfit);
                prop_assert!(unfit.is_none_or(|at| at + 1 == came.len()), "asked again: {came:?}");
                prop_assert!(unfit.is_some() || came.len() == attempts as usize, "{who}: {came:?}");
            }
        }
    }
}
