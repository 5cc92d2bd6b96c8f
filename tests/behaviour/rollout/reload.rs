//! Reloads that add, remove and change rings and groups under clients: no client sees two revisions, or goes back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{
    BRANCH, CATALOGS, GROUPS, HOUR, OTHER, PILOT, STAGED, all, get, hold, order, pass, publish_and_refresh,
    reload, sees, site, site_of, take_by_reload, version_of,
};
use crate::support::{Request, WireClient};

#[tokio::test(flavor = "multi_thread")]
async fn rollouts_are_switched_on_and_off_under_clients() {
    let mut site = site_of(GROUPS);
    assert_eq!(all(&site).await, [1, 1, 1]);
    // Without rings a refresh skips a catalog whose fill has delivered its last byte and is not stored yet.
    site.wait_for_fills().await;
    publish_and_refresh(&site, 2).await;
    assert_eq!(all(&site).await, [2, 2, 2]);
    let staged = format!("{GROUPS}{STAGED}");
    for version in [3, 6] {
        reload(&mut site, &staged).await;
        assert_eq!(all(&site).await, [version - 1; 3], "the first revision is for everyone");
        publish_and_refresh(&site, version).await;
        assert_eq!(all(&site).await, [version, version - 1, version - 1]);
        order(&site, hold("pilot", &super::newest(&site).to_string())).await;
        publish_and_refresh(&site, version + 1).await;
        assert_eq!(all(&site).await, [version, version - 1, version - 1]);
        super::reload_off(&mut site, GROUPS).await;
        assert_eq!(all(&site).await, [version + 1; 3]);
        site.wait_for_fills().await;
        publish_and_refresh(&site, version + 2).await;
        assert_eq!(all(&site).await, [version + 2; 3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn group_moved_to_earlier_ring_advances_alone() {
    let mut site = site(STAGED);
    assert_eq!(all(&site).await, [1, 1, 1]);
    publish_and_refresh(&site, 2).await;
    assert_eq!(all(&site).await, [2, 1, 1]);
    reload(
        &mut site,
        &format!(
            "{GROUPS}[[ring]]\nname = \"first\"\ngroups = [\"pilot\", \"branch\"]\n\
             [[ring]]\nname = \"last\"\ngroups = \"default\"\ngate = \"manual\"\n"
        ),
    )
    .await;
    assert_eq!(all(&site).await, [2, 2, 1]);
    publish_and_refresh(&site, 3).await;
    assert_eq!(all(&site).await, [3, 3, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn longer_spread_reverts_no_moved_client() {
    let spread = |hours: u32| {
        format!(
            "{GROUPS}[[ring]]\nname = \"all\"\ngroups = [\"pilot\", \"branch\", \"default\"]\nspread = \"{hours}h\"\n"
        )
    };
    let mut site = site_of(&spread(2));
    let mut crowd = super::Crowd::of(&site, [30, 30, 30]).await;
    crowd.look().await;
    publish_and_refresh(&site, 2).await;
    pass(&site, HOUR).await;
    let before = crowd.look().await;
    reload(&mut site, &spread(100)).await;
    assert_eq!(crowd.look().await, before);
    pass(&site, HOUR).await;
    let few = crowd.count(2).await.iter().sum::<usize>();
    assert!(few < 80, "{few}");
    reload(&mut site, &spread(1)).await;
    pass(&site, HOUR).await;
    assert_eq!(crowd.count(2).await, [30, 30, 30]);
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_groups_and_rings_revert_no_client() {
    let renamed = |group: u32, ring: u32| {
        format!("{GROUPS}{STAGED}")
            .replace("\"pilot\"", &format!("\"pilot-{group}\""))
            .replace("\"branch\"", &format!("\"branch-{group}\""))
            .replace("\"second\"", &format!("\"second-{ring}\""))
    };
    let mut site = site_of(&renamed(0, 0));
    assert_eq!(all(&site).await, [1, 1, 1]);
    publish_and_refresh(&site, 2).await;
    pass(&site, 24 * HOUR).await;
    pass(&site, 4 * HOUR).await;
    assert_eq!(all(&site).await, [2, 2, 1]);
    let (address, done) = (site.address(), AtomicBool::new(false));
    let asks = async |client| {
        let mut connection = WireClient::connect_from(client, address).await;
        while !done.load(Ordering::Relaxed) {
            for path in super::CATALOGS {
                let response = connection.send(&Request::get(path)).await.unwrap();
                assert_eq!(version_of(path, response), 2);
            }
        }
    };
    let renames = async {
        // One after the other: a ring with neither the old name nor an old group would be another ring.
        for at in 1..20 {
            reload(&mut site, &renamed(at / 2, at.div_ceil(2))).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(renames, asks(PILOT), asks(BRANCH));
    assert_eq!((sees(&site, PILOT).await, sees(&site, BRANCH).await), (2, 2));
    assert_eq!(get(&site, OTHER, super::CATALOGS[0]).await.status, 200);
}

/// Clients of a group that comes or goes always see a revision: by the rules before a reload, or by those after it.
#[tokio::test(flavor = "multi_thread")]
async fn reloads_that_add_and_remove_groups_cause_no_503() {
    const RELOADS: usize = 50;
    const REQUESTS: usize = 1_000;
    let with_groups = |at: usize| {
        let of_branch = match at % 3 {
            0 => String::new(),
            _ => format!("[[group]]\nname = \"branch-{at}\"\nsubnets = \"127.2.0.0/16\"\n"),
        };
        let of_pilot = format!("[[group]]\nname = \"pilot-{at}\"\nsubnets = \"127.1.0.0/16\"\n");
        let rings = format!(
            "[[ring]]\nname = \"first\"\ngroups = \"pilot-{at}\"\n[[ring]]\nname = \"last\"\ngroups = \"default\"\ngate = \"manual\"\n"
        );
        format!("{of_branch}{of_pilot}{rings}")
    };
    let mut site = site_of(&with_groups(0));
    assert_eq!(all(&site).await, [1, 1, 1]);
    publish_and_refresh(&site, 2).await;
    assert_eq!(all(&site).await, [2, 1, 1]);
    let (address, sent, done) = (site.address(), AtomicUsize::new(0), AtomicBool::new(false));
    let asks = async |client, version| {
        let mut connection = WireClient::connect_from(client, address).await;
        while !done.load(Ordering::Relaxed) {
            for path in CATALOGS {
                let response = connection.send(&Request::get(path)).await.unwrap();
                assert_eq!(response.status, 200, "{client}: {path}");
                assert_eq!(version_of(path, response), version, "{client}");
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let reloads = async {
        for at in 1..=RELOADS {
            while sent.load(Ordering::Relaxed) < at * REQUESTS / RELOADS {
                tokio::task::yield_now().await;
            }
            take_by_reload(&mut site, &with_groups(at));
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(reloads, asks(PILOT, 2), asks(BRANCH, 1), asks(OTHER, 1));
    assert!(sent.into_inner() >= REQUESTS);
}
