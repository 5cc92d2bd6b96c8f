//! Who gets which rate, at one moment: max-min fairness between clients under limits that are nested (the site's, a
//! group's, each client's own). Pure arithmetic on kinds of clients, not on clients, so that its cost does not grow with
//! their number.

/// Clients that would take the same rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Demand {
    /// How many.
    pub(super) clients: f64,
    /// The most that each of them can take, bytes a second.
    pub(super) most: f64,
}

/// The level at which water stands in each group: each client of it gets this rate, or its own most if that is less.
///
/// `groups` are the limit of each, and the demands in it. No client can be given more without taking from one that has
/// less or as much.
pub(super) fn levels(total: f64, groups: &[(f64, Vec<Demand>)]) -> Vec<f64> {
    let own: Vec<f64> = groups.iter().map(|(limit, demands)| level(*limit, demands)).collect();
    // What a group's own limit leaves is all that its clients can ask of the total.
    let under = |(level, (_, demands)): (&f64, &(f64, Vec<Demand>))| -> Vec<Demand> {
        demands.iter().map(|demand| Demand { most: demand.most.min(*level), ..*demand }).collect()
    };
    let all: Vec<Demand> = own.iter().zip(groups).flat_map(under).collect();
    let shared = level(total, &all);
    own.into_iter().map(|own| own.min(shared)).collect()
}

/// The level at which demands cut off there add up to `limit`; infinite if all of them together do not reach it.
fn level(limit: f64, demands: &[Demand]) -> f64 {
    let mut sorted: Vec<Demand> = demands.iter().copied().filter(|demand| demand.clients > 0.0).collect();
    sorted.sort_by(|a, b| a.most.total_cmp(&b.most));
    let mut clients: f64 = sorted.iter().map(|demand| demand.clients).sum();
    let mut left = limit;
    for Demand { clients: these, most } in sorted {
        if most * clients > left {
            return left / clients;
        }
        left -= most * these;
        clients -= these;
    }
    f64::INFINITY
}

/// Rates of the fills that share the line, the first going before the next. Each of the others keeps a share of
/// [`KEPT`], so that none starves; nobody gets more than its own most.
pub(super) fn by_priority(line: f64, most: &[f64]) -> Vec<f64> {
    let mut left = line;
    let mut rates = Vec::with_capacity(most.len());
    for (index, most_of_this) in most.iter().enumerate() {
        let kept: f64 = most[index + 1..].iter().map(|most| most.min(line * KEPT)).sum();
        let rate = most_of_this.min((left - kept).max(left * KEPT));
        rates.push(rate);
        left = (left - rate).max(0.0);
    }
    rates
}

/// What a fill keeps of the line while one of higher priority would take all of it: the share that the shaper leaves
/// to whoever would starve.
const KEPT: f64 = 0.05;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demand(clients: u32, most: f64) -> Demand {
        Demand { clients: f64::from(clients), most }
    }

    #[test]
    fn unused_share_is_divided_among_others() {
        assert_eq!(levels(10.0, &[(f64::INFINITY, vec![demand(2, 100.0)])]), [5.0]);
        assert_eq!(levels(10.0, &[(f64::INFINITY, vec![demand(1, 2.0), demand(2, 100.0)])]), [4.0]);
        assert_eq!(levels(10.0, &[(2.0, vec![demand(4, 9.0)]), (99.0, vec![demand(2, 9.0)])]), [0.5, 4.0]);
        assert_eq!(levels(10.0, &[(f64::INFINITY, vec![demand(1, 2.0)])]), [f64::INFINITY]);
        assert_eq!(levels(10.0, &[(1.0, vec![])]), [f64::INFINITY]);
    }

    #[test]
    fn first_fill_has_priority_and_next_keeps_its_share() {
        assert_eq!(by_priority(10.0, &[f64::INFINITY, f64::INFINITY]), [9.5, 0.5]);
        assert_eq!(by_priority(10.0, &[f64::INFINITY, 0.25]), [9.75, 0.25]);
        assert_eq!(by_priority(10.0, &[2.0, f64::INFINITY]), [2.0, 8.0]);
        assert_eq!(by_priority(10.0, &[0.0, f64::INFINITY]), [0.0, 10.0]);
    }

    proptest! {
        #[test]
        fn allocation_is_max_min_fair_within_limits(
            total in 1.0..1e3_f64,
            groups in prop::collection::vec((1.0..1e3_f64, prop::collection::vec((1..50_u32, 0.1..1e2_f64), 1..4)), 1..5),
        ) {
            let groups: Vec<(f64, Vec<Demand>)> = groups
                .into_iter()
                .map(|(limit, demands)| (limit, demands.into_iter().map(|(n, most)| demand(n, most)).collect()))
                .collect();
            let levels = levels(total, &groups);
            let used = |(level, (_, demands)): (&f64, &(f64, Vec<Demand>))| -> f64 {
                demands.iter().map(|demand| demand.clients * demand.most.min(*level)).sum()
            };
            let by_group: Vec<f64> = levels.iter().zip(&groups).map(used).collect();
            let all: f64 = by_group.iter().sum();
            prop_assert!(all <= total * (1.0 + 1e-9));
            let highest = levels.iter().zip(&groups).flat_map(|(level, (_, demands))| demands.iter().map(|demand| demand.most.min(*level))).fold(0.0, f64::max);
            for (((limit, demands), level), used) in groups.iter().zip(&levels).zip(&by_group) {
                prop_assert!(*used <= limit * (1.0 + 1e-9));
                // A client that would take more is at its group's limit, or at the total's and nobody has more.
                if demands.iter().any(|demand| demand.most > *level) {
                    let at_total = all >= total * (1.0 - 1e-9) && *level >= highest * (1.0 - 1e-9);
                    prop_assert!(*used >= limit * (1.0 - 1e-9) || at_total);
                }
            }
        }
    }
}
