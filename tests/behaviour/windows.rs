//! Schedule windows over sockets: a client before its scheduled start gets a 503 with `Retry-After`, or cached content
//! only. Requests that are no downloads never wait.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use gupd_config::clock::UnixMillis;
use gupd_config::policy::window::client_offset;
use gupd_config::{Config, GroupSettings, Overrides};

use crate::spellings::{odd_spellings, plain_spellings, put_at_all};
use crate::support::{PAYLOAD, Request, Resource, Response, Site, WireClient, bytes};

const DELTA: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/xdelta261120001.dax";
const NEXT: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121002/full.zip";
const SEQUENCE: &str = "261121001";
const MONDAY_NOON: UnixMillis = 4 * DAY + DAY / 2;
const DAY: i64 = 24 * HOUR;
const HOUR: i64 = 60 * MINUTE;
const MINUTE: i64 = 60_000;

/// The client of most requests, and a client of a group without windows.
const ONE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const FREE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

fn group(settings: &str) -> GroupSettings {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    let text = format!(
        "[[upstream]]\nurl = \"http://manager\"\n\
         [[group]]\nname = \"branch\"\nsubnets = \"127.0.0.1/32\"\n{settings}\n"
    );
    std::fs::write(&file, text).unwrap();
    Config::load(&Overrides::default(), Some(&file), std::iter::empty()).unwrap().groups.remove(0)
}

/// A site at noon on a Monday, with a group that has the address of this machine.
fn site(settings: &str) -> Site {
    let site = Site::with_config(|config| {
        config.site.time_zone = jiff::tz::TimeZone::UTC;
        config.groups = vec![group(settings)];
    });
    let to_monday = (MONDAY_NOON - site.clock.now()).rem_euclid(7 * DAY);
    advance(&site, to_monday);
    for path in [PAYLOAD, DELTA, NEXT] {
        site.manager.put(path, Resource::new(bytes(1, 100_000)));
    }
    site
}

fn advance(site: &Site, millis: i64) {
    site.clock.advance(Duration::from_millis(millis.unsigned_abs()));
}

async fn get_from(client: IpAddr, site: &Site, path: &str) -> Response {
    WireClient::connect_from(client, site.address()).await.send(&Request::get(path)).await.unwrap()
}

fn retry_after(response: &Response) -> i64 {
    assert_eq!(response.status, 503, "{:?}", response.headers);
    response.header("retry-after").unwrap().parse().unwrap()
}

fn client_offset_seconds(client: IpAddr, sequence: &str, hours: u64) -> i64 {
    let offset = client_offset(client, sequence, Duration::from_secs(hours * 3600));
    i64::try_from(offset.as_millis().div_ceil(1_000)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn deferred_client_is_served_at_its_retry_after() {
    let site = site("windows = \"mon-fri 20:00-06:00\"\nspread = \"4h\"");
    let wait = 8 * 3600 + client_offset_seconds(ONE, SEQUENCE, 4);
    let deferred = site.get(PAYLOAD).await;
    assert_eq!(retry_after(&deferred), wait);
    assert_eq!((deferred.header("cache-control"), deferred.header("cache-status")), (Some("no-store"), None));
    advance(&site, (wait - 1) * 1_000);
    assert_eq!(retry_after(&site.get(DELTA).await), 1);
    assert_eq!((site.manager.request_count(PAYLOAD), site.manager.request_count(DELTA)), (0, 0));
    advance(&site, 1_000);
    assert_eq!(site.get(PAYLOAD).await.expect_body(), bytes(1, 100_000));
    site.wait_until_stored(PAYLOAD).await;
    // The same when the window ends, also for stored content.
    advance(&site, 18 * HOUR - wait * 1_000);
    assert_eq!(retry_after(&site.get(PAYLOAD).await), 14 * 3600 + client_offset_seconds(ONE, SEQUENCE, 4));
    assert_eq!(site.metric("gupd_deferred_total{group=\"branch\"}").await, 3.0);
    let counted = site.metric("gupd_requests_total{cache=\"deferred\",class=\"payload\"}").await;
    assert_eq!(counted, 3.0, "a deferral is neither a refusal nor a failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_defer_only_payload_downloads() {
    let site = site("windows = \"mon-fri 20:00-06:00\"");
    let others =
        ["/minitri.flg", "/1369163480x.zip", "/agent/index.dat", "/secars/secars.dll", "/files/setup.msi"];
    for path in others {
        site.manager.put(path, Resource::new("content"));
        assert_eq!(site.get(path).await.expect_body(), b"content", "{path}");
    }
    assert_eq!(site.send(Request::head(PAYLOAD)).await.status, 200);
    assert_eq!(get_from(FREE, &site, PAYLOAD).await.status, 200);
    assert_eq!(retry_after(&site.get(PAYLOAD).await), 8 * 3600);
    assert_eq!(retry_after(&site.send(Request::get(PAYLOAD).range("5-9")).await), 8 * 3600);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_payload_evades_its_window() {
    let site = site("windows = \"mon-fri 20:00-06:00\"");
    let (odd, plain) = (odd_spellings(PAYLOAD), plain_spellings(PAYLOAD));
    for (targets, status) in [(odd, 400), (plain, 503)] {
        put_at_all(&site, &targets, &Resource::new("content"));
        for target in targets {
            assert_eq!(site.get(&target).await.status, status, "{target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn started_response_outlives_its_window() {
    let site = site("windows = \"mon-fri 12:00-13:00\"");
    let body = bytes(2, 20 << 20);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    let mut client = WireClient::connect(site.address()).await;
    client.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut response = client.read_head().await.unwrap();
    advance(&site, 2 * HOUR);
    client.read_rest("GET", &mut response).await;
    assert!(response.expect_body() == body);
    assert_eq!(retry_after(&site.get(PAYLOAD).await), 22 * 3600);
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_only_window_serves_stored_and_fetches_nothing() {
    let site = site("windows = \"mon-fri 20:00-06:00\"\noutside = \"cached-only\"");
    assert_eq!(retry_after(&site.get(PAYLOAD).await), 8 * 3600);
    assert_eq!(site.manager.request_count(PAYLOAD), 0);
    get_from(FREE, &site, PAYLOAD).await.expect_body();
    site.wait_for_fills().await;
    let stored = site.get(PAYLOAD).await;
    assert_eq!(stored.cache_status(), "gupd; hit");
    assert_eq!(stored.expect_body(), bytes(1, 100_000));
    let part = site.send(Request::get(PAYLOAD).range("5-9")).await;
    assert_eq!((part.status, part.expect_body()), (206, bytes(1, 100_000)[5..10].to_vec()));
    assert_eq!(retry_after(&site.get(DELTA).await), 8 * 3600);
    assert_eq!((site.manager.request_count(PAYLOAD), site.manager.request_count(DELTA)), (1, 0));
    assert_eq!(site.metric("gupd_deferred_total{group=\"branch\"}").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ignored_windows_defer_no_client() {
    let site = site("windows = \"mon-fri 20:00-06:00\"\noutside = \"ignore\"");
    assert_eq!(site.get(PAYLOAD).await.expect_body(), bytes(1, 100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn client_offset_counts_from_first_sight_of_revision() {
    let site = Site::with_config(|config| {
        config.groups = vec![GroupSettings { subnets: Vec::new(), ..group("spread = \"4h\"") }];
    });
    for client in [ONE, FREE] {
        assert_eq!(
            retry_after(&get_from(client, &site, PAYLOAD).await),
            client_offset_seconds(client, SEQUENCE, 4)
        );
    }
    assert_ne!(client_offset_seconds(ONE, SEQUENCE, 4), client_offset_seconds(FREE, SEQUENCE, 4));
    // The next revision, a minute later, has another client offset.
    advance(&site, MINUTE);
    assert_eq!(retry_after(&get_from(ONE, &site, NEXT).await), client_offset_seconds(ONE, "261121002", 4));
    assert_eq!(retry_after(&get_from(ONE, &site, DELTA).await), client_offset_seconds(ONE, SEQUENCE, 4) - 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_takes_revision_age_from_stored_payload() {
    let mut site = site("spread = \"4h\"");
    get_from(FREE, &site, PAYLOAD).await.expect_body();
    site.wait_for_fills().await;
    advance(&site, MINUTE);
    site.restart();
    assert_eq!(retry_after(&site.get(PAYLOAD).await), client_offset_seconds(ONE, SEQUENCE, 4) - 60);
    // A revision without stored payloads gets its age from now on.
    assert_eq!(retry_after(&site.get(NEXT).await), client_offset_seconds(ONE, "261121002", 4));
    advance(&site, client_offset_seconds(ONE, SEQUENCE, 4) * 1_000 - MINUTE);
    assert_eq!(site.get(PAYLOAD).await.expect_body(), bytes(1, 100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_applies_new_windows_and_keeps_revisions() {
    let mut site = site("spread = \"4h\"");
    assert_eq!(retry_after(&site.get(PAYLOAD).await), client_offset_seconds(ONE, SEQUENCE, 4));
    advance(&site, MINUTE);
    let mut config = site.config.clone();
    for (settings, seconds) in [
        ("windows = \"mon 14:00-16:00\"", 2 * 3600 - 60),
        ("spread = \"4h\"", client_offset_seconds(ONE, SEQUENCE, 4) - 60),
    ] {
        config.groups = vec![group(settings)];
        site.relay_mut().reload(config.clone()).unwrap();
        assert_eq!(retry_after(&site.get(PAYLOAD).await), seconds, "{settings}");
    }
    config.groups.clear();
    site.relay_mut().reload(config).unwrap();
    assert_eq!(site.get(PAYLOAD).await.status, 200);
}
