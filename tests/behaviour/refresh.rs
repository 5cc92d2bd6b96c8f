//! Refresh without rings: catalogs are revalidated on schedule, within windows, or on command, each once and by the
//! fills that clients' requests use.

use std::time::Duration;

use gupd_config::Config;
use gupd_config::{Overrides, Recurrence, WeekWindows};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::support::{Gate, PAYLOAD, Request, Resource, Response, Site, bytes, get};

const MINITRI: &str = "/minitri.flg";
const CATALOG: &str = "/streaming/norton_1.0_symalllanguages_livetri.zip";
const UNASKED: &str = "/liveupdt.tri";
const HOUR: Duration = Duration::from_secs(3600);
const DONE: &str = "gupd_refresh_total{outcome=\"done\"}";
const FAILED: &str = "gupd_refresh_total{outcome=\"failed\"}";

/// Refreshes every four hours, on the second; the first refresh of nothing is behind it.
async fn every_four_hours(change: impl FnOnce(&mut Config)) -> Site {
    let site = Site::with_config(|config| {
        config.refresh.schedule = Recurrence::Every(4 * HOUR);
        config.refresh.random = Duration::ZERO;
        with_token(config);
        change(config);
    });
    site.wait_for_metric(DONE, 1.0).await;
    site
}

pub(crate) fn with_token(config: &mut Config) {
    let file = config.store.dir.join("token");
    crate::support::write_secret(&file, "s3cret-of-the-site\n");
    config.server.admin_token_file = Some(file);
}

/// Windows of the line in UTC.
pub(crate) fn windows(config: &mut Config, windows: &str) {
    let env = [("GUPD_UPSTREAM", "http://any"), ("GUPD_WAN_WINDOWS", windows)];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    config.wan.windows = read(env);
    config.site.time_zone = TimeZone::UTC;
}

fn read(env: impl Iterator<Item = (String, String)>) -> WeekWindows {
    Config::load(&Overrides::default(), None, env).unwrap().wan.windows
}

/// The full hour that is so many hours after the one that is now, as text, and how far away it is.
pub(crate) fn in_hours(now: i64, hours: i64) -> (String, Duration) {
    let hour = 3_600_000;
    let at = now - now.rem_euclid(hour) + hours * hour;
    let text = Timestamp::from_millisecond(at).unwrap().to_zoned(TimeZone::UTC).strftime("%H:%M").to_string();
    (text, Duration::from_millis(u64::try_from(at - now).unwrap()))
}

/// Asks for a refresh by hand.
pub(crate) async fn ask(site: &Site, token: &str) -> Response {
    let request = Request::new("POST", "/api/v1/refresh").header("Authorization", &format!("Bearer {token}"));
    request.send(site.relay().admin()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn known_catalogs_are_asked_for_once_each_on_schedule() {
    let site = every_four_hours(|_| {}).await;
    for path in [MINITRI, CATALOG, PAYLOAD] {
        site.manager.put(path, Resource::new(bytes(1, 1_000)));
        site.wait_until_stored(path).await;
    }
    site.manager.put(CATALOG, Resource::new(bytes(2, 1_000)));
    assert_eq!(get(site.address(), "/none_livetri.zip").await.status, 404);
    site.clock.advance(4 * HOUR - Duration::from_millis(1));
    assert_eq!(site.metric(DONE).await, 1.0);
    site.clock.advance(Duration::from_millis(1));
    site.wait_for_metric(DONE, 2.0).await;
    let asked = [MINITRI, CATALOG, PAYLOAD, "/none_livetri.zip"].map(|path| site.manager.request_count(path));
    assert_eq!(asked, [2, 2, 1, 1]);
    assert!(site.manager.requests_for(MINITRI)[1].header("if-none-match").is_some());
    let response = site.get(CATALOG).await;
    assert_eq!(response.cache_status(), "gupd; hit");
    assert!(response.expect_body() == bytes(2, 1_000));
    for (outcome, count) in [("changed", 1.0), ("unchanged", 1.0)] {
        assert_eq!(
            site.metric(&format!("gupd_refresh_catalogs_total{{outcome=\"{outcome}\"}}")).await,
            count
        );
    }
    let now = site.clock.now() / 1_000;
    assert_eq!(site.metric("gupd_refresh_completed_timestamp_seconds").await, now as f64);
    let next = site.metric("gupd_refresh_next_timestamp_seconds").await;
    assert!((next - now as f64 - 14_400.0).abs() <= 1.0, "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_queries_cost_a_bounded_refresh() {
    let own = format!("{MINITRI}?own");
    let site = every_four_hours(|config| config.refresh.catalogs = vec![own.parse().unwrap()]).await;
    for path in [MINITRI, CATALOG] {
        site.manager.put(path, Resource::new("catalog"));
        site.wait_until_stored(path).await;
    }
    let queries = |at: usize| {
        [
            format!("x={at}"),
            format!("{at}"),
            format!("{at}&x=y"),
            format!("?{at}"),
            format!("%25{at}"),
            format!("X={at}"),
        ]
    };
    for query in (0..10).flat_map(queries) {
        site.clock.advance(Duration::from_secs(1));
        site.wait_until_stored(&format!("{MINITRI}?{query}")).await;
    }
    let (minitri, catalog) = (site.manager.request_count(MINITRI), site.manager.request_count(CATALOG));
    assert_eq!(ask(&site, "s3cret-of-the-site").await.status, 200);
    let requests = site.manager.requests_for(MINITRI);
    let mut targets: Vec<&str> = requests[minitri..].iter().map(|request| &*request.target).collect();
    targets.sort_unstable();
    let mut expected = vec![own.clone(), MINITRI.to_owned()];
    expected.extend(queries(9)[2..].iter().map(|query| format!("{MINITRI}?{query}")));
    expected.sort_unstable();
    assert_eq!(targets, expected, "the four last queries, the plain name and the configured one");
    assert_eq!(site.manager.request_count(CATALOG), catalog + 1);
    // The other queries are served as before.
    assert_eq!(site.get(&format!("{MINITRI}?x=0")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_waits_for_window_and_runs_once() {
    let now = gupd_config::Clock::system().now();
    let ((opens, away), (closes, _)) = (in_hours(now, 9), in_hours(now, 10));
    let site = Site::with_config(|config| {
        windows(config, &format!("{opens}-{closes}"));
        config.refresh.schedule = Recurrence::Every(4 * HOUR);
        config.refresh.random = Duration::ZERO;
        config.refresh.catalogs = vec![UNASKED.parse().unwrap()];
    });
    site.manager.put(UNASKED, Resource::new("new"));
    // The clock of the site is a little later than that of above.
    site.clock.advance(away - Duration::from_secs(60));
    assert_eq!((site.metric(DONE).await, site.manager.request_count(UNASKED)), (0.0, 0));
    site.clock.advance(Duration::from_secs(60));
    site.wait_for_metric(DONE, 1.0).await;
    assert_eq!(site.manager.request_count(UNASKED), 1);
    assert_eq!(site.get(UNASKED).await.cache_status(), "gupd; hit");
    // The next is due when the window is closed.
    site.clock.advance(2 * HOUR);
    assert_eq!((site.metric(DONE).await, site.manager.request_count(UNASKED)), (1.0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_refresh_is_retried_until_success_or_deadline() {
    let site = every_four_hours(|_| {}).await;
    site.manager.put(CATALOG, Resource::new("1"));
    site.wait_until_stored(CATALOG).await;
    let broken = Resource::new("broken").without("ETag").status(500);
    site.manager.put(CATALOG, broken.clone());
    site.clock.advance(4 * HOUR);
    site.wait_for_metric(FAILED, 1.0).await;
    assert_eq!(site.get(CATALOG).await.expect_body(), b"1", "what is stored stays");
    let quarter = HOUR / 4;
    site.clock.advance(quarter);
    site.wait_for_metric(FAILED, 2.0).await;
    site.manager.put(CATALOG, Resource::new("2"));
    site.clock.advance(quarter);
    site.wait_for_metric(DONE, 2.0).await;
    let asked = site.manager.request_count(CATALOG);
    site.clock.advance(3 * quarter);
    assert_eq!((site.metric(FAILED).await, site.metric(DONE).await), (2.0, 2.0));
    assert_eq!(site.manager.request_count(CATALOG), asked);
    // Without success: four tries more, and then the next by the schedule.
    site.manager.put(CATALOG, broken);
    site.clock.advance(4 * HOUR - 5 * quarter);
    for failed in 3..8 {
        site.wait_for_metric(FAILED, f64::from(failed)).await;
        site.clock.advance(quarter);
    }
    let next = site.metric("gupd_refresh_next_timestamp_seconds").await;
    let left = next - (site.clock.now() / 1_000) as f64;
    assert!((left - 2.75 * 3600.0).abs() <= 1.0, "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_refresh_ignores_windows() {
    let site = Site::with_config(|config| {
        let (begin, end) = (
            in_hours(gupd_config::Clock::system().now(), 5).0,
            in_hours(gupd_config::Clock::system().now(), 6).0,
        );
        windows(config, &format!("{begin}-{end}"));
        with_token(config);
    });
    site.manager.put(MINITRI, Resource::new(" "));
    site.wait_until_stored(MINITRI).await;
    assert_eq!(ask(&site, "wrong").await.status, 401);
    assert_eq!(get(site.relay().admin(), "/api/v1/refresh").await.status, 405);
    assert_eq!(site.manager.request_count(MINITRI), 1);
    let response = ask(&site, "s3cret-of-the-site").await;
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
    assert_eq!(response.expect_body(), br#"{"asked":1,"changed":0,"failed":0}"#);
    assert_eq!(site.manager.request_count(MINITRI), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_needs_admin_token() {
    let site = Site::new();
    let response = ask(&site, "").await;
    assert_eq!(response.status, 403);
    assert!(String::from_utf8(response.expect_body()).unwrap().contains("set server.admin_token_file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_during_a_refresh_follows_it() {
    let site = every_four_hours(|_| {}).await;
    site.manager.put(CATALOG, Resource::new("1"));
    site.wait_until_stored(CATALOG).await;
    let gate = Gate::default();
    site.manager.put(CATALOG, Resource::new("2").held(&gate));
    site.clock.advance(4 * HOUR);
    site.manager.wait_for_requests(CATALOG, 2).await;
    let address = site.address();
    let client = tokio::spawn(async move { get(address, CATALOG).await });
    site.wait_for_metric("gupd_connections", 1.0).await;
    gate.open();
    assert_eq!(client.await.unwrap().expect_body(), b"2");
    site.wait_for_metric(DONE, 2.0).await;
    assert_eq!(site.manager.request_count(CATALOG), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_catalog_expires_despite_refresh() {
    let mut site = every_four_hours(|config| config.store.max_unused = 10 * HOUR).await;
    site.manager.put(CATALOG, Resource::new("1"));
    site.wait_until_stored(CATALOG).await;
    for version in 2..4 {
        site.manager.put(CATALOG, Resource::new(version.to_string()));
        site.clock.advance(4 * HOUR);
        site.wait_for_metric(DONE, f64::from(version)).await;
    }
    site.clock.advance(3 * HOUR);
    site.config.refresh.schedule = Recurrence::Off;
    // Upkeep begins with the start.
    site.restart();
    site.wait_for_metric("gupd_store_objects", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_changes_schedule() {
    let mut site = Site::new();
    site.manager.put(UNASKED, Resource::new("new"));
    let mut config = site.config.clone();
    config.refresh.schedule = Recurrence::Every(4 * HOUR);
    config.refresh.random = Duration::ZERO;
    config.refresh.catalogs = vec![UNASKED.parse().unwrap()];
    tokio::task::block_in_place(|| site.relay_mut().reload(config)).unwrap();
    site.wait_for_metric(DONE, 1.0).await;
    assert_eq!(site.manager.request_count(UNASKED), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_is_away_is_not_asked_for_every_catalog() {
    let site = Site::with_config(|config| {
        with_token(config);
        config.refresh.catalogs =
            (0..100).map(|name| format!("/{name}_livetri.zip").parse().unwrap()).collect();
    });
    for name in 0..100 {
        let broken = Resource::new("broken").without("ETag").status(500);
        site.manager.put(&format!("/{name}_livetri.zip"), broken);
    }
    let report = ask(&site, "s3cret-of-the-site").await;
    assert_eq!(report.expect_body(), br#"{"asked":100,"changed":0,"failed":100}"#);
    let asked =
        (0..100).filter(|name| site.manager.request_count(&format!("/{name}_livetri.zip")) > 0).count();
    assert!((8..=12).contains(&asked), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_api_reports_revision() {
    let site = Site::with_config(|config| {
        with_token(config);
        config.rings = vec![crate::support::collector::everyone_at_once()];
        config.refresh.catalogs = vec!["/minitri.flg".parse().unwrap()];
    });
    crate::collect::publish(&site.manager, 1);
    let report = ask(&site, "s3cret-of-the-site").await;
    assert_eq!(report.expect_body(), br#"{"asked":1,"changed":1,"failed":0,"revision":1}"#);
    assert_eq!(
        ask(&site, "s3cret-of-the-site").await.expect_body(),
        br#"{"asked":1,"changed":0,"failed":0}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_admin_token_is_counted_and_answered_late() {
    let site = Site::with_config(with_token);
    let refused = "gupd_refused_total{reason=\"admin-token\"}";
    assert_eq!(site.metric(refused).await, 0.0);
    let begun = std::time::Instant::now();
    for wrong in ["s3cret-of-the-sit", "", "another-of-the-site"] {
        assert_eq!(ask(&site, wrong).await.status, 401, "{wrong}");
    }
    assert!(begun.elapsed() >= Duration::from_secs(3), "a connection makes one guess a second");
    assert_eq!(site.metric(refused).await, 3.0);
    assert_eq!(ask(&site, "s3cret-of-the-site").await.status, 200);
    assert_eq!(site.metric(refused).await, 3.0);
}
