//! Client groups over sockets: the group of each request decides its treatment, also on a kept connection.

use std::net::{IpAddr, Ipv4Addr};

use gupd_config::GroupSettings;
use gupd_config::week::WeekWindows;

use crate::support::{PAYLOAD, Request, Resource, Site, WireClient, bytes};

const DELTA: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/xdelta261120001.dax";

/// A group without an open window.
fn group_without_windows(name: &str) -> GroupSettings {
    GroupSettings { windows: WeekWindows::constant(false), ..GroupSettings::catch_all(name) }
}

#[tokio::test(flavor = "multi_thread")]
async fn path_group_defers_only_matching_paths() {
    let site = Site::with_config(|config| {
        let full =
            GroupSettings { paths: vec!["**/full.zip".to_owned()], ..group_without_windows("full-sets") };
        config.groups = vec![full];
    });
    for path in [PAYLOAD, DELTA] {
        site.manager.put(path, Resource::new(bytes(1, 10_000)));
    }
    let mut client = WireClient::connect(site.address()).await;
    for (path, status) in
        [(DELTA, 200), (PAYLOAD, 503), (&PAYLOAD.replace("full", "%66ULL"), 503), (DELTA, 200)]
    {
        assert_eq!(client.send(&Request::get(path)).await.unwrap().status, status, "{path}");
    }
    assert_eq!(site.metric("gupd_deferred_total{group=\"full-sets\"}").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn group_needs_subnet_and_path_and_first_match_wins() {
    let one = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let site = Site::with_config(|config| {
        let subnets = vec!["127.0.0.2/32".parse().unwrap()];
        let pilot = GroupSettings {
            subnets: subnets.clone(),
            paths: vec!["**/*.dax".to_owned()],
            ..GroupSettings::catch_all("pilot")
        };
        config.groups = vec![pilot, GroupSettings { subnets, ..group_without_windows("branch") }];
    });
    for path in [PAYLOAD, DELTA] {
        site.manager.put(path, Resource::new(bytes(1, 10_000)));
    }
    let mut client = WireClient::connect_from(one, site.address()).await;
    assert_eq!(client.send(&Request::get(DELTA)).await.unwrap().status, 200);
    assert_eq!(client.send(&Request::get(PAYLOAD)).await.unwrap().status, 503);
    assert_eq!(site.get(PAYLOAD).await.status, 200);
}
