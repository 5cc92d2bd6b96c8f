//! Scenarios of configurations: limits by time, and windows that agree with the relay.

use std::time::Duration;

use gupd_config::Config;
use gupd_config::Overrides;
use gupd_config::policy::window::client_offset;
use gupd_config::policy::{ClientAttributes, PayloadRevision, Policy, ScheduledStart};
use gupd_config::units::Rate;
use gupd_plan::{Appearance, EarlyAccess, LimitKey, PlanGroup, PlanInput};
use proptest::prelude::*;

use crate::HOUR;

/// 2026-11-23, a Monday, at midnight in Berlin.
const MONDAY: i64 = 1_795_388_400_000;

fn config(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    std::fs::write(&file, format!("[site]\ntime_zone = \"Europe/Berlin\"\n{text}")).unwrap();
    Config::load_without_upstreams(&Overrides::default(), Some(&file), std::iter::empty()).unwrap()
}

fn asked() -> PlanInput {
    PlanInput {
        clients: vec![(None, 100)],
        full: Some(1_000_000),
        delta: Some(1_000),
        full_share: 0.25,
        line: Some(Rate(1_000_000)),
        lan: Rate(100_000_000),
        start: MONDAY,
        appearance: Appearance::always_on(),
        heartbeat: Duration::from_secs(300),
        horizon: Duration::from_secs(7 * 86_400),
    }
}

#[test]
fn configuration_maps_to_limits_on_the_plan_time_axis() {
    let config = config(
        r#"
        [wan]
        limit = ["2Mbit/s mon-fri 07:00-19:00", "8Mbit/s"]
        [[upstream]]
        name = "sepm"
        url = "http://sepm.example"
        limit = "4Mbit/s"
        [[upstream]]
        name = "liveupdate"
        url = "http://liveupdate.example"
        [[route]]
        prefix = "/content"
        upstreams = ["sepm", "liveupdate"]
        [[route]]
        prefix = "/"
        upstreams = ["liveupdate"]
        [[wan_limit]]
        name = "fulls"
        pattern = "**/Full.zip"
        limit = "1Mbit/s"
        [lan]
        max_downloads = 9
        [[group]]
        name = "a"
        subnets = ["10.1.0.0/16"]
        windows = ["mon-fri 20:00-06:00"]
        spread = "4h"
        [[group]]
        name = "b"
        subnets = ["10.2.0.0/16"]
        windows = ["sat 00:00-24:00"]
        outside = "ignore"
        "#,
    );
    let scenario = asked().scenario(&config).unwrap();
    let hours = [0.0, 6.9, 7.0, 18.9, 19.0, 31.0, 24.0 * 5.0 + 12.0];
    assert_eq!(
        hours.map(|hour| scenario.wan.rate_at(hour * HOUR)),
        [1e6, 1e6, 2.5e5, 2.5e5, 1e6, 2.5e5, 1e6]
    );
    assert_eq!((scenario.upstream.name.as_str(), scenario.upstream.value.rate_at(0.0)), ("sepm", 5e5));
    let limits: Vec<_> =
        scenario.contents.iter().map(|of| (of.name, of.share, of.limit.value.rate_at(0.0))).collect();
    assert_eq!(limits, [("delta", 0.75, f64::INFINITY), ("full", 0.25, 1.25e5)]);
    assert_eq!((scenario.downloads, scenario.queue, scenario.queue_timeout), (Some(9), 1_024, 30.0));
    let [a, b] = &scenario.groups[..] else { panic!() };
    assert_eq!((a.clients, b.clients, a.spread), (50, 50, 4.0 * HOUR));
    // Monday's first hours are of Sunday, when nothing opens.
    let admitted = [0.0, 21.0, 29.9, 30.0]
        .map(|hour| a.hours.next_start(hour * HOUR, 0.0, a.spread).map(|at| at / HOUR));
    assert_eq!(admitted, [Some(20.0), Some(21.0), Some(29.9), Some(44.0)]);
    assert_eq!(b.outside, EarlyAccess::Everything);
    let named = |limit: &LimitKey| scenario.limit_name(*limit);
    let names: Vec<String> = scenario.limits().iter().map(named).collect();
    let expected = [
        "wan.limit",
        "upstream sepm: limit",
        "lan.max_downloads",
        "wan_limit fulls",
        "group a: windows",
        "group a: spread",
    ];
    assert_eq!(names, expected);
}

#[test]
fn missing_plan_inputs_are_errors_that_name_them() {
    let (bare, asked) = (config(""), asked());
    let error = |site: PlanInput, config: &Config| site.scenario(config).unwrap_err().to_string();
    let unlimited = PlanInput { line: None, ..asked.clone() };
    assert!(error(unlimited.clone(), &bare).contains("--line"));
    assert!(error(unlimited.clone(), &config("[wan]\nlimit = \"2Mbit/s 07:00-19:00\"")).contains("--line"));
    assert!(unlimited.scenario(&config("[wan]\nlimit = \"2Mbit/s\"")).is_ok());
    assert!(error(PlanInput { full: None, delta: None, ..asked.clone() }, &bare).contains("--full"));
    assert!(error(PlanInput { clients: vec![], ..asked.clone() }, &bare).contains("--clients"));
    let named =
        |name: &str, count| PlanInput { clients: vec![(Some(name.to_owned()), count)], ..asked.clone() };
    assert!(error(named("a", 1), &bare).contains("known groups are default"));
    assert!(error(named("default", 1_000_000), &bare).contains("too many"));
    let two = config("[[group]]\nname = \"a\"\nsubnets = [\"10.1.0.0/16\"]");
    let groups = |site: PlanInput| -> Vec<(String, u32)> {
        site.scenario(&two).unwrap().groups.into_iter().map(|group| (group.name, group.clients)).collect()
    };
    assert_eq!(groups(named("default", 7)), [("default".to_owned(), 7)]);
    assert_eq!(groups(asked), [("a".to_owned(), 100)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn plan_start_times_agree_with_the_relay(
        windows in prop::sample::select(vec!["always", "20:00-06:00", "mon-fri 20:00-06:00", "sat 10:00-11:00", "02:00-03:00"]),
        spread in prop::sample::select(vec!["0s", "20m", "4h", "3d"]),
        // Around the end of summer time, and in winter.
        start in prop::sample::select(vec![MONDAY, 1_792_792_800_000]),
        minutes in (0..7 * 1_440_i64, 0..7 * 1_440_i64),
        client in any::<[u8; 4]>(),
    ) {
        let config = config(&format!("[[group]]\nname = \"a\"\nwindows = \"{windows}\"\nspread = \"{spread}\""));
        let start = start + minutes.0 * 60_000;
        let site = PlanInput { start, horizon: Duration::from_secs(30 * 86_400), ..asked() };
        let PlanGroup { hours, spread, .. } = &site.scenario(&config).unwrap().groups[0];
        let policy = Policy::new(&config).unwrap();
        let scale = Duration::from_secs(1 << 32);
        let turn = client_offset(client.into(), "1", scale).as_secs_f64() / scale.as_secs_f64();
        let revision = PayloadRevision { name: "{a}/1", sequence: "1" };
        let now = start + minutes.1 * 60_000;
        let relays = match policy.scheduled_start(policy.group(&ClientAttributes::new(client.into(), "/")), client.into(), revision, start, now) {
            ScheduledStart::Now | ScheduledStart::Emergency => now,
            ScheduledStart::Later { at: opens } => opens,
        };
        let plans = hours.next_start((now - start) as f64 / 1e3, turn, *spread).unwrap();
        prop_assert!((plans - (relays - start) as f64 / 1e3).abs() <= 0.002, "{plans} {relays}");
    }
}
