//! Restarts in the middle of a rollout: at once, after a crash, and after a month. Moved clients stay moved, and
//! commands stay in force.

use std::time::Duration;

use gupd_rollout::command::RolloutCommand;

use super::{
    Crowd, DAY, HOUR, PILOT, STAGED, all, get, hold, order, pass, publish_and_refresh, release, settled,
    site, try_order,
};
use crate::support::{PAYLOAD, Resource, Site, bytes};

const SPREAD: &str = "[[ring]]\nname = \"first\"\ngroups = \"pilot\"\nspread = \"10h\"\n\
     [[ring]]\nname = \"second\"\ngroups = \"branch\"\ndelay = \"2h\"\nspread = \"10h\"\n\
     [[ring]]\nname = \"last\"\ngroups = \"default\"\ndelay = \"2h\"\n";

/// Stops the relay, and starts it so much later.
fn away(site: &mut Site, time: Duration) {
    site.stop();
    site.clock.advance(time);
    site.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_in_mid_spread_changes_no_view() {
    let mut site = site(SPREAD);
    let mut crowd = Crowd::of(&site, [60, 20, 20]).await;
    crowd.look().await;
    publish_and_refresh(&site, 2).await;
    pass(&site, 5 * HOUR).await;
    let before = crowd.look().await;
    site.restart();
    crowd.connect(&site).await;
    assert_eq!(crowd.look().await, before);
    for _ in 0..20 {
        away(&mut site, Duration::from_secs(60));
        crowd.connect(&site).await;
        crowd.look().await;
    }
    // A restart costs the spread no time.
    pass(&site, 5 * HOUR - 20 * Duration::from_secs(60)).await;
    assert_eq!(crowd.count(2).await, [60, 0, 0]);
    pass(&site, 2 * HOUR).await;
    pass(&site, 5 * HOUR).await;
    let [pilot, branch, others] = crowd.count(2).await;
    assert!(pilot == 60 && (4..17).contains(&branch) && others == 0, "{branch} {others}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rings_continue_stage_by_stage_after_month_offline() {
    let mut site = site(SPREAD);
    let mut crowd = Crowd::of(&site, [60, 20, 20]).await;
    crowd.look().await;
    publish_and_refresh(&site, 2).await;
    pass(&site, 5 * HOUR).await;
    // No client goes back that has moved since the last record that the relay runs.
    for _ in 0..20 {
        pass(&site, Duration::from_secs(25)).await;
    }
    let before = crowd.look().await;
    away(&mut site, 31 * DAY);
    crowd.connect(&site).await;
    assert_eq!(crowd.look().await, before);
    // Nor does a client that moves right after the start, if the relay starts again.
    pass(&site, Duration::from_secs(20 * 60)).await;
    let before = crowd.look().await;
    away(&mut site, 31 * DAY);
    crowd.connect(&site).await;
    assert_eq!(crowd.look().await, before);
    publish_and_refresh(&site, 3).await;
    assert_eq!(crowd.look().await, before, "what has come meanwhile comes in rings");
    pass(&site, 10 * HOUR).await;
    assert_eq!(crowd.count(3).await, [60, 0, 0]);
    pass(&site, 2 * HOUR).await;
    pass(&site, 10 * HOUR).await;
    assert_eq!(crowd.count(3).await, [60, 20, 0]);
    pass(&site, 2 * HOUR).await;
    assert_eq!(crowd.count(3).await, [60, 20, 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_moved_just_before_downtime_does_not_go_back() {
    let mut site =
        site("[[ring]]\nname = \"all\"\ngroups = [\"pilot\", \"branch\", \"default\"]\nspread = \"5m\"\n");
    let mut crowd = Crowd::of(&site, [100, 100, 0]).await;
    crowd.look().await;
    publish_and_refresh(&site, 2).await;
    for _ in 0..6 {
        pass(&site, Duration::from_secs(29)).await;
        crowd.look().await;
        away(&mut site, DAY);
        crowd.connect(&site).await;
        crowd.look().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollout_commands_survive_restart() {
    let mut site = site(STAGED);
    assert_eq!(all(&site).await, [1, 1, 1]);
    publish_and_refresh(&site, 2).await;
    order(&site, RolloutCommand::Name { revision: 1.into(), name: "good".into() }).await;
    order(&site, hold("pilot", "good")).await;
    order(&site, release(Some("default"), true)).await;
    for days in [0, 40] {
        away(&mut site, days * DAY);
        assert_eq!(all(&site).await, [1, 1, 2], "after {days} days");
        settled(&site).await;
        assert_eq!(all(&site).await, [1, 1, 2], "after {days} days");
    }
    order(&site, RolloutCommand::Halt).await;
    for days in [0, 40] {
        away(&mut site, days * DAY);
        assert!(try_order(&site, RolloutCommand::Halt).await.is_err());
        pass(&site, 2 * DAY).await;
        assert_eq!(all(&site).await, [1, 1, 2], "after {days} days");
    }
    order(&site, RolloutCommand::Resume).await;
    assert_eq!(all(&site).await, [1, 1, 2]);
    order(&site, hold("branch", "good")).await;
    site.restart();
    assert_eq!(all(&site).await, [1, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_group_gets_no_newer_payload_after_restart() {
    let next = PAYLOAD.replace("261121001", "261121002");
    let mut site = site(STAGED);
    for path in [PAYLOAD, &next] {
        site.manager.put(path, Resource::new(bytes(1, 50_000)));
    }
    assert_eq!(all(&site).await, [1, 1, 1]);
    get(&site, PILOT, PAYLOAD).await.expect_body();
    order(&site, hold("pilot", "1")).await;
    for _ in 0..2 {
        let deferred = get(&site, PILOT, &next).await;
        assert_eq!((deferred.status, deferred.header("retry-after")), (503, Some("3600")));
        assert_eq!(get(&site, PILOT, PAYLOAD).await.status, 200);
        site.restart();
        pass(&site, DAY).await;
    }
    order(&site, release(Some("pilot"), false)).await;
    assert_eq!(get(&site, PILOT, &next).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_change_or_sleep_opens_no_ring() {
    let site = site(SPREAD);
    let mut crowd = Crowd::of(&site, [60, 20, 20]).await;
    crowd.look().await;
    publish_and_refresh(&site, 2).await;
    pass(&site, 3 * HOUR).await;
    let before = crowd.look().await;
    for leap in [30 * DAY, 11 * HOUR] {
        site.clock.set_forward(leap);
        // Before and after the rollouts have seen it. A leap is worth some minutes, since it may be time that passed.
        let early = crowd.look().await;
        settled(&site).await;
        let moved = crowd.look().await.iter().filter(|(_, sees)| *sees == 2).count();
        let (were, at_once) =
            [&before, &early].map(|seen| seen.iter().filter(|(_, sees)| *sees == 2).count()).into();
        assert!(at_once <= were + 6 && moved <= were + 6, "{were} {at_once} {moved}");
    }
    let before = crowd.look().await;
    for leap in [11 * HOUR, 30 * DAY] {
        site.clock.set_back(leap);
        assert_eq!(crowd.look().await, before);
        settled(&site).await;
        assert_eq!(crowd.look().await, before);
    }
    pass(&site, 7 * HOUR).await;
    assert_eq!(crowd.count(2).await, [60, 0, 0]);
}
