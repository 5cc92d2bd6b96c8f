//! Rings in the configuration file.

use std::time::Duration;

use gupd_config::{Gate, Steps};

use super::{MANAGER, load, problems};

const GROUPS: &str = "[[group]]\nname = \"a\"\nsubnets = \"10.1.0.0/16\"\n[[group]]\nname = \"b\"\nsubnets = \"10.2.0.0/16\"\n";

fn with(rings: &str) -> String {
    format!("{MANAGER}{GROUPS}{rings}")
}

#[test]
fn rings_follow_file_order_unless_after_is_set() {
    let config = load(&with(
        "[[ring]]\nname = \"pilot\"\ngroups = \"a\"\n[[ring]]\nname = \"all\"\ngroups = [\"default\"]\ndelay = \"1d\"\n\
         gate = \"manual\"\nshares = [\"10%\", 50, 100]\nstep = \"4h\"\nspread = \"1h\"\n\
         [[ring]]\nname = \"b\"\ngroups = \"b\"\nafter = \"pilot\"\nsubnets = [\"10.2.1.0/24\", \"10.2.2.0/24\"]\n",
    ))
    .unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let after: Vec<_> = config.rings.iter().map(|ring| ring.after).collect();
    assert_eq!(after, [None, Some(0), Some(0)]);
    let all = &config.rings[1];
    assert_eq!((all.gate, all.delay), (Gate::Manual, Duration::from_secs(24 * 3600)));
    assert_eq!(all.steps, Steps::Shares(vec![10, 50, 100]));
    assert_eq!(all.duration(), Duration::from_secs(9 * 3600));
    assert_eq!(config.rings[2].steps.count(), 2);
}

#[test]
fn invalid_rings_are_reported_with_their_line() {
    for (rings, expected) in [
        (
            "name = \"p\"\n",
            "9: ring.groups: missing required key: list the names of [[group]]s that the ring moves",
        ),
        ("name = \"p\"\ngroups = []\n", "11: ring.groups: empty list: add a value or remove the key"),
        (
            "name = \"p\"\ngroups = \"c\"\n",
            "11: ring.groups: unknown group \"c\": known groups are a, b, default",
        ),
        (
            "name = \"p\"\ngroups = \"a\"\n[[ring]]\nname = \"q\"\ngroups = \"a\"\n",
            "14: ring.groups: group \"a\" is also in ring \"p\": remove it from one of them",
        ),
        (
            "name = \"p\"\ngroups = \"a\"\nafter = \"q\"\n",
            "12: ring.after: unknown ring \"q\": name another [[ring]] or remove it",
        ),
        (
            "name = \"p\"\ngroups = \"a\"\nafter = \"q\"\n[[ring]]\nname = \"q\"\ngroups = \"b\"\n",
            "12: ring.after: ring \"p\" follows itself: remove after from one ring of the cycle",
        ),
        (
            "name = \"p\"\ngroups = \"a\"\n[[ring]]\nname = \"p\"\ngroups = \"b\"\n",
            "13: ring.name: duplicate name \"p\": give each ring its own name",
        ),
        (
            "name = \"p\"\ngroups = \"a\"\nshares = [10, 10, 100]\n",
            "12: ring.shares: 10 is not between 11 and 100: shares must rise, as in 10, 50, 100",
        ),
        (
            "name = \"p\"\ngroups = \"a\"\nshares = [10]\n",
            "12: ring.shares: end below 100, so some clients would never move: add 100",
        ),
        (
            "name = \"p\"\ngroups = \"a\"\nshares = [100]\nsubnets = \"10.1.0.0/24\"\n",
            "12: ring.shares: are set beside subnets: set one of them",
        ),
        (
            "name = \"p\"\ngroups = \"a\"\nwindows = \"sometimes\"\n",
            "12: ring.windows: \"sometimes\" is not a time of the week: write it like mon-fri 20:00-06:00",
        ),
    ] {
        let lines = problems(load(&with(&format!("[[ring]]\n{rings}"))));
        assert_eq!(lines, [format!("gupd.toml:{expected}")]);
    }
}

#[test]
fn unintended_ring_settings_are_warnings() {
    let config = load(&with(
        "[[ring]]\nname = \"p\"\ngroups = \"a\"\nstep = \"1h\"\n[[ring]]\nname = \"q\"\ngroups = \"b\"\ndelay = \"30d\"\n\
         spread = \"1d\"\n[[ring]]\nname = \"late\"\ngroups = \"default\"\n",
    ))
    .unwrap();
    let lines: Vec<String> = config
        .warnings
        .iter()
        .map(|warning| warning.to_string().split_once("gupd.toml").unwrap().1.to_owned())
        .collect();
    assert_eq!(
        lines,
        [
            ":12: ring.step: has no effect without shares or subnets: all clients move in one step",
            ":18: ring.delay: opens the ring 31d after publication, beyond rollout.max_age (30d): revisions are kept longer for it",
        ]
    );
    let config = load(&with("[[ring]]\nname = \"p\"\ngroups = \"a\"\n")).unwrap();
    let lines: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert!(lines[0].contains("group b is in no ring: its clients move with this one"), "{lines:?}");
    assert!(lines[1].contains("group default is in no ring"), "{lines:?}");
}
