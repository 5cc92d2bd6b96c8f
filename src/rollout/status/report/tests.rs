//! Status and dry runs of a site with two rings.

use std::sync::Arc;

use super::super::{ClientCounts, PinnedRevision, Status, UtcTime, ViewStatus};
use super::RolloutSnapshot;
use crate::clients::{ClientReport, ClientStatus, Trouble};
use crate::command::RolloutCommand;
use crate::dry_run::DryRun;
use crate::progress::no_trouble;
use crate::rings::Rings;
use crate::state::{CollectedCatalog, RolloutState, SourceCatalogs};
use gupd_config::clock::UnixMillis;
use gupd_config::{Config, Overrides};

const HOUR: UnixMillis = 3_600_000;
const T0: UnixMillis = 1_780_000_000_000;

fn rings() -> Rings {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gupd.toml");
    let text = "[site]\ntime_zone = \"UTC\"\n[[upstream]]\nurl = \"http://m\"\n\
                [[group]]\nname = \"pilot\"\nsubnets = [\"10.1.0.0/16\"]\n\
                [[ring]]\nname = \"first\"\ngroups = \"pilot\"\nspread = \"4h\"\n\
                [[ring]]\nname = \"all\"\ngroups = \"default\"\ndelay = \"1h\"\nshares = [10, 100]\nstep = \"2h\"\n";
    std::fs::write(&file, text).unwrap();
    Rings::new(&Config::load(&Overrides::default(), Some(&file), std::iter::empty()).unwrap()).unwrap()
}

fn publish(state: &mut RolloutState, catalogs: &[(&str, Option<u8>)], now: UnixMillis) {
    let of = |(key, seed): &(&str, Option<u8>)| ((*key).into(), seed.map(CollectedCatalog::of_version));
    let collected = SourceCatalogs { source: "default".into(), catalogs: catalogs.iter().map(of).collect() };
    state.publish(&[collected], now).unwrap();
}

// Revision 1 for everyone, and revision 2, which began to move the pilots at `T0`.
fn published(rings: &Rings) -> RolloutState {
    let mut state = RolloutState::default();
    publish(&mut state, &[("default /a", Some(1)), ("default /b", Some(2)), ("default /c", None)], T0 - HOUR);
    publish(&mut state, &[("default /a", Some(3)), ("default /b", Some(2)), ("default /c", None)], T0);
    state.advance(rings, T0, no_trouble);
    state
}

/// Reports on the state with one pilot in trouble out of 60, or none, and on 15 clients.
fn status(state: &RolloutState, rings: &Rings, failed: u64, now: UnixMillis) -> Status {
    let count = |revisions: &[(u64, u64)]| ClientCounts {
        known: revisions.iter().map(|(_, clients)| clients).sum(),
        lights: [("green".to_owned(), 1)].into(),
        revisions: revisions.iter().map(|(number, clients)| ((*number).into(), *clients)).collect(),
    };
    let clients = [("pilot".into(), count(&[(1, 3), (2, 5)])), ("default".into(), count(&[(1, 7)]))].into();
    let trouble = Trouble { clients: 60, failed, troubled: failed, ..Trouble::default() };
    let snapshot = RolloutSnapshot {
        state: Arc::new(state.clone()),
        rings: None,
        settings: Config::for_upstreams(&["http://m"]).unwrap().rollout,
        payloads: [1, 2].map(|number| (number.into(), number * 10)).into(),
        troubles: (failed > 0).then_some(((2.into(), 0), trouble)).into_iter().collect(),
    };
    Status::new(&snapshot, rings, &clients, true, now)
}

#[test]
fn revision_status_counts_changes_clients_and_hashes() {
    let rings = rings();
    let report = status(&published(&rings), &rings, 0, T0);
    let [new, old] = &report.revisions[..] else { panic!("{report:?}") };
    assert_eq!((new.number, new.published, new.everyone), (2.into(), UtcTime(T0), false));
    assert_eq!((new.present, new.absent, new.changed, new.announced), (2, 1, Some(1), Some(0)));
    assert_eq!((new.kept, new.clients, old.clients), (20, 5, 10));
    assert_eq!((old.number, old.everyone, old.changed), (1.into(), true, None));
    let hashes = new.catalogs.as_ref().unwrap();
    assert_eq!((&hashes["default /a"], &hashes["default /c"]), (&Some("03".repeat(32)), &None));
    assert_eq!((report.clients.known, report.clients.lights["green"]), (15, 2));
}

#[test]
fn ring_status_has_visible_revisions_and_moved_part() {
    let rings = rings();
    let report = status(&published(&rings), &rings, 0, T0 + HOUR);
    let [first, all] = &report.rings[..] else { panic!("{report:?}") };
    let seen: Vec<_> = first.sees.iter().map(|seen| (seen.revision, seen.open, seen.complete)).collect();
    assert_eq!(seen, [(2.into(), 1, Some(UtcTime(T0 + 4 * HOUR - 1))), (1.into(), 1, None)]);
    assert!((first.sees[0].moved - 0.25).abs() < 1e-6, "{first:?}");
    assert_eq!((all.after.as_deref(), all.sees.len(), all.sees[0].revision), (Some("first"), 1, 1.into()));
    let [next] = &report.next[..] else { panic!("{report:?}") };
    assert_eq!((next.revision, &*next.ring, next.step, next.steps), (2.into(), "all", 1, 2));
    assert_eq!((next.opens, next.blocked.as_deref()), (Some(UtcTime(T0 + 5 * HOUR - 1)), None));
}

#[test]
fn moved_part_counts_steps_by_share() {
    let rings = rings();
    let mut state = published(&rings);
    state.advance(&rings, T0 + 6 * HOUR, no_trouble);
    let report = status(&state, &rings, 0, T0 + 6 * HOUR);
    let seen = &report.rings[1].sees[0];
    assert_eq!((seen.revision, seen.open, seen.steps, seen.complete), (2.into(), 1, 2, None));
    assert!((seen.moved - 0.1).abs() < 1e-6, "{seen:?}");
}

#[test]
fn blocked_step_names_its_obstacle() {
    let rings = rings();
    let mut state = published(&rings);
    let report = status(&state, &rings, 4, T0 + HOUR);
    let obstacle = "ring first has trouble: 4 of 60 clients: 4 failed downloads";
    assert_eq!(report.next[0].blocked.as_deref(), Some(obstacle));
    assert_eq!((report.next[0].opens, report.next[0].obstacle), (None, Some(super::Obstacle::Trouble)));
    state.apply(&RolloutCommand::Halt, &rings, T0 + 2 * HOUR).unwrap();
    let report = status(&state, &rings, 0, T0 + 3 * HOUR);
    assert_eq!(report.halted, Some(UtcTime(T0 + 2 * HOUR)));
    assert_eq!(report.next[0].blocked.as_deref(), Some("halted; gupd rollout resume ends that"));
    assert!((report.rings[0].sees[0].moved - 0.5).abs() < 1e-6, "{report:?}");
}

#[test]
fn group_status_names_ring_and_held_revision() {
    let rings = rings();
    let mut state = published(&rings);
    let hold = RolloutCommand::Hold { group: "pilot".to_owned(), revision: "1".to_owned() };
    state.apply(&hold, &rings, T0).unwrap();
    state
        .apply(&RolloutCommand::Release { group: Some("default".to_owned()), now: true }, &rings, T0)
        .unwrap();
    let report = status(&state, &rings, 0, T0);
    let groups: Vec<_> =
        report.groups.iter().map(|group| (&*group.name, group.held, group.released, group.newest)).collect();
    let at = |revision: u64| Some(PinnedRevision { revision: revision.into(), since: UtcTime(T0) });
    assert_eq!(groups, [("pilot", at(1), None, Some(1.into())), ("default", None, at(2), Some(2.into()))]);
    assert_eq!(report.groups[0].ring, "first");
}

#[test]
fn view_status_names_visible_and_next_revision() {
    let rings = rings();
    let mut state = published(&rings);
    let view = |state: &RolloutState, group: &str| {
        let views = state.view(&rings, T0);
        let view = ViewStatus::for_client(&views, group, [192, 0, 2, 1].into(), T0).unwrap();
        (view.revision, view.next, view.at)
    };
    assert_eq!(view(&state, "default"), (1.into(), Some(2.into()), Some(UtcTime(T0 + 5 * HOUR - 1))));
    let (sees, next, at) = view(&state, "pilot");
    assert_eq!((sees, next), (1.into(), Some(2.into())));
    assert!(
        at > Some(UtcTime(T0)) && at < Some(UtcTime(T0 + 4 * HOUR)),
        "its moment within the spread: {at:?}"
    );
    state.apply(&RolloutCommand::Halt, &rings, T0).unwrap();
    assert_eq!(view(&state, "pilot"), (1.into(), None, None));
}

#[test]
fn status_survives_json() {
    let rings = rings();
    let report = status(&published(&rings), &rings, 4, T0 + HOUR);
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), report, "{text}");
    assert!(text.contains(r#""published":"2026-05-28T20:26:40Z""#), "{text}");
}

/// A client of the group `pilot`.
fn pilot(number: u8) -> ClientReport {
    ClientReport {
        client: format!("pc-{number}").parse().unwrap(),
        address: [10, 1, 0, number].into(),
        group: "pilot".into(),
        status: ClientStatus::Green,
        sees: None,
        revision: None,
        revision_since: None,
        first_seen: UtcTime(T0),
        last_seen: UtcTime(T0),
        bytes: 0,
        errors: 0,
        errors_in_a_row: 0,
        trouble: Vec::new(),
    }
}

#[test]
fn dry_run_has_revisions_before_after_and_eventually() {
    let rings = rings();
    let (before, mut state) = (published(&rings), published(&rings));
    let hold = RolloutCommand::Hold { group: "pilot".to_owned(), revision: "1".to_owned() };
    let outcome = state.apply(&hold, &rings, T0 + HOUR).unwrap();
    let [was, is] = [&before, &state].map(|state| state.view(&rings, T0 + HOUR));
    let clients: Vec<ClientReport> = (0..40).map(pilot).collect();
    let report = DryRun::new(outcome, (&was, &is), rings.groups(), &clients, T0 + HOUR);
    assert_eq!(report.clients.len(), 40, "all would have come to see revision 2");
    let of_pilot: u64 =
        report.groups.iter().filter(|group| &*group.group == "pilot").map(|group| group.clients).sum();
    assert_eq!(of_pilot, 40);
    for group in &report.groups {
        let visible = group.visible;
        let expected = if &*group.group == "pilot" { [1, 2] } else { [1, 1] };
        assert_eq!(
            [visible.after, visible.otherwise],
            expected.map(|number| Some(number.into())),
            "{group:?}"
        );
    }
    let moved = report.clients.iter().filter(|client| client.visible.before == Some(2.into())).count();
    assert!((3..20).contains(&moved), "a quarter of the spread has passed: {moved}");
}

#[test]
fn moved_part_matches_the_clients_that_see_it() {
    let rings = rings();
    let mut state = published(&rings);
    for (hours, group) in [(1, "pilot"), (3, "pilot"), (6, "default"), (7, "default"), (9, "default")] {
        let now = T0 + hours * HOUR;
        state.advance(&rings, now, no_trouble);
        let views = state.view(&rings, now);
        let clients = (0..4_000_u32).map(|number| std::net::Ipv4Addr::from_bits(0x0a01_0000 + number).into());
        let see = clients
            .filter(|client| views.visible_revision(group, *client, now).unwrap().number == 2.into())
            .count();
        let report = status(&state, &rings, 0, now);
        let ring = report.rings.iter().find(|ring| ring.groups.iter().any(|name| &**name == group)).unwrap();
        let moved = ring.sees.iter().find(|seen| seen.revision == 2.into()).map_or(0.0, |seen| seen.moved);
        assert!((moved - see as f64 / 4_000.0).abs() < 0.03, "{hours} {group}: {moved}, {see}");
    }
}
