//! How those who see a revision fare with it: what holds up the ring that comes next. Pure.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use super::row::Ills;

/// Trouble among clients, each counted once for each kind that it has. A client that takes the same again and again is
/// counted as one that takes a full set, or as one that takes another object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Clients that see the revision, and were seen lately.
    pub clients: u64,
    /// Whose latest download failed, and none was whole since.
    pub failed: u64,
    /// That take the same object whole again and again.
    pub repeated: u64,
    /// That take the same full set again and again.
    pub full_again: u64,
    /// That were sent what was not what it has to be.
    pub damaged: u64,
    /// With trouble of any kind.
    pub troubled: u64,
}

impl Trouble {
    /// Whether as many of the clients have trouble as `share`, in percent, and no fewer than `least`. Nobody is never too
    /// many.
    pub fn is_above(&self, share: u8, least: u64) -> bool {
        let (troubled, clients) = (u128::from(self.troubled), u128::from(self.clients));
        self.troubled >= least.max(1) && troubled * 100 >= u128::from(share) * clients
    }

    /// Counts a client.
    pub(super) fn add(&mut self, ills: Ills) {
        self.clients += 1;
        self.failed += u64::from(ills.failed);
        self.repeated += u64::from(ills.repeated);
        self.full_again += u64::from(ills.full_again);
        self.damaged += u64::from(ills.damaged);
        self.troubled += u64::from(ills.any());
    }
}

/// Such as "4 of 60 clients: 3 failed downloads, 1 takes the same full set again and again".
impl Display for Trouble {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let clients = if self.clients == 1 { "client" } else { "clients" };
        if self.troubled == 0 {
            return write!(f, "none of {} {clients}", self.clients);
        }
        write!(f, "{} of {} {clients}", self.troubled, self.clients)?;
        let kinds = [
            (self.failed, ["failed download", "failed downloads"]),
            (
                self.repeated,
                ["takes the same content again and again", "take the same content again and again"],
            ),
            (
                self.full_again,
                ["takes the same full set again and again", "take the same full set again and again"],
            ),
            (self.damaged, ["was sent damaged content", "were sent damaged content"]),
        ];
        let there = kinds.into_iter().filter(|(count, _)| *count > 0);
        for (at, (count, [one, more])) in there.enumerate() {
            let before = if at == 0 { ": " } else { ", " };
            write!(f, "{before}{count} {}", if count == 1 { one } else { more })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn trouble_is_told_in_words() {
        let trouble = Trouble { clients: 60, failed: 3, full_again: 1, troubled: 4, ..Trouble::default() };
        let words = "4 of 60 clients: 3 failed downloads, 1 takes the same full set again and again";
        assert_eq!(trouble.to_string(), words);
        assert_eq!(Trouble { clients: 1, ..Trouble::default() }.to_string(), "none of 1 client");
    }

    #[test]
    fn both_the_share_and_the_number_must_be_reached() {
        for (troubled, clients, expected) in
            [(2, 2, false), (3, 60, true), (3, 61, false), (4, 80, true), (0, 0, false), (3, 3, true)]
        {
            let trouble = Trouble { troubled, clients, ..Trouble::default() };
            assert_eq!(trouble.is_above(5, 3), expected, "{troubled} of {clients}");
        }
        assert!(!Trouble::default().is_above(0, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_client_is_counted_once_for_each_kind_and_once_in_all(kinds in prop::collection::vec(0..16_u8, 0..50)) {
            let mut trouble = Trouble::default();
            for kind in &kinds {
                let [failed, repeated, full_again, damaged] = [1, 2, 4, 8].map(|bit| kind & bit != 0);
                trouble.add(Ills { failed, repeated, full_again, damaged });
            }
            let count = |bit: u8| kinds.iter().filter(|kind| *kind & bit != 0).count() as u64;
            let Trouble { clients, failed, repeated, full_again, damaged, troubled } = trouble;
            prop_assert_eq!([failed, repeated, full_again, damaged], [1, 2, 4, 8].map(count));
            prop_assert_eq!((clients, troubled), (kinds.len() as u64, count(15)));
        }

        #[test]
        fn one_more_in_trouble_never_opens_a_ring(troubled in 0..100_u64, well in 0..100_u64, share in 0..=100_u8, least in 0..10_u64) {
            let one = |troubled| Trouble { troubled, clients: troubled + well, ..Trouble::default() };
            prop_assert!(!one(troubled).is_above(share, least) || one(troubled + 1).is_above(share, least));
        }
    }
}
