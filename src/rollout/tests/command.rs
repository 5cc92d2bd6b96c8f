//! Refusals and warnings of commands.

use super::super::command::RolloutCommand;
use super::super::progress::no_trouble;
use super::*;

fn refusal(state: &mut RolloutState, rings: &Rings, command: &RolloutCommand) -> String {
    let before = state.clone();
    let refusal = state.apply(command, rings, START).unwrap_err().to_string();
    assert_eq!(*state, before);
    refusal
}

#[test]
fn command_without_or_against_its_effect_is_refused() {
    let (rings, mut state) = (staged(), RolloutState::default());
    let back =
        |revision: &str| RolloutCommand::Rollback { group: "pilot".into(), revision: Some(revision.into()) };
    assert!(refusal(&mut state, &rings, &back("1")).contains("there is no revision yet"));
    for version in 1..=3 {
        publish(&mut state, version, START);
    }
    state.advance(&rings, START, no_trouble);
    let forward = "is not before 3, the newest that group \"pilot\" sees";
    assert!(refusal(&mut state, &rings, &back("3")).contains(forward));
    let all = RolloutCommand::Release { group: None, now: false };
    let release = |group: &str| RolloutCommand::Release { group: Some(group.into()), now: false };
    assert!(refusal(&mut state, &rings, &release("pilot")).starts_with("group pilot is not held"));
    assert!(refusal(&mut state, &rings, &all).starts_with("groups are not held"));
    state.apply(&back("1"), &rings, START).unwrap();
    assert!(refusal(&mut state, &rings, &back("2")).contains("is not before 1"));
    assert!(refusal(&mut state, &rings, &release("branch")).starts_with("group branch is not held"));
    state.apply(&all, &rings, START).unwrap();
}

#[test]
fn promotion_warns_of_closed_windows() {
    let ring = |windows: &str| {
        rings(&format!(
            "[[ring]]\nname = \"all\"\ngroups = [\"pilot\", \"branch\", \"default\"]\ngate = \"manual\"\n{windows}"
        ))
    };
    let promote = RolloutCommand::Promote { ring: "all".into() };
    for (rings, warnings) in [(ring("windows = \"sun 02:00-03:00\""), 1), (ring(""), 0)] {
        let mut state = RolloutState::default();
        publish(&mut state, 1, START);
        publish(&mut state, 2, START);
        let outcome = state.apply(&promote, &rings, START).unwrap();
        assert_eq!(outcome.warnings.len(), warnings, "{outcome:?}");
    }
}
