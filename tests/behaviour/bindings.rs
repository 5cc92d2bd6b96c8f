//! Groups bound to upstreams of their own. Each group gets its manager's catalogs, payloads cross the line once for
//! all groups, and a client that moves between groups causes no repeated fetch.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use gupd_config::Config;
use gupd_config::{Binding, GroupSettings};

use crate::refresh::{ask, with_token};
use crate::support::site::read_clock;
use crate::support::{
    Gate, Manager, PAYLOAD, RefusingPort, Request, Resource, Response, Site, WireClient, bytes,
};

const CATALOG: &str = "/minitri.flg";
const GENERIC: &str = "/news.txt";
const PRIVATE: &str = "/secars/secars.dll";
const LENGTH: usize = 1_500_000;
/// A client of the group that is bound to the second manager.
const BATCH: &str = "127.0.0.2";
const OTHER: &str = "127.0.0.1";

/// A site with two managers: its own serves the route, the second one a group of clients.
struct TwoManagers {
    site: Site,
    second: Manager,
}

impl TwoManagers {
    fn new() -> Self {
        Self::with_config(|_| {})
    }

    fn with_config(change: impl FnOnce(&mut Config)) -> Self {
        let second = Manager::start();
        let site = Site::with_config(|config| {
            let urls = [config.upstreams[0].url.to_string(), second.url()];
            let urls = urls.iter().map(|url| url.trim_end_matches('/')).collect::<Vec<_>>();
            config.upstreams = Config::for_upstreams(&urls).unwrap().upstreams;
            config.upstreams[1].name = "second".to_owned();
            config.groups = vec![batch_group(config, &[1])];
            change(config);
        });
        second.set_clock(read_clock(&site.clock));
        for (manager, own) in [(&site.manager, "first"), (&second, "second")] {
            for path in [CATALOG, GENERIC, PRIVATE] {
                manager.put(path, Resource::new(own).header("Cache-Control", "max-age=60"));
            }
            manager.put(PAYLOAD, Resource::new(bytes(1, LENGTH)));
        }
        Self { site, second }
    }

    async fn get(&self, client: &str, path: &str) -> Response {
        self.send(client, Request::get(path)).await
    }

    async fn send(&self, client: &str, request: Request) -> Response {
        let mut client = WireClient::connect_from(client.parse().unwrap(), self.site.address()).await;
        client.send(&request).await.unwrap()
    }

    async fn body(&self, client: &str, path: &str) -> String {
        String::from_utf8(self.get(client, path).await.expect_body()).unwrap()
    }

    fn reload(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.site.config);
        let config = self.site.config.clone();
        tokio::task::block_in_place(|| self.site.relay_mut().reload(config)).unwrap();
    }

    /// Numbers of requests at the two managers.
    fn request_counts(&self, path: &str) -> (usize, usize) {
        (self.site.manager.request_count(path), self.second.request_count(path))
    }
}

fn batch_group(config: &Config, upstreams: &[usize]) -> GroupSettings {
    let binding = Binding::new(&config.upstreams, upstreams.to_vec()).map(Arc::new);
    GroupSettings {
        subnets: vec![format!("{BATCH}/32").parse().unwrap()],
        binding,
        ..GroupSettings::catch_all("batch")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bound_groups_get_own_catalogs_and_share_payloads() {
    let two = TwoManagers::new();
    for path in [CATALOG, GENERIC] {
        for (client, own) in [(BATCH, "second"), (OTHER, "first"), (BATCH, "second")] {
            assert_eq!(two.body(client, path).await, own, "{path}");
            two.site.wait_for_fills().await;
        }
        assert_eq!(two.request_counts(path), (1, 1), "each group has its own catalog stored");
    }
    for (client, own) in [(BATCH, "second"), (OTHER, "first")] {
        assert_eq!(two.body(client, PRIVATE).await, own);
    }
    assert!(two.get(BATCH, PAYLOAD).await.expect_body() == bytes(1, LENGTH));
    two.site.wait_until_stored(PAYLOAD).await;
    assert!(two.get(OTHER, PAYLOAD).await.expect_body() == bytes(1, LENGTH));
    assert_eq!(two.request_counts(PAYLOAD), (0, 1));
    // A POST to one manager invalidates that manager's entry only.
    assert_eq!(two.send(BATCH, Request::new("POST", GENERIC).body("x")).await.status, 200);
    assert_eq!(two.request_counts(GENERIC), (1, 2));
    assert_eq!(
        (two.body(OTHER, GENERIC).await, two.body(BATCH, GENERIC).await),
        ("first".into(), "second".into())
    );
    assert_eq!(two.request_counts(GENERIC), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_group_fetches_no_payload_again() {
    let mut two = TwoManagers::with_config(|config| {
        config.groups.clear();
        config.routes[0].upstreams = vec![0];
    });
    let delta = PAYLOAD.replace("full.zip", "xdelta261120001.dax");
    for manager in [&two.site.manager, &two.second] {
        manager.put(&delta, Resource::new(bytes(2, 10_000)));
    }
    for path in [PAYLOAD, &delta] {
        two.get(OTHER, path).await.expect_body();
        two.site.wait_until_stored(path).await;
    }
    let crossed = (LENGTH + 10_000) as u64;
    assert_eq!((two.site.manager.body_bytes(), two.second.body_bytes()), (crossed, 0));
    let mut catalogs = 0;
    for (bound, of_batch, of_others) in [
        (&[][..], "first", "first"),
        (&["batch"], "second", "first"),
        (&["batch", "rest"], "second", "second"),
        (&[], "first", "first"),
    ] {
        two.reload(|config| {
            let rest =
                GroupSettings { subnets: Vec::new(), name: "rest".to_owned(), ..batch_group(config, &[1]) };
            let groups = [batch_group(config, &[1]), rest].into_iter();
            config.groups = groups.filter(|group| bound.contains(&&*group.name)).collect();
        });
        for (client, own) in [(BATCH, of_batch), (OTHER, of_others)] {
            assert_eq!(two.body(client, CATALOG).await, own, "bound to {bound:?}");
            two.site.wait_for_fills().await;
            for (path, length) in [(PAYLOAD, LENGTH), (&delta, 10_000)] {
                let response = two.get(client, path).await;
                assert_eq!(response.cache_status(), "gupd; hit", "with {bound:?}");
                assert_eq!(response.expect_body().len(), length);
            }
        }
        catalogs =
            two.request_counts(CATALOG).0 * "first".len() + two.request_counts(CATALOG).1 * "second".len();
    }
    assert_eq!(two.site.manager.body_bytes() + two.second.body_bytes(), crossed + catalogs as u64);
    assert_eq!(two.request_counts(CATALOG), (1, 1), "fresh content is not revalidated");
}

#[tokio::test(flavor = "multi_thread")]
async fn bound_group_is_served_stored_content_while_manager_is_down() {
    let (mut two, down) = (TwoManagers::new(), RefusingPort::new());
    for client in [BATCH, OTHER] {
        two.get(client, CATALOG).await;
    }
    two.get(OTHER, PAYLOAD).await.expect_body();
    two.site.wait_until_stored(PAYLOAD).await;
    two.reload(|config| config.upstreams[1].url = down.url().parse().unwrap());
    two.site.clock.advance(Duration::from_secs(61));
    let stale = two.get(BATCH, CATALOG).await;
    assert_eq!(stale.cache_status(), "gupd; hit; detail=stale-if-error");
    assert_eq!(stale.expect_body(), b"second");
    assert_eq!(two.get(BATCH, GENERIC).await.status, 504);
    assert_eq!(two.get(BATCH, PRIVATE).await.status, 504);
    assert!(two.get(BATCH, PAYLOAD).await.expect_body() == bytes(1, LENGTH));
    for path in [CATALOG, GENERIC, PRIVATE] {
        assert_eq!(two.body(OTHER, path).await, "first");
    }
    assert_eq!(
        (two.request_counts(GENERIC), two.request_counts(PRIVATE)),
        ((1, 0), (1, 0)),
        "no request went to the other manager"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn payload_missing_at_bound_manager_is_shared_from_another() {
    let two = TwoManagers::new();
    two.second.remove(PAYLOAD);
    assert_eq!(two.get(BATCH, PAYLOAD).await.status, 404);
    two.site.wait_for_fills().await;
    assert_eq!(two.get(BATCH, PAYLOAD).await.status, 404);
    assert_eq!(two.request_counts(PAYLOAD), (0, 1), "the 404 is cached for the group of that manager");
    assert!(two.get(OTHER, PAYLOAD).await.expect_body() == bytes(1, LENGTH));
    two.site.wait_until_stored(PAYLOAD).await;
    assert!(two.get(BATCH, PAYLOAD).await.expect_body() == bytes(1, LENGTH));
    assert_eq!(two.request_counts(PAYLOAD), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_of_failed_bound_fill_asks_its_own_manager() {
    for broken in [Resource::new("none").status(404), Resource::raw("")] {
        let (two, gate) = (TwoManagers::new(), Gate::default());
        two.second.put(PAYLOAD, broken.held(&gate));
        let one = two.get(BATCH, PAYLOAD);
        let follower = async {
            two.second.wait_for_requests(PAYLOAD, 1).await;
            let mut client = WireClient::connect_from(OTHER.parse().unwrap(), two.site.address()).await;
            client.write_request(&Request::get(PAYLOAD)).await.unwrap();
            two.site.wait_for_metric("gupd_connections", 2.0).await;
            gate.open();
            let mut response = client.read_head().await.unwrap();
            client.read_rest("GET", &mut response).await;
            response
        };
        let (one, follower) = tokio::join!(one, follower);
        assert_ne!(one.status, 200);
        assert!(follower.expect_body() == bytes(1, LENGTH));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn catalog_is_revalidated_at_its_own_upstream() {
    let listed = "/liveupdt.tri";
    let mut two = TwoManagers::with_config(|config| {
        with_token(config);
        config.routes[0].upstreams = vec![0];
        config.refresh.catalogs = vec![listed.parse().unwrap()];
    });
    two.site.manager.put(listed, Resource::new("first"));
    two.second.put(listed, Resource::new("second"));
    for client in [BATCH, OTHER] {
        two.get(client, CATALOG).await;
    }
    two.site.wait_for_fills().await;
    two.second.put(CATALOG, Resource::new("newer"));
    assert_eq!(
        ask(&two.site, "s3cret-of-the-site").await.expect_body(),
        br#"{"asked":4,"changed":3,"failed":0}"#
    );
    assert_eq!((two.request_counts(CATALOG), two.request_counts(listed)), ((2, 2), (1, 1)));
    for (client, own, of_listed) in [(BATCH, "newer", "second"), (OTHER, "first", "first")] {
        assert_eq!(
            (two.body(client, CATALOG).await, two.body(client, listed).await),
            (own.into(), of_listed.into())
        );
    }
    assert_eq!((two.request_counts(CATALOG), two.request_counts(listed)), ((2, 2), (1, 1)));
    // After the last group has left the first manager, it may be switched off.
    two.reload(|config| {
        let binding = config.groups[0].binding.clone();
        config.groups = vec![GroupSettings { binding, ..GroupSettings::catch_all("all") }];
    });
    assert_eq!(
        ask(&two.site, "s3cret-of-the-site").await.expect_body(),
        br#"{"asked":2,"changed":0,"failed":0}"#
    );
    assert_eq!((two.request_counts(CATALOG), two.request_counts(listed)), ((2, 3), (1, 2)));
    // The second manager's entries, which no group uses now, are not refreshed.
    two.reload(|config| config.groups.clear());
    assert_eq!(
        ask(&two.site, "s3cret-of-the-site").await.expect_body(),
        br#"{"asked":2,"changed":0,"failed":0}"#
    );
    assert_eq!((two.request_counts(CATALOG), two.request_counts(listed)), ((3, 3), (2, 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn bound_payload_is_prefetched_and_repaired_from_its_manager() {
    let mut two = TwoManagers::with_config(|config| {
        with_token(config);
        config.store.scrub_period = None;
        config.routes[0].upstreams = vec![0];
        config.prefetch.paths = vec![PAYLOAD.parse().unwrap()];
    });
    two.site.manager.remove(PAYLOAD);
    assert_eq!(ask(&two.site, "s3cret-of-the-site").await.status, 200);
    two.site.wait_for_metric("gupd_prefetched_bytes_total", LENGTH as f64).await;
    assert_eq!(two.get(BATCH, PAYLOAD).await.cache_status(), "gupd; hit");
    assert_eq!(two.request_counts(PAYLOAD), (1, 1));
    let shelves = fs::read_dir(two.site.store().join("blobs")).unwrap().map(|shelf| shelf.unwrap().path());
    let files = shelves.flat_map(|shelf| fs::read_dir(shelf).unwrap()).map(|file| file.unwrap().path());
    let file = files.into_iter().find(|file| fs::metadata(file).unwrap().len() > LENGTH as u64).unwrap();
    let flip = |at| fs::File::options().write(true).open(&file).unwrap().write_all_at(b"rotten", at).unwrap();
    // A read by a client of the other group finds the first damage, the scrub finds the second.
    flip(1_200_000);
    two.site.restart();
    assert!(two.get(OTHER, PAYLOAD).await.expect_body() == bytes(1, LENGTH));
    flip(100_000);
    two.site.config.store.scrub_period = Some(Duration::from_millis(1));
    two.site.restart();
    two.site.wait_for_metric("gupd_store_repaired_bytes_total", 65_536.0).await;
    assert_eq!(fs::read(&file).unwrap()[..LENGTH], bytes(1, LENGTH));
    assert_eq!(two.request_counts(PAYLOAD), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_is_not_asked_for_bound_negative_entries() {
    let peer = Site::new();
    for path in [GENERIC, PAYLOAD] {
        peer.manager.put(path, Resource::new("of the peer").header("Cache-Control", "max-age=60"));
        peer.wait_until_stored(path).await;
    }
    let mut two = TwoManagers::new();
    two.site.set_peers(&[peer.address()]);
    assert_eq!(two.body(OTHER, GENERIC).await, "of the peer");
    assert_eq!(two.body(BATCH, GENERIC).await, "second");
    assert_eq!(two.body(BATCH, PAYLOAD).await, "of the peer");
}

/// A fill outlives the configuration that began it, in which its upstreams had other positions.
#[tokio::test(flavor = "multi_thread")]
async fn reordered_upstreams_keep_a_404_to_their_own_clients() {
    let (mut two, gate) = (TwoManagers::new(), Gate::default());
    two.second.put(PAYLOAD, Resource::new("none").status(404).held(&gate));
    let mut starter = WireClient::connect_from(BATCH.parse().unwrap(), two.site.address()).await;
    starter.write_request(&Request::get(PAYLOAD)).await.unwrap();
    two.second.wait_for_requests(PAYLOAD, 1).await;
    two.reload(|config| {
        config.upstreams.reverse();
        config.routes[0].upstreams = vec![1];
        config.groups = vec![batch_group(config, &[0])];
    });
    let mut follower = WireClient::connect_from(OTHER.parse().unwrap(), two.site.address()).await;
    follower.write_request(&Request::get(PAYLOAD)).await.unwrap();
    two.site.wait_for_metric("gupd_connections", 2.0).await;
    gate.open();
    let mut response = follower.read_head().await.unwrap();
    follower.read_rest("GET", &mut response).await;
    assert!(response.expect_body() == bytes(1, LENGTH), "the first manager has it");
    assert_eq!(starter.read_head().await.unwrap().status, 404);
}
