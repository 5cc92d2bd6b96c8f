//! The ledger: its bytes from upstreams equal `gupd_upstream_received_bytes_total` to the byte, whatever happens to the
//! transfers, and each has the cause that an administrator needs to know.

use std::time::{Duration, Instant};

use gupd_config::GroupSettings;
use gupd_net::traffic::Incident;
use serde_json::Value;

use crate::refresh::{ask, with_token};
use crate::support::{Gate, Manager, PATIENCE, PAYLOAD, Request, Resource, Site, bytes, get};

const FOLDER: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/240601003";
const CATALOG: &str = "/index2.dax";

async fn report(site: &Site, query: &str) -> Value {
    let target = format!("/api/v1/traffic?since=365d&top=1000{query}");
    serde_json::from_slice(&get(site.relay().admin(), &target).await.expect_body()).unwrap()
}

/// Bytes by cause.
fn by_cause(report: &Value, cause: &str) -> u64 {
    let rows = report["causes"].as_array().unwrap().iter();
    rows.filter(|row| row["cause"] == cause).map(|row| row["received"].as_u64().unwrap()).sum()
}

/// Waits until the report fits; a transfer is recorded when its response ends, after its last byte.
async fn wait_for_report(site: &Site, query: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let report = report(site, query).await;
        if fits(&report) {
            return report;
        }
        assert!(Instant::now() < deadline, "{report:#}");
    }
}

/// Waits until the sums agree, and returns the report.
async fn conserved(site: &Site) -> Value {
    site.wait_for_fills().await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (report, metric) = (report(site, "").await, site.upstream_bytes().await as u64);
        let rows = |table: &str| -> u64 {
            let rows = report[table].as_array().unwrap().iter();
            rows.map(|row| row["received"].as_u64().unwrap()).sum()
        };
        let sums = ["causes", "clients", "groups", "objects"].map(rows);
        if sums == [metric; 4] && report["wan"]["received"] == metric && report["process_received"] == metric
        {
            return report;
        }
        assert!(Instant::now() < deadline, "{metric} bytes received: {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ledger_equals_received_bytes_for_every_kind_of_transfer() {
    let mut site = Site::with_config(|config| {
        with_token(config);
        config.prefetch.paths = vec![format!("{FOLDER}/xdelta240531009.dax").parse().unwrap()];
        config.refresh.random = Duration::ZERO;
    });
    let manager = &site.manager;
    manager.put(CATALOG, Resource::tagged(bytes(1, 5_000), "\"1\""));
    manager.put(PAYLOAD, Resource::new(bytes(2, 3 << 20)).cut(1_000_000, 2));
    let path = |name: &str| format!("{FOLDER}/{name}");
    manager.put(&path("xdelta240531009.dax"), Resource::new(bytes(3, 40_000)));
    manager
        .put(&path("xdelta240531001.dax"), Resource::new(bytes(4, 2 << 20)).without_ranges().cut(1 << 20, 1));
    manager.put("/secars/secars.dll", Resource::echo());
    manager.put("/fails", Resource::new("a page of an error").status(500));
    site.get(CATALOG).await.expect_body();
    site.get(PAYLOAD).await.expect_body();
    site.get(&path("xdelta240531001.dax")).await.expect_body();
    site.send(Request::get(PAYLOAD).range("10-19")).await;
    site.get("/absent").await;
    site.get("/fails").await;
    site.send(Request::new("POST", "/secars/secars.dll?h=1").body(bytes(5, 70_000))).await;
    site.clock.advance(Duration::from_secs(3_600));
    site.get(CATALOG).await.expect_body();
    site.manager.put(CATALOG, Resource::tagged(bytes(6, 6_000), "\"2\""));
    assert_eq!(ask(&site, "s3cret-of-the-site").await.status, 200);
    site.wait_for_metric("gupd_prefetched_bytes_total", 40_000.0).await;
    // A client that leaves in mid-download.
    let gate = Gate::default();
    let held = path("xdelta240531002.dax");
    site.manager.put(&held, Resource::new(bytes(7, 1 << 20)).stalled(300_000, &gate));
    drop(site.start_download(&held, 100_000).await);
    gate.open();
    let report = conserved(&site).await;
    for (cause, least) in [
        ("client-miss", 5_000 + (3 << 20)),
        ("revalidation", 6_000),
        ("prefetch", 40_000),
        ("pass-through", 70_000),
        ("resume-waste", 1),
    ] {
        assert!(by_cause(&report, cause) >= least, "{cause}: {report:#}");
    }
    assert!(report["wan"]["sent"].as_u64().unwrap() >= 70_000, "{report:#}");
    assert!(report["clients_total"]["requests"].as_u64().unwrap() >= 8, "{report:#}");
    let before = report["wan"]["received"].as_u64().unwrap();
    site.restart();
    let after = self::report(&site, "").await;
    assert_eq!(after["wan"]["received"], before, "history survives a restart");
    assert_eq!(after["process_received"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_set_is_explained_by_its_missing_delta() {
    let site = Site::new();
    let (full, delta) = (format!("{FOLDER}/full.zip"), format!("{FOLDER}/xdelta240531001.dax"));
    site.manager.put(&full, Resource::new(bytes(1, 200_000)));
    assert_eq!(site.get(&delta).await.status, 404);
    site.get(&full).await.expect_body();
    let other = FOLDER.replace("003", "004");
    site.manager.put(&format!("{other}/full.zip"), Resource::new(bytes(2, 100_000)));
    site.get(&format!("{other}/full.zip")).await.expect_body();
    let report = conserved(&site).await;
    assert_eq!(by_cause(&report, "full-set-no-delta"), 200_000, "{report:#}");
    assert_eq!(by_cause(&report, "full-set"), 100_000, "{report:#}");
    let client = self::report(&site, "&client=127.0.0.1").await;
    let explained = client["causes"].as_array().unwrap().iter().any(|row| {
        row["explanation"] == "full set because the manager has no delta from revision 240531001"
            && row["content_type"] == "virus-definitions-32"
    });
    assert!(explained, "{client:#}");
    let object = self::report(&site, "&object=240601004%2Ffull").await;
    assert_eq!(object["objects"].as_array().unwrap().len(), 1, "{object:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_transfers_are_apart_from_the_wan() {
    let one = Site::for_manager(Manager::start(), |_| {});
    one.manager.put(PAYLOAD, Resource::new(bytes(1, 300_000)));
    one.wait_until_stored(PAYLOAD).await;
    let mut other = Site::with_upstreams(&[one.manager.address()]);
    other.set_peers(&[one.address()]);
    other.get(PAYLOAD).await.expect_body();
    other.wait_for_fills().await;
    let report = wait_for_report(&other, "", |report| report["peers"]["received"] == 300_000).await;
    assert_eq!(report["wan"]["received"], 0, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_a_transfer_are_counted() {
    let site = Site::new();
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 1 << 20)).stalled(600_000, &gate));
    let downloads = [
        site.start_download(PAYLOAD, 1_000).await,
        site.start_download(PAYLOAD, 1_000).await,
        site.start_download(PAYLOAD, 1_000).await,
    ];
    gate.open();
    for (mut client, mut response) in downloads {
        client.read_rest("GET", &mut response).await;
    }
    site.wait_for_fills().await;
    let report = wait_for_report(&site, "", |report| report["wan"]["followers"] == 2).await;
    assert_eq!(report["wan"]["received"], 1 << 20, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_attributed_to_the_group_of_the_client() {
    let site = Site::with_config(|config| {
        let subnets = vec!["127.0.0.1/32".parse().unwrap()];
        config.groups.insert(0, GroupSettings { subnets, ..GroupSettings::catch_all("branch-a") });
    });
    let full = format!("{FOLDER}/full.zip");
    let delta = format!("{FOLDER}/xdelta240601001.dax");
    for (path, length) in [(&*full, 90_000), (&*delta, 5_000), ("/secars/secars.dll", 300)] {
        site.manager.put(path, Resource::new(bytes(1, length)));
        site.get(path).await.expect_body();
    }
    let report = wait_for_report(&site, "", |report| report["groups"][0]["received"] == 95_300).await;
    assert_eq!(report["groups"][0]["group"], "branch-a", "{report:#}");
    assert_eq!(report["groups"][0]["cause"], "full-set", "{report:#}");
    let of_group = self::report(&site, "&group=branch-a").await;
    for (cause, bytes) in [("full-set", 90_000), ("client-miss", 5_000), ("pass-through", 300)] {
        assert_eq!(by_cause(&of_group, cause), bytes, "{cause}: {of_group:#}");
    }
    assert!(self::report(&site, "&group=default").await["causes"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_query_is_refused_in_one_line() {
    let site = Site::new();
    for query in ["since=x", "top=x", "colour=red", "object=%ff"] {
        let response = get(site.relay().admin(), &format!("/api/v1/traffic?{query}")).await;
        assert_eq!(response.status, 400, "{query}");
        assert_eq!(String::from_utf8(response.expect_body()).unwrap().lines().count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_set_is_recorded_for_its_client_from_the_store_too() {
    let site = Site::new();
    let full = format!("{FOLDER}/full.zip");
    let small = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/240601004/full.zip";
    site.manager.put(&full, Resource::new(bytes(1, 3 << 20)));
    site.manager.put(small, Resource::new(bytes(2, 9_000)));
    site.get(&full).await.expect_body();
    site.wait_for_fills().await;
    site.get(small).await.expect_body();
    assert!(site.get(&full).await.cache_status().starts_with("gupd; hit"));
    let traffic = site.relay().metrics().net.traffic.clone();
    let (mut count, mut sent, deadline) = (0, 0, Instant::now() + PATIENCE);
    // The ledger takes records too, once a minute.
    while count < 2 {
        for (key, counts) in traffic.take().incidents {
            assert_eq!((key.incident, key.client.unwrap().is_loopback()), (Incident::FullSet, true));
            (count, sent) = (count + counts.count, sent + counts.bytes);
        }
        assert!(Instant::now() < deadline, "{count} {sent}");
        site.get(&full).await.expect_body();
    }
    assert_eq!(sent, count * (3 << 20));
}
