//! Rules of RFC 9111 for a shared cache, as seen on the wire with a clock that only the test moves, and the rules that
//! content classes change.

use std::time::{Duration, UNIX_EPOCH};

use tokio::task::JoinSet;

use crate::support::{Gate, PAYLOAD, Request, Resource, Response, Site};

const FILE: &str = "/files/setup.msi";
const CATALOG: &str = "/minitri.flg";
const MISS: &str = "gupd; fwd=uri-miss; stored";
const HIT: &str = "gupd; hit";
const REVALIDATED: &str = "gupd; fwd=stale; fwd-status=304";
const EXPIRED: &str = "gupd; fwd=stale; stored";

#[tokio::test(flavor = "multi_thread")]
async fn content_is_fresh_until_max_age_and_sends_age() {
    let site = Site::new();
    let at = |seconds: i64| http_date(site.clock.now() / 1000 + seconds);
    for (lifetime, fields) in [
        (100, vec![("Cache-Control", "max-age=100".to_owned())]),
        (200, vec![("Cache-Control", "max-age=100, s-maxage=200".to_owned())]),
        (300, vec![("Expires", at(300))]),
        (100, vec![("Cache-Control", "max-age=100".to_owned()), ("Expires", at(300))]),
        // A tenth of the time since the last change (RFC 9111 §4.2.2).
        (400, vec![("Last-Modified", at(-4000))]),
        // The age on arrival counts.
        (60, vec![("Cache-Control", "max-age=100".to_owned()), ("Age", "40".to_owned())]),
    ] {
        let site = Site::new();
        let resource = fields.iter().fold(Resource::new("x"), |r, (name, value)| r.header(name, value));
        site.manager.put(FILE, resource);
        assert_eq!(site.get(FILE).await.cache_status(), MISS);
        site.wait_until_stored(FILE).await;
        site.clock.advance(Duration::from_secs(lifetime - 10));
        let hit = site.get(FILE).await;
        assert_eq!(hit.cache_status(), HIT, "{fields:?}");
        let age: u64 = hit.header("age").unwrap().parse().unwrap();
        let arrived_at = if fields.len() == 2 && fields[1].0 == "Age" { 40 } else { 0 };
        assert!((lifetime - 10 + arrived_at..lifetime + arrived_at).contains(&age), "{age} {fields:?}");
        site.clock.advance(Duration::from_secs(11));
        assert_eq!(site.get(FILE).await.cache_status(), REVALIDATED, "{fields:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revalidation_sends_validators_and_updates_fields() {
    let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (resource, condition, value) in [
        (Resource::new("x").etag("\"v1\""), "if-none-match", "\"v1\""),
        (Resource::new("x").without("ETag").header("Last-Modified", modified), "if-modified-since", modified),
    ] {
        let site = Site::new();
        site.manager
            .put(FILE, resource.clone().header("Cache-Control", "max-age=10").header("X-Mirror", "a"));
        site.wait_until_stored(FILE).await;
        site.clock.advance(Duration::from_secs(20));
        site.manager.put(FILE, resource.header("Cache-Control", "max-age=100").header("X-Mirror", "b"));
        let revalidated = site.get(FILE).await;
        assert_eq!(revalidated.cache_status(), REVALIDATED);
        assert_eq!(revalidated.header("x-mirror"), Some("b"));
        assert_eq!(revalidated.expect_body(), b"x");
        assert_eq!(site.manager.requests_for(FILE)[1].header(condition), Some(value));
        // The new lifetime applies from now on.
        site.clock.advance(Duration::from_secs(70));
        assert_eq!(site.get(FILE).await.cache_status(), HIT);
        assert_eq!(site.manager.request_count(FILE), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_content_replaces_stored_content() {
    let site = Site::new();
    site.manager.put(FILE, Resource::new("old").header("Cache-Control", "max-age=10"));
    site.wait_until_stored(FILE).await;
    site.clock.advance(Duration::from_secs(20));
    site.manager.put(FILE, Resource::new("new").header("Cache-Control", "max-age=10"));
    let changed = site.get(FILE).await;
    assert_eq!((changed.cache_status(), changed.header("age")), (EXPIRED, Some("0")));
    assert_eq!(changed.expect_body(), b"new");
    site.wait_until_stored(FILE).await;
    assert_eq!(site.get(FILE).await.expect_body(), b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_revalidation_serves_every_waiting_client() {
    let site = Site::new();
    let gate = Gate::default();
    let resource = Resource::new("x").header("Cache-Control", "max-age=10");
    site.manager.put(FILE, resource.clone());
    site.wait_until_stored(FILE).await;
    site.clock.advance(Duration::from_secs(20));
    site.manager.put(FILE, resource.held(&gate));
    let address = site.address();
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        clients.spawn(async move { Request::get(FILE).send(address).await });
    }
    site.manager.wait_for_requests(FILE, 2).await;
    gate.open();
    let mut requests = 0;
    while let Some(response) = clients.join_next().await {
        let response = response.unwrap();
        requests += usize::from(response.cache_status() == REVALIDATED);
        assert_eq!(response.expect_body(), b"x");
    }
    assert_eq!((requests, site.manager.request_count(FILE)), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn conditional_request_for_held_content_is_304() {
    let site = Site::new();
    let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    let resource = Resource::new("x").etag("\"v1\"").header("Last-Modified", modified);
    site.manager.put(FILE, resource.header("Cache-Control", "max-age=100"));
    site.wait_until_stored(FILE).await;
    for (name, value, status) in [
        ("If-None-Match", "W/\"v1\"", 304),
        ("If-None-Match", "\"v0\"", 200),
        ("If-Modified-Since", modified, 304),
        ("If-Modified-Since", "Sun, 06 Nov 1994 08:49:36 GMT", 200),
        ("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:36 GMT", 412),
    ] {
        let response = site.send(Request::get(FILE).header(name, value)).await;
        assert_eq!((response.status, response.cache_status()), (status, HIT), "{name}: {value}");
        if status == 304 {
            assert_eq!(response.header("etag"), Some("\"v1\""));
            assert_eq!(response.header("cache-control"), Some("max-age=100"));
            assert_eq!(response.header("content-length"), None);
        }
    }
    assert_eq!(site.manager.request_count(FILE), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_are_separated_by_vary() {
    let site = Site::new();
    let variant = |body: &str| {
        Resource::new(body).header("Cache-Control", "max-age=100").header("Vary", "Accept-Language")
    };
    let asking = |language: &str| Request::get(FILE).header("Accept-Language", language);
    site.manager.put(FILE, variant("english"));
    assert_eq!(site.send(asking("en")).await.cache_status(), MISS);
    site.wait_for_fills().await;
    site.manager.put(FILE, variant("deutsch"));
    assert_eq!(site.send(asking("de")).await.cache_status(), "gupd; fwd=vary-miss; stored");
    site.wait_for_fills().await;
    for (language, body) in [("en", "english"), ("de", "deutsch")] {
        let hit = site.send(asking(language)).await;
        assert_eq!(hit.cache_status(), HIT, "{language}");
        assert_eq!(hit.expect_body(), body.as_bytes());
    }
    assert_eq!(site.manager.request_count(FILE), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_clients_of_two_variants_get_their_own() {
    let site = Site::new();
    let gate = Gate::default();
    let resource =
        |body: &str| Resource::new(body).header("Cache-Control", "max-age=100").header("Vary", "X-Arch");
    site.manager.put(FILE, resource("x64").held(&gate));
    let address = site.address();
    let asking = move |arch: &'static str| Request::get(FILE).header("X-Arch", arch);
    let first = tokio::spawn(async move { asking("x64").send(address).await });
    site.manager.wait_for_requests(FILE, 1).await;
    let second = tokio::spawn(async move { asking("arm64").send(address).await });
    site.wait_for_metric("gupd_connections_total", 2.0).await;
    site.manager.put(FILE, resource("arm64"));
    gate.open();
    assert_eq!(first.await.unwrap().expect_body(), b"x64");
    assert_eq!(second.await.unwrap().expect_body(), b"arm64");
    assert_eq!(site.manager.request_count(FILE), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn unshareable_content_is_requested_each_time() {
    for (request, resource, why) in [
        (None, cached("no-store"), "no-store"),
        (None, cached("private, max-age=100"), "private"),
        (None, cached("max-age=100").header("Vary", "*"), "vary"),
        (None, cached("max-age=100").header("Set-Cookie", "a=b"), "set-cookie"),
        (Some(("Authorization", "Basic eA==")), cached("max-age=100"), "authorization"),
        (Some(("Cache-Control", "no-store")), cached("max-age=100"), "request-no-store"),
        (None, cached("max-age=100").status(429), "status"),
        (None, Resource::new("x").status(302), "not-cacheable"),
    ] {
        let site = Site::new();
        site.manager.put(FILE, resource);
        for requests in 1..=2 {
            let request = request.iter().fold(Request::get(FILE), |r, (name, value)| r.header(name, value));
            let response = site.send(request).await;
            assert_eq!(response.cache_status(), format!("gupd; fwd=uri-miss; detail={why}"));
            assert_eq!(response.expect_body(), b"x", "{why}");
            assert_eq!(site.manager.request_count(FILE), requests, "{why}");
        }
        assert_eq!(site.metric("gupd_store_objects").await, 0.0, "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn response_to_credentials_is_shared_only_by_permission() {
    for permission in ["public, max-age=100", "s-maxage=100", "must-revalidate, max-age=100"] {
        let site = Site::new();
        site.manager.put(FILE, cached(permission));
        let with_credentials = Request::get(FILE).header("Authorization", "Basic eA==");
        assert_eq!(site.send(with_credentials.clone()).await.cache_status(), MISS, "{permission}");
        site.wait_until_stored(FILE).await;
        assert_eq!(site.send(with_credentials).await.cache_status(), HIT, "{permission}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_one_client_block_no_other() {
    let site = Site::new();
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    site.send(Request::get(PAYLOAD).header("Authorization", "Basic eA==")).await;
    assert_eq!(site.get(PAYLOAD).await.cache_status(), MISS);
    // The stored response also serves requests with `no-store`.
    site.wait_until_stored(PAYLOAD).await;
    let no_store = Request::get(PAYLOAD).header("Cache-Control", "no-store");
    assert_eq!(site.send(no_store.clone()).await.cache_status(), HIT);
    let mut site = site;
    tokio::task::block_in_place(|| site.restart());
    assert_eq!(site.send(no_store).await.cache_status(), HIT);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cache_and_must_revalidate_force_validation() {
    let site = Site::new();
    site.manager.put(FILE, cached("no-cache, max-age=100"));
    assert_eq!(site.get(FILE).await.cache_status(), MISS);
    site.wait_for_fills().await;
    for _ in 0..2 {
        assert_eq!(site.get(FILE).await.cache_status(), REVALIDATED);
    }
    // A response with no-cache or must-revalidate is not served without validation.
    for control in ["no-cache, max-age=100", "must-revalidate, max-age=10", "proxy-revalidate, max-age=10"] {
        let site = Site::new();
        site.manager.put(FILE, cached(control));
        site.get(FILE).await;
        site.wait_for_fills().await;
        site.clock.advance(Duration::from_secs(20));
        site.manager.put(FILE, Resource::raw(""));
        assert_eq!(site.get(FILE).await.status, 502, "{control}");
        let stale = Request::get(FILE).header("Cache-Control", "max-stale");
        assert_eq!(site.send(stale).await.status, 502, "{control}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_directives_tighten_or_relax_freshness() {
    let site = Site::new();
    let asking = |control: &str| Request::get(FILE).header("Cache-Control", control);
    let only_if_cached = site.send(asking("only-if-cached")).await;
    assert_eq!((only_if_cached.status, only_if_cached.cache_status()), (504, ""));
    assert_eq!(site.manager.request_count(FILE), 0);
    site.manager.put(FILE, cached("max-age=100"));
    site.wait_until_stored(FILE).await;
    site.clock.advance(Duration::from_secs(50));
    for control in ["only-if-cached", "max-age=60", "min-fresh=40", "max-stale=5"] {
        assert_eq!(site.send(asking(control)).await.cache_status(), HIT, "{control}");
    }
    for request in [asking("no-cache"), Request::get(FILE).header("Pragma", "no-cache"), asking("max-age=0")]
    {
        site.clock.advance(Duration::from_secs(1));
        let response = site.send(request).await;
        assert_eq!(response.cache_status(), "gupd; fwd=request; fwd-status=304");
        assert_eq!((response.header("age"), response.body.as_slice()), (Some("0"), &b"x"[..]));
    }
    site.clock.advance(Duration::from_secs(110));
    assert_eq!(site.send(asking("max-stale=30")).await.cache_status(), HIT);
    assert_eq!(site.send(asking("only-if-cached")).await.status, 504);
    assert_eq!(site.send(asking("max-stale=5")).await.cache_status(), REVALIDATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn negative_entry_lasts_its_class_time() {
    let delta = PAYLOAD.replace("full.zip", "xdelta261120001.dax");
    for (path, seconds) in [(FILE, 10), (CATALOG, 60), (&delta, 5)] {
        let site = Site::new();
        for moved in [0, seconds - 1, 2] {
            site.clock.advance(Duration::from_secs(moved));
            let response = site.get(path).await;
            assert_eq!((response.status, response.body.as_slice()), (404, &b"nothing here\n"[..]));
            site.wait_until_stored(path).await;
            let expected = if moved == 2 { 2 } else { 1 };
            assert_eq!(site.manager.request_count(path), expected, "{path}");
        }
        // The file now exists.
        site.clock.advance(Duration::from_secs(seconds + 1));
        site.manager.put(path, Resource::new("made"));
        assert_eq!(site.get(path).await.expect_body(), b"made", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_delta_is_not_remembered_as_unstorable() {
    let site = Site::new();
    let delta = PAYLOAD.replace("full.zip", "xdelta261120001.dax");
    site.manager.put(&delta, Resource::new(""));
    assert_eq!(site.get(&delta).await.cache_status(), "gupd; fwd=uri-miss; detail=empty-payload");
    site.manager.put(&delta, Resource::new("a delta"));
    assert_eq!(site.get(&delta).await.cache_status(), MISS);
    site.wait_until_stored(&delta).await;
    assert_eq!(site.manager.request_count(&delta), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_content_is_served_instead_of_an_error() {
    // The manager breaks off, then answers an error, then is down.
    let site = Site::new();
    site.manager.put(FILE, cached("max-age=10"));
    site.wait_until_stored(FILE).await;
    site.clock.advance(Duration::from_secs(3600));
    site.manager.put(FILE, Resource::new("sorry").status(503));
    let stale = site.get(FILE).await;
    assert_eq!(
        (stale.status, stale.cache_status()),
        (200, "gupd; fwd=stale; fwd-status=503; detail=stale-if-error")
    );
    assert_eq!(stale.header("age"), Some("3600"));
    assert_eq!(stale.expect_body(), b"x");
    site.manager.put(FILE, Resource::raw(""));
    assert_eq!(site.get(FILE).await.cache_status(), "gupd; hit; detail=stale-if-error");
    // A missing file is an answer, not an error.
    site.manager.remove(FILE);
    assert_eq!(site.get(FILE).await.status, 404);
    // Stale content is not served for ever, nor longer than the origin allows.
    for (control, seconds) in [("max-age=10", 8 * 86_400), ("max-age=10, stale-if-error=60", 80)] {
        let site = Site::new();
        site.manager.put(FILE, cached(control));
        site.wait_until_stored(FILE).await;
        site.manager.put(FILE, Resource::new("sorry").status(500));
        site.clock.advance(Duration::from_secs(seconds));
        let error = site.get(FILE).await;
        assert_eq!((error.status, error.expect_body()), (500, b"sorry".to_vec()), "{control}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_while_revalidate_serves_stale_content() {
    let site = Site::new();
    let gate = Gate::default();
    let control = "max-age=10, stale-while-revalidate=60";
    site.manager.put(FILE, cached(control));
    site.wait_until_stored(FILE).await;
    site.clock.advance(Duration::from_secs(20));
    site.manager.put(FILE, Resource::new("new").header("Cache-Control", control).held(&gate));
    for _ in 0..3 {
        let stale = site.get(FILE).await;
        assert_eq!(stale.cache_status(), "gupd; hit; detail=stale-while-revalidate");
        assert_eq!(stale.expect_body(), b"x");
    }
    site.manager.wait_for_requests(FILE, 2).await;
    gate.open();
    site.wait_until_stored_as(FILE, b"new").await;
    assert_eq!(site.manager.request_count(FILE), 2);
    // After that time, clients wait for the revalidation.
    site.clock.advance(Duration::from_secs(100));
    assert_eq!(site.get(FILE).await.cache_status(), REVALIDATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn payload_is_fresh_for_ever_whatever_fields_say() {
    let site = Site::new();
    // Fields as many web servers send them.
    let resource =
        cached("no-cache, max-age=0, must-revalidate").header("Expires", "-1").header("Set-Cookie", "s=1");
    site.manager.put(PAYLOAD, resource.header("Vary", "User-Agent"));
    assert_eq!(site.get(PAYLOAD).await.cache_status(), MISS);
    site.wait_until_stored(PAYLOAD).await;
    site.clock.advance(Duration::from_secs(365 * 86_400));
    for (name, value) in [
        ("Cache-Control", "max-age=0"),
        ("Cache-Control", "min-fresh=99999999"),
        ("User-Agent", "Symantec LiveUpdate/9"),
    ] {
        let hit = site.send(Request::get(PAYLOAD).header(name, value)).await;
        assert_eq!(hit.cache_status(), HIT, "{name}: {value}");
        assert_eq!(hit.header("set-cookie"), None);
    }
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn catalog_is_revalidated_on_the_relays_schedule() {
    let site = Site::new();
    let catalog = |body: &str| Resource::new(body).header("Cache-Control", "max-age=86400");
    site.manager.put(CATALOG, catalog("old"));
    site.wait_until_stored(CATALOG).await;
    site.clock.advance(Duration::from_secs(59));
    assert_eq!(site.get(CATALOG).await.cache_status(), HIT);
    site.clock.advance(Duration::from_secs(2));
    assert_eq!(site.get(CATALOG).await.cache_status(), REVALIDATED);
    site.manager.put(CATALOG, catalog("new"));
    assert_eq!(site.get(CATALOG).await.expect_body(), b"old");
    site.clock.advance(Duration::from_secs(61));
    let changed = site.get(CATALOG).await;
    assert_eq!((changed.cache_status(), changed.body.as_slice()), (EXPIRED, &b"new"[..]));
    // With the manager down, clients get the stored catalog.
    site.wait_until_stored(CATALOG).await;
    site.clock.advance(Duration::from_secs(86_400));
    site.manager.put(CATALOG, Resource::raw(""));
    assert_eq!(site.get(CATALOG).await.expect_body(), b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_cache_outcomes() {
    let site = Site::new();
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    let miss: Response = site.get(PAYLOAD).await;
    assert_eq!(miss.cache_status(), MISS);
    site.wait_for_fills().await;
    for _ in 0..3 {
        assert_eq!(site.get(PAYLOAD).await.cache_status(), HIT);
    }
    let requests = |cache: &str| format!("gupd_requests_total{{cache=\"{cache}\",class=\"payload\"}}");
    assert_eq!(site.metric(&requests("miss")).await, 1.0);
    site.wait_for_metric(&requests("hit"), 3.0).await;
    site.wait_for_metric("gupd_saved_bytes_total", 33.0).await;
    site.wait_for_metric("gupd_client_sent_bytes_total{cache=\"hit\",class=\"payload\"}", 33.0).await;
}

fn cached(control: &str) -> Resource {
    Resource::new("x").header("Cache-Control", control)
}

fn http_date(seconds: i64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap()))
}
