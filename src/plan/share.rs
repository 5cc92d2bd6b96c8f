//! Allocation of rates at one instant: max-min fairness between clients under the nested limits of site, group and
//! client. Pure arithmetic on cohorts, so its cost does not depend on the number of clients.

/// Demand of clients with the same maximum rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RateDemand {
    /// Number of clients.
    pub(super) clients: f64,
    /// Maximum rate of each, bytes a second.
    pub(super) most: f64,
}

/// Returns the fair rate of each group: a client gets this rate, or its own maximum if that is lower.
///
/// `groups` are pairs of limit and demands. No client can get more without taking from one that has less or as much.
pub(super) fn fair_levels(total: f64, groups: &[(f64, Vec<RateDemand>)]) -> Vec<f64> {
    let own: Vec<f64> = groups.iter().map(|(limit, demands)| level(*limit, demands)).collect();
    // A group's own limit bounds the demand of its clients on the total.
    let under = |(level, (_, demands)): (&f64, &(f64, Vec<RateDemand>))| -> Vec<RateDemand> {
        demands.iter().map(|demand| RateDemand { most: demand.most.min(*level), ..*demand }).collect()
    };
    let all: Vec<RateDemand> = own.iter().zip(groups).flat_map(under).collect();
    let shared = level(total, &all);
    own.into_iter().map(|own| own.min(shared)).collect()
}

/// Returns the rate at which capped demands add up to `limit`; infinite if all demands together are below it.
fn level(limit: f64, demands: &[RateDemand]) -> f64 {
    let mut sorted: Vec<RateDemand> = demands.iter().copied().filter(|demand| demand.clients > 0.0).collect();
    sorted.sort_by(|a, b| a.most.total_cmp(&b.most));
    let mut clients: f64 = sorted.iter().map(|demand| demand.clients).sum();
    let mut left = limit;
    for RateDemand { clients: these, most } in sorted {
        if most * clients > left {
            return left / clients;
        }
        left -= most * these;
        clients -= these;
    }
    f64::INFINITY
}

/// Returns the rates of fills that share the line in order of priority. Each of the others keeps a share of
/// [`MIN_SHARE`], so that none starves, and none exceeds its own maximum.
pub(super) fn allocate_by_priority(line: f64, most: &[f64]) -> Vec<f64> {
    let mut rates = most.to_vec();
    divide_by_priority(line, &mut rates);
    rates
}

/// Replaces the maxima of fills by their rates, as [`allocate_by_priority`] does.
pub(super) fn divide_by_priority(line: f64, fills: &mut [f64]) {
    let mut left = line;
    for index in 0..fills.len() {
        let kept: f64 = fills[index + 1..].iter().map(|most| most.min(line * MIN_SHARE)).sum();
        fills[index] = fills[index].min((left - kept).max(left * MIN_SHARE));
        left = (left - fills[index]).max(0.0);
    }
}

/// Share of the line that a fill keeps beside one of higher priority, as in the relay's shaper.
const MIN_SHARE: f64 = 0.05;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demand(clients: u32, most: f64) -> RateDemand {
        RateDemand { clients: f64::from(clients), most }
    }

    #[test]
    fn unused_share_is_divided_among_others() {
        assert_eq!(fair_levels(10.0, &[(f64::INFINITY, vec![demand(2, 100.0)])]), [5.0]);
        assert_eq!(fair_levels(10.0, &[(f64::INFINITY, vec![demand(1, 2.0), demand(2, 100.0)])]), [4.0]);
        assert_eq!(
            fair_levels(10.0, &[(2.0, vec![demand(4, 9.0)]), (99.0, vec![demand(2, 9.0)])]),
            [0.5, 4.0]
        );
        assert_eq!(fair_levels(10.0, &[(f64::INFINITY, vec![demand(1, 2.0)])]), [f64::INFINITY]);
        assert_eq!(fair_levels(10.0, &[(1.0, vec![])]), [f64::INFINITY]);
    }

    #[test]
    fn first_fill_has_priority_and_next_keeps_its_share() {
        assert_eq!(allocate_by_priority(10.0, &[f64::INFINITY, f64::INFINITY]), [9.5, 0.5]);
        assert_eq!(allocate_by_priority(10.0, &[f64::INFINITY, 0.25]), [9.75, 0.25]);
        assert_eq!(allocate_by_priority(10.0, &[2.0, f64::INFINITY]), [2.0, 8.0]);
        assert_eq!(allocate_by_priority(10.0, &[0.0, f64::INFINITY]), [0.0, 10.0]);
    }

    proptest! {
        #[test]
        fn allocation_is_max_min_fair_within_limits(
            total in 1.0..1e3_f64,
            groups in prop::collection::vec((1.0..1e3_f64, prop::collection::vec((1..50_u32, 0.1..1e2_f64), 1..4)), 1..5),
        ) {
            let groups: Vec<(f64, Vec<RateDemand>)> = groups
                .into_iter()
                .map(|(limit, demands)| (limit, demands.into_iter().map(|(n, most)| demand(n, most)).collect()))
                .collect();
            let levels = fair_levels(total, &groups);
            let used = |(level, (_, demands)): (&f64, &(f64, Vec<RateDemand>))| -> f64 {
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
