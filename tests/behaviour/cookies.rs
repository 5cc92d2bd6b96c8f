//! Responses with cookies: a cookie reaches the client that it was set for, and nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gupd_config::Config;
use gupd_site::OriginServer;

use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, Response, Site, WireClient};

const FILE: &str = "/files/setup.msi";

const CATALOG: &str = "/minitri.flg";

/// A site with a manager that sets a new cookie with each response, in these fields.
fn site(resource: Resource, names: &'static [&'static str], change: impl FnOnce(&mut Config)) -> Site {
    let responses = AtomicUsize::new(0);
    let origin = OriginServer::computed(move |request| {
        let number = responses.fetch_add(1, Ordering::SeqCst);
        let is_valid = request.header("if-none-match").is_some();
        let resource = if is_valid { Resource::empty(304) } else { resource.clone() };
        let cookie = format!("session={number}");
        Some(names.iter().fold(resource, |resource, name| resource.header(name, &cookie)))
    });
    Site::for_manager(Manager::with_origin(origin).unwrap(), change)
}

fn cookies(response: &Response) -> Vec<&str> {
    let is_cookie = |name: &str| name.to_ascii_lowercase().starts_with("set-cookie");
    response.headers.iter().filter(|(name, _)| is_cookie(name)).map(|(_, value)| value.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn response_for_shared_caches_is_stored_without_its_cookie() {
    const ONE: &[&str] = &["Set-Cookie"];
    for (case, resource, names) in [
        ("public", Resource::new("x").header("Cache-Control", "public, max-age=100"), ONE),
        ("public, ETag", Resource::tagged("x", "\"a\"").header("Cache-Control", "public, max-age=100"), ONE),
        ("s-maxage", Resource::new("x").header("Cache-Control", "s-maxage=100"), ONE),
        (
            "s-maxage beside max-age",
            Resource::new("x").header("Cache-Control", "max-age=0, s-maxage=100"),
            ONE,
        ),
        ("CDN-Cache-Control", Resource::new("x").header("CDN-Cache-Control", "max-age=100"), ONE),
        ("several", Resource::new("x").header("Cache-Control", "public, max-age=100"), &["Set-Cookie"; 3]),
        ("Set-Cookie2", Resource::new("x").header("Cache-Control", "public, max-age=100"), &["Set-Cookie2"]),
        ("both", Resource::new("x").header("Cache-Control", "s-maxage=100"), &["Set-Cookie", "Set-Cookie2"]),
        ("spelling", Resource::new("x").header("Cache-Control", "s-maxage=100"), &["SET-COOKIE"]),
        ("chunked", Resource::new("x").header("Cache-Control", "public, max-age=100").chunked(), ONE),
        ("404", Resource::new("x").status(404).header("Cache-Control", "public, max-age=100"), ONE),
    ] {
        let mut site = site(resource, names, |_| {});
        let first = site.get(FILE).await;
        assert_eq!(cookies(&first), vec!["session=0"; names.len()], "{case}");
        assert_eq!(first.expect_body(), b"x", "{case}");
        site.wait_for_fills().await;
        // A negative entry is in memory only.
        if case != "404" {
            site.restart();
        }
        for request in [Request::get(FILE), Request::head(FILE), Request::get(FILE).range("0-0")] {
            let hit = site.send(request).await;
            assert_eq!((hit.cache_status(), cookies(&hit)), ("gupd; hit", vec![]), "{case}");
        }
        assert_eq!(site.manager.request_count(FILE), 1, "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn response_for_one_session_is_not_stored() {
    for (name, fields) in [
        ("Set-Cookie", ("Cache-Control", "max-age=100")),
        ("Set-Cookie", ("Cache-Control", "max-age=100, must-revalidate")),
        ("Set-Cookie", ("Cache-Control", "max-age=100, immutable")),
        ("Set-Cookie", ("Cache-Control", "public, private, max-age=100")),
        ("Set-Cookie", ("Expires", "Fri, 01 Jan 2100 00:00:00 GMT")),
        ("Set-Cookie", ("CDN-Cache-Control", "private, max-age=100")),
        ("Set-Cookie", ("ETag", "\"a\"")),
        ("Set-Cookie2", ("Cache-Control", "max-age=100")),
    ] {
        let names: &[&str] = if name == "Set-Cookie2" { &["Set-Cookie2"] } else { &["Set-Cookie"] };
        let site = site(Resource::new("x").header(fields.0, fields.1), names, |_| {});
        for number in 0..3 {
            let response = site.get(FILE).await;
            assert_eq!(cookies(&response), [format!("session={number}")], "{name} {fields:?}");
        }
        assert_eq!(site.metric("gupd_store_objects").await, 0.0, "{name} {fields:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_a_fill_get_no_cookie_of_another_client() {
    for (control, is_shared) in [
        ("public, max-age=100", true),
        ("s-maxage=100", true),
        ("public, max-age=0", true),
        ("max-age=100", false),
        ("private", false),
    ] {
        let gate = Gate::default();
        let resource = Resource::new("x".repeat(100_000)).header("Cache-Control", control).held(&gate);
        let site = Arc::new(site(resource, &["Set-Cookie"], |_| {}));
        let clients: Vec<_> = (0..5)
            .map(|_| {
                let site = site.clone();
                tokio::spawn(async move { site.get(FILE).await })
            })
            .collect();
        site.manager.wait_for_requests(FILE, 1).await;
        gate.open();
        let mut seen = Vec::new();
        for client in clients {
            let response = client.await.unwrap();
            seen.extend(cookies(&response).into_iter().map(str::to_owned));
            if response.cache_status().contains("collapsed") {
                assert_eq!(cookies(&response), Vec::<&str>::new(), "{control}");
            }
        }
        let requests = site.manager.request_count(FILE);
        assert!(is_shared || requests == 5, "{control}: {requests}");
        seen.sort();
        // A client that came after the whole response may have caused a `304`, of which nobody gets the cookie.
        let sent: Vec<_> = (0..requests).map(|number| format!("session={number}")).collect();
        assert!(if is_shared { seen.contains(&sent[0]) } else { seen == sent }, "{control}: {seen:?}");
        let mut distinct = seen.clone();
        distinct.dedup();
        assert_eq!(seen, distinct, "{control}: each cookie reaches at most one client");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cookie_of_a_304_is_not_stored() {
    let resource = Resource::tagged("x", "\"a\"").header("Cache-Control", "public, max-age=10");
    let site = site(resource, &["Set-Cookie"], |_| {});
    site.wait_until_stored(FILE).await;
    site.clock.advance(Duration::from_secs(20));
    let revalidated = site.get(FILE).await;
    assert!(revalidated.cache_status().contains("fwd-status=304"), "{}", revalidated.cache_status());
    let hit = site.get(FILE).await;
    assert_eq!((hit.cache_status(), cookies(&hit), cookies(&revalidated)), ("gupd; hit", vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn cookie_in_a_trailer_reaches_nobody() {
    let site = Site::new();
    let head = "HTTP/1.1 200 OK\r\nCache-Control: public, max-age=100\r\nTransfer-Encoding: chunked\r\n";
    let body = "Trailer: Set-Cookie\r\n\r\n1\r\nx\r\n0\r\nSet-Cookie: session=0\r\n\r\n";
    site.manager.put(FILE, Resource::raw(format!("{head}{body}")));
    site.manager.put("/secars/x", Resource::raw(format!("{head}{body}")));
    for path in [FILE, FILE, "/secars/x"] {
        let mut bytes = Vec::new();
        let mut client = WireClient::connect(site.address()).await;
        client.write_request(&Request::get(path).header("Connection", "close")).await.unwrap();
        client.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK") && !text.contains("session"), "{path}: {text}");
        site.wait_for_fills().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_and_catalogs_are_stored_whatever_their_cookies() {
    for path in [PAYLOAD, CATALOG] {
        for control in ["max-age=100", "no-cache", "public, max-age=100", ""] {
            let resource = Resource::tagged("x", "\"a\"").header("Cache-Control", control);
            let site = site(resource, &["Set-Cookie", "Set-Cookie2"], |_| {});
            for _ in 0..3 {
                assert_eq!(cookies(&site.get(path).await), Vec::<&str>::new(), "{path} {control}");
                site.wait_for_fills().await;
            }
            assert_eq!(site.manager.request_count(path), 1, "{path} {control}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn setting_stores_responses_with_their_cookies() {
    for (stores, control, is_stored) in [
        (false, "max-age=60", false),
        (true, "max-age=60", true),
        (true, "s-maxage=60", true),
        (true, "public, max-age=60", true),
        (true, "private, max-age=60", false),
        (true, "no-store", false),
        (true, "max-age=0", true),
    ] {
        let resource = Resource::new("x").header("Cache-Control", control);
        let site = site(resource, &["Set-Cookie"], |config| config.cache.store_set_cookie = stores);
        assert_eq!(cookies(&site.get(FILE).await), ["session=0"], "{stores} {control}");
        site.wait_for_fills().await;
        let second = if is_stored { "session=0" } else { "session=1" };
        assert_eq!(cookies(&site.get(FILE).await), [second], "{stores} {control}");
    }
}
