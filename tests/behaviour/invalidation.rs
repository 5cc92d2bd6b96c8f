//! Invalidation by unsafe methods (RFC 9111 §4.4): a successful change removes the stored responses of its URIs, and a
//! fill that the change overtook is not stored.

use crate::support::{Gate, Request, Resource, Site};

const FILE: &str = "/files/setup.msi";
const MISS: &str = "gupd; fwd=uri-miss; stored";
const HIT: &str = "gupd; hit";

#[tokio::test(flavor = "multi_thread")]
async fn successful_unsafe_request_invalidates_entries() {
    let elsewhere = "/files/other.msi";
    for method in ["POST", "PUT", "DELETE", "PATCH", "MERGE"] {
        let site = Site::new();
        for path in [FILE, elsewhere] {
            site.manager.put(path, cached("max-age=1000"));
            site.wait_until_stored(path).await;
        }
        let about = Resource::new("x")
            .header("Content-Location", elsewhere)
            .header("Location", "http://foreign.example/");
        site.manager.put(FILE, about);
        assert_eq!(site.send(Request::new(method, FILE)).await.status, 200);
        for path in [FILE, elsewhere] {
            site.manager.put(path, cached("max-age=1000"));
            assert_eq!(site.get(path).await.cache_status(), MISS, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_overtaken_by_unsafe_request_is_not_stored() {
    let site = Site::new();
    let gate = Gate::default();
    site.manager.put(FILE, cached("max-age=1000").stalled(0, &gate));
    let address = site.address();
    let early = tokio::spawn(async move { Request::get(FILE).send(address).await });
    site.manager.wait_for_requests(FILE, 1).await;
    site.manager.put(FILE, Resource::new("new").header("Cache-Control", "max-age=1000"));
    assert_eq!(site.send(Request::new("PUT", FILE).body("new")).await.status, 200);
    assert_eq!(site.get(FILE).await.expect_body(), b"new");
    gate.open();
    // Requests before the change get the content before it.
    assert_eq!(early.await.unwrap().expect_body(), b"x");
    site.wait_for_metric("gupd_fills_total{outcome=\"outdated\"}", 1.0).await;
    site.wait_until_stored(FILE).await;
    assert_eq!(site.get(FILE).await.expect_body(), b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_unsafe_or_safe_request_invalidates_nothing() {
    for (method, status) in [("POST", 400), ("DELETE", 403), ("PUT", 500), ("OPTIONS", 200)] {
        let site = Site::new();
        site.manager.put(FILE, cached("max-age=1000"));
        site.wait_until_stored(FILE).await;
        site.manager.put(FILE, Resource::new("").status(status));
        assert_eq!(site.send(Request::new(method, FILE)).await.status, status);
        assert_eq!(site.get(FILE).await.cache_status(), HIT, "{method} {status}");
    }
}

fn cached(control: &str) -> Resource {
    Resource::new("x").header("Cache-Control", control)
}
