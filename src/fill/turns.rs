//! Whose turn it is when a transfer broke: pure. The upstream that gave the last byte is asked again first, for most
//! breaks are the connection's; one that cannot be reached or says nothing only after all others. All attempts since the
//! last new byte count together, and the waits of each upstream double, so that trying ends.

use std::time::Duration;

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
    left: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    fruitless: u32,
    unfit: bool,
}

impl Turns {
    /// Of so many upstreams, with `attempts` in all, and at least one for each. `broke` says how the first one has just
    /// failed, if it has.
    pub(super) fn new(upstreams: usize, attempts: u32, broke: Option<Setback>) -> Self {
        let left = attempts.max(u32::try_from(upstreams).unwrap_or(u32::MAX));
        let mut turns = Self { upstreams: vec![Tried::default(); upstreams], at: 0, tries: 0, left };
        if broke == Some(Setback::Silent) {
            turns.pass_on();
        }
        turns
    }

    /// Who is asked next, and after which wait; `None` if nobody is any more.
    pub(super) fn next(&self) -> Option<(usize, Duration)> {
        let tried = self.upstreams.get(self.at).filter(|tried| self.left > 0 && !tried.unfit)?;
        Some((self.at, wait_before(tried.fruitless)))
    }

    /// The one whose turn it is brought no byte.
    pub(super) fn failed(&mut self, setback: Setback) {
        self.left = self.left.saturating_sub(1);
        self.tries += 1;
        if let Some(tried) = self.upstreams.get_mut(self.at) {
            tried.fruitless += 1;
            tried.unfit |= setback == Setback::Unfit;
        }
        if setback != Setback::Broke || self.tries >= TRIES {
            self.pass_on();
        }
    }

    /// The turn is the next one's that may have the content, if there is another.
    fn pass_on(&mut self) {
        let count = self.upstreams.len();
        let others = (1..count).map(|step| (self.at + step) % count);
        if let Some(next) = others.into_iter().find(|next| !self.upstreams[*next].unfit) {
            self.at = next;
            self.tries = 0;
        }
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

    /// Who is asked, when all that happens is this.
    fn asked(mut turns: Turns, setbacks: &[Setback]) -> Vec<(usize, u64)> {
        let mut asked = Vec::new();
        for setback in setbacks {
            let Some((who, wait)) = turns.next() else { break };
            asked.push((who, u64::try_from(wait.as_millis()).unwrap()));
            turns.failed(*setback);
        }
        asked
    }

    #[test]
    fn a_connection_that_broke_is_made_again_before_another_upstream_is_asked() {
        let turns = Turns::new(2, 8, Some(Broke));
        assert_eq!(
            asked(turns, &[Broke; 9]),
            [(0, 0), (0, 100), (1, 0), (1, 100), (0, 200), (0, 400), (1, 200), (1, 400)]
        );
    }

    #[test]
    fn one_that_says_nothing_is_asked_after_all_others() {
        assert_eq!(asked(Turns::new(3, 8, Some(Silent)), &[Silent; 4]), [(1, 0), (2, 0), (0, 0), (1, 100)]);
        assert_eq!(asked(Turns::new(1, 2, Some(Silent)), &[Silent; 3]), [(0, 0), (0, 100)]);
    }

    #[test]
    fn one_that_has_other_content_is_not_asked_again() {
        let turns = Turns::new(2, 4, Some(Broke));
        assert_eq!(asked(turns, &[Silent, Unfit, Broke, Broke]), [(0, 0), (1, 0), (0, 100), (0, 200)]);
        assert_eq!(asked(Turns::new(2, 4, None), &[Unfit, Unfit, Broke]), [(0, 0), (1, 0)]);
    }

    #[test]
    fn each_has_an_attempt_however_few_there_are() {
        assert_eq!(asked(Turns::new(3, 1, Some(Broke)), &[Silent; 9]), [(0, 0), (1, 0), (2, 0)]);
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        assert_eq!(wait_before(1), FIRST_WAIT);
        assert_eq!(wait_before(3), FIRST_WAIT * 4);
        assert_eq!(wait_before(u32::MAX), LONGEST_WAIT);
    }

    proptest! {
        #[test]
        fn whatever_happens_trying_ends_and_the_unfit_are_left_alone(
            upstreams in 1usize..6,
            attempts in 1u32..20,
            broke in prop_oneof![Just(None), Just(Some(Broke)), Just(Some(Silent))],
            setbacks in proptest::collection::vec(prop_oneof![Just(Broke), Just(Silent), Just(Unfit)], 64),
        ) {
            let asked = asked(Turns::new(upstreams, attempts, broke), &setbacks);
            prop_assert!(asked.len() <= attempts.max(6) as usize);
            prop_assert!(!asked.is_empty());
            for (at, (who, _)) in asked.iter().enumerate() {
                let unfit = asked[..at].iter().zip(&setbacks).any(|((before, _), what)| before == who && *what == Unfit);
                prop_assert!(!unfit);
            }
            // Nobody is left out while there are attempts.
            let mut found: Vec<_> = asked.iter().map(|(who, _)| *who).collect();
            found.sort_unstable();
            found.dedup();
            if !setbacks[..asked.len()].contains(&Broke) || asked.len() >= 2 * upstreams {
                prop_assert_eq!(found.len(), upstreams);
            }
        }
    }
}
