//! Invariants of any scenario: bytes are conserved, limits hold, and the same scenario gives the same rollout.

use gupd_plan::{Appearance, Curve, EarlyAccess, OpenHours, PlanGroup, Scenario, simulate};
use proptest::prelude::*;

use crate::{MIB, WAN, content, near, site, unnamed};

prop_compose! {
    fn rates()(first in 0.05..20.0_f64, second in 0.05..20.0_f64, every in 30.0..3_000.0_f64, limited in any::<bool>()) -> Curve {
        let rate = move |t: f64| if ((t / every) as u64).is_multiple_of(2) { first * MIB } else { second * MIB };
        let next = move |t: f64| ((t / every).floor() + 1.0) * every;
        if limited { Curve::trace(100_000.0, |t| (rate(t + 1e-6), Some(next(t + 1e-6)))) } else { Curve::UNLIMITED }
    }
}

prop_compose! {
    fn groups()(name in "[ab]", clients in 1..40_u32, limit in rates(), client_limit in rates(), wan_limit in rates(),
                downloads in prop::option::of(1..20_u32), opens in -500.0..2_000.0_f64, windows in any::<bool>(),
                spread in 0.0..2_000.0_f64, outside in prop::sample::select(vec![EarlyAccess::Nothing, EarlyAccess::Cached, EarlyAccess::Everything])) -> PlanGroup {
        let hours = OpenHours::new((0..20).map(|day| f64::from(day) * 5_000.0 + opens).map(|from| (from, from + 2_500.0)).collect());
        let hours = if windows { hours } else { OpenHours::always() };
        PlanGroup { name, clients, limit, client_limit, wan_limit, downloads, hours, spread, outside }
    }
}

prop_compose! {
    fn sites()(groups in prop::collection::vec(groups(), 1..4), wan in rates(), lan in rates(), client in rates(), upstream in rates(),
               slow in rates(), downloads in prop::option::of(1..30_u32), queue in 0..30_u32, heartbeat in prop_oneof![Just(0.0), 1.0..400.0_f64],
               estate in any::<bool>(), share in 0.0..1.0_f64) -> Scenario {
        let mut contents = vec![content("delta", 2.0 * MIB, share), content("full", 30.0 * MIB, 1.0 - share)];
        contents[1].limit = unnamed(slow);
        let appearance = if estate { "10m:40%,1h:70%".parse().unwrap() } else { Appearance::always_on() };
        Scenario { groups, wan, lan, client, upstream: unnamed(upstream), downloads, queue, heartbeat, contents, appearance, horizon: 100_000.0, ..site(0) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn bytes_are_conserved_and_limits_hold(site in sites()) {
        let rollout = simulate(&site).unwrap();
        let at_most = |rate: f64, limit: f64| rate <= limit * (1.0 + 1e-9);
        for moment in rollout.timeline.moments() {
            let at = moment.from;
            prop_assert!(at_most(moment.wan, site.line.min(site.wan.rate_at(at)).min(site.upstream.value.rate_at(at))), "{moment:?}");
            prop_assert!(at_most(moment.lan, site.lan_link.min(site.lan.rate_at(at))), "{moment:?}");
            if moment.downloads == 0 {
                prop_assert_eq!(moment.lan, 0.0);
                continue;
            }
            let downloads = f64::from(moment.downloads);
            prop_assert!(at_most(moment.lan, downloads * site.client.rate_at(at)), "{moment:?}");
            let groups: f64 = site.groups.iter().map(|group| group.limit.rate_at(at).min(group.client_limit.rate_at(at) * downloads)).sum();
            prop_assert!(at_most(moment.lan, groups), "{moment:?}");
            prop_assert!(site.downloads.is_none_or(|most| moment.downloads <= most));
            let counts: Option<u32> = site.groups.iter().map(|group| group.downloads).sum();
            prop_assert!(counts.is_none_or(|most| moment.downloads <= most));
        }
        prop_assert!(near(rollout.timeline.total(WAN), rollout.wan_bytes) || rollout.wan_bytes == 0.0);
        // Whole objects crossed the line once each; every client that is current has had one of them.
        let (delta, full) = (site.contents[0].bytes, site.contents[1].bytes);
        prop_assert!(rollout.wan_bytes <= delta + full + 1.0);
        let current = f64::from(rollout.current());
        prop_assert!(rollout.lan_bytes >= current * delta - current && rollout.lan_bytes <= f64::from(rollout.appeared) * full + 1.0);
        let over = rollout.current() == rollout.appeared;
        if over && rollout.appeared > 0 {
            let whole = |bytes: f64, unit: f64| (bytes / unit - (bytes / unit).round()).abs() < 1e-4;
            prop_assert!([delta, full, delta + full].iter().any(|sum| (rollout.wan_bytes - sum).abs() < 2.0));
            prop_assert!(whole(rollout.lan_bytes, delta), "{}", rollout.lan_bytes / delta);
        }
        prop_assert_eq!(&simulate(&site).unwrap(), &rollout);
    }
}
