//! In which order clients were last seen, and who goes first when there is no room: a segmented LRU. Order is that of
//! sightings, so that the wall clock has no say.
//!
//! Who is established has seven eighths of the table for itself; passers-by share the rest, and what is free. So someone
//! who makes up addresses, however many, pushes out other newcomers, and nobody who is seen every day. Where there are
//! more established clients than that, the longest unseen of them is a newcomer again.

/// One part in this many of the table is for newcomers: 6,250 of 50,000, a quarter's worth of a fleet that is replaced in
/// two years.
const FOR_NEWCOMERS: usize = 8;

/// How long a client is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Newcomer,
    Established,
}

/// The order of clients, by their numbers in the table. Every step is O(1).
#[derive(Debug, Default)]
pub(super) struct Recency {
    links: Vec<Link>,
    newcomers: Chain,
    established: Chain,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    newer: Option<u32>,
    older: Option<u32>,
    standing: Option<Standing>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Chain {
    newest: Option<u32>,
    oldest: Option<u32>,
    length: usize,
}

impl Recency {
    /// A client was seen just now, in a table of at most `room`.
    pub(super) fn seen(&mut self, at: u32, standing: Standing, room: usize) {
        self.remove(at);
        self.push(at, standing);
        if self.established.length > room - room / FOR_NEWCOMERS
            && let Some(longest) = self.established.oldest
        {
            self.remove(longest);
            self.push(longest, Standing::Newcomer);
        }
    }

    /// Who goes first.
    pub(super) fn first_to_go(&self) -> Option<u32> {
        self.newcomers.oldest.or(self.established.oldest)
    }

    /// The longest unseen of each standing.
    pub(super) fn longest_unseen(&self) -> impl Iterator<Item = u32> {
        [self.newcomers.oldest, self.established.oldest].into_iter().flatten()
    }

    /// Forgets a client.
    pub(super) fn remove(&mut self, at: u32) {
        let Some(link) = self.links.get_mut(at as usize).map(std::mem::take) else { return };
        let Some(standing) = link.standing else { return };
        match link.newer {
            Some(newer) => self.links[newer as usize].older = link.older,
            None => self.chain(standing).newest = link.older,
        }
        match link.older {
            Some(older) => self.links[older as usize].newer = link.newer,
            None => self.chain(standing).oldest = link.newer,
        }
        self.chain(standing).length -= 1;
    }

    fn push(&mut self, at: u32, standing: Standing) {
        if self.links.len() <= at as usize {
            self.links.resize(at as usize + 1, Link::default());
        }
        let chain = self.chain(standing);
        let older = chain.newest.replace(at);
        chain.oldest.get_or_insert(at);
        chain.length += 1;
        if let Some(older) = older {
            self.links[older as usize].newer = Some(at);
        }
        self.links[at as usize] = Link { newer: None, older, standing: Some(standing) };
    }

    fn chain(&mut self, standing: Standing) -> &mut Chain {
        match standing {
            Standing::Newcomer => &mut self.newcomers,
            Standing::Established => &mut self.established,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_order_is_that_of_two_plain_queues(
            steps in prop::collection::vec((0..12_u32, 0..3_u8), 0..200),
            room in 1..20_usize,
        ) {
            let mut recency = Recency::default();
            let (mut newcomers, mut established) = (VecDeque::new(), VecDeque::new());
            for (at, step) in steps {
                newcomers.retain(|other| *other != at);
                established.retain(|other| *other != at);
                match step {
                    0 => recency.remove(at),
                    1 => {
                        recency.seen(at, Standing::Newcomer, room);
                        newcomers.push_back(at);
                    }
                    _ => {
                        recency.seen(at, Standing::Established, room);
                        established.push_back(at);
                    }
                }
                if step > 0 && established.len() > room - room / FOR_NEWCOMERS {
                    newcomers.extend(established.pop_front());
                }
                prop_assert_eq!(recency.first_to_go(), newcomers.front().or(established.front()).copied());
                prop_assert_eq!(recency.newcomers.length, newcomers.len());
            }
            let mut order = Vec::new();
            while let Some(at) = recency.first_to_go() {
                recency.remove(at);
                order.push(at);
            }
            prop_assert_eq!(order, newcomers.into_iter().chain(established).collect::<Vec<_>>());
        }
    }
}
