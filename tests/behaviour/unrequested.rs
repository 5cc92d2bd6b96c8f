//! Responses that no request asked for: a `206` without `Range`, and a `304` without a condition. Neither is the
//! object, so neither reaches a client or the store as if it were.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gupd_site::OriginServer;

use crate::support::{Manager, PAYLOAD, Request, Resource, Site, bytes};

const PRIVATE: &str = "/secars/secars.dll";
const GENERIC: &str = "/files/tool.msi";
const CATALOG: &str = "/clu/minitri.flg";

/// Responses that are parts of an object, or none.
fn unrequested() -> Vec<(&'static str, Resource)> {
    let part = || Resource::new(bytes(1, 100)).status(206).header("Cache-Control", "max-age=100");
    let multipart = "multipart/byteranges; boundary=x";
    vec![
        ("part", part().header("Content-Range", "bytes 0-99/1000")),
        ("part at the end", part().header("Content-Range", "bytes 900-999/1000")),
        ("all as a part", part().header("Content-Range", "bytes 0-99/100")),
        ("part without a range", part()),
        ("part without a validator", part().without("ETag").header("Content-Range", "bytes 0-99/1000")),
        ("parts", part().header("Content-Type", multipart)),
        ("304", Resource::empty(304)),
        ("304 with a tag", Resource::new("").status(304)),
    ]
}

/// A manager with `first` for the first `count` requests, and the object for later ones.
fn manager(first: Resource, count: usize, body: &[u8]) -> Manager {
    let (number, object) = (AtomicUsize::new(0), Resource::new(body.to_vec()));
    let computed = move |_: &_| {
        let is_first = number.fetch_add(1, Ordering::SeqCst) < count;
        Some(if is_first { first.clone() } else { object.clone() })
    };
    Manager::with_origin(OriginServer::computed(computed)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn unrequested_response_reaches_no_client() {
    let site = Site::new();
    for (index, (name, resource)) in unrequested().into_iter().enumerate() {
        for path in [PAYLOAD, GENERIC, CATALOG, PRIVATE] {
            let path =
                path.replace("full", &format!("full-{index}")).replace("tool", &format!("tool{index}"));
            site.manager.put(&path, resource.clone());
            for request in [
                Request::get(&path),
                Request::get(&path).header("Cache-Control", "no-store"),
                Request::get(&path).header("Authorization", "Basic eA=="),
                Request::head(&path),
            ] {
                let response = site.send(request.clone()).await;
                assert_eq!(response.status, 502, "{name}: {request:?}");
                site.wait_for_fills().await;
            }
        }
        assert_eq!(site.metric("gupd_store_objects").await, 0.0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_attempt_replaces_an_unrequested_response() {
    let body = bytes(2, 200_000);
    for (name, resource) in unrequested() {
        let once = manager(resource.clone(), 1, &body);
        let (always, sound) = (manager(resource, usize::MAX, &[]), manager(Resource::empty(404), 0, &body));
        for upstreams in [&[&once][..], &[&always, &sound]] {
            let addresses: Vec<_> = upstreams.iter().map(|manager| manager.address()).collect();
            let site = Site::with_upstreams(&addresses);
            assert!(site.get(PAYLOAD).await.expect_body() == body, "{name}");
            site.wait_until_stored(PAYLOAD).await;
            assert!(upstreams.iter().all(|manager| manager.request_count(PAYLOAD) <= 2), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_catalog_outlives_an_unrequested_part() {
    for (name, resource) in unrequested() {
        let site = Site::new();
        site.manager.put(CATALOG, Resource::new("old").etag("\"old\""));
        site.wait_until_stored(CATALOG).await;
        site.clock.advance(Duration::from_secs(3_600));
        // A `304` with another tag confirms nothing either.
        let status = resource.clone().etag("\"other\"");
        site.manager.put(CATALOG, if name == "304" { status.clone() } else { resource });
        assert_eq!(site.get(CATALOG).await.expect_body(), b"old", "{name}");
        site.wait_for_fills().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requested_parts_and_304_of_private_content_pass() {
    let site = Site::new();
    let body = bytes(3, 1_000);
    site.manager.put(PRIVATE, Resource::new(body.clone()).etag("\"a\""));
    let part = site.send(Request::get(PRIVATE).range("10-19")).await;
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 10-19/1000")));
    assert_eq!(part.expect_body(), body[10..20]);
    let held = site.send(Request::get(PRIVATE).header("If-None-Match", "\"a\"")).await;
    assert_eq!(held.status, 304);
    let multipart = Resource::new("x").status(206).header("Content-Type", "multipart/byteranges; boundary=x");
    site.manager.put(PRIVATE, multipart);
    assert_eq!(site.send(Request::get(PRIVATE).range("0-1,5-6")).await.status, 206);
    // Other methods give these statuses a meaning of their own.
    site.manager.put(PRIVATE, Resource::new("x").status(206));
    assert_eq!(site.send(Request::new("POST", PRIVATE).body("x")).await.status, 206);
}

#[tokio::test(flavor = "multi_thread")]
async fn switch_of_protocols_reaches_no_client() {
    let site = Site::new();
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ";
    for protocol in ["websocket", "h2c", "TLS/1.2, HTTP/1.1", "x"] {
        for path in [PAYLOAD, GENERIC, CATALOG, PRIVATE] {
            site.manager
                .put(path, Resource::raw(format!("{switch}{protocol}\r\n\r\nbytes of another protocol")));
            for request in [
                Request::get(path),
                Request::get(path).header("Cache-Control", "no-store"),
                Request::get(path).header("Connection", "Upgrade").header("Upgrade", protocol),
                Request::head(path),
            ] {
                let response = site.send(request.clone()).await;
                assert_eq!(response.status, 502, "{protocol}: {request:?}");
                site.wait_for_fills().await;
            }
        }
    }
}
