//! Sharing of responses between clients: what one client causes upstream, and which other clients may get the result.

use gupd_site::{OriginServer, RecordedRequest};

use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, Site};

const FILE: &str = "/files/setup.msi";

#[tokio::test(flavor = "multi_thread")]
async fn malformed_cache_control_is_read_restrictively() {
    let site = Site::new();
    for (at, (control, why)) in [
        ("no-cache; no-store; must-revalidate", "no-store"),
        ("private; max-age=600", "private"),
        ("private;no-store", "no-store"),
        ("no-store;max-age=0", "no-store"),
        ("no-store max-age=600", "no-store"),
        ("max-age=600 private", "private"),
        ("\"no-store\", max-age=600", "no-store"),
        ("'private', max-age=600", "private"),
        ("\"no-cache, no-store\", max-age=600", "no-store"),
        ("max-age=600, Cache-Control: private", "private"),
        ("public: private, max-age=600", "private"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/files/{at}");
        for client in ["first", "second"] {
            site.manager.put(&path, Resource::new(client).header("Cache-Control", control));
            let response = site.get(&path).await;
            assert_eq!(response.cache_status(), format!("gupd; fwd=uri-miss; detail={why}"), "{control}");
            assert_eq!(response.expect_body(), client.as_bytes(), "{control}");
        }
    }
    assert_eq!(site.metric("gupd_store_objects").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_no_store_of_client_is_obeyed() {
    let site = Site::new();
    site.manager.put(FILE, Resource::new("x").header("Cache-Control", "max-age=600"));
    for control in
        ["no-store; max-age=0", "\"no-store\"", "no-cache no-store", "max-age=0;no-store", "'no-store'"]
    {
        let response = site.send(Request::get(FILE).header("Cache-Control", control)).await;
        assert_eq!(response.cache_status(), "gupd; fwd=uri-miss; detail=request-no-store", "{control}");
    }
    assert_eq!(site.metric("gupd_store_objects").await, 0.0);
}

/// A site with a manager that computes its resources.
fn site_of(respond: impl Fn(&RecordedRequest) -> Option<Resource> + Send + Sync + 'static) -> Site {
    Site::for_manager(Manager::with_origin(OriginServer::computed(respond)).unwrap(), |_| {})
}

fn cached(body: &str) -> Resource {
    Resource::new(body).header("Cache-Control", "max-age=600")
}

/// Content that is coded for clients that accept gzip.
fn coded(request: &RecordedRequest, vary: Option<&str>) -> Resource {
    let accepts = request.header("accept-encoding").is_some_and(|accepted| accepted.contains("gzip"));
    let resource = if accepts { cached("coded").header("Content-Encoding", "gzip") } else { cached("plain") };
    vary.into_iter().fold(resource, |resource, vary| resource.header("Vary", vary))
}

#[tokio::test(flavor = "multi_thread")]
async fn vary_on_field_that_is_not_sent_costs_one_crossing() {
    let site = Site::new();
    for (name, values) in [
        ("Cookie", ["BIGipServerpool=1", "BIGipServerpool=2"]),
        ("User-Agent", ["a", "b"]),
        ("X-Forwarded-For", ["10.0.0.1", "10.0.0.2"]),
        ("X-Forwarded-Proto", ["http", "https"]),
        ("X-Real-IP", ["10.0.0.1", "10.0.0.2"]),
        ("Forwarded", ["for=10.0.0.1", "for=10.0.0.2"]),
        ("If-None-Match", ["\"a\"", "\"b\""]),
        ("If-Modified-Since", ["Sun, 06 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994 08:49:37 GMT"]),
        ("Range", ["bytes=0-3", "bytes=1-4"]),
        ("If-Range", ["\"a\"", "\"b\""]),
        ("Proxy-Authorization", ["Basic YQ==", "Basic Yg=="]),
        ("X-Original-URL", ["/a", "/b"]),
        ("X-HTTP-Method-Override", ["PUT", "DELETE"]),
        ("Connection", ["keep-alive", "close"]),
        ("TE", ["trailers", "deflate"]),
        ("Want-Repr-Digest", ["md5=1", "sha-512=1"]),
        ("Accept-Encoding", ["gzip", "identity"]),
    ] {
        site.manager.put(PAYLOAD, Resource::new("definitions").header("Vary", name));
        let object = format!("{PAYLOAD}?{name}");
        let requests = site.manager.total_requests();
        site.wait_until_stored(&object).await;
        for value in values {
            let response = site.send(Request::get(&object).header(name, value)).await;
            assert_eq!(response.cache_status(), "gupd; hit", "{name}: {value}");
        }
        assert_eq!(site.manager.total_requests(), requests + 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vary_on_sent_field_selects_by_its_value() {
    for (name, first, second) in [
        ("Cookie", "a=1", "a=2"),
        ("User-Agent", "a", "b"),
        ("Accept-Language", "en", "de"),
        ("X-Arch", "x64", "arm64"),
        ("Origin", "http://a.example", "http://b.example"),
    ] {
        let site =
            site_of(move |request| Some(cached(request.header(name).unwrap_or("none")).header("Vary", name)));
        for (value, requests) in [(first, 1), (second, 2), (first, 2), (second, 2)] {
            let response = site.send(Request::get(FILE).header(name, value)).await;
            assert_eq!(response.expect_body(), value.as_bytes(), "{name}");
            site.wait_for_fills().await;
            assert_eq!(site.manager.request_count(FILE), requests, "{name}: {value}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn field_named_by_connection_selects_nothing() {
    let site =
        site_of(|request| Some(cached(request.header("x-hop").unwrap_or("none")).header("Vary", "X-Hop")));
    for value in ["1", "2"] {
        let request = Request::get(FILE).header("Connection", "X-Hop").header("X-Hop", value);
        assert_eq!(site.send(request).await.expect_body(), b"none");
        site.wait_for_fills().await;
    }
    assert_eq!(site.manager.request_count(FILE), 1);
    let sent = site.send(Request::get(FILE).header("X-Hop", "3")).await;
    assert_eq!(sent.expect_body(), b"3");
}

#[tokio::test(flavor = "multi_thread")]
async fn spellings_of_accept_encoding_share_coded_content() {
    let site = site_of(|request| Some(coded(request, Some("Accept-Encoding"))));
    for accepted in [
        "gzip",
        "GZIP",
        "deflate, gzip",
        "gzip;q=1.0, identity; q=0.5",
        "br, zstd, gzip;q=0.1",
        "x-gzip",
        "*",
    ] {
        let response = site.send(Request::get(FILE).header("Accept-Encoding", accepted)).await;
        assert_eq!(response.header("content-encoding"), Some("gzip"), "{accepted}");
        assert_eq!(response.expect_body(), b"coded", "{accepted}");
        site.wait_for_fills().await;
        assert_eq!(site.manager.request_count(FILE), 1, "{accepted}");
    }
    assert_eq!(site.manager.requests_for(FILE)[0].header("accept-encoding"), Some("gzip"));
}

#[tokio::test(flavor = "multi_thread")]
async fn coded_content_is_only_for_clients_that_accept_it() {
    for vary in [None, Some("Accept-Encoding"), Some("Cookie")] {
        let site = site_of(move |request| Some(coded(request, vary)));
        let paths = [FILE, PAYLOAD, "/minitri.flg"];
        for (at, accepted) in [None, Some("identity"), Some("br"), Some("gzip;q=0"), Some("*;q=0"), Some("")]
            .into_iter()
            .enumerate()
        {
            let object = format!("{}?{at}", paths[at % paths.len()]);
            let requests = site.manager.total_requests();
            let accepting = Request::get(&object).header("Accept-Encoding", "gzip, br");
            assert_eq!(site.send(accepting.clone()).await.expect_body(), b"coded");
            site.wait_for_fills().await;
            let other = accepted
                .iter()
                .fold(Request::get(&object), |request, value| request.header("Accept-Encoding", value));
            let plain = site.send(other).await;
            assert_eq!(plain.header("content-encoding"), None, "{vary:?} {accepted:?}");
            assert_eq!(plain.expect_body(), b"plain", "{vary:?} {accepted:?}");
            site.wait_for_fills().await;
            // Content without a coding satisfies every client.
            site.send(accepting).await;
            assert_eq!(site.manager.total_requests(), requests + 2, "{vary:?} {accepted:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_without_coding_does_not_follow_coded_fill() {
    let gate = Gate::default();
    let held = gate.clone();
    let site = site_of(move |request| Some(coded(request, None).held(&held)));
    let address = site.address();
    let asking = move |accepted: &'static str| async move {
        Request::get(FILE).header("Accept-Encoding", accepted).send(address).await
    };
    let first = tokio::spawn(asking("gzip"));
    site.manager.wait_for_requests(FILE, 1).await;
    let second = tokio::spawn(asking("identity"));
    site.wait_for_metric("gupd_connections_total", 2.0).await;
    gate.open();
    assert_eq!(first.await.unwrap().expect_body(), b"coded");
    assert_eq!(second.await.unwrap().expect_body(), b"plain");
}

#[tokio::test(flavor = "multi_thread")]
async fn coding_that_was_not_requested_is_not_shared() {
    let site = Site::new();
    site.manager.put(FILE, cached("x").header("Content-Encoding", "br"));
    for requests in 1..=2 {
        let response = site.send(Request::get(FILE).header("Accept-Encoding", "gzip, br")).await;
        assert_eq!(response.cache_status(), "gupd; fwd=uri-miss; detail=vary");
        assert_eq!(site.manager.request_count(FILE), requests);
    }
    // A client that asked for no coding gets what the upstream gives to each like it.
    for _ in 0..2 {
        let response = site.get(FILE).await;
        assert_eq!((response.status, response.header("content-encoding")), (200, Some("br")));
    }
}

/// Answers `404` to every spelling but one, as a server that distinguishes case does.
fn case_sensitive(spelling: &'static str) -> impl Fn(&RecordedRequest) -> Option<Resource> + Send + Sync {
    move |request| match request.target == spelling {
        true => Some(cached("definitions")),
        false => Some(Resource::empty(404)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn negative_response_is_for_its_own_spelling() {
    const CATALOG: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/index2.dax";
    for (right, wrong) in [
        (PAYLOAD, PAYLOAD.replace("4e8a", "4E8A")),
        (PAYLOAD, PAYLOAD.replace('{', "%7B").replace('}', "%7D")),
        (PAYLOAD, PAYLOAD.replace("full", "f%75ll")),
        (CATALOG, CATALOG.to_ascii_lowercase()),
        (CATALOG, CATALOG.replace("535CB6A4", "535cb6a4")),
        ("/files/a-b.msi", "/files/a%2db.msi".to_owned()),
        ("/files/a?b=%7E", "/files/a?b=~".to_owned()),
        ("/files/a%2Fb", "/files/a%2fb".to_owned()),
    ] {
        let site = site_of(case_sensitive(right));
        for _ in 0..2 {
            assert_eq!(site.get(&wrong).await.status, 404);
            site.wait_for_fills().await;
        }
        // Equal requests share it.
        assert_eq!(site.manager.total_requests(), 1, "{wrong}");
        let found = site.get(right).await;
        assert_eq!((found.status, found.cache_status()), (200, "gupd; fwd=uri-miss; stored"), "{wrong}");
        site.wait_until_stored(right).await;
        // The content is for every spelling.
        assert_eq!(site.get(&wrong).await.status, 200, "{wrong}");
        assert_eq!(site.manager.total_requests(), 2, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_with_other_spelling_asks_for_itself() {
    let gate = Gate::default();
    let held = gate.clone();
    let respond = case_sensitive(PAYLOAD);
    let site = site_of(move |request| respond(request).map(|resource| resource.held(&held)));
    let address = site.address();
    let wrong = PAYLOAD.replace("4e8a", "4E8A");
    let first = tokio::spawn(async move { Request::get(&wrong).send(address).await });
    site.manager.wait_for_requests(PAYLOAD, 1).await;
    let second = tokio::spawn(async move { Request::get(PAYLOAD).send(address).await });
    site.wait_for_metric("gupd_connections_total", 2.0).await;
    gate.open();
    assert_eq!(first.await.unwrap().status, 404);
    assert_eq!(second.await.unwrap().expect_body(), b"definitions");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_to_right_spelling_is_for_the_wrong_one() {
    let site = site_of(|request| match request.target.as_str() {
        PAYLOAD => Some(cached("definitions")),
        _ => Some(cached("").status(301).header("Location", PAYLOAD)),
    });
    let wrong = PAYLOAD.replace("4e8a", "4E8A");
    assert_eq!(site.get(&wrong).await.status, 301);
    site.wait_for_fills().await;
    assert_eq!(site.get(PAYLOAD).await.expect_body(), b"definitions");
}

#[tokio::test(flavor = "multi_thread")]
async fn negative_response_is_for_equal_decisive_fields() {
    for (name, refused) in [
        ("Accept", "text/html"),
        ("Accept-Language", "tlh"),
        ("Cookie", "evil=1"),
        ("Referer", "http://elsewhere.example/"),
        ("Origin", "http://elsewhere.example"),
        ("User-Agent", "scanner"),
    ] {
        let site = site_of(move |request| match request.header(name) == Some(refused) {
            true => Some(cached("no").status(404)),
            false => Some(cached("content")),
        });
        assert_eq!(site.send(Request::get(FILE).header(name, refused)).await.status, 404);
        site.wait_for_fills().await;
        assert_eq!(site.get(FILE).await.expect_body(), b"content", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn error_for_oversized_field_is_not_shared() {
    for (status, name, path) in [
        (404, "Accept", PAYLOAD),
        (400, "Accept-Language", PAYLOAD),
        (431, "User-Agent", PAYLOAD),
        (410, "Pragma", "/minitri.flg"),
        (404, "Cookie", FILE),
        (414, "X-Token", FILE),
        (500, "Accept-Language", FILE),
    ] {
        let gate = Gate::default();
        let held = gate.clone();
        let site =
            site_of(move |request| match request.header(name).is_some_and(|value| value.len() > 3000) {
                true => Some(cached("too large").status(status).held(&held)),
                false => Some(cached("content")),
            });
        let address = site.address();
        let oversized = Request::get(path).header(name, &"v".repeat(8000));
        let large = oversized.clone();
        let refused = tokio::spawn(async move { large.send(address).await });
        site.manager.wait_for_requests(path, 1).await;
        // Another client neither waits for the response nor gets it.
        assert_eq!(site.get(path).await.expect_body(), b"content", "{name} {path}");
        gate.open();
        assert_eq!(refused.await.unwrap().status, status, "{name} {path}");
        site.wait_until_stored(path).await;
        // The store answers any request.
        assert_eq!(site.send(oversized).await.cache_status(), "gupd; hit", "{name} {path}");
    }
}
