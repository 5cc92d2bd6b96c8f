//! A staged rollout hour by hour: delay, spread, windows, shares and subnets decide on the visible revision. No client
//! sees catalogs of two revisions, and no client goes back.

use std::net::IpAddr;
use std::time::Duration;

use gupd_rollout::schedule::client_share;

use super::{
    CATALOGS, Crowd, DAY, HOUR, STAGED, all, order, pass, promote, publish, publish_and_refresh, refresh,
    site,
};

/// After how much of a spread a client moves to a revision.
fn offset(client: IpAddr, revision: u64, spread: Duration) -> Duration {
    let millis = (u128::from(client_share(client, &revision.to_string())) * spread.as_millis()) >> 64;
    Duration::from_millis(u64::try_from(millis).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_reaches_one_ring_after_the_other() {
    let site = site(STAGED);
    assert_eq!(all(&site).await, [1, 1, 1]);
    publish(&site.manager, 2);
    assert_eq!(all(&site).await, [1, 1, 1], "only published revisions are visible");
    refresh(&site).await;
    assert_eq!(all(&site).await, [2, 1, 1]);
    pass(&site, 23 * HOUR).await;
    assert_eq!(all(&site).await, [2, 1, 1]);
    pass(&site, HOUR).await;
    pass(&site, 4 * HOUR).await;
    assert_eq!(all(&site).await, [2, 2, 1]);
    order(&site, promote("last")).await;
    assert_eq!(all(&site).await, [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn spread_moves_200_clients_for_one_refresh() {
    // From Monday noon: the branch on Tuesday from 20:00 to 24:00, the others on Wednesday at 2, 6 and 10, within an
    // hour.
    let site = site(
        "[[ring]]\nname = \"first\"\ngroups = \"pilot\"\n\
         [[ring]]\nname = \"second\"\ngroups = \"branch\"\ndelay = \"24h\"\nspread = \"4h\"\nwindows = \"20:00-06:00\"\n\
         [[ring]]\nname = \"last\"\ngroups = \"default\"\ndelay = \"2h\"\nshares = [10, 50, 100]\nstep = \"4h\"\nspread = \"1h\"\n",
    );
    let mut crowd = Crowd::of(&site, [20, 80, 100]).await;
    assert_eq!(crowd.count(2).await, [0, 0, 0]);
    let mut firsts: Vec<Vec<IpAddr>> = Vec::new();
    for revision in [2, 3] {
        let before = site.manager.body_bytes();
        publish_and_refresh(&site, revision).await;
        let refreshed = site.manager.body_bytes() - before;
        assert_eq!(refreshed, CATALOGS.iter().map(|path| path.len() as u64 + 13).sum::<u64>());
        let (mut tenth, mut half) = (Vec::new(), Vec::new());
        for hour in 0..48_u32 {
            if [0, 23, 31, 32, 33, 34, 36, 38, 39, 41, 43, 46, 47].contains(&hour) {
                for (client, sees) in crowd.look().await {
                    let (now, has) = (hour * HOUR, sees == revision);
                    match super::group_of(client) {
                        1 => assert!(has),
                        2 => {
                            let moves = 32 * HOUR + offset(client, revision, 4 * HOUR);
                            assert_eq!(has, moves <= now, "{hour} h");
                        }
                        _ if hour == 39 && has => tenth.push(client),
                        _ if hour == 43 && has => half.push(client),
                        _ if hour == 41 => assert_eq!(has, tenth.contains(&client)),
                        _ if hour == 46 => assert_eq!(has, half.contains(&client)),
                        _ if hour < 38 => assert!(!has, "{hour} h"),
                        _ => assert!(has || hour < 47, "{client} has not moved by {hour} h"),
                    }
                }
            }
            pass(&site, HOUR).await;
        }
        assert!((4..=18).contains(&tenth.len()) && (38..=62).contains(&half.len()), "{tenth:?} {half:?}");
        assert!(tenth.iter().all(|client| half.contains(client)));
        assert_eq!(site.manager.body_bytes() - before, refreshed, "no byte crossed the line for a client");
        firsts.push(tenth);
    }
    assert_eq!(firsts[0], firsts[1], "the same clients are first each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn subnets_move_one_at_a_time_and_the_rest_with_the_last() {
    let site = site(
        "[[ring]]\nname = \"all\"\ngroups = [\"pilot\", \"branch\", \"default\"]\n\
         subnets = [\"127.2.0.0/16\", \"127.1.0.0/16\"]\nstep = \"4h\"\n",
    );
    assert_eq!(all(&site).await, [1, 1, 1]);
    publish_and_refresh(&site, 2).await;
    assert_eq!(all(&site).await, [1, 2, 1]);
    pass(&site, 4 * HOUR - Duration::from_secs(1)).await;
    assert_eq!(all(&site).await, [1, 2, 1]);
    pass(&site, Duration::from_secs(1)).await;
    assert_eq!(all(&site).await, [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_revisions_spread_at_once() {
    let site = site(
        "[[ring]]\nname = \"first\"\ngroups = \"pilot\"\nspread = \"2h\"\n\
         [[ring]]\nname = \"second\"\ngroups = \"branch\"\ndelay = \"1h\"\nspread = \"6h\"\n\
         [[ring]]\nname = \"last\"\ngroups = \"default\"\ndelay = \"1h\"\nspread = \"12h\"\n",
    );
    let mut crowd = Crowd::of(&site, [30, 30, 30]).await;
    crowd.look().await;
    let mut most = 0;
    for hour in 0..40_u64 {
        if let (0, version @ 2..=4) = (hour % 4, 2 + hour / 4) {
            publish_and_refresh(&site, version).await;
        }
        let seen = crowd.look().await;
        let kinds: std::collections::BTreeSet<u64> = seen.iter().map(|(_, sees)| *sees).collect();
        most = most.max(kinds.len());
        pass(&site, HOUR).await;
    }
    assert!(most >= 3, "{most} revisions were seen at once");
    assert_eq!(crowd.count(4).await, [30, 30, 30], "all have come to the last one");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_ring_keeps_moving_under_daily_publication() {
    let site = site(
        "[[ring]]\nname = \"first\"\ngroups = [\"pilot\", \"branch\"]\n\
         [[ring]]\nname = \"last\"\ngroups = \"default\"\ndelay = \"3d\"\n[rollout]\nkeep = 2\n",
    );
    assert_eq!(all(&site).await, [1, 1, 1]);
    let mut seen = Vec::new();
    for version in 2..=9 {
        publish_and_refresh(&site, version).await;
        let [pilot, _, other] = all(&site).await;
        assert_eq!(pilot, version);
        seen.push(other);
        pass(&site, DAY).await;
    }
    assert!(seen.is_sorted() && seen.iter().max() >= Some(&3), "{seen:?}");
    pass(&site, 3 * DAY).await;
    assert_eq!(all(&site).await[2], 9);
}
