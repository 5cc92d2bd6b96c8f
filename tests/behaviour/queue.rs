//! Limits on downloads and connections over sockets: excess requests wait in a fair queue or get a 503 with
//! `Retry-After`. Requests that are no downloads never wait.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use gupd_config::{Config, GroupSettings};

use crate::support::{Gate, PAYLOAD, Request, Resource, Response, Site, WireClient, bytes};

const ONE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Timeout that shows that no response comes: much longer than any response takes.
const NEVER: Duration = Duration::from_secs(60);

/// A payload to request while all slots are taken.
const WANTED: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121002/full.zip";

const QUEUED: &str = "gupd_queued_requests";

fn content() -> Vec<u8> {
    bytes(1, 200 << 10)
}

/// Publishes a payload with a second half that waits for the gate, so that its download holds a slot.
fn publish_stalled(site: &Site, path: &str) -> Gate {
    let gate = Gate::default();
    site.manager.put(path, Resource::new(content()).stalled(100 << 10, &gate));
    gate
}

async fn begin_download(client: IpAddr, site: &Site, path: &str) -> WireClient {
    let mut connection = WireClient::connect_from(client, site.address()).await;
    connection.write_request(&Request::get(path)).await.unwrap();
    connection
}

async fn read_head(client: &mut WireClient) -> Response {
    tokio::time::timeout(NEVER, client.read_head()).await.unwrap().unwrap()
}

async fn finish_download(client: &mut WireClient, mut response: Response) -> Vec<u8> {
    client.read_rest("GET", &mut response).await;
    response.expect_body()
}

/// A site with one slot, held by a download until the gate opens.
async fn site_with_full_slot(change: impl FnOnce(&mut Config)) -> (Site, Gate, WireClient, Response) {
    let site = Site::with_config(|config| {
        config.lan.max_downloads = Some(1);
        change(config);
    });
    let gate = publish_stalled(&site, PAYLOAD);
    site.manager.put(WANTED, Resource::new(content()));
    let mut holder = begin_download(ONE, &site, PAYLOAD).await;
    let response = read_head(&mut holder).await;
    (site, gate, holder, response)
}

fn retry_after(response: &Response) -> &str {
    assert_eq!((response.status, response.header("cache-status")), (503, None), "{:?}", response.headers);
    response.header("retry-after").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_requests_get_slots_fairly_and_in_order() {
    let (site, gate, mut holder, response) = site_with_full_slot(|_| {}).await;
    let paths = ["/content/1.dax", "/content/2.dax", "/content/3.dax"];
    let gates = paths.map(|path| publish_stalled(&site, path));
    let mut waiting = Vec::new();
    for (number, (client, path)) in [ONE, ONE, OTHER].into_iter().zip(paths).enumerate() {
        waiting.push(begin_download(client, &site, path).await);
        site.wait_for_metric(QUEUED, number as f64 + 1.0).await;
    }
    assert!(
        paths.iter().all(|path| site.manager.request_count(path) == 0),
        "nothing is fetched for queued requests"
    );
    gate.open();
    assert_eq!(finish_download(&mut holder, response).await, content());
    // With one slot, a response head comes only after the previous download has ended, which waits for its gate.
    for (left, next) in [(2.0, 0), (1.0, 2), (0.0, 1)] {
        let response = read_head(&mut waiting[next]).await;
        assert_eq!((response.status, site.metric(QUEUED).await), (200, left), "{next}");
        assert_eq!(site.metric("gupd_downloads").await, 1.0);
        gates[next].open();
        assert_eq!(finish_download(&mut waiting[next], response).await, content());
    }
    site.wait_for_metric("gupd_downloads", 0.0).await;
    assert_eq!(site.metric("gupd_queue_seconds_count").await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_timeout_is_503_with_retry_after() {
    let (site, gate, mut holder, response) =
        site_with_full_slot(|config| config.lan.queue_timeout = Duration::from_millis(30)).await;
    let turned = site.get(WANTED).await;
    assert_eq!((retry_after(&turned), turned.header("cache-control")), ("1", Some("no-store")));
    assert_eq!(site.metric("gupd_refused_total{reason=\"queue-timeout\"}").await, 1.0);
    assert_eq!((site.metric(QUEUED).await, site.manager.request_count(WANTED)), (0.0, 0));
    gate.open();
    finish_download(&mut holder, response).await;
    // The slot is released after the last byte.
    site.wait_for_metric("gupd_downloads", 0.0).await;
    assert_eq!(site.get(WANTED).await.expect_body(), content());
}

#[tokio::test(flavor = "multi_thread")]
async fn full_queue_refuses_at_once() {
    let (site, _gate, _holder, _) = site_with_full_slot(|config| {
        (config.lan.queue, config.lan.client_queue) = (2, 1);
        config.lan.queue_timeout = Duration::from_secs(40);
    })
    .await;
    let _first = begin_download(ONE, &site, WANTED).await;
    site.wait_for_metric(QUEUED, 1.0).await;
    // No slot has been released yet, so the estimate for each queued request is the full timeout.
    assert_eq!(retry_after(&site.get(WANTED).await), "80");
    let _second = begin_download(OTHER, &site, WANTED).await;
    site.wait_for_metric(QUEUED, 2.0).await;
    let mut third = begin_download(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)), &site, WANTED).await;
    assert_eq!(retry_after(&read_head(&mut third).await), "120");
    for reason in ["client-queue-full", "queue-full"] {
        assert_eq!(site.metric(&format!("gupd_refused_total{{reason=\"{reason}\"}}")).await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn non_download_passes_while_all_slots_are_taken() {
    let mut site = Site::new();
    let delta = "/content/delta.dax";
    site.manager.put(WANTED, Resource::new(content()).etag("\"wanted\""));
    site.wait_until_stored(WANTED).await;
    assert_eq!(site.get(delta).await.status, 404);
    site.wait_for_fills().await;
    for path in ["/minitri.flg", "/liveupdt.tri", "/secars/secars.dll"] {
        site.manager.put(path, Resource::new("content"));
    }
    let mut config = site.config.clone();
    (config.lan.max_downloads, config.lan.queue) = (Some(1), 0);
    site.relay_mut().reload(config.clone()).unwrap();
    let gate = publish_stalled(&site, PAYLOAD);
    let mut holder = begin_download(ONE, &site, PAYLOAD).await;
    let response = read_head(&mut holder).await;
    assert_eq!(response.status, 200);
    // Downloads are refused by this full queue.
    assert_eq!(site.get(WANTED).await.status, 503);
    assert_eq!(site.send(Request::get(WANTED).range("5-9")).await.status, 503);
    let unknown = Request::get(WANTED).header("If-None-Match", "\"another\"");
    assert_eq!(site.send(unknown).await.status, 503);
    // Two requests: one served by the manager, one from the store if it is cacheable.
    for _ in 0..2 {
        for path in ["/minitri.flg", "/liveupdt.tri", "/secars/secars.dll"] {
            assert_eq!(site.get(path).await.expect_body(), b"content", "{path}");
        }
    }
    assert_eq!(site.send(Request::head(WANTED)).await.status, 200);
    assert_eq!(site.send(Request::head(PAYLOAD)).await.status, 200);
    let known = Request::get(WANTED).header("If-None-Match", "\"wanted\"");
    assert_eq!(site.send(known).await.status, 304);
    assert_eq!(site.send(Request::get(WANTED).range("9999999-")).await.status, 416);
    assert_eq!(site.get(delta).await.status, 404);
    let absent = Request::get("/content/absent.dax").header("Cache-Control", "only-if-cached");
    assert_eq!(site.send(absent).await.status, 504);
    assert_eq!(site.send(Request::new("POST", "/secars/secars.dll").body("up")).await.status, 200);
    assert_eq!((site.metric("gupd_downloads").await, site.metric(QUEUED).await), (1.0, 0.0));
    // The slot is released after the last byte.
    config.lan.queue = 8;
    site.relay_mut().reload(config).unwrap();
    gate.open();
    finish_download(&mut holder, response).await;
    assert_eq!(site.get(WANTED).await.expect_body(), content());
}

#[tokio::test(flavor = "multi_thread")]
async fn error_response_holds_no_slot() {
    let site = Site::with_config(|config| (config.lan.max_downloads, config.lan.queue) = (Some(1), 0));
    let mut client = WireClient::connect(site.address()).await;
    for _ in 0..3 {
        assert_eq!(client.send(&Request::get(PAYLOAD)).await.unwrap().status, 404);
    }
    assert_eq!(site.metric("gupd_downloads").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_content_waits_though_304_was_expected() {
    let path = "/files/setup.msi";
    let mut site = Site::new();
    site.manager.put(path, Resource::new("old").etag("\"old\"").header("Cache-Control", "max-age=60"));
    site.wait_until_stored(path).await;
    let mut config = site.config.clone();
    config.lan.max_downloads = Some(1);
    site.relay_mut().reload(config).unwrap();
    let gate = publish_stalled(&site, PAYLOAD);
    let mut holder = begin_download(ONE, &site, PAYLOAD).await;
    let response = read_head(&mut holder).await;
    site.clock.advance(Duration::from_secs(61));
    site.manager.put(path, Resource::new("new").etag("\"new\""));
    let mut client = WireClient::connect(site.address()).await;
    client.write_request(&Request::get(path).header("If-None-Match", "\"old\"")).await.unwrap();
    site.wait_for_metric(QUEUED, 1.0).await;
    gate.open();
    finish_download(&mut holder, response).await;
    let response = read_head(&mut client).await;
    assert_eq!((response.status, finish_download(&mut client, response).await), (200, b"new".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnected_client_frees_its_queue_place_and_slot() {
    let (site, _gate, holder, _) = site_with_full_slot(|config| config.lan.queue = 1).await;
    let left = begin_download(ONE, &site, WANTED).await;
    site.wait_for_metric(QUEUED, 1.0).await;
    drop(left);
    site.wait_for_metric(QUEUED, 0.0).await;
    let mut next = begin_download(OTHER, &site, WANTED).await;
    site.wait_for_metric(QUEUED, 1.0).await;
    assert_eq!(site.manager.request_count(WANTED), 0);
    drop(holder);
    let response = read_head(&mut next).await;
    assert_eq!(finish_download(&mut next, response).await, content());
}

#[tokio::test(flavor = "multi_thread")]
async fn client_at_its_own_slot_limit_blocks_no_other() {
    let site = Site::with_config(|config| {
        config.lan.client_downloads = Some(1);
        config.groups = vec![GroupSettings {
            subnets: vec!["127.0.1.0/24".parse().unwrap()],
            max_downloads: Some(1),
            ..GroupSettings::catch_all("branch")
        }];
    });
    let branch = |last| IpAddr::V4(Ipv4Addr::new(127, 0, 1, last));
    let gate = publish_stalled(&site, PAYLOAD);
    site.manager.put(WANTED, Resource::new(content()));
    let (mut own, mut of_group) =
        (begin_download(ONE, &site, PAYLOAD).await, begin_download(branch(1), &site, PAYLOAD).await);
    let heads = [read_head(&mut own).await, read_head(&mut of_group).await];
    let mut waiting = Vec::new();
    for (number, client) in [ONE, branch(2)].into_iter().enumerate() {
        waiting.push(begin_download(client, &site, WANTED).await);
        site.wait_for_metric(QUEUED, number as f64 + 1.0).await;
    }
    let mut other = begin_download(OTHER, &site, WANTED).await;
    assert_eq!(read_head(&mut other).await.status, 200);
    assert_eq!(site.metric(QUEUED).await, 2.0);
    gate.open();
    for (client, response) in [&mut own, &mut of_group].into_iter().zip(heads) {
        finish_download(client, response).await;
    }
    for client in &mut waiting {
        assert_eq!(read_head(client).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lifted_slot_limit_releases_queue_at_once() {
    let (mut site, gate, mut holder, response) = site_with_full_slot(|_| {}).await;
    let mut waiting = begin_download(OTHER, &site, WANTED).await;
    site.wait_for_metric(QUEUED, 1.0).await;
    let mut config = site.config.clone();
    config.lan.max_downloads = None;
    assert!(site.relay_mut().reload(config).unwrap().is_empty());
    let late = read_head(&mut waiting).await;
    assert_eq!(finish_download(&mut waiting, late).await, content());
    gate.open();
    assert_eq!(finish_download(&mut holder, response).await, content());
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_only_response_needs_a_slot() {
    let mut site = Site::with_config(|config| {
        config.groups = vec![GroupSettings {
            subnets: vec!["127.0.0.1/32".parse().unwrap()],
            spread: Duration::from_secs(7 * 86_400),
            outside: gupd_config::OutsideWindow::CachedOnly,
            ..GroupSettings::catch_all("branch")
        }];
    });
    site.manager.put(WANTED, Resource::new(content()));
    let mut client = WireClient::connect_from(OTHER, site.address()).await;
    assert_eq!(client.send(&Request::get(WANTED)).await.unwrap().expect_body(), content());
    site.wait_for_fills().await;
    let mut config = site.config.clone();
    (config.lan.max_downloads, config.lan.queue) = (Some(1), 0);
    site.relay_mut().reload(config).unwrap();
    let _gate = publish_stalled(&site, PAYLOAD);
    let mut holder = begin_download(OTHER, &site, PAYLOAD).await;
    assert_eq!(read_head(&mut holder).await.status, 200);
    assert_eq!(site.get(WANTED).await.status, 503);
    assert_eq!(site.metric("gupd_refused_total{reason=\"queue-full\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_rate_limit_refuses_only_that_client() {
    let mut site = Site::with_config(|config| config.lan.client_connections = Some(1));
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    let reason = "gupd_refused_total{reason=\"too-many-new-connections\"}";
    let mut statuses = Vec::new();
    // Sends the requests in less time than the limit allows.
    for _ in 0..20 {
        let mut client = begin_download(ONE, &site, PAYLOAD).await;
        let response = read_head(&mut client).await;
        statuses.push(response.status);
        if response.status == 503 {
            assert_eq!(response.header("retry-after"), Some("1"));
            assert!(client.is_closed().await);
        }
    }
    let refused = statuses.iter().filter(|status| **status == 503).count();
    assert!(statuses[0] == 200 && refused > 0, "{statuses:?}");
    assert_eq!(site.metric(reason).await, refused as f64);
    let mut other = begin_download(OTHER, &site, PAYLOAD).await;
    assert_eq!(read_head(&mut other).await.status, 200);
    let mut config = site.config.clone();
    config.lan.client_connections = None;
    assert!(site.relay_mut().reload(config).unwrap().is_empty());
    assert_eq!(site.get(PAYLOAD).await.status, 200);
}
