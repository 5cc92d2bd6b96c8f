//! Prefetch: payloads of a new revision are stored before clients request them, predicted from earlier requests or
//! configured, within windows and `prefetch.max_bytes`. Unused ones are counted.

use std::time::Duration;

use gupd_config::Config;

use crate::digests::listing as livetri;
use crate::refresh::{ask, in_hours, windows, with_token};
use crate::support::{Gate, Manager, Request, Resource, Site, bytes, get};
use gupd_site::OriginServer;

const GUID: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}";
const HOUR: Duration = Duration::from_secs(3600);
const PREFETCHED: &str = "gupd_prefetched_bytes_total";
const UNUSED: &str = "gupd_prefetch_unused_bytes_total";
const WAITING: &str = "gupd_prefetch_waiting_bytes";
const ABSENT: &str = "gupd_prefetch_failures_total{reason=\"absent\"}";
const TOO_LARGE: &str = "gupd_prefetch_failures_total{reason=\"too-large\"}";
const LENGTH: usize = 100_000;

fn path(file: &str) -> String {
    format!("{GUID}/{file}")
}

fn learning(config: &mut Config) {
    config.prefetch.learned = true;
    config.refresh.random = Duration::ZERO;
}

/// Fetches these after each refresh, which is asked for by hand.
fn listing(config: &mut Config, paths: &[String]) {
    with_token(config);
    config.refresh.random = Duration::ZERO;
    config.prefetch.paths = paths.iter().map(|path| path.parse().unwrap()).collect();
}

async fn refresh(site: &Site) {
    assert_eq!(ask(site, "s3cret-of-the-site").await.status, 200);
}

/// Clients took these; a moment later.
async fn taken(site: &Site, files: &[&str]) {
    for file in files {
        site.manager.put(&path(file), Resource::new(bytes(file.len() as u64, LENGTH)));
        site.wait_until_stored(&path(file)).await;
    }
    site.clock.advance(Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_are_prefetched_after_first_client() {
    let site = Site::with_config(learning);
    taken(&site, &["100/xdelta90.dax", "110/xdelta100.dax", "120/xdelta110.dax", "120/xdelta100.dax"]).await;
    let late = path("130/xdelta110.dax");
    site.manager.put(&late, Resource::new(bytes(7, LENGTH)));
    taken(&site, &["130/xdelta120.dax"]).await;
    site.wait_for_metric(PREFETCHED, LENGTH as f64).await;
    assert_eq!(site.metric(WAITING).await, LENGTH as f64);
    let response = site.get(&late).await;
    assert_eq!(response.cache_status(), "gupd; hit");
    assert!(response.expect_body() == bytes(7, LENGTH));
    assert_eq!(site.manager.request_count(&late), 1);
    assert_eq!(site.manager.request_count(&path("130/full.zip")), 0, "no client took a full set");
    assert_eq!(site.manager.request_count(&path("130/xdelta100.dax")), 0, "no client was so far behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_prefetch_is_counted_and_not_learned_from() {
    let mut site = Site::with_config(|config| {
        config.prefetch.revisions = 1;
        config.store.max_unused = 10 * HOUR;
    });
    taken(&site, &["100/full.zip", "110/xdelta100.dax", "110/full.zip"]).await;
    site.config.prefetch.learned = true;
    site.restart();
    for revision in [120, 130] {
        site.manager.put(&path(&format!("{revision}/full.zip")), Resource::new(bytes(3, LENGTH + revision)));
    }
    taken(&site, &["120/xdelta110.dax"]).await;
    site.wait_for_metric(PREFETCHED, (LENGTH + 120) as f64).await;
    site.wait_for_fills().await;
    // Also when the relay was started anew meanwhile.
    site.restart();
    assert_eq!(site.metric(WAITING).await, (LENGTH + 120) as f64);
    taken(&site, &["130/xdelta120.dax", "140/xdelta130.dax"]).await;
    assert_eq!(site.manager.request_count(&path("130/full.zip")), 0);
    site.clock.advance(11 * HOUR);
    site.restart();
    site.wait_for_metric(UNUSED, (LENGTH + 120) as f64).await;
    assert_eq!(site.metric(WAITING).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_pauses_between_windows() {
    let now = gupd_config::Clock::system().now();
    let ((closes, away), (opens, _)) = (in_hours(now, 3), in_hours(now, 5));
    let files = [path("100/full.zip"), path("100/other.dax")];
    let site = Site::with_config(|config| {
        listing(config, &files);
        windows(config, &format!("{opens}-{closes}"));
    });
    let gate = Gate::default();
    site.manager.put(&files[0], Resource::new(bytes(1, 4 << 20)).stalled(2 << 20, &gate));
    site.manager.put(&files[1], Resource::new(bytes(2, LENGTH)));
    refresh(&site).await;
    // What the manager sends before it stands still is here.
    while site.upstream_bytes().await < f64::from(2 << 20) {}
    site.clock.advance(away);
    site.wait_for_fills().await;
    gate.open();
    site.clock.advance(HOUR);
    assert_eq!(site.metric(PREFETCHED).await, 0.0);
    assert_eq!(files.each_ref().map(|file| site.manager.request_count(file)), [1, 0]);
    site.clock.advance(HOUR);
    site.wait_for_metric(PREFETCHED, ((4 << 20) + LENGTH) as f64).await;
    let rest = &site.manager.requests_for(&files[0])[1];
    assert_eq!(rest.header("range"), Some("bytes=2097152-"));
    for file in &files {
        assert_eq!(site.get(file).await.cache_status(), "gupd; hit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_without_length_stops_with_window() {
    let now = gupd_config::Clock::system().now();
    let ((closes, away), (opens, _)) = (in_hours(now, 3), in_hours(now, 5));
    let files = [path("100/full.zip")];
    let site = Site::with_config(|config| {
        listing(config, &files);
        windows(config, &format!("{opens}-{closes}"));
    });
    let gate = Gate::default();
    site.manager.put(&files[0], Resource::new(bytes(1, 4 << 20)).chunked().stalled(2 << 20, &gate));
    refresh(&site).await;
    while site.upstream_bytes().await < 1e6 {}
    site.clock.advance(away);
    site.wait_for_fills().await;
    gate.open();
    assert_ne!(site.get(&files[0]).await.cache_status(), "gupd; hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_keeps_max_bytes_and_skips_stored_objects() {
    let files = ["full.zip", "b.dax", "c.dax", "d.dax"].map(|file| path(&format!("100/{file}")));
    let site = Site::with_config(|config| {
        listing(config, &files);
        config.prefetch.max_bytes = 1 << 20;
    });
    // Bytes that arrive before an object's size is judged count as fetched: a stalled body has none.
    let (never, gate) = (Gate::default(), Gate::default());
    site.manager.put(&files[0], Resource::new(bytes(1, 2 << 20)).stalled(0, &never));
    site.manager.put(&files[1], Resource::new(bytes(1, 700_000)));
    site.manager.put(&files[2], Resource::new(bytes(1, 700_000)).stalled(0, &gate));
    site.manager.put(&files[3], Resource::new(bytes(1, 300_000)));
    // The client's request for a new revision starts the first prefetch.
    site.wait_until_stored(&files[3]).await;
    site.wait_for_metric(TOO_LARGE, 2.0).await;
    assert_eq!(site.metric(PREFETCHED).await, 700_000.0);
    gate.open();
    refresh(&site).await;
    site.wait_for_metric(PREFETCHED, 1_400_000.0).await;
    assert_eq!(site.metric(TOO_LARGE).await, 3.0);
    refresh(&site).await;
    site.wait_for_metric(TOO_LARGE, 4.0).await;
    site.wait_for_fills().await;
    assert_eq!(site.metric(PREFETCHED).await, 1_400_000.0);
    assert_eq!(files.each_ref().map(|file| site.manager.request_count(file)), [3, 1, 2, 1]);
    never.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_follows_a_prefetch_makes_it_useful() {
    let files = [path("100/full.zip")];
    let site = Site::with_config(|config| listing(config, &files));
    let gate = Gate::default();
    site.manager.put(&files[0], Resource::new(bytes(1, 2 << 20)).stalled(1 << 20, &gate));
    refresh(&site).await;
    site.manager.wait_for_requests(&files[0], 1).await;
    let (address, target) = (site.address(), files[0].clone());
    let client = tokio::spawn(async move { get(address, &target).await });
    site.wait_for_metric("gupd_requests_total{cache=\"collapsed\",class=\"payload\"}", 1.0).await;
    gate.open();
    assert!(client.await.unwrap().expect_body() == bytes(1, 2 << 20));
    site.wait_for_metric(PREFETCHED, f64::from(2 << 20)).await;
    assert_eq!((site.metric(WAITING).await, site.manager.request_count(&files[0])), (0.0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn catalog_listing_prefetches_similar_payloads() {
    const CATALOG: &str = "/clu/sesc$20defs_14.3_symalllanguages_livetri.zip";
    let site = Site::with_config(|config| {
        with_token(config);
        config.prefetch.learned = true;
    });
    let [old, new] = ["/clu/1369163480jtun_a.zip", "/clu/1369163490jtun_a.zip"];
    site.manager.put(CATALOG, Resource::new(livetri(old, &bytes(1, LENGTH))));
    site.manager.put(old, Resource::new(bytes(1, LENGTH)));
    for path in [CATALOG, old] {
        site.wait_until_stored(path).await;
    }
    site.manager.put(CATALOG, Resource::new(livetri(new, &bytes(2, LENGTH))));
    site.manager.put(new, Resource::new(bytes(2, LENGTH)));
    refresh(&site).await;
    site.wait_for_metric(PREFETCHED, LENGTH as f64).await;
    assert_eq!(site.get(new).await.cache_status(), "gupd; hit");
    assert_eq!((site.manager.request_count(new), site.manager.request_count(old)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_path_may_be_of_whichever_revision_is_the_newest() {
    let any = [path("*/full.zip")];
    let site = Site::with_config(|config| listing(config, &any));
    for revision in [100, 110] {
        site.manager.put(&path(&format!("{revision}/full.zip")), Resource::new(bytes(3, LENGTH)));
    }
    refresh(&site).await;
    taken(&site, &["100/xdelta90.dax"]).await;
    site.wait_for_metric(PREFETCHED, LENGTH as f64).await;
    taken(&site, &["110/xdelta100.dax"]).await;
    site.wait_for_metric(PREFETCHED, 2.0 * LENGTH as f64).await;
    assert_eq!(site.metric(WAITING).await, 2.0 * LENGTH as f64);
    assert_eq!(site.manager.request_count(&path("*/full.zip")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_the_manager_does_not_have_teaches_nothing() {
    let site = Site::with_config(learning);
    taken(&site, &["100/full.zip"]).await;
    assert_eq!(site.get(&path("999/full.zip")).await.status, 404);
    let next = path("110/full.zip");
    site.manager.put(&next, Resource::new(bytes(4, LENGTH)));
    taken(&site, &["110/xdelta100.dax"]).await;
    site.wait_for_metric(PREFETCHED, LENGTH as f64).await;
    assert_eq!(site.get(&next).await.cache_status(), "gupd; hit");
}

/// A manager with case-sensitive files, like nginx on Linux: it has the files of one spelling of the folder only.
fn case_sensitive(folder: &str, files: &[&str]) -> Manager {
    let have: Vec<String> = files.iter().map(|file| format!("{folder}/{file}")).collect();
    let origin = OriginServer::computed(move |request| {
        let is_known = have.contains(&request.target);
        is_known.then(|| Resource::new(bytes(request.target.len() as u64, LENGTH)))
    });
    Manager::with_origin(origin).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn predicted_payload_is_requested_in_the_spelling_of_clients() {
    for folder in [
        GUID.to_owned(),
        GUID.replace('{', "%7B").replace('}', "%7D"),
        GUID.to_ascii_uppercase().replace("/CONTENT", "/content"),
        GUID.to_ascii_lowercase(),
        GUID.replace("/content", "/Content"),
    ] {
        let files =
            ["100/full.zip", "110/xdelta100.dax", "110/full.zip", "120/xdelta110.dax", "120/full.zip"];
        let site = Site::for_manager(case_sensitive(&folder, &files), learning);
        for file in &files[..4] {
            site.wait_until_stored(&format!("{folder}/{file}")).await;
            site.clock.advance(Duration::from_secs(1));
        }
        let late = format!("{folder}/120/full.zip");
        site.manager.wait_for_requests(&late, 1).await;
        site.wait_for_fills().await;
        assert_eq!(site.get(&late).await.cache_status(), "gupd; hit", "{folder}");
        assert_eq!(site.metric(ABSENT).await, 0.0, "{folder}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn negative_response_to_a_prefetch_answers_no_client() {
    let wrong =
        [path("100/full.zip").to_ascii_lowercase(), path("*/other.zip").replace("535CB6A4", "535cb6a4")];
    let manager = case_sensitive(GUID, &["100/full.zip", "100/other.zip", "100/x.dax"]);
    let site = Site::for_manager(manager, |config| listing(config, &wrong));
    site.wait_until_stored(&path("100/x.dax")).await;
    refresh(&site).await;
    site.wait_for_metric_at_least(ABSENT, 2.0).await;
    for file in ["100/full.zip", "100/other.zip"] {
        let response = site.get(&path(file)).await;
        assert_eq!((response.status, response.cache_status()), (200, "gupd; fwd=uri-miss; stored"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_joins_a_failing_prefetch_asks_for_itself() {
    let gate = Gate::default();
    let wrong = path("100/full.zip").to_ascii_lowercase();
    let (held, missing) = (gate.clone(), wrong.clone());
    let origin = OriginServer::computed(move |request| match request.target == missing {
        true => Some(Resource::empty(404).held(&held)),
        false => Some(Resource::new("definitions")),
    });
    let paths = [wrong.clone()];
    let site = Site::for_manager(Manager::with_origin(origin).unwrap(), |config| listing(config, &paths));
    refresh(&site).await;
    site.manager.wait_for_requests(&wrong, 1).await;
    let address = site.address();
    let client = tokio::spawn(async move { get(address, &path("100/full.zip")).await });
    site.wait_for_metric("gupd_connections", 1.0).await;
    gate.open();
    assert_eq!(client.await.unwrap().expect_body(), b"definitions");
    site.wait_for_metric(ABSENT, 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_paths_go_out_as_written() {
    let written = [
        path("*/full.zip").replace("535CB6A4", "535cb6a4"),
        path("100/a%2Db.zip").replace('{', "%7B").replace('}', "%7d"),
        "/packages/Agent%20X.msi".to_owned(),
        "/q.zip?a=%41".to_owned(),
    ];
    let site = Site::with_config(|config| listing(config, &written));
    site.manager.put(&path("100/x.dax"), Resource::new("x"));
    site.wait_until_stored(&path("100/x.dax")).await;
    refresh(&site).await;
    for target in &written {
        let target = target.replace('*', "100");
        let path = target.split('?').next().unwrap();
        site.manager.wait_for_requests(path, 1).await;
        assert_eq!(site.manager.requests_for(path)[0].target, target);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_to_prefetch_is_counted() {
    let files = ["/a.zip", "/b.zip", "/c.zip", "/d.zip", "/e.zip"].map(str::to_owned);
    let site = Site::with_config(|config| {
        listing(config, &files);
        config.prefetch.max_bytes = 1 << 20;
        config.fill.attempts = 1;
    });
    site.manager.put("/a.zip", Resource::empty(410));
    site.manager.put("/b.zip", Resource::empty(403));
    site.manager.put("/c.zip", Resource::new(bytes(1, 2 << 20)));
    site.manager.put("/d.zip", Resource::empty(503));
    refresh(&site).await;
    // The last one is a 404.
    for (reason, count) in [("absent", 3.0), ("too-large", 1.0), ("failed", 1.0)] {
        site.wait_for_metric(&format!("gupd_prefetch_failures_total{{reason=\"{reason}\"}}"), count).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_spelling_is_never_sent_to_clients() {
    let site = Site::for_manager(case_sensitive(GUID, &["100/full.zip"]), |_| {});
    let path = path("100/full.zip");
    site.wait_until_stored(&path).await;
    let response = site.send(Request::get(&path.to_ascii_lowercase())).await;
    assert_eq!(response.cache_status(), "gupd; hit");
    assert!(response.headers.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with("gupd")));
}
