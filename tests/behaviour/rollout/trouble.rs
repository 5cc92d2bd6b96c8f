//! Trouble among the clients of one ring keeps the next one closed, and a fixed revision goes through.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::{HOUR, all, get, order, pass, promote, publish_and_refresh, sees, site};
use crate::alarms::{wait_until_over, wait_until_raised};
use crate::support::{PATIENCE, PAYLOAD, Resource, Site, bytes};

const RINGS: &str = "[[ring]]\nname = \"first\"\ngroups = \"pilot\"\n\
     [[ring]]\nname = \"second\"\ngroups = \"branch\"\ndelay = \"1h\"\n\
     [[ring]]\nname = \"last\"\ngroups = \"default\"\ndelay = \"1h\"\n\
     [rollout]\ntrouble_share = \"30%\"\ntrouble_clients = 3\nrepeats = 3\n";

fn pilots() -> impl Iterator<Item = IpAddr> {
    (1..=10).map(|host| Ipv4Addr::new(127, 1, 0, host).into())
}

/// Waits until so many of the pilot's clients are known to see a revision, and so many of them to have trouble.
async fn known(site: &Site, revision: u64, clients: u64, troubled: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let trouble = site.relay().rollouts().clients().trouble(revision.into(), &["pilot".into()]).await;
        if (trouble.clients, trouble.troubled) == (clients, troubled) {
            return;
        }
        assert!(Instant::now() < deadline, "{trouble}");
        tokio::task::yield_now().await;
    }
}

/// Everyone in the pilot moves to a version, and takes this as often.
async fn pilot_takes(site: &Site, version: u64, path: &str, times: impl Fn(usize) -> usize) {
    publish_and_refresh(site, version).await;
    for (at, client) in pilots().enumerate() {
        assert_eq!(sees(site, client).await, version);
        for _ in 0..times(at) {
            get(site, client, path).await;
        }
    }
}

async fn begun() -> Site {
    let site = site(RINGS);
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 1_000)));
    assert_eq!(all(&site).await, [1, 1, 1]);
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_full_sets_keep_next_ring_closed() {
    let mut site = begun().await;
    pilot_takes(&site, 2, PAYLOAD, |at| if at < 3 { 3 } else { 1 }).await;
    known(&site, 2, 10, 3).await;
    for _ in 0..5 {
        pass(&site, HOUR).await;
        assert_eq!(all(&site).await, [2, 1, 1]);
    }
    assert_eq!(site.metric("gupd_rollout_ring_trouble{ring=\"first\"}").await, 1.0);
    let raised = wait_until_raised(&site, "ring-blocked").await;
    assert_eq!(raised["subject"], "second", "{raised}");
    assert!(raised["action"].as_str().unwrap().starts_with("gupd rollout promote second"), "{raised}");
    site.restart();
    pass(&site, HOUR).await;
    assert_eq!(all(&site).await, [2, 1, 1], "what is known of clients outlives the process");
    pilot_takes(&site, 3, PAYLOAD, |_| 1).await;
    known(&site, 3, 10, 0).await;
    pass(&site, HOUR).await;
    assert_eq!(all(&site).await, [3, 3, 1]);
    pass(&site, HOUR).await;
    assert_eq!(all(&site).await, [3, 3, 3]);
    wait_until_over(&site, "ring-blocked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_repeated_full_sets_leave_next_ring_open() {
    let site = site(&RINGS.replace("30%", "5%").replace("trouble_clients = 3", "trouble_clients = 2"));
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 1_000)));
    assert_eq!(all(&site).await, [1, 1, 1]);
    // Served whole each time: two of ten clients prove nothing against the revision.
    pilot_takes(&site, 2, PAYLOAD, |at| if at < 2 { 9 } else { 1 }).await;
    known(&site, 2, 10, 2).await;
    pass(&site, HOUR).await;
    assert_eq!(all(&site).await, [2, 2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_downloads_gate_only_above_threshold() {
    let site = begun().await;
    let broken = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/xdelta261121000.dax";
    site.manager.put(broken, Resource::new("busy").status(500));
    pilot_takes(&site, 2, broken, |at| usize::from(at < 2)).await;
    known(&site, 2, 10, 2).await;
    pass(&site, HOUR).await;
    assert_eq!(all(&site).await, [2, 2, 1], "two of ten are not three");
    pilot_takes(&site, 3, broken, |at| usize::from(at < 4)).await;
    known(&site, 3, 10, 4).await;
    pass(&site, 2 * HOUR).await;
    assert_eq!(all(&site).await, [3, 2, 2], "the one before goes on");
    // A client that has received it whole since is well.
    for client in pilots().take(2) {
        assert_eq!(get(&site, client, PAYLOAD).await.status, 200);
    }
    known(&site, 3, 10, 2).await;
    pass(&site, Duration::from_secs(60)).await;
    assert_eq!(all(&site).await, [3, 3, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_may_open_a_ring_that_trouble_keeps_closed() {
    let site = begun().await;
    pilot_takes(&site, 2, PAYLOAD, |_| 4).await;
    known(&site, 2, 10, 10).await;
    pass(&site, HOUR).await;
    assert_eq!(all(&site).await, [2, 1, 1]);
    order(&site, promote("second")).await;
    assert_eq!(all(&site).await, [2, 2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_outlasts_newer_revision_for_same_clients() {
    let mut site = begun().await;
    pilot_takes(&site, 2, PAYLOAD, |at| if at < 3 { 3 } else { 1 }).await;
    known(&site, 2, 10, 3).await;
    pass(&site, HOUR / 2).await;
    pilot_takes(&site, 3, PAYLOAD, |_| 1).await;
    known(&site, 3, 10, 0).await;
    site.restart();
    pass(&site, HOUR / 2).await;
    assert_eq!(all(&site).await, [3, 1, 1], "no client sees the revision any more");
    pass(&site, HOUR / 2).await;
    assert_eq!(all(&site).await, [3, 3, 1]);
}
