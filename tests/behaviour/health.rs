//! Active health checks: they find failing and recovered upstreams, and their state survives a reload. The test moves
//! the clock, so no check is due before the test says so.

use std::sync::Arc;
use std::time::Duration;

use gupd_config::RateSchedule;
use gupd_config::units::Rate;
use gupd_config::{Clock, Config};
use gupd_net::metrics::NetMetrics;
use gupd_net::shape::{BandwidthClass, WanLimiter};
use gupd_net::upstream::{UpstreamFailure, UpstreamRequest, Upstreams};
use http::HeaderMap;
use http::uri::PathAndQuery;

use crate::support::{Gate, Manager, PAYLOAD, RefusingPort, Request, Resource, Site, WireClient, bytes};

const CHECK: &str = "/secars/secars.dll";
const INTERVAL: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(5);

/// A site with a health check of `CHECK` every ten seconds.
fn site_with_checks(change: impl FnOnce(&mut Config)) -> Site {
    Site::with_config(|config| {
        config.health.interval = Some(INTERVAL);
        config.upstreams[0].check = Some(format!("{CHECK}?hello,secars").parse().unwrap());
        change(config);
    })
}

fn health_metric(upstream: &str) -> String {
    format!("gupd_upstream_healthy{{upstream=\"{upstream}\"}}")
}

fn check_metric(upstream: &str, outcome: &str) -> String {
    format!("gupd_upstream_checks_total{{outcome=\"{outcome}\",upstream=\"{upstream}\"}}")
}

/// Opens the circuit of the site's only upstream by three independent failures.
async fn fail_three_times(site: &Site, name: &str, failure: Resource) {
    site.put_independently(&failure);
    assert!(site.delete_independently().await.iter().all(|status| *status >= 500));
    assert_eq!(site.metric(&health_metric(name)).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_failing_checks_gets_no_request_until_one_succeeds() {
    let site = site_with_checks(|_| {});
    let name = site.manager.address().to_string();
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    // A 404 shows that the manager is up.
    site.wait_for_metric(&check_metric(&name, "well"), 1.0).await;
    assert_eq!(site.manager.requests_for(CHECK)[0].target, "/secars/secars.dll?hello,secars");
    site.manager.put(CHECK, Resource::new("overloaded").status(503));
    for (failures, after) in [(1.0, INTERVAL), (2.0, RETRY), (3.0, RETRY)] {
        assert_eq!(site.metric(&health_metric(&name)).await, 1.0);
        site.clock.advance(after);
        site.wait_for_metric(&check_metric(&name, "server-error"), failures).await;
    }
    site.wait_for_metric(&health_metric(&name), 0.0).await;
    let refused = site.get(PAYLOAD).await;
    assert_eq!((refused.status, refused.header("retry-after")), (504, Some("5")));
    // No client request is spent on a probe, however much time has passed.
    site.manager.put(CHECK, Resource::new("overloaded").status(503));
    site.clock.advance(RETRY);
    site.wait_for_metric(&check_metric(&name, "server-error"), 4.0).await;
    assert_eq!(site.get(PAYLOAD).await.status, 504);
    assert_eq!(site.manager.request_count(PAYLOAD), 0);
    site.manager.put(CHECK, Resource::new("OK"));
    site.clock.advance(2 * RETRY);
    site.wait_for_metric(&health_metric(&name), 1.0).await;
    assert_eq!(site.get(PAYLOAD).await.expect_body(), b"definitions");
    // Checks do not count as client requests, and they keep their connection; the client's worker has its own.
    assert_eq!(
        site.metric(&format!("gupd_upstream_requests_total{{outcome=\"5xx\",upstream=\"{name}\"}}")).await,
        0.0
    );
    assert_eq!(site.manager.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_without_path_connects_unless_upstream_was_silent() {
    let site = Site::with_config(|config| config.health.interval = Some(INTERVAL));
    let name = site.manager.address().to_string();
    site.wait_for_metric(&check_metric(&name, "well"), 1.0).await;
    site.manager.wait_for_connections(1).await;
    assert_eq!(site.manager.request_count("/"), 0);
    site.manager.put("/", Resource::raw(""));
    fail_three_times(&site, &name, Resource::raw("")).await;
    site.clock.advance(RETRY);
    site.wait_for_metric(&check_metric(&name, "closed"), 1.0).await;
    assert_eq!(site.metric(&health_metric(&name)).await, 0.0);
    site.manager.remove("/");
    site.clock.advance(2 * RETRY);
    site.wait_for_metric(&health_metric(&name), 1.0).await;
    assert_eq!(site.manager.requests_for("/")[0].method, "HEAD");
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_silent_for_total_timeout_counts_as_failed() {
    let site = Site::with_config(|config| config.fill.total_timeout = Duration::from_secs(1));
    assert!(site.config.fill.head_timeout > site.config.fill.total_timeout);
    let gate = Gate::default();
    fail_three_times(&site, &site.manager.address().to_string(), Resource::new("").held(&gate)).await;
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_path_only_brings_next_check_forward() {
    let site = site_with_checks(|config| config.fill.head_timeout = Duration::from_secs(3));
    let name = site.manager.address().to_string();
    site.wait_for_metric(&check_metric(&name, "well"), 1.0).await;
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    site.manager.put("/secars/stopped", Resource::new("").status(503));
    let gate = Gate::default();
    site.manager.put("/secars/held", Resource::new("").held(&gate));
    let held = || async { site.get("/secars/held").await.status };
    assert_eq!(tokio::join!(held(), held(), held(), held()), (504, 504, 504, 504));
    for _ in 0..4 {
        assert_eq!(site.get("/secars/stopped").await.status, 503);
    }
    assert_eq!(site.metric(&health_metric(&name)).await, 1.0);
    site.clock.advance(RETRY);
    site.wait_for_metric(&check_metric(&name, "well"), 2.0).await;
    // All paths fail now, so one failed check is enough.
    site.manager.put(CHECK, Resource::new("").status(503));
    for _ in 0..2 {
        assert_eq!(site.get("/secars/stopped").await.status, 503);
    }
    site.clock.advance(RETRY);
    site.wait_for_metric(&health_metric(&name), 0.0).await;
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_go_ahead_of_downloads_on_a_full_line() {
    // The running download takes four minutes.
    let site = site_with_checks(|config| config.wan.limit = RateSchedule::from_rate(Rate(16 << 10)));
    let name = site.manager.address().to_string();
    let mut clients = Vec::new();
    for number in 1..=4 {
        let path = PAYLOAD.replace("261121001", &format!("26112100{number}"));
        site.manager.put(&path, Resource::new(bytes(number, 1 << 20)));
        let mut client = WireClient::connect(site.address()).await;
        client.write_request(&Request::get(&path)).await.unwrap();
        site.manager.wait_for_requests(&path, 1).await;
        clients.push(client);
    }
    for well in [2.0, 3.0] {
        site.clock.advance(INTERVAL);
        site.wait_for_metric(&check_metric(&name, "well"), well).await;
    }
    assert_eq!(site.metric(&health_metric(&name)).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_check_redirects_clients_before_any_failure() {
    let (refusing, manager) = (RefusingPort::new(), Manager::start());
    let both = Config::for_upstreams(&[&refusing.url(), &manager.url()]).unwrap();
    let away = refusing.address().to_string();
    let site = Site::for_manager(manager, |config| {
        (config.upstreams, config.routes) = (both.upstreams, both.routes);
        config.health.interval = Some(INTERVAL);
    });
    site.wait_for_metric(&check_metric(&away, "connect"), 1.0).await;
    for failures in [2.0, 3.0] {
        site.clock.advance(RETRY);
        site.wait_for_metric(&check_metric(&away, "connect"), failures).await;
    }
    site.wait_for_metric(&health_metric(&away), 0.0).await;
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    assert_eq!(site.get(PAYLOAD).await.expect_body(), b"definitions");
    let failed = format!("gupd_upstream_requests_total{{outcome=\"connect\",upstream=\"{away}\"}}");
    assert_eq!(site.metric(&failed).await, 0.0);
    // The upstream is used again as soon as it responds.
    let _back = refusing.listen();
    site.clock.advance(RETRY);
    site.wait_for_metric(&health_metric(&away), 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_keeps_health_of_upstream_with_same_name_and_url() {
    let mut site = Site::new();
    let name = site.manager.address().to_string();
    fail_three_times(&site, &name, Resource::raw("")).await;
    let connections = site.manager.connections();
    let mut config = site.config.clone();
    config.health.retry_max = Duration::from_secs(20);
    site.relay_mut().reload(config.clone()).unwrap();
    assert_eq!(site.metric(&health_metric(&name)).await, 0.0);
    assert_eq!(site.get(PAYLOAD).await.status, 504);
    assert_eq!(site.manager.connections(), connections);
    // Another URL under the same name is another upstream.
    let other = Manager::start();
    other.put(PAYLOAD, Resource::new("definitions"));
    config.upstreams[0].url = other.url().parse().unwrap();
    site.relay_mut().reload(config.clone()).unwrap();
    assert_eq!(site.metric(&health_metric(&name)).await, 1.0);
    assert_eq!(site.get(PAYLOAD).await.expect_body(), b"definitions");
    // A removed upstream has no metrics.
    config.upstreams[0].name = "other".to_owned();
    site.relay_mut().reload(config).unwrap();
    assert_eq!(site.metric(&health_metric("other")).await, 1.0);
    let text = crate::support::get(site.relay().admin(), "/metrics").await.expect_body();
    assert!(!String::from_utf8(text).unwrap().contains(&health_metric(&name)));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_drop_removed_upstreams_and_peers() {
    let mut site = Site::new();
    site.set_peers(&[RefusingPort::new().address()]);
    let (metrics, peer) = (site.relay().admin(), "gupd_peer_healthy{");
    let text =
        || async { String::from_utf8(crate::support::get(metrics, "/metrics").await.expect_body()).unwrap() };
    assert!(text().await.contains(peer));
    site.set_peers(&[]);
    assert!(!text().await.contains(peer));
    let mut refused = site.config.clone();
    refused.upstreams[0].name = "refused".to_owned();
    refused.server.tls =
        Some(gupd_config::CertificateFiles { cert: "/nowhere".into(), key: "/nowhere".into() }.into());
    site.relay_mut().reload(refused).unwrap_err();
    assert!(!text().await.contains(&health_metric("refused")));
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_starts_and_stops_checks() {
    let mut site = Site::new();
    let name = site.manager.address().to_string();
    let mut config = site.config.clone();
    config.health.interval = Some(INTERVAL);
    site.relay_mut().reload(config.clone()).unwrap();
    site.wait_for_metric(&check_metric(&name, "well"), 1.0).await;
    site.clock.advance(INTERVAL);
    site.wait_for_metric(&check_metric(&name, "well"), 2.0).await;
    config.health.interval = None;
    site.relay_mut().reload(config).unwrap();
    site.clock.advance(INTERVAL);
    fail_three_times(&site, &name, Resource::raw("")).await;
    // From now on client requests serve as probes.
    site.clock.advance(RETRY);
    assert_eq!(site.send(Request::get(PAYLOAD)).await.status, 404);
    assert_eq!(site.metric(&check_metric(&name, "well")).await, 2.0);
    assert_eq!(site.metric(&health_metric(&name)).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_download_resumes_after_next_successful_check() {
    let site = site_with_checks(|config| config.fill.attempts = 4);
    let name = site.manager.address().to_string();
    site.wait_for_metric(&check_metric(&name, "well"), 1.0).await;
    let (body, gate) = (bytes(1, 400_000), Gate::default());
    site.manager.put(PAYLOAD, Resource::new(body.clone()).stalled(200_000, &gate).cut(200_000, 1));
    let mut client = WireClient::connect(site.address()).await;
    client.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut head = client.read_head().await.unwrap();
    fail_three_times(&site, &name, Resource::raw("")).await;
    // The next attempt is made after the next successful check.
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    gate.open();
    site.clock.advance(RETRY);
    client.read_rest("GET", &mut head).await;
    assert!(head.expect_body() == body);
    assert_eq!(site.manager.request_count(PAYLOAD), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_redirects_to_first_healthy_upstream() {
    let (first, second) = (RefusingPort::new(), RefusingPort::new());
    let config = Config::for_upstreams(&[&first.url(), &second.url()]).unwrap();
    let (clock, metrics) =
        (Clock::manual(1_000_000), Arc::new(NetMetrics::register(&prometheus::Registry::new()).unwrap()));
    let wan = Arc::new(WanLimiter::unlimited(&config, clock.clone()));
    let upstreams = Upstreams::new(&config, clock.clone(), wan, metrics).unwrap();
    let order: Vec<_> = upstreams.iter().map(|upstream| upstream.id.clone()).collect();
    let preferred = || upstreams.preferred(&order).map(|upstream| upstream.name.to_string());
    let outgoing = get_root();
    let mut expected = [Some(second.address().to_string()), None].into_iter();
    assert_eq!(preferred(), Some(first.address().to_string()));
    for upstream in upstreams.iter() {
        assert_eq!(upstreams.time_to_probe(&order), None);
        for _ in 0..3 {
            upstreams.send_to(upstream, &outgoing).await.unwrap_err();
        }
        assert_eq!(preferred(), expected.next().unwrap());
    }
    assert_eq!(upstreams.time_to_probe(&order), Some(RETRY));
    assert_eq!(upstreams.send(&order, &outgoing).await.unwrap_err().kind(), UpstreamFailure::Unavailable);
    clock.advance(RETRY);
    assert_eq!(upstreams.time_to_probe(&order), Some(Duration::ZERO));
}

fn get_root() -> UpstreamRequest {
    UpstreamRequest::get(PathAndQuery::from_static("/"), HeaderMap::new(), BandwidthClass::default())
}
