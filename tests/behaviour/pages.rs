//! Pages in place of files: a captive portal or a failing server answers `200` with HTML under a payload's name. No page
//! becomes the payload, and a client's `no-cache` gets past wrong content once a minute.

use std::time::Duration;

use gupd_config::{Class, Rule};
use tokio::task::JoinSet;

use crate::support::{PAYLOAD, Request, Resource, Site, bytes};

const HTML: &str = "<html>please log in to the hotel network</html>";
const REFUSED: &str = "gupd; fwd=uri-miss; detail=unexpected-type";
const STORED: &str = "gupd; fwd=uri-miss; stored";
const PAGES: &str = "gupd_fills_total{outcome=\"unexpected-type\"}";

/// A site where everything under `/files/` is a payload.
fn site() -> Site {
    let rule = Rule { pattern: "/files/**".into(), class: Class::Payload };
    Site::with_config(|config| config.rules = vec![rule])
}

/// A file with the magic number of its extension.
fn file(magic_number: &[u8]) -> Resource {
    Resource::new([magic_number, &bytes(1, 100_000)].concat())
}

fn no_cache(path: &str) -> Request {
    Request::get(path).header("Cache-Control", "no-cache")
}

#[tokio::test(flavor = "multi_thread")]
async fn page_in_place_of_a_file_is_never_stored() {
    let html = |resource: Resource| resource.header("Content-Type", "text/html; charset=utf-8");
    let portal = || Resource::new(HTML).without("ETag").header("Cache-Control", "no-cache, max-age=0");
    let (site, mut refused) = (site(), 0.0);
    for (path, page, status) in [
        (PAYLOAD, html(portal()), REFUSED),
        ("/files/xdelta261120001.dax", html(portal()), REFUSED),
        ("/files/x.7z", html(portal().chunked()), REFUSED),
        ("/files/x.exe", html(portal().until_close()), REFUSED),
        ("/files/x.MSI", html(Resource::new(HTML.repeat(10_000))), REFUSED),
        ("/files/x.cab", html(Resource::new(bytes(2, 500)).header("Content-Encoding", "gzip")), REFUSED),
        // The head of the response does not show it.
        ("/files/x.jdb", portal(), STORED),
        ("/files/1369163480x.m26", portal().chunked().header("Content-Type", "application/zip"), STORED),
        ("/files/y.zip", Resource::new("{\"error\": \"quota\"}"), STORED),
        ("/files/z.zip", Resource::new("Bad gateway\n").header("Content-Type", "text/plain"), STORED),
        ("/x_livetri.zip", html(portal()), REFUSED),
        ("/minitri.flg", html(portal()), REFUSED),
    ] {
        site.manager.put(path, page);
        for _ in 0..2 {
            let passed_on = site.get(path).await;
            assert_eq!((passed_on.status, passed_on.cache_status()), (200, status), "{path}");
            assert!(!passed_on.body.is_empty());
            site.wait_for_fills().await;
        }
        refused += 2.0;
        assert_eq!(site.metric(PAGES).await, refused, "{path}");
        let right = bytes(3, 100_000);
        site.manager.put(path, Resource::new(right.clone()).header("Content-Type", "application/zip"));
        assert!(site.get(path).await.expect_body() == right, "{path}");
        site.wait_until_stored(path).await;
        assert_eq!(site.manager.request_count(path), 3, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_reaches_no_client_that_comes_after_it() {
    let site = site();
    let right = bytes(3, 1000);
    for number in 0..50 {
        let object = format!("/files/x.zip?{number}");
        for page in [
            Resource::new(HTML).header("Content-Type", "application/zip"),
            Resource::new(HTML).header("Content-Type", "text/html"),
        ] {
            site.manager.put("/files/x.zip", page);
            assert_eq!(site.get(&object).await.expect_body(), HTML.as_bytes());
        }
        // The fill of the page has not ended yet, perhaps.
        site.manager.put("/files/x.zip", Resource::new([b"PK\x03\x04", &right[..]].concat()));
        assert!(site.get(&object).await.expect_body().ends_with(&right), "{object}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_with_its_magic_number_is_stored_under_any_type() {
    let site = site();
    for (path, magic_number, media_type) in [
        ("/files/a.zip", &b"PK\x03\x04"[..], "text/html"),
        ("/files/a.jdb", b"PK\x03\x04", "text/plain"),
        ("/files/a.7z", b"7z\xbc\xaf\x27\x1c", "text/html"),
        ("/files/a.exe", b"MZ", "application/json"),
        ("/files/a.msi", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "text/html"),
        ("/files/a.cab", b"MSCF", "text/xml"),
        ("/files/a.dax", b"\x00\x01", "text/plain"),
    ] {
        site.manager.put(path, file(magic_number).header("Content-Type", media_type));
        site.wait_until_stored(path).await;
        assert_eq!(site.manager.request_count(path), 1, "{path}");
    }
    assert_eq!(site.metric(PAGES).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn page_for_a_range_of_a_cold_file_is_not_stored() {
    let site = site();
    site.manager.put(PAYLOAD, Resource::new(HTML).header("Content-Type", "text/html"));
    for range in ["0-9", "20-", "-5", "7-8"] {
        assert_eq!(site.send(Request::get(PAYLOAD).range(range)).await.status, 206, "{range}");
        site.wait_for_fills().await;
    }
    assert_eq!(site.metric(PAGES).await, 4.0);
    let right = bytes(4, 3_000_000);
    site.manager.put(PAYLOAD, Resource::new(right.clone()));
    let tail = site.send(Request::get(PAYLOAD).range("-10")).await;
    assert_eq!(tail.body, right[right.len() - 10..]);
    site.wait_until_stored(PAYLOAD).await;
    assert!(site.get(PAYLOAD).await.expect_body() == right);
}

#[tokio::test(flavor = "multi_thread")]
async fn page_does_not_replace_stored_content() {
    let site = site();
    let catalog = "/x_livetri.zip";
    let right = bytes(5, 1_000);
    for path in [catalog, PAYLOAD] {
        site.manager.put(path, Resource::new(right.clone()));
        site.wait_until_stored(path).await;
        site.manager.put(path, Resource::new(HTML).header("Content-Type", "text/html"));
    }
    site.clock.advance(Duration::from_secs(3_600));
    for path in [catalog, PAYLOAD] {
        assert_eq!(site.send(no_cache(path)).await.expect_body(), HTML.as_bytes());
        site.wait_for_fills().await;
        site.manager.put(path, Resource::empty(503));
        assert_eq!(site.get(path).await.expect_body(), right, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cache_revalidates_a_payload_once_a_minute() {
    let site = site();
    let stored = bytes(6, 50_000);
    site.manager.put(PAYLOAD, Resource::new(stored.clone()));
    site.wait_until_stored(PAYLOAD).await;
    for requests in 1..4 {
        site.clock.advance(Duration::from_secs(59));
        assert_eq!(site.send(no_cache(PAYLOAD)).await.cache_status(), "gupd; hit");
        site.clock.advance(Duration::from_secs(1));
        assert_eq!(site.get(PAYLOAD).await.cache_status(), "gupd; hit");
        assert_eq!(site.send(Request::get(PAYLOAD).header("Cache-Control", "max-age=0")).await.status, 200);
        assert_eq!(site.manager.request_count(PAYLOAD), requests);
        let mut clients = JoinSet::new();
        for _ in 0..20 {
            let address = site.address();
            clients.spawn(async move { no_cache(PAYLOAD).send(address).await.expect_body() });
        }
        clients.join_all().await;
        site.wait_for_fills().await;
        assert_eq!(site.manager.request_count(PAYLOAD), requests + 1);
        assert!(site.send(no_cache(PAYLOAD)).await.expect_body() == stored, "{requests}");
        assert_eq!(site.manager.request_count(PAYLOAD), requests + 1);
    }
    // A payload that has changed is revalidated like a catalog from then on.
    let changed = bytes(60, 50_000);
    site.manager.put(PAYLOAD, Resource::new(changed.clone()));
    site.clock.advance(Duration::from_secs(60));
    assert!(site.send(no_cache(PAYLOAD)).await.expect_body() == changed);
    site.wait_for_fills().await;
    assert!(site.get(PAYLOAD).await.expect_body() == changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cache_is_claimed_once_while_pages_arrive() {
    let site = site();
    let right = bytes(7, 5_000);
    site.manager.put(PAYLOAD, Resource::new(right.clone()));
    site.wait_until_stored(PAYLOAD).await;
    site.manager.put(PAYLOAD, Resource::new(HTML).header("Content-Type", "text/html"));
    site.clock.advance(Duration::from_secs(60));
    assert_eq!(site.send(no_cache(PAYLOAD)).await.expect_body(), HTML.as_bytes());
    site.wait_for_fills().await;
    for _ in 0..10 {
        assert_eq!(site.send(no_cache(PAYLOAD)).await.expect_body(), right);
    }
    assert_eq!(site.manager.request_count(PAYLOAD), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cache_is_served_from_the_store_while_the_manager_is_away() {
    let site = site();
    let right = bytes(8, 5_000);
    site.manager.put(PAYLOAD, Resource::new(right.clone()));
    site.wait_until_stored(PAYLOAD).await;
    site.manager.set_down(true);
    for _ in 0..3 {
        site.clock.advance(Duration::from_secs(60));
        assert_eq!(site.send(no_cache(PAYLOAD)).await.expect_body(), right);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_payload_without_validator_is_not_fetched_for_no_cache() {
    let site = site();
    for (length, requests) in [(1 << 20, 2), ((1 << 20) + 1, 1)] {
        let path = format!("/files/{length}.7z");
        site.manager.put(&path, Resource::new(bytes(9, length)).without("ETag"));
        site.wait_until_stored(&path).await;
        site.clock.advance(Duration::from_secs(60));
        site.send(no_cache(&path)).await.expect_body();
        site.wait_for_fills().await;
        assert_eq!(site.manager.request_count(&path), requests, "{length} bytes");
    }
}
