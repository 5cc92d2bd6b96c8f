//! Bandwidth limits on the wire: no transfer exceeds its limit, a delayed transfer does not time out, and a lifted
//! limit applies at once. Exact schedules are unit tests; here only upper bounds on speed are measured.

use std::time::{Duration, Instant};

use gupd_config::Config;
use gupd_config::units::Rate;
use gupd_config::{GroupSettings, RateSchedule};

use crate::support::{Ending, Manager, PAYLOAD, Request, Resource, Site, WireClient, bytes};

const KIB: u64 = 1 << 10;

fn constant_rate(rate: u64) -> RateSchedule {
    RateSchedule::from_rate(Rate(rate))
}

/// Parses a rate schedule from its configuration text.
fn parse_schedule(text: &str) -> RateSchedule {
    let env = [("GUPD_UPSTREAM", "http://manager"), ("GUPD_WAN_LIMIT", text), ("GUPD_SITE_TIME_ZONE", "UTC")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::load(&gupd_config::Overrides::default(), None, env.into_iter()).unwrap().wan.limit
}

/// The shortest time for so many bytes, less the saved-up idle time and one turn.
fn shortest_time(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs_f64((bytes - rate / 10 - 2 * rate / 100) as f64 / rate as f64)
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_never_exceed_wan_limit() {
    let rate = 1_000 * KIB;
    let site = Site::with_config(|config| config.wan.limit = constant_rate(rate));
    let body = bytes(1, 400 << 10);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    let begun = Instant::now();
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    assert!(begun.elapsed() >= shortest_time(body.len() as u64, rate), "{:?}", begun.elapsed());
    // A hit is not limited by the WAN.
    site.wait_until_stored(PAYLOAD).await;
    assert!(site.get(PAYLOAD).await.expect_body() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn passthrough_obeys_limit() {
    let rate = 1_000 * KIB;
    let site = Site::with_config(|config| config.upstreams[0].limit = constant_rate(rate));
    let body = bytes(1, 300 << 10);
    site.manager.put("/secars/secars.dll", Resource::new(body.clone()));
    let begun = Instant::now();
    assert!(site.get("/secars/secars.dll").await.expect_body() == body);
    assert!(begun.elapsed() >= shortest_time(body.len() as u64, rate), "{:?}", begun.elapsed());
    let upload = Request::new("POST", "/secars/secars.dll").body(body.clone());
    let begun = Instant::now();
    assert_eq!(site.send(upload).await.status, 200);
    assert!(begun.elapsed() >= shortest_time(body.len() as u64, rate), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn client_limit_holds_one_client_only() {
    let rate = 1_000 * KIB;
    let group = GroupSettings {
        subnets: vec!["127.0.0.2/32".parse().unwrap()],
        client_limit: constant_rate(rate),
        ..GroupSettings::catch_all("branch")
    };
    let site = Site::with_config(|config| config.groups = vec![group]);
    let body = bytes(1, 300 << 10);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    site.wait_until_stored(PAYLOAD).await;
    let begun = Instant::now();
    // Two connections of one client share its limit.
    let mut both = Vec::new();
    for _ in 0..2 {
        let mut client = WireClient::connect_from("127.0.0.2".parse().unwrap(), site.address()).await;
        both.push(tokio::spawn(async move { client.send(&Request::get(PAYLOAD)).await.unwrap() }));
    }
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    for response in both {
        assert!(response.await.unwrap().expect_body() == body);
    }
    assert!(begun.elapsed() >= shortest_time(2 * body.len() as u64, rate), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn lifted_limit_releases_running_transfers_at_once() {
    let mut site = Site::with_config(|config| {
        // The first 64 KiB, which are held back at first, take half a second.
        config.wan.limit = constant_rate(100 * KIB);
        config.lan.limit = constant_rate(KIB);
    });
    let body = bytes(1, 12 << 20);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    let (mut client, mut response) = site.start_download(PAYLOAD, 100).await;
    let mut config = site.config.clone();
    config.wan.limit = RateSchedule::unlimited();
    config.lan.limit = RateSchedule::unlimited();
    assert!(site.relay_mut().reload(config).unwrap().is_empty());
    client.read_rest("GET", &mut response).await;
    assert!(response.ending == Ending::Complete && response.body == body);
    assert_eq!(site.manager.requests_for(PAYLOAD).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_follows_weekly_schedule() {
    let mut site = Site::new();
    let minute = site.clock.now().rem_euclid(86_400_000) / 60_000;
    let wall = |minute: i64| format!("{:02}:{:02}", minute.rem_euclid(1_440) / 60, minute.rem_euclid(60));
    site.config.site.time_zone = jiff::tz::TimeZone::UTC;
    site.config.lan.limit = parse_schedule(&format!("1KiB/s {}-{}", wall(minute - 30), wall(minute + 30)));
    site.restart();
    let body = bytes(1, 4 << 20);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    let (mut client, mut response) = site.start_download(PAYLOAD, 100).await;
    site.clock.advance(Duration::from_secs(60 * 31));
    client.read_rest("GET", &mut response).await;
    assert!(response.ending == Ending::Complete && response.body == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn narrower_limit_holds_only_its_own_paths() {
    let rate = 1_000 * KIB;
    let site = Site::for_manager(Manager::start(), |config| {
        config.wan_limits = vec![gupd_config::WanLimit {
            name: "fulls".to_owned(),
            matches: gupd_config::WanMatch::Pattern("**/full.zip".to_owned()),
            limit: constant_rate(rate),
        }];
    });
    let body = bytes(1, 300 << 10);
    for path in [PAYLOAD, "/content/delta.dax"] {
        site.manager.put(path, Resource::new(body.clone()));
    }
    let begun = Instant::now();
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    assert!(begun.elapsed() >= shortest_time(body.len() as u64, rate), "{:?}", begun.elapsed());
    assert!(site.get("/content/delta.dax").await.expect_body() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_spelling_has_the_limit_of_its_file() {
    let rate = 1_000 * KIB;
    let site = Site::for_manager(Manager::start(), |config| {
        config.routes[0].profile =
            gupd_config::Profiles::built_in().unwrap().find("generic").unwrap().clone();
        config.wan_limits = vec![gupd_config::WanLimit {
            name: "packages".to_owned(),
            matches: gupd_config::WanMatch::Pattern("/packages/*.zip".to_owned()),
            limit: constant_rate(rate),
        }];
    });
    let body = bytes(1, 300 << 10);
    for path in [
        "//packages/a.zip",
        "/packages%2Fa.zip",
        "/packages;x/a.zip",
        "/packages/a.zip.",
        "/PACKAGES/a%252ezip",
    ] {
        site.manager.put(path, Resource::new(body.clone()));
        let begun = Instant::now();
        assert!(site.get(path).await.expect_body() == body);
        assert!(begun.elapsed() >= shortest_time(body.len() as u64, rate), "{path}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limited_upload_is_no_upstream_timeout() {
    let site = Site::with_config(|config| {
        config.wan.limit = constant_rate(KIB);
        config.fill.head_timeout = Duration::from_secs(2);
    });
    site.manager.put("/secars/secars.dll", Resource::new(bytes(1, 10)));
    let upload = Request::new("POST", "/secars/secars.dll").body(bytes(2, 5 << 10));
    assert_eq!(site.send(upload).await.status, 200);
}
