//! A site with two rings, as an administrator is told of it.

use std::collections::BTreeMap;

use super::super::{At, Clients, Fixed, Status, ViewStatus};
use super::Beside;
use crate::orders::Order;
use crate::preview::{KnownClient, Preview};
use crate::revision::RevisionNumber;
use crate::rings::{RingId, Rings};
use crate::state::{Collected, State};
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;
use gupd_config::{Config, Overrides};
use gupd_store::BlobId;

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

fn publish(state: &mut State, catalogs: &[(&str, Option<u8>)], now: UnixMillis) {
    let of = |(key, seed): &(&str, Option<u8>)| ((*key).into(), seed.map(|seed| (blob(seed), 10)));
    let collected = Collected { source: "default".into(), catalogs: catalogs.iter().map(of).collect() };
    state.publish(&[collected], now).unwrap();
}

fn blob(seed: u8) -> BlobId {
    format!("{seed:02x}").repeat(32).parse().unwrap()
}

// Revision 1 for everyone, and revision 2, which began to move the pilots at `T0`.
fn published(rings: &Rings) -> State {
    let mut state = State::default();
    publish(&mut state, &[("default /a", Some(1)), ("default /b", Some(2)), ("default /c", None)], T0 - HOUR);
    publish(&mut state, &[("default /a", Some(3)), ("default /b", Some(2)), ("default /c", None)], T0);
    state.advance(rings, T0, |_, _| false);
    state
}

fn status(state: &State, rings: &Rings, trouble: &str, now: UnixMillis) -> Status {
    let trouble =
        |_: RevisionNumber, ring: RingId| (ring == 0 && !trouble.is_empty()).then(|| trouble.to_owned());
    let count = |revisions: &[(RevisionNumber, u64)]| Clients {
        known: revisions.iter().map(|(_, clients)| clients).sum(),
        lights: [("green".to_owned(), 1)].into(),
        revisions: revisions.iter().copied().collect(),
    };
    let clients: BTreeMap<GroupId, Clients> = [
        ("pilot".into(), count(&[(1.into(), 3), (2.into(), 5)])),
        ("default".into(), count(&[(1.into(), 7)])),
    ]
    .into();
    let beside = Beside { trouble: &trouble, kept: &|number| number.get() * 10, clients: &clients };
    Status::of(state, rings, beside, true, now)
}

#[test]
fn revisions_are_told_with_what_changed_who_has_them_and_their_hashes() {
    let rings = rings();
    let told = status(&published(&rings), &rings, "", T0);
    let [new, old] = &told.revisions[..] else { panic!("{told:?}") };
    assert_eq!((new.number, new.published, new.everyone), (2.into(), At(T0), false));
    assert_eq!((new.present, new.absent, new.changed, new.announced), (2, 1, Some(1), Some(0)));
    assert_eq!((new.kept, new.clients, old.clients), (20, 5, 10));
    assert_eq!((old.number, old.everyone, old.changed), (1.into(), true, None));
    let hashes = new.catalogs.as_ref().unwrap();
    assert_eq!((&hashes["default /a"], &hashes["default /c"]), (&Some("03".repeat(32)), &None));
    assert_eq!((told.clients.known, told.clients.lights["green"]), (15, 2));
}

#[test]
fn a_ring_tells_what_its_clients_see_and_how_many_have_moved() {
    let rings = rings();
    let told = status(&published(&rings), &rings, "", T0 + HOUR);
    let [first, all] = &told.rings[..] else { panic!("{told:?}") };
    let seen: Vec<_> = first.sees.iter().map(|seen| (seen.revision, seen.open, seen.complete)).collect();
    assert_eq!(seen, [(2.into(), 1, Some(At(T0 + 4 * HOUR - 1))), (1.into(), 1, None)]);
    assert!((first.sees[0].moved - 0.25).abs() < 1e-6, "{first:?}");
    assert_eq!((all.after.as_deref(), all.sees.len(), all.sees[0].revision), (Some("first"), 1, 1.into()));
    let [next] = &told.next[..] else { panic!("{told:?}") };
    assert_eq!((next.revision, &*next.ring, next.step, next.steps), (2.into(), "all", 1, 2));
    assert_eq!((next.opens, next.blocked.as_deref()), (Some(At(T0 + 5 * HOUR - 1)), None));
}

#[test]
fn the_steps_of_a_ring_count_by_their_shares() {
    let rings = rings();
    let mut state = published(&rings);
    state.advance(&rings, T0 + 6 * HOUR, |_, _| false);
    let told = status(&state, &rings, "", T0 + 6 * HOUR);
    let seen = &told.rings[1].sees[0];
    assert_eq!((seen.revision, seen.open, seen.steps, seen.complete), (2.into(), 1, 2, None));
    assert!((seen.moved - 0.1).abs() < 1e-6, "{seen:?}");
}

#[test]
fn what_is_held_up_is_told_with_what_holds_it_up() {
    let rings = rings();
    let mut state = published(&rings);
    let words = "4 of 60 clients: 4 failed downloads";
    let told = status(&state, &rings, words, T0 + HOUR);
    assert_eq!(told.next[0].blocked.as_deref(), Some(&*format!("ring first has trouble: {words}")));
    assert_eq!(told.next[0].opens, None);
    state.order(&Order::Halt, &rings, T0 + 2 * HOUR).unwrap();
    let told = status(&state, &rings, "", T0 + 3 * HOUR);
    assert_eq!(told.halted, Some(At(T0 + 2 * HOUR)));
    assert_eq!(told.next[0].blocked.as_deref(), Some("halted; gupd rollout resume ends that"));
    assert!((told.rings[0].sees[0].moved - 0.5).abs() < 1e-6, "{told:?}");
}

#[test]
fn groups_tell_their_ring_and_what_they_are_held_at() {
    let rings = rings();
    let mut state = published(&rings);
    let hold = Order::Hold { group: "pilot".to_owned(), revision: "1".to_owned() };
    state.order(&hold, &rings, T0).unwrap();
    state.order(&Order::Release { group: Some("default".to_owned()), now: true }, &rings, T0).unwrap();
    let told = status(&state, &rings, "", T0);
    let groups: Vec<_> =
        told.groups.iter().map(|group| (&*group.name, group.held, group.released, group.newest)).collect();
    let at = |revision: u64| Some(Fixed { revision: revision.into(), since: At(T0) });
    assert_eq!(groups, [("pilot", at(1), None, Some(1.into())), ("default", None, at(2), Some(2.into()))]);
    assert_eq!(told.groups[0].ring, "first");
}

#[test]
fn a_client_is_told_what_it_sees_and_what_it_comes_to_see_when() {
    let rings = rings();
    let mut state = published(&rings);
    let view = |state: &State, group: &str| {
        let views = state.views(&rings, T0);
        let view = ViewStatus::of(&views, group, [192, 0, 2, 1].into(), T0).unwrap();
        (view.revision, view.next, view.at)
    };
    assert_eq!(view(&state, "default"), (1.into(), Some(2.into()), Some(At(T0 + 5 * HOUR - 1))));
    let (sees, next, at) = view(&state, "pilot");
    assert_eq!((sees, next), (1.into(), Some(2.into())));
    assert!(at > Some(At(T0)) && at < Some(At(T0 + 4 * HOUR)), "its moment within the spread: {at:?}");
    state.order(&Order::Halt, &rings, T0).unwrap();
    assert_eq!(view(&state, "pilot"), (1.into(), None, None));
}

#[test]
fn a_status_is_read_back_as_it_was_written() {
    let rings = rings();
    let told = status(&published(&rings), &rings, "trouble", T0 + HOUR);
    let text = serde_json::to_string(&told).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), told, "{text}");
    assert!(text.contains(r#""published":"2026-05-28T20:26:40Z""#), "{text}");
}

#[test]
fn an_order_is_previewed_by_what_each_client_sees_would_see_and_comes_to_see() {
    let rings = rings();
    let (before, mut state) = (published(&rings), published(&rings));
    let hold = Order::Hold { group: "pilot".to_owned(), revision: "1".to_owned() };
    let done = state.order(&hold, &rings, T0 + HOUR).unwrap();
    let [was, is] = [&before, &state].map(|state| state.views(&rings, T0 + HOUR));
    let clients: Vec<KnownClient> = (0..40)
        .map(|number| KnownClient {
            client: format!("pc-{number}"),
            address: [10, 1, 0, number].into(),
            group: "pilot".into(),
        })
        .collect();
    let told = Preview::of(done, (&was, &is), rings.groups(), &clients, T0 + HOUR);
    assert_eq!(told.clients.len(), 40, "all would have come to see revision 2");
    let of_pilot: u64 =
        told.groups.iter().filter(|group| &*group.group == "pilot").map(|group| group.clients).sum();
    assert_eq!(of_pilot, 40);
    for group in &told.groups {
        let moves = group.moves;
        let expected = if &*group.group == "pilot" { [1, 2] } else { [1, 1] };
        assert_eq!(
            [moves.would_see, moves.otherwise],
            expected.map(|number| Some(number.into())),
            "{group:?}"
        );
    }
    let moved = told.clients.iter().filter(|client| client.moves.sees == Some(2.into())).count();
    assert!((3..20).contains(&moved), "a quarter of the spread has passed: {moved}");
}

#[test]
fn the_part_that_is_said_to_have_moved_is_the_part_of_clients_that_see_the_revision() {
    let rings = rings();
    let mut state = published(&rings);
    for (hours, group) in [(1, "pilot"), (3, "pilot"), (6, "default"), (7, "default"), (9, "default")] {
        let now = T0 + hours * HOUR;
        state.advance(&rings, now, |_, _| false);
        let views = state.views(&rings, now);
        let clients = (0..4_000_u32).map(|number| std::net::Ipv4Addr::from_bits(0x0a01_0000 + number).into());
        let see = clients.filter(|client| views.of(group, *client, now).unwrap().number == 2.into()).count();
        let told = status(&state, &rings, "", now);
        let ring = told.rings.iter().find(|ring| ring.groups.iter().any(|name| &**name == group)).unwrap();
        let moved = ring.sees.iter().find(|seen| seen.revision == 2.into()).map_or(0.0, |seen| seen.moved);
        assert!((moved - see as f64 / 4_000.0).abs() < 0.03, "{hours} {group}: {moved}, {see}");
    }
}
