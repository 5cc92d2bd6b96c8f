//! Failover of one request to the next upstream: which requests may be sent again, and the response without an
//! upstream.

use gupd_config::Config;

use crate::support::{Manager, PAYLOAD, RefusingPort, Request, Resource, Site};

const PRIVATE: &str = "/secars/secars.dll";

#[tokio::test(flavor = "multi_thread")]
async fn next_upstream_answers_when_the_first_fails() {
    let refusing = RefusingPort::new();
    let overloaded = Manager::start();
    for path in [PAYLOAD, PRIVATE, "/unknown"] {
        overloaded.put(path, Resource::new("later").status(503));
    }
    for first in [refusing.url(), overloaded.url()] {
        let site = site_after(&first);
        for (method, path) in [("GET", PAYLOAD), ("GET", PRIVATE), ("HEAD", "/unknown")] {
            site.manager.put(path, Resource::new("second"));
            let response = site.send(Request::new(method, path)).await;
            assert_eq!(response.status, 200, "{method} {path} {first}");
            assert_eq!(site.manager.request_count(path), 1, "{method} {path} {first}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn post_is_retried_only_if_no_upstream_can_have_acted() {
    let refusing = RefusingPort::new();
    let site = site_after(&refusing.url());
    site.manager.put(PRIVATE, Resource::echo());
    let post = |body: &str| Request::new("POST", PRIVATE).body(body);
    assert_eq!(site.send(post("body")).await.expect_body(), b"body");
    assert_eq!(site.manager.requests_for(PRIVATE)[0].body, b"body");
    // An upstream that received the request may have acted on it, with or without a body.
    let first = Manager::start();
    for (resource, status) in [(Resource::raw(""), 502), (Resource::new("busy").status(503), 503)] {
        let site = site_after(&first.url());
        site.manager.put(PRIVATE, Resource::echo());
        first.put(PRIVATE, resource);
        for body in ["body", ""] {
            assert_eq!(site.send(post(body)).await.status, status, "{body:?}");
        }
        assert_eq!(site.manager.request_count(PRIVATE), 0);
    }
    assert_eq!(first.request_count(PRIVATE), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn miss_without_upstream_is_504_with_retry_after() {
    let refusing = RefusingPort::new();
    let site = Site::with_config(|config| {
        config.upstreams = Config::for_upstreams(&[&refusing.url()]).unwrap().upstreams;
    });
    for request in [Request::get(PAYLOAD), Request::get(PRIVATE), Request::new("POST", "/").body("x")] {
        let response = site.send(request).await;
        assert_eq!(response.status, 504);
        assert!(response.header("retry-after").is_some());
    }
}

/// A site with the upstreams `first` and then its manager.
fn site_after(first: &str) -> Site {
    let manager = Manager::start();
    let both = Config::for_upstreams(&[first, &manager.url()]).unwrap();
    Site::for_manager(manager, |config| {
        config.upstreams = both.upstreams;
        config.routes = both.routes;
    })
}
