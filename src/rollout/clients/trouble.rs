//! Trouble among the clients that see a revision. The gate of the next ring stays closed while there is too much.

use std::fmt::{self, Display, Formatter};

use gupd_config::Quantity;
use serde::{Deserialize, Serialize};

/// The label of each kind, and its words for one client and for more.
const KINDS: [[&str; 3]; 4] = [
    ["failed", "failed download", "failed downloads"],
    ["repeated", "takes the same content again and again", "take the same content again and again"],
    ["full-again", "takes the same full set again and again", "take the same full set again and again"],
    ["damaged", "was sent damaged content", "were sent damaged content"],
];

/// Least percentage of clients that makes repeated downloads evidence against a revision. A client that was served whole
/// each time proves nothing but its own state: a hostile host of a site, or a few broken ones, would hold a revision back.
/// Content that no client can apply is repeated by most.
const REPEATED_SHARE: u8 = 25;

/// Numbers of clients with trouble. A client counts once for each kind of trouble that it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Clients that see the revision and were seen lately.
    pub clients: u64,
    /// Clients with a failed latest download that no later one made up for.
    pub failed: u64,
    /// Clients that download one object again and again.
    pub repeated: u64,
    /// Clients that download one full set again and again.
    pub full_again: u64,
    /// Clients with content that failed verification.
    pub damaged: u64,
    /// Clients with trouble of any kind.
    pub troubled: u64,
    /// Clients whose trouble the relay has seen itself: failed or damaged content.
    #[serde(default)]
    pub underserved: u64,
}

impl Trouble {
    /// Returns true if at least `share` percent of the clients were not served well, and at least `max(least, 1)` of them.
    /// Repeated downloads count only from a quarter of the clients on.
    pub fn should_close_gate(&self, share: u8, least: u64) -> bool {
        let reaches = |troubled: u64, share: u8| {
            troubled >= least.max(1)
                && u128::from(troubled) * 100 >= u128::from(share) * u128::from(self.clients)
        };
        reaches(self.underserved, share) || reaches(self.troubled, share.max(REPEATED_SHARE))
    }

    /// The trouble of one client.
    pub(super) fn of_client(failed: bool, repeated: bool, full_again: bool, damaged: bool) -> Self {
        Self {
            clients: 1,
            failed: failed.into(),
            repeated: repeated.into(),
            full_again: full_again.into(),
            damaged: damaged.into(),
            troubled: (failed || repeated || full_again || damaged).into(),
            underserved: (failed || damaged).into(),
        }
    }

    /// Adds the trouble of other clients.
    pub(super) fn add(&mut self, more: Self) {
        self.clients += more.clients;
        self.failed += more.failed;
        self.repeated += more.repeated;
        self.full_again += more.full_again;
        self.damaged += more.damaged;
        self.troubled += more.troubled;
        self.underserved += more.underserved;
    }

    /// Returns the labels of the kinds that there are.
    pub(super) fn labels(&self) -> impl Iterator<Item = &'static str> {
        self.kinds().map(|(_, [label, ..])| label)
    }

    fn kinds(&self) -> impl Iterator<Item = (u64, [&'static str; 3])> {
        let clients = [self.failed, self.repeated, self.full_again, self.damaged];
        clients.into_iter().zip(KINDS).filter(|(clients, _)| *clients > 0)
    }
}

/// Such as "4 of 60 clients: 3 failed downloads, 1 takes the same full set again and again".
impl Display for Trouble {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let clients = Quantity(self.clients, "client");
        if self.troubled == 0 {
            return write!(f, "none of {clients}");
        }
        write!(f, "{} of {clients}", self.troubled)?;
        for (at, (clients, [_, one, more])) in self.kinds().enumerate() {
            let before = if at == 0 { ": " } else { ", " };
            write!(f, "{before}{clients} {}", if clients == 1 { one } else { more })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn trouble_is_displayed_in_words() {
        let trouble = Trouble { clients: 60, failed: 3, full_again: 1, troubled: 4, ..Trouble::default() };
        let words = "4 of 60 clients: 3 failed downloads, 1 takes the same full set again and again";
        assert_eq!(trouble.to_string(), words);
        assert_eq!(Trouble { clients: 1, ..Trouble::default() }.to_string(), "none of 1 client");
    }

    #[test]
    fn gate_closes_at_both_share_and_number() {
        for (troubled, clients, expected) in
            [(2, 2, false), (3, 60, true), (3, 61, false), (4, 80, true), (0, 0, false), (3, 3, true)]
        {
            let trouble = Trouble { troubled, underserved: troubled, clients, ..Trouble::default() };
            assert_eq!(trouble.should_close_gate(5, 3), expected, "{troubled} of {clients}");
        }
        assert!(!Trouble::default().should_close_gate(0, 0));
    }

    #[test]
    fn few_clients_that_repeat_do_not_close_a_gate() {
        for (repeating, failing, clients, expected) in [
            (3, 0, 43, false),
            (10, 0, 43, false),
            (11, 0, 43, true),
            (3, 2, 43, false),
            (3, 3, 43, true),
            (9, 2, 43, true),
            (2, 0, 4, false),
            (3, 0, 4, true),
        ] {
            let mut trouble = Trouble::default();
            for client in 0..clients {
                let (repeats, fails) = (client < repeating, client >= clients - failing);
                trouble.add(Trouble::of_client(fails, false, repeats, false));
            }
            assert_eq!(trouble.should_close_gate(5, 3), expected, "{repeating} and {failing} of {clients}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn client_counts_once_per_kind_and_once_in_all(kinds in prop::collection::vec(0..16_u8, 0..50)) {
            let mut trouble = Trouble::default();
            for kind in &kinds {
                let [failed, repeated, full_again, damaged] = [1, 2, 4, 8].map(|bit| kind & bit != 0);
                trouble.add(Trouble::of_client(failed, repeated, full_again, damaged));
            }
            let count = |bit: u8| kinds.iter().filter(|kind| *kind & bit != 0).count() as u64;
            let Trouble { clients, failed, repeated, full_again, damaged, troubled, underserved } = trouble;
            prop_assert_eq!([failed, repeated, full_again, damaged], [1, 2, 4, 8].map(count));
            prop_assert_eq!((clients, troubled, underserved), (kinds.len() as u64, count(15), count(9)));
        }

        #[test]
        fn another_troubled_client_never_opens_a_gate(troubled in 0..100_u64, well in 0..100_u64, share in 0..=100_u8, least in 0..10_u64) {
            let one = |troubled| Trouble { troubled, underserved: troubled / 2, clients: troubled + well, ..Trouble::default() };
            prop_assert!(!one(troubled).should_close_gate(share, least) || one(troubled + 1).should_close_gate(share, least));
        }
    }
}
