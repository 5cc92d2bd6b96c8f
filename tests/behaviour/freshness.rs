//! Freshness between requests that follow each other at once: a response that was complete before a request answers it
//! only if it may be reused. Each case runs several times, because the store commits a response while the next request
//! arrives.

use std::time::{Duration, UNIX_EPOCH};

use crate::refresh::{ask, with_token};
use crate::support::{Gate, PAYLOAD, Request, Resource, Site, WireClient, bytes};

const FILE: &str = "/files/setup.msi";
const CATALOG: &str = "/minitri.flg";
const ROUNDS: usize = 5;

fn cached(control: &str) -> Resource {
    Resource::new("x").header("Cache-Control", control)
}

fn http_date(millis: i64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_response_is_not_shared_once_complete() {
    let site = Site::new();
    let now = http_date(site.clock.now());
    let resource = |name: &str, value: &str| Resource::new("x").header(name, value);
    for (index, resource) in [
        resource("Expires", &now).header("Date", &now),
        resource("Expires", "0"),
        resource("Expires", "Thu, 18 Aug 2050 2:01:18 GMT"),
        resource("Expires", "Thu, 18-Aug-2050 02:01:18 GMT"),
        resource("Cache-Control", "max-age=60").header("Age", "61"),
        resource("Cache-Control", "max-age=0"),
        resource("Cache-Control", "s-maxage=0, max-age=60"),
        resource("Cache-Control", "no-cache"),
        resource("Cache-Control", "max-age=60, no-cache").chunked(),
        resource("Cache-Control", "max-age=0").without("ETag"),
        Resource::new("").header("Cache-Control", "no-cache"),
        Resource::new(bytes(1, 3 << 20)).header("Cache-Control", "no-cache"),
    ]
    .into_iter()
    .enumerate()
    {
        for round in 0..ROUNDS {
            let path = format!("/files/{index}-{round}.msi");
            site.manager.put(&path, resource.clone());
            for requests in 1..=3 {
                let response = site.get(&path).await;
                assert_eq!(response.status, 200);
                assert_eq!(
                    site.manager.request_count(&path),
                    requests,
                    "{path}: {}",
                    response.cache_status()
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reusable_response_is_shared_as_soon_as_it_is_complete() {
    let site = Site::new();
    for (index, control) in
        ["max-age=60", "s-maxage=60, max-age=0", "max-age=60, must-revalidate"].iter().enumerate()
    {
        for path in [format!("/files/{index}.msi"), PAYLOAD.replace("full", &index.to_string())] {
            site.manager.put(&path, cached(control));
            for _ in 0..ROUNDS {
                assert_eq!(site.get(&path).await.expect_body(), b"x");
            }
            assert_eq!(site.manager.request_count(&path), 1, "{path} {control}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_needs_validation_does_not_join_a_complete_fill() {
    let site = Site::new();
    for (index, (name, value)) in [
        ("Cache-Control", "no-cache"),
        ("Cache-Control", "max-stale, no-cache"),
        ("Cache-Control", "min-fresh=100"),
        ("Cache-Control", "min-fresh=61, max-stale"),
        ("Pragma", "no-cache"),
    ]
    .into_iter()
    .enumerate()
    {
        for round in 0..ROUNDS {
            let path = format!("/files/{index}-{round}.msi");
            site.manager.put(&path, cached("max-age=60"));
            site.get(&path).await;
            for requests in 2..=3 {
                site.send(Request::get(&path).header(name, value)).await;
                assert_eq!(site.manager.request_count(&path), requests, "{name}: {value}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn response_that_is_still_arriving_answers_every_request() {
    let site = Site::new();
    let (gate, size) = (Gate::default(), 200_000);
    let resource = Resource::new(bytes(1, size)).header("Cache-Control", "no-cache").stalled(150_000, &gate);
    site.manager.put(FILE, resource);
    let mut clients = Vec::new();
    for control in ["max-age=9", "no-cache", "max-age=0"] {
        let mut client = WireClient::connect(site.address()).await;
        client.write_request(&Request::get(FILE).header("Cache-Control", control)).await.unwrap();
        let response = client.read_head().await.unwrap();
        clients.push((client, response));
    }
    gate.open();
    for (mut client, mut response) in clients {
        client.read_rest("GET", &mut response).await;
        assert!(response.expect_body() == bytes(1, size));
    }
    assert_eq!(site.manager.request_count(FILE), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn later_request_gets_the_version_that_no_cache_brought() {
    let site = Site::new();
    let mut count = 0;
    for (extension, old, new) in [
        (".msi", "max-age=1000", "max-age=1000"),
        (".msi", "max-age=1000", "no-cache"),
        (".msi", "max-age=1000", "no-store"),
        (".msi", "max-age=1000", "private"),
        (".msi", "max-age=1000, stale-while-revalidate=60", "max-age=0"),
        ("_livetri.zip", "max-age=1000", "max-age=1000"),
    ] {
        for body in [&b"new"[..], b"", &bytes(2, 2 << 20)] {
            for (name, value) in
                [("Cache-Control", "no-cache"), ("Cache-Control", "max-age=0"), ("Pragma", "no-cache")]
            {
                count += 1;
                let path = &format!("/files/{count}{extension}");
                site.manager.put(path, Resource::new("old").header("Cache-Control", old));
                site.wait_until_stored(path).await;
                site.clock.advance(Duration::from_secs(1));
                site.manager.put(path, Resource::new(body.to_vec()).header("Cache-Control", new));
                assert!(site.send(Request::get(path).header(name, value)).await.expect_body() == body);
                let later = site.get(path).await;
                assert!(later.body == body, "{path} {new} {name}: {value}: {}", later.cache_status());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_version_answers_while_the_new_one_fails() {
    let site = Site::new();
    site.manager.put(FILE, cached("max-age=1000"));
    site.wait_until_stored(FILE).await;
    site.clock.advance(Duration::from_secs(1));
    let no_cache = || Request::get(FILE).header("Cache-Control", "no-cache");
    site.manager.put(FILE, Resource::new("sorry").status(503));
    assert_eq!(site.send(no_cache()).await.expect_body(), b"x");
    assert_eq!(site.get(FILE).await.cache_status(), "gupd; hit", "an error replaces nothing");
    site.manager.put(FILE, Resource::new("new").header("Cache-Control", "no-store"));
    assert_eq!(site.send(no_cache()).await.expect_body(), b"new");
    site.manager.put(FILE, Resource::raw(""));
    assert_eq!(site.get(FILE).await.cache_status(), "gupd; hit; detail=stale-if-error");
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_ignores_the_answer_of_an_earlier_request() {
    let site = Site::with_config(with_token);
    let gate = Gate::default();
    site.manager.put(CATALOG, Resource::new("1"));
    site.wait_until_stored(CATALOG).await;
    site.clock.advance(Duration::from_secs(100));
    site.manager.put(CATALOG, Resource::new("2").held(&gate));
    let address = site.address();
    let client = tokio::spawn(async move { Request::get(CATALOG).send(address).await });
    site.manager.wait_for_requests(CATALOG, 2).await;
    site.manager.put(CATALOG, Resource::new("3"));
    site.clock.advance(Duration::from_secs(1));
    let admin = site.relay().admin();
    let refresh = tokio::spawn(async move {
        let request =
            Request::new("POST", "/api/v1/refresh").header("Authorization", "Bearer s3cret-of-the-site");
        request.send(admin).await
    });
    site.clock.advance(Duration::from_secs(1));
    gate.open();
    assert_eq!(client.await.unwrap().expect_body(), b"2");
    assert_eq!(refresh.await.unwrap().status, 200);
    site.wait_for_metric("gupd_refresh_total{outcome=\"done\"}", 1.0).await;
    assert_eq!(site.get(CATALOG).await.expect_body(), b"3");
    assert_eq!(site.manager.request_count(CATALOG), 3);
    assert_eq!(ask(&site, "s3cret-of-the-site").await.status, 200);
}
