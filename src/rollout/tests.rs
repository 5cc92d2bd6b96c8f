//! The state of rollouts, driven through time without sockets and store.

mod command;
mod monotonic;

use std::net::{IpAddr, Ipv4Addr};

use super::command::{CommandRefusal, RolloutCommand};
use super::progress::{StepCondition, no_trouble};
use super::revision::RevisionNumber;
use super::rings::Rings;
use super::schedule::client_share;
use super::state::{CollectedCatalog, PublishOutcome, RolloutState, SourceCatalogs};
use super::view::{PayloadAccess, RevisionView};
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

/// The pilot at once, the branch a day later over four hours, the rest by promotion.
pub(super) fn staged() -> Rings {
    rings(
        "[[ring]]\nname = \"first\"\ngroups = \"pilot\"\n\
         [[ring]]\nname = \"second\"\ngroups = \"branch\"\ndelay = \"24h\"\nspread = \"4h\"\n\
         [[ring]]\nname = \"last\"\ngroups = \"default\"\ngate = \"manual\"\n",
    )
}

fn collected(version: u8) -> SourceCatalogs {
    let catalog = ("r /minitri.flg".into(), Some(CollectedCatalog::of_version(version)));
    SourceCatalogs { source: "r".into(), catalogs: [catalog].into() }
}

pub(super) fn publish(state: &mut RolloutState, version: u8, now: UnixMillis) -> RevisionNumber {
    match state.publish(&[collected(version)], now).unwrap() {
        PublishOutcome::New(number) => number,
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

fn sees(view: &RevisionView, group: &str, number: u8, now: UnixMillis) -> u64 {
    view.visible_revision(group, client(group, number), now).unwrap().number.get()
}

#[test]
fn next_revision_comes_ring_by_ring() {
    let (rings, mut state) = (staged(), RolloutState::default());
    publish(&mut state, 1, START);
    state.advance(&rings, START, no_trouble);
    let view = state.view(&rings, START);
    assert_eq!(["pilot", "branch", "default"].map(|group| sees(&view, group, 1, START)), [1, 1, 1]);

    publish(&mut state, 2, START + HOUR);
    state.advance(&rings, START + HOUR, no_trouble);
    let view = state.view(&rings, START + HOUR);
    assert_eq!(["pilot", "branch", "default"].map(|group| sees(&view, group, 1, START + HOUR)), [2, 1, 1]);

    let opens = START + 25 * HOUR;
    assert_eq!(state.next_change(&rings, START + HOUR), Some(opens));
    assert_eq!(state.advance(&rings, opens - 1, no_trouble), []);
    assert_eq!(state.advance(&rings, opens, no_trouble).len(), 1);
    let view = state.view(&rings, opens);
    let moved = |at| (0..=255).filter(|number| sees(&view, "branch", *number, at) == 2).count();
    assert_eq!((moved(opens), moved(opens + 4 * HOUR)), (0, 256));
    assert!((90..166).contains(&moved(opens + 2 * HOUR)), "{}", moved(opens + 2 * HOUR));
    assert_eq!(sees(&view, "default", 1, opens + 90 * HOUR), 1);

    let promote = RolloutCommand::Promote { ring: "last".into() };
    state.apply(&promote, &rings, opens + 5 * HOUR).unwrap();
    let view = state.view(&rings, opens + 5 * HOUR);
    assert_eq!(sees(&view, "default", 1, opens + 5 * HOUR), 2);
    let again = state.apply(&promote, &rings, opens + 5 * HOUR);
    assert_eq!(again, Err(CommandRefusal::NothingToPromote { ring: "last".into() }));
}

#[test]
fn trouble_closes_next_ring_for_that_revision_only() {
    let (rings, mut state) = (staged(), RolloutState::default());
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
    assert_eq!(sees(&state.view(&rings, end), "branch", 1, end), good.get());
}

#[test]
fn rollback_of_pilot_stops_the_revision_alone() {
    let (rings, mut state) = (staged(), RolloutState::default());
    publish(&mut state, 1, START);
    let bad = publish(&mut state, 2, START);
    state.advance(&rings, START, no_trouble);
    let back = RolloutCommand::Rollback { group: "pilot".into(), revision: None };
    state.apply(&back, &rings, START + HOUR).unwrap();
    assert_eq!(state.advance(&rings, START + 90 * HOUR, no_trouble), []);
    let waits = state.pending_steps(&rings, no_trouble).into_iter().find(|next| next.id.ring == 1).unwrap();
    assert_eq!((waits.id.revision, waits.condition), (bad, StepCondition::RolledBack(0)));
    // A later revision does, though the pilot does not see it: a group held for good must not stop the others.
    let mended = publish(&mut state, 3, START + 90 * HOUR);
    state.advance(&rings, START + 90 * HOUR, no_trouble);
    let opened = state.advance(&rings, START + 115 * HOUR, no_trouble);
    assert_eq!(opened.iter().map(|step| (step.revision, step.ring)).collect::<Vec<_>>(), [(mended, 1)]);
}

#[test]
fn halt_in_a_spread_resumes_where_it_stopped() {
    let (rings, mut state) = (
        rings("[[ring]]\nname = \"a\"\ngroups = [\"pilot\", \"branch\", \"default\"]\nspread = \"4h\"\n"),
        RolloutState::default(),
    );
    publish(&mut state, 1, START);
    publish(&mut state, 2, START);
    state.advance(&rings, START, no_trouble);
    let moved = |state: &RolloutState, at| {
        let view = state.view(&rings, at);
        (0..=255).filter(|number| sees(&view, "pilot", *number, at) == 2).collect::<Vec<u8>>()
    };
    let halted = START + HOUR;
    let before = moved(&state, halted);
    assert!(!before.is_empty() && before.len() < 128);
    state.apply(&RolloutCommand::Halt, &rings, halted).unwrap();
    let resumed = halted + 100 * HOUR;
    assert_eq!(moved(&state, resumed), before);
    assert_eq!(
        state.apply(&RolloutCommand::Release { group: None, now: true }, &rings, resumed),
        Err(CommandRefusal::Halted)
    );
    state.apply(&RolloutCommand::Resume, &rings, resumed).unwrap();
    assert_eq!(moved(&state, resumed), before);
    let later = moved(&state, resumed + 2 * HOUR);
    assert!(
        later.len() > before.len() && later.len() < 256 && before.iter().all(|client| later.contains(client))
    );
    assert_eq!(moved(&state, resumed + 4 * HOUR).len(), 256);
}

#[test]
fn group_is_held_rolled_back_and_released() {
    let (rings, mut state) = (staged(), RolloutState::default());
    for version in 1..=3 {
        publish(&mut state, version, START);
    }
    state.advance(&rings, START, no_trouble);
    let pilot = |state: &RolloutState| sees(&state.view(&rings, START), "pilot", 1, START);
    assert_eq!(pilot(&state), 3);
    let order = |state: &mut RolloutState, order| state.apply(&order, &rings, START);
    order(&mut state, RolloutCommand::Rollback { group: "pilot".into(), revision: None }).unwrap();
    assert_eq!(pilot(&state), 2);
    order(&mut state, RolloutCommand::Rollback { group: "pilot".into(), revision: None }).unwrap();
    assert_eq!(pilot(&state), 1);
    let more = order(&mut state, RolloutCommand::Rollback { group: "pilot".into(), revision: None });
    assert_eq!(more, Err(CommandRefusal::NothingBefore { group: "pilot".into(), number: 1.into() }));
    order(&mut state, RolloutCommand::Name { revision: 2.into(), name: "good".into() }).unwrap();
    order(&mut state, RolloutCommand::Hold { group: "pilot".into(), revision: "good".into() }).unwrap();
    assert_eq!(pilot(&state), 2);
    let unknown = order(&mut state, RolloutCommand::Hold { group: "pilot".into(), revision: "bad".into() });
    assert_eq!(
        unknown.unwrap_err().to_string(),
        "no kept revision is called \"bad\": kept are good (2), 3, 2, 1"
    );
    order(&mut state, RolloutCommand::Release { group: Some("pilot".into()), now: false }).unwrap();
    assert_eq!(pilot(&state), 3);
    order(&mut state, RolloutCommand::Release { group: None, now: true }).unwrap();
    assert_eq!(sees(&state.view(&rings, START), "default", 1, START), 3);
}

#[test]
fn deferred_payload_has_a_scheduled_start() {
    let (rings, mut state) = (staged(), RolloutState::default());
    let series = "r /content/{a}";
    assert_eq!(
        state.view(&rings, START).payload_access("pilot", client("pilot", 1), (series, 5), START),
        PayloadAccess::Unannounced
    );
    state.announce(series, 5, START).unwrap();
    assert_eq!(state.announce(series, 6, START + HOUR), Ok(PublishOutcome::New(2.into())));
    assert_eq!(state.announce("r /content/{b}", 1, START + HOUR), Ok(PublishOutcome::Joined(2.into())));
    assert_eq!(state.announce(series, 7, START + HOUR + 60_000), Ok(PublishOutcome::Joined(2.into())));
    state.advance(&rings, START + HOUR, no_trouble);
    let now = START + 2 * HOUR;
    let view = state.view(&rings, now);
    let access = |group: &str, number| view.payload_access(group, client(group, 9), (series, number), now);
    assert_eq!(
        (access("pilot", 7), access("branch", 5), access("branch", 4)),
        (PayloadAccess::Visible, PayloadAccess::Visible, PayloadAccess::Visible)
    );
    assert_eq!(access("branch", 7), PayloadAccess::Deferred(Some(START + 25 * HOUR)));
    assert_eq!(access("default", 7), PayloadAccess::Deferred(None));
    assert_eq!(access("pilot", 8), PayloadAccess::Unannounced);
    state.advance(&rings, START + 25 * HOUR, no_trouble);
    let view = state.view(&rings, START + 25 * HOUR);
    let spread = u128::from(client_share(client("branch", 9), "2")) * 4 * u128::from(HOUR.unsigned_abs());
    let own = START + 25 * HOUR + i64::try_from(spread >> 64).unwrap();
    let at = START + 25 * HOUR;
    assert_eq!(
        view.payload_access("branch", client("branch", 9), (series, 7), at),
        PayloadAccess::Deferred(Some(own))
    );
    state.apply(&RolloutCommand::Release { group: None, now: true }, &rings, at).unwrap();
    let view = state.view(&rings, at);
    assert_eq!(view.payload_access("branch", client("branch", 9), (series, 7), at), PayloadAccess::Released);
}

#[test]
fn rings_open_one_by_one_after_a_month_of_downtime() {
    let rings = rings(
        "[[ring]]\nname = \"a\"\ngroups = \"pilot\"\nspread = \"2h\"\n\
         [[ring]]\nname = \"b\"\ngroups = \"branch\"\ndelay = \"2h\"\nspread = \"2h\"\n\
         [[ring]]\nname = \"c\"\ngroups = \"default\"\ndelay = \"2h\"\nspread = \"2h\"\n",
    );
    let mut state = RolloutState::default();
    publish(&mut state, 1, START);
    publish(&mut state, 2, START);
    state.advance(&rings, START, no_trouble);
    let (stopped, now) = (START + HOUR, START + 720 * HOUR);
    state.resume_from(&rings, stopped, now);
    state.advance(&rings, now, no_trouble);
    let share_of = |state: &RolloutState, group: &str, at| {
        let view = state.view(&rings, at);
        (0..=255).filter(|number| sees(&view, group, *number, at) == 2).count()
    };
    assert!((64..192).contains(&share_of(&state, "pilot", now)));
    for (after, expected) in [(1, [256, 0, 0]), (5, [256, 256, 0]), (9, [256, 256, 256])] {
        for hour in 0..=after {
            state.advance(&rings, now + hour * HOUR, no_trouble);
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
fn ring_slower_than_publication_still_advances() {
    let config = config(
        "[rollout]\nkeep = 3\n[[ring]]\nname = \"a\"\ngroups = \"pilot\"\n\
         [[ring]]\nname = \"b\"\ngroups = [\"branch\", \"default\"]\ndelay = \"48h\"\n",
    );
    let (rings, mut state) = (Rings::new(&config).unwrap(), RolloutState::default());
    let mut seen = 0;
    for hour in 0..400 {
        let now = START + hour * HOUR;
        if hour % 4 == 0 {
            publish(&mut state, u8::try_from(hour / 4).unwrap(), now);
        }
        state.advance(&rings, now, no_trouble);
        state.prune(&rings, &config.rollout, now);
        assert!(state.revisions().count() <= 6, "{} at {hour}", state.revisions().count());
        let view = sees(&state.view(&rings, now), "branch", 1, now);
        assert!(view >= seen);
        seen = view;
    }
    // Two days behind the hundredth, and at most as much again between two that were kept.
    assert!(seen > 70, "{seen}");
}

/// Processor time of this thread: what it computes, however busy the machine is.
fn processor_time() -> std::time::Duration {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    std::time::Duration::from_nanos(statistics.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn hundreds_of_waiting_revisions_are_fast() {
    let config = config(
        "[rollout]\nkeep = 100\n[[ring]]\nname = \"a\"\ngroups = \"pilot\"\nwindows = \"20:00-06:00\"\n\
         [[ring]]\nname = \"b\"\ngroups = [\"branch\", \"default\"]\ngate = \"manual\"\n",
    );
    let (rings, mut state) = (Rings::new(&config).unwrap(), RolloutState::default());
    for number in 1..=240 {
        state.announce("r /content/{a}", number, START + i64::try_from(number).unwrap() * HOUR / 3).unwrap();
        state.open_step(state.revisions().count() - 1, 0, &rings, START);
    }
    let (now, begun) = (START + 334 * HOUR, processor_time());
    state.advance(&rings, now, no_trouble);
    state.prune(&rings, &config.rollout, now);
    let (view, _) = (state.view(&rings, now), state.next_change(&rings, now));
    let took = processor_time() - begun;
    assert!(took < std::time::Duration::from_millis(700), "{took:?}");
    assert_eq!((sees(&view, "default", 1, now), state.pending_steps(&rings, no_trouble).len()), (1, 99));
}

#[test]
fn named_and_held_revisions_outlast_count_and_age() {
    let config =
        config("[rollout]\nkeep = 2\nmax_age = \"1d\"\n[[ring]]\nname = \"a\"\ngroups = \"default\"\n");
    let (rings, mut state) = (Rings::new(&config).unwrap(), RolloutState::default());
    for version in 1..=6 {
        publish(&mut state, version, START);
    }
    state.apply(&RolloutCommand::Name { revision: 1.into(), name: "golden".into() }, &rings, START).unwrap();
    state
        .apply(&RolloutCommand::Hold { group: "default".into(), revision: "3".into() }, &rings, START)
        .unwrap();
    let later = START + 100 * HOUR;
    state.advance(&rings, later, no_trouble);
    state.prune(&rings, &config.rollout, later);
    assert_eq!(state.revisions().map(|revision| revision.number.get()).collect::<Vec<_>>(), [1, 3, 6]);
}

#[test]
fn publication_adds_joins_or_ignores_catalogs() {
    let mut state = RolloutState::default();
    publish(&mut state, 1, START);
    let of = |source: &str, catalogs: &[(&str, Option<u8>)]| SourceCatalogs {
        source: source.into(),
        catalogs: catalogs
            .iter()
            .map(|(key, version)| ((*key).into(), version.map(CollectedCatalog::of_version)))
            .collect(),
    };
    let same = [("r /minitri.flg", Some(1))];
    assert_eq!(state.publish(&[of("r", &same)], START), Ok(PublishOutcome::Unchanged));
    let joined = [same[0], ("r /b_livetri.zip", None), ("r /c_livetri.zip", Some(9))];
    assert_eq!(state.publish(&[of("r", &joined)], START), Ok(PublishOutcome::Joined(1.into())));
    assert_eq!(
        state.publish(&[of("q", &[("q /minitri.flg", Some(4))])], START),
        Ok(PublishOutcome::Joined(1.into()))
    );
    let appears = [same[0], ("r /b_livetri.zip", Some(7)), joined[2]];
    assert_eq!(state.publish(&[of("r", &appears)], START), Ok(PublishOutcome::New(2.into())));
    let gone = [same[0], ("r /c_livetri.zip", None)];
    assert_eq!(state.publish(&[of("r", &gone)], START), Ok(PublishOutcome::New(3.into())));
    assert_eq!(state.publish(&[of("r", &same)], START), Ok(PublishOutcome::Unchanged));
    let more = [same[0], ("r /d_livetri.zip", None)];
    assert_eq!(state.publish(&[of("r", &more)], START), Ok(PublishOutcome::Joined(3.into())));
    assert!(state.newest().unwrap().catalogs.contains_key("r /c_livetri.zip"), "clients may see it");
    let changed = [("r /minitri.flg", Some(2))];
    assert_eq!(state.publish(&[of("r", &changed)], START), Ok(PublishOutcome::New(4.into())));
    let newest = state.newest().unwrap();
    let keys: Vec<&str> = newest.catalogs.keys().map(|key| &**key).collect();
    assert_eq!(keys, ["q /minitri.flg", "r /minitri.flg"]);
}
