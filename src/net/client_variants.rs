//! Variants of one name that each client brought. The store keeps a few variants of a name and drops the oldest. A client
//! makes up as many selecting values as it likes, and would push out the variants of all others. So each client brings
//! few, and an hour without another one passes before it may bring more.

use std::collections::HashMap;

use crate::shape::Nanos;

/// Time without another variant after which a client may bring more of them.
const FORGET_AFTER: Nanos = 3_600_000_000_000;

/// Pairs of client and name remembered in each of two generations, about 1 MiB in all.
const MAX_PAIRS: usize = 16_384;

/// Counts of all clients.
#[derive(Debug, Default)]
pub(crate) struct ClientVariants {
    young: HashMap<u64, VariantCount>,
    old: HashMap<u64, VariantCount>,
}

#[derive(Clone, Copy, Debug)]
struct VariantCount {
    brought: u32,
    /// Time of the last attempt.
    at: Nanos,
}

impl ClientVariants {
    /// Counts a variant; false if it would be more than `most`. `pair` is a hash of client and name.
    pub(crate) fn try_add(&mut self, pair: u64, most: u32, now: Nanos) -> bool {
        let known = self.young.get(&pair).or_else(|| self.old.get(&pair));
        let known = known.filter(|count| now.saturating_sub(count.at) < FORGET_AFTER);
        let brought = known.map_or(0, |count| count.brought);
        let is_admitted = brought < most;
        if self.young.len() >= MAX_PAIRS {
            self.old = std::mem::take(&mut self.young);
        }
        let brought = brought.saturating_add(u32::from(is_admitted));
        self.young.insert(pair, VariantCount { brought, at: now });
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_that_pauses_may_bring_more() {
        let mut variants = ClientVariants::default();
        let admitted = |variants: &mut ClientVariants, at| variants.try_add(1, 2, at);
        assert_eq!([0, 1, 2, 3].map(|at| admitted(&mut variants, at)), [true, true, false, false]);
        assert!(variants.try_add(2, 2, 3), "another client or name");
        assert!(!admitted(&mut variants, FORGET_AFTER), "attempts do not let the time pass");
        assert!(admitted(&mut variants, 2 * FORGET_AFTER));
    }

    #[test]
    fn pairs_are_bounded() {
        let mut variants = ClientVariants::default();
        for pair in 0..5 * MAX_PAIRS as u64 {
            assert!(variants.try_add(pair, 1, 0) && !variants.try_add(pair, 1, 0));
            assert!(variants.young.len() <= MAX_PAIRS && variants.old.len() <= MAX_PAIRS);
        }
    }
}
