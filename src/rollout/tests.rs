//! Rollouts as their state has them, driven through time: no sockets, no store.

mod never_back;

use std::net::{IpAddr, Ipv4Addr};

use super::advance::Waits;
use super::moment::share;
use super::orders::{Order, Refused};
use super::revision::RevisionNumber;
use super::rings::Rings;
use super::state::{Collected, Published, State};
use super::views::{Due, Views};
use gupd_config::clock::UnixMillis;
use gupd_config::{Config, Overrides};

const HOUR: i64 = 3_600_000;
pub(super) const START: UnixMillis = 1_792_000_000_000;

const GROUPS: &str = "[[group]]\nname = \"pilot\"\nsubnets = \"10.1.0.0/16\"\n\
     [[group]]\nname = \"branch\"\nsubnets = \"10.2.0.0/16\"\n";

fn config(rings: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gupd.toml");
    std::fs::write(&file, format!("[[upstream]]\nurl = \"http://m\"\n{GROUPS}{rings}")).unwrap();
    Config::load(&Overrides::default(), Some(&file), std::iter::empty()).unwrap()
}

pub(super) fn rings(text: &str) -> Rings {
    Rings::new(&config(text)).unwrap()
}

/// Pilot at once, the branch a day later over four hours, the rest by hand.
pub(super) fn staged() -> Rings {
    rings(
        "[[ring]]\nname = \"first\"\ngroups = \"pilot\"\n\
         [[ring]]\nname = \"second\"\ngroups = \"branch\"\ndelay = \"24h\"\nspread = \"4h\"\n\
         [[ring]]\nname = \"last\"\ngroups = \"default\"\ngate = \"manual\"\n",
    )
}

fn collected(version: u8) -> Collected {
    let catalog = ("r /minitri.flg".into(), Some(([version; 32].into(), 1)));
    Collected { source: "r".into(), catalogs: [catalog].into() }
}

pub(super) fn publish(state: &mut State, version: u8, now: UnixMillis) -> RevisionNumber {
    match state.publish(&[collected(version)], now).unwrap() {
        Published::New(number) => number,
        other => panic!("{other:?}"),
    }
}

fn client(group: &str, number: u8) -> IpAddr {
    let second = match group {
        "pilot" => 1,
        "branch" => 2,
        _ => 3,
    };
    Ipv4Addr::new(10, second, 0, number).into()
}

fn sees(views: &Views, group: &str, number: u8, now: UnixMillis) -> u64 {
    views.of(group, client(group, number), now).unwrap().number.get()
}

pub(super) fn calm(_: RevisionNumber, _: usize) -> bool {
    false
}

#[test]
fn the_first_revision_is_for_everyone_and_the_next_comes_ring_by_ring() {
    let (rings, mut state) = (staged(), State::default());
    publish(&mut state, 1, START);
    state.advance(&rings, START, calm);
    let views = state.views(&rings, START);
    assert_eq!(["pilot", "branch", "default"].map(|group| sees(&views, group, 1, START)), [1, 1, 1]);

    publish(&mut state, 2, START + HOUR);
    state.advance(&rings, START + HOUR, calm);
    let views = state.views(&rings, START + HOUR);
    assert_eq!(["pilot", "branch", "default"].map(|group| sees(&views, group, 1, START + HOUR)), [2, 1, 1]);

    let opens = START + 25 * HOUR;
    assert_eq!(state.next_change(&rings, START + HOUR), Some(opens));
    assert_eq!(state.advance(&rings, opens - 1, calm), []);
    assert_eq!(state.advance(&rings, opens, calm).len(), 1);
    let views = state.views(&rings, opens);
    let moved = |at| (0..=255).filter(|number| sees(&views, "branch", *number, at) == 2).count();
    assert_eq!((moved(opens), moved(opens + 4 * HOUR)), (0, 256));
    assert!((90..166).contains(&moved(opens + 2 * HOUR)), "{}", moved(opens + 2 * HOUR));
    assert_eq!(sees(&views, "default", 1, opens + 90 * HOUR), 1);

    let promote = Order::Promote { ring: "last".into() };
    state.order(&promote, &rings, opens + 5 * HOUR).unwrap();
    let views = state.views(&rings, opens + 5 * HOUR);
    assert_eq!(sees(&views, "default", 1, opens + 5 * HOUR), 2);
    let again = state.order(&promote, &rings, opens + 5 * HOUR);
    assert_eq!(again, Err(Refused::NothingToPromote { ring: "last".into() }));
}

#[test]
fn trouble_in_a_ring_keeps_the_next_one_closed_for_that_revision_alone() {
    let (rings, mut state) = (staged(), State::default());
    publish(&mut state, 1, START);
    let bad = publish(&mut state, 2, START);
    let trouble = |revision, ring| (revision, ring) == (bad, 0);
    state.advance(&rings, START, trouble);
    assert_eq!(state.advance(&rings, START + 30 * HOUR, trouble), []);
    let good = publish(&mut state, 3, START + 30 * HOUR);
    state.advance(&rings, START + 30 * HOUR, trouble);
    let opened = state.advance(&rings, START + 54 * HOUR, trouble);
    assert_eq!(opened.iter().map(|step| (step.revision, step.ring)).collect::<Vec<_>>(), [(good, 1)]);
    let end = START + 60 * HOUR;
    assert_eq!(sees(&state.views(&rings, end), "branch", 1, end), good.get());
}

#[test]
fn a_revision_that_the_pilot_was_rolled_back_from_does_not_go_on_by_itself() {
    let (rings, mut state) = (staged(), State::default());
    publish(&mut state, 1, START);
    let bad = publish(&mut state, 2, START);
    state.advance(&rings, START, calm);
    let back = Order::Rollback { group: "pilot".into(), revision: None };
    state.order(&back, &rings, START + HOUR).unwrap();
    assert_eq!(state.advance(&rings, START + 90 * HOUR, calm), []);
    let waits = state.outlook(&rings, calm).into_iter().find(|next| next.ring == 1).unwrap();
    assert_eq!((waits.revision, waits.waits), (bad, Waits::RolledBack(0)));
    // What mends it does, though the pilot does not see it: whoever holds a group for good must not stop the others.
    let mended = publish(&mut state, 3, START + 90 * HOUR);
    state.advance(&rings, START + 90 * HOUR, calm);
    let opened = state.advance(&rings, START + 115 * HOUR, calm);
    assert_eq!(opened.iter().map(|step| (step.revision, step.ring)).collect::<Vec<_>>(), [(mended, 1)]);
}

#[test]
fn a_halt_in_a_spread_keeps_everyone_where_they_are_and_it_goes_on_from_there() {
    let (rings, mut state) = (
        rings("[[ring]]\nname = \"a\"\ngroups = [\"pilot\", \"branch\", \"default\"]\nspread = \"4h\"\n"),
        State::default(),
    );
    publish(&mut state, 1, START);
    publish(&mut state, 2, START);
    state.advance(&rings, START, calm);
    let moved = |state: &State, at| {
        let views = state.views(&rings, at);
        (0..=255).filter(|number| sees(&views, "pilot", *number, at) == 2).collect::<Vec<u8>>()
    };
    let halted = START + HOUR;
    let before = moved(&state, halted);
    assert!(!before.is_empty() && before.len() < 128);
    state.order(&Order::Halt, &rings, halted).unwrap();
    let resumed = halted + 100 * HOUR;
    assert_eq!(moved(&state, resumed), before);
    assert_eq!(
        state.order(&Order::Release { group: None, now: true }, &rings, resumed),
        Err(Refused::Halted)
    );
    state.order(&Order::Resume, &rings, resumed).unwrap();
    assert_eq!(moved(&state, resumed), before);
    let later = moved(&state, resumed + 2 * HOUR);
    assert!(
        later.len() > before.len() && later.len() < 256 && before.iter().all(|client| later.contains(client))
    );
    assert_eq!(moved(&state, resumed + 4 * HOUR).len(), 256);
}

#[test]
fn a_group_is_held_rolled_back_and_released() {
    let (rings, mut state) = (staged(), State::default());
    for version in 1..=3 {
        publish(&mut state, version, START);
    }
    state.advance(&rings, START, calm);
    let pilot = |state: &State| sees(&state.views(&rings, START), "pilot", 1, START);
    assert_eq!(pilot(&state), 3);
    let order = |state: &mut State, order| state.order(&order, &rings, START);
    order(&mut state, Order::Rollback { group: "pilot".into(), revision: None }).unwrap();
    assert_eq!(pilot(&state), 2);
    order(&mut state, Order::Rollback { group: "pilot".into(), revision: None }).unwrap();
    assert_eq!(pilot(&state), 1);
    let more = order(&mut state, Order::Rollback { group: "pilot".into(), revision: None });
    assert_eq!(more, Err(Refused::NothingBefore { group: "pilot".into(), number: 1.into() }));
    order(&mut state, Order::Name { revision: 2.into(), name: "good".into() }).unwrap();
    order(&mut state, Order::Hold { group: "pilot".into(), revision: "good".into() }).unwrap();
    assert_eq!(pilot(&state), 2);
    let unknown = order(&mut state, Order::Hold { group: "pilot".into(), revision: "bad".into() });
    assert_eq!(
        unknown.unwrap_err().to_string(),
        "no kept revision is called \"bad\"; kept are good (2), 3, 2, 1"
    );
    order(&mut state, Order::Release { group: Some("pilot".into()), now: false }).unwrap();
    assert_eq!(pilot(&state), 3);
    order(&mut state, Order::Release { group: None, now: true }).unwrap();
    assert_eq!(sees(&state.views(&rings, START), "default", 1, START), 3);
}

#[test]
fn who_is_not_to_have_a_number_yet_is_told_the_moment() {
    let (rings, mut state) = (staged(), State::default());
    let series = "r /content/{a}";
    assert_eq!(state.views(&rings, START).due("pilot", client("pilot", 1), series, 5, START), Due::Unheard);
    state.announce(series, 5, START).unwrap();
    assert_eq!(state.announce(series, 6, START + HOUR), Ok(Published::New(2.into())));
    assert_eq!(state.announce("r /content/{b}", 1, START + HOUR), Ok(Published::Joined(2.into())));
    assert_eq!(state.announce(series, 7, START + HOUR + 60_000), Ok(Published::Joined(2.into())));
    state.advance(&rings, START + HOUR, calm);
    let now = START + 2 * HOUR;
    let views = state.views(&rings, now);
    let due = |group: &str, number| views.due(group, client(group, 9), series, number, now);
    assert_eq!((due("pilot", 7), due("branch", 5), due("branch", 4)), (Due::Now, Due::Now, Due::Now));
    assert_eq!(due("branch", 7), Due::Later(Some(START + 25 * HOUR)));
    assert_eq!(due("default", 7), Due::Later(None));
    assert_eq!(due("pilot", 8), Due::Unheard);
    state.advance(&rings, START + 25 * HOUR, calm);
    let views = state.views(&rings, START + 25 * HOUR);
    let spread = u128::from(share(client("branch", 9), "2")) * 4 * u128::from(HOUR.unsigned_abs());
    let own = START + 25 * HOUR + i64::try_from(spread >> 64).unwrap();
    let at = START + 25 * HOUR;
    assert_eq!(views.due("branch", client("branch", 9), series, 7, at), Due::Later(Some(own)));
    state.order(&Order::Release { group: None, now: true }, &rings, at).unwrap();
    let views = state.views(&rings, at);
    assert_eq!(views.due("branch", client("branch", 9), series, 7, at), Due::AtOnce);
}

#[test]
fn a_relay_that_comes_back_after_a_month_opens_one_ring_after_the_other() {
    let rings = rings(
        "[[ring]]\nname = \"a\"\ngroups = \"pilot\"\nspread = \"2h\"\n\
         [[ring]]\nname = \"b\"\ngroups = \"branch\"\ndelay = \"2h\"\nspread = \"2h\"\n\
         [[ring]]\nname = \"c\"\ngroups = \"default\"\ndelay = \"2h\"\nspread = \"2h\"\n",
    );
    let mut state = State::default();
    publish(&mut state, 1, START);
    publish(&mut state, 2, START);
    state.advance(&rings, START, calm);
    let (stopped, now) = (START + HOUR, START + 720 * HOUR);
    state.stood_still(&rings, stopped, now);
    state.advance(&rings, now, calm);
    let share_of = |state: &State, group: &str, at| {
        let views = state.views(&rings, at);
        (0..=255).filter(|number| sees(&views, group, *number, at) == 2).count()
    };
    assert!((64..192).contains(&share_of(&state, "pilot", now)));
    for (after, expected) in [(1, [256, 0, 0]), (5, [256, 256, 0]), (9, [256, 256, 256])] {
        for hour in 0..=after {
            state.advance(&rings, now + hour * HOUR, calm);
        }
        let at = now + after * HOUR;
        assert_eq!(
            ["pilot", "branch", "default"].map(|group| share_of(&state, group, at)),
            expected,
            "{after} h"
        );
    }
}

#[test]
fn a_ring_slower_than_publication_still_comes_to_each_of_its_revisions() {
    let config = config(
        "[rollout]\nkeep = 3\n[[ring]]\nname = \"a\"\ngroups = \"pilot\"\n\
         [[ring]]\nname = \"b\"\ngroups = [\"branch\", \"default\"]\ndelay = \"48h\"\n",
    );
    let (rings, mut state) = (Rings::new(&config).unwrap(), State::default());
    let mut seen = 0;
    for hour in 0..400 {
        let now = START + hour * HOUR;
        if hour % 4 == 0 {
            publish(&mut state, u8::try_from(hour / 4).unwrap(), now);
        }
        state.advance(&rings, now, calm);
        state.retire(&rings, &config.rollout, now);
        assert!(state.revisions().count() <= 6, "{} at {hour}", state.revisions().count());
        let view = sees(&state.views(&rings, now), "branch", 1, now);
        assert!(view >= seen);
        seen = view;
    }
    // Two days behind the hundredth, and at most as much again between two that were kept.
    assert!(seen > 70, "{seen}");
}

#[test]
fn hundreds_of_revisions_that_wait_for_an_administrator_are_looked_at_in_a_moment() {
    let config = config(
        "[rollout]\nkeep = 100\n[[ring]]\nname = \"a\"\ngroups = \"pilot\"\nwindows = \"20:00-06:00\"\n\
         [[ring]]\nname = \"b\"\ngroups = [\"branch\", \"default\"]\ngate = \"manual\"\n",
    );
    let (rings, mut state) = (Rings::new(&config).unwrap(), State::default());
    for number in 1..=240 {
        state.announce("r /content/{a}", number, START + i64::try_from(number).unwrap() * HOUR / 3).unwrap();
        state.open(state.revisions().count() - 1, 0, &rings, START);
    }
    let (now, begun) = (START + 334 * HOUR, std::time::Instant::now());
    state.advance(&rings, now, calm);
    state.retire(&rings, &config.rollout, now);
    let (views, _) = (state.views(&rings, now), state.next_change(&rings, now));
    assert!(begun.elapsed() < std::time::Duration::from_millis(700), "{:?}", begun.elapsed());
    assert_eq!((sees(&views, "default", 1, now), state.outlook(&rings, calm).len()), (1, 99));
}

#[test]
fn named_and_held_revisions_are_kept_beyond_count_and_age() {
    let config =
        config("[rollout]\nkeep = 2\nmax_age = \"1d\"\n[[ring]]\nname = \"a\"\ngroups = \"default\"\n");
    let (rings, mut state) = (Rings::new(&config).unwrap(), State::default());
    for version in 1..=6 {
        publish(&mut state, version, START);
    }
    state.order(&Order::Name { revision: 1.into(), name: "golden".into() }, &rings, START).unwrap();
    state.order(&Order::Hold { group: "default".into(), revision: "3".into() }, &rings, START).unwrap();
    let later = START + 100 * HOUR;
    state.advance(&rings, later, calm);
    state.retire(&rings, &config.rollout, later);
    assert_eq!(state.revisions().map(|revision| revision.number.get()).collect::<Vec<_>>(), [1, 3, 6]);
}

#[test]
fn what_nobody_knew_of_joins_what_changes_is_a_new_revision_and_what_nobody_asks_for_is_no_news() {
    let mut state = State::default();
    publish(&mut state, 1, START);
    let of = |source: &str, catalogs: &[(&str, Option<u8>)]| Collected {
        source: source.into(),
        catalogs: catalogs
            .iter()
            .map(|(key, version)| ((*key).into(), version.map(|version| ([version; 32].into(), 1))))
            .collect(),
    };
    let same = [("r /minitri.flg", Some(1))];
    assert_eq!(state.publish(&[of("r", &same)], START), Ok(Published::Nothing));
    let joined = [same[0], ("r /b_livetri.zip", None), ("r /c_livetri.zip", Some(9))];
    assert_eq!(state.publish(&[of("r", &joined)], START), Ok(Published::Joined(1.into())));
    assert_eq!(
        state.publish(&[of("q", &[("q /minitri.flg", Some(4))])], START),
        Ok(Published::Joined(1.into()))
    );
    let appears = [same[0], ("r /b_livetri.zip", Some(7)), joined[2]];
    assert_eq!(state.publish(&[of("r", &appears)], START), Ok(Published::New(2.into())));
    let gone = [same[0], ("r /c_livetri.zip", None)];
    assert_eq!(state.publish(&[of("r", &gone)], START), Ok(Published::New(3.into())));
    assert_eq!(state.publish(&[of("r", &same)], START), Ok(Published::Nothing));
    let more = [same[0], ("r /d_livetri.zip", None)];
    assert_eq!(state.publish(&[of("r", &more)], START), Ok(Published::Joined(3.into())));
    assert!(state.newest().unwrap().catalogs.contains_key("r /c_livetri.zip"), "clients may see it");
    let changed = [("r /minitri.flg", Some(2))];
    assert_eq!(state.publish(&[of("r", &changed)], START), Ok(Published::New(4.into())));
    let newest = state.newest().unwrap();
    let keys: Vec<&str> = newest.catalogs.keys().map(|key| &**key).collect();
    assert_eq!(keys, ["q /minitri.flg", "r /minitri.flg"]);
}
