//! The property that clients rely on: whatever happens to a relay, no client goes back except by a command.

use proptest::prelude::*;

use super::*;

/// An event at a relay.
#[derive(Clone, Debug)]
enum Event {
    Passes(i64),
    Publishes,
    Announces,
    Halts,
    Resumes,
    Away(i64),
    SetBack(i64),
    Promotes(usize),
    Reloads(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..40 * HOUR).prop_map(Event::Passes),
        3 => Just(Event::Publishes),
        1 => Just(Event::Announces),
        1 => Just(Event::Halts),
        1 => Just(Event::Resumes),
        1 => (HOUR..900 * HOUR).prop_map(Event::Away),
        1 => (HOUR..90 * HOUR).prop_map(Event::SetBack),
        1 => (0..3_usize).prop_map(Event::Promotes),
        1 => (0..2_usize).prop_map(Event::Reloads),
    ]
}

/// Configurations of the same rings. A reload may switch between the first two.
fn configurations() -> Vec<Config> {
    let of = |second: &str| {
        config(&format!(
            "[rollout]\nkeep = 3\nmax_age = \"2d\"\n[[ring]]\nname = \"first\"\ngroups = \"pilot\"\nspread = \"1h\"\n\
             [[ring]]\nname = \"second\"\ngroups = \"branch\"\n{second}\n\
             [[ring]]\nname = \"last\"\ngroups = \"default\"\ndelay = \"3h\"\nspread = \"30h\"\n"
        ))
    };
    vec![
        of("delay = \"24h\"\nspread = \"4h\"\nwindows = \"20:00-06:00\""),
        of("delay = \"2h\"\nspread = \"40h\""),
        of("delay = \"2h\"\nspread = \"9h\"\nshares = [10, 50, 100]\nstep = \"5h\""),
        of("after = \"first\"\ngate = \"manual\"\nshares = [20, 60, 100]"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_client_goes_back_without_a_command(
        first in 0..4_usize,
        events in prop::collection::vec(event(), 1..40),
        numbers in prop::collection::vec(any::<u8>(), 1..6),
    ) {
        let configs = configurations();
        let config = &configs[first];
        let mut rings = Rings::new(config).unwrap();
        let (mut state, mut now, mut version) = (RolloutState::default(), START, 0_u8);
        let mut last: std::collections::HashMap<(&str, u8), RevisionNumber> = std::collections::HashMap::new();
        for event in events {
            match event {
                Event::Passes(millis) => now += millis,
                Event::Publishes => {
                    version = version.wrapping_add(1);
                    state.publish(&[collected(version)], now).unwrap();
                }
                Event::Announces => {
                    state.announce("r /content/{a}", u64::from(version) + 1, now).unwrap();
                }
                Event::Halts => drop(state.apply(&RolloutCommand::Halt, &rings, now)),
                Event::Resumes => drop(state.apply(&RolloutCommand::Resume, &rings, now)),
                Event::Away(millis) => {
                    if state.halted.is_none() {
                        state.resume_from(&rings, now, now + millis);
                    }
                    now += millis;
                }
                Event::SetBack(millis) => {
                    if state.halted.is_none() {
                        state.resume_from(&rings, now, now - millis);
                        now -= millis;
                    }
                }
                Event::Promotes(ring) => {
                    let ring = ["first", "second", "last"][ring].to_owned();
                    drop(state.apply(&RolloutCommand::Promote { ring }, &rings, now));
                }
                // If shares or subnets change, a client may come in a later step than before.
                Event::Reloads(to) if first < 2 && state.halted.is_none() => {
                    state.resume_from(&rings, now, now);
                    rings = Rings::new(&configs[to]).unwrap();
                }
                Event::Reloads(_) => {}
            }
            state.advance(&rings, now, no_trouble);
            state.prune(&rings, &config.rollout, now);
            let view = state.view(&rings, now);
            for group in ["pilot", "branch", "default"] {
                for number in &numbers {
                    let Some(seen) = view.visible_revision(group, client(group, *number), now) else { continue };
                    let before = last.insert((group, *number), seen.number).unwrap_or_default();
                    prop_assert!(seen.number >= before, "{group} {number}: {before}, then {}", seen.number);
                    prop_assert!(state.revision(seen.number).is_some());
                }
            }
        }
        // Time alone takes all clients to the newest revision.
        drop(state.apply(&RolloutCommand::Resume, &rings, now));
        for _ in 0..90 {
            now += 10 * HOUR;
            drop(state.apply(&RolloutCommand::Promote { ring: "second".into() }, &rings, now));
            state.advance(&rings, now, no_trouble);
            state.prune(&rings, &config.rollout, now);
        }
        if let Some(newest) = state.newest() {
            for group in ["pilot", "branch", "default"] {
                prop_assert_eq!(sees(&state.view(&rings, now), group, numbers[0], now), newest.number.get());
            }
        }
    }
}
