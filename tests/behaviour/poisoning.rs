//! One client, or one response of an attacker on the line, must not decide what other clients get: redirects, client
//! fields in shared fills, and unsafe methods.

use std::collections::HashMap;

use gupd_site::{OriginServer, RecordedRequest};
use tokio::task::JoinSet;

use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, Site};

const CATALOGS: [&str; 2] = ["/minitri.flg", "/a_1.0_english_livetri.zip"];
const FILE: &str = "/files/setup.msi";

#[tokio::test(flavor = "multi_thread")]
async fn only_content_itself_is_stored_as_payload_or_catalog() {
    let site = Site::new();
    for status in [203, 300, 301, 302, 303, 307, 308, 400, 403, 429, 500, 503] {
        for path in [PAYLOAD, CATALOGS[0], CATALOGS[1]] {
            let object = format!("{path}?{status}");
            let planted = Resource::new("")
                .status(status)
                .header("Location", "http://evil.example/")
                .header("Cache-Control", "public, max-age=31536000");
            site.manager.put(path, planted);
            assert_eq!(site.get(&object).await.status, status, "{object}");
            site.manager.put(path, Resource::new("definitions"));
            assert_eq!(site.get(&object).await.expect_body(), b"definitions", "{object}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn special_request_costs_at_most_one_more_fill() {
    for (name, value) in [
        ("Request-Range", "bytes=0-0"),
        ("Authorization", "Basic eA=="),
        ("Authorization", "Bearer x"),
        ("Cookie", "session=1"),
        ("Translate", "f"),
        ("X-Original-URL", "/secars/"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Host", "evil.example"),
        ("X-Anything", "1"),
        ("Prefer", "return=minimal"),
        ("Accept-Datetime", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ] {
        let gate = Gate::default();
        let held = gate.clone();
        // A manager for which the field is special, and its response for that client alone.
        let site = site_of(move |request| {
            let resource = Resource::new("definitions").held(&held);
            let is_special = request.header(name) == Some(value);
            Some(if is_special { resource.header("Cache-Control", "private") } else { resource })
        });
        let address = site.address();
        let mut clients = JoinSet::new();
        clients.spawn(async move { Request::get(PAYLOAD).header(name, value).send(address).await });
        site.manager.wait_for_requests(PAYLOAD, 1).await;
        for _ in 0..8 {
            clients.spawn(async move { Request::get(PAYLOAD).send(address).await });
        }
        site.wait_for_metric("gupd_connections_total", 9.0).await;
        gate.open();
        while let Some(response) = clients.join_next().await {
            assert_eq!(response.unwrap().expect_body(), b"definitions", "{name}");
        }
        assert!(site.manager.request_count(PAYLOAD) <= 2, "{name}");
    }
}

/// A field that spoils the request of its client, and the answer of a manager: its status and `Cache-Control`, or a
/// field.
type SpoiltCase<A> = ((&'static str, &'static str), (A, &'static str));

/// Each field with each answer, for a payload, a catalog and a page.
fn spoilt_cases() -> Vec<(String, SpoiltCase<u16>)> {
    let fields = [
        ("Accept", "text/unknown"),
        ("Accept-Language", "xx"),
        ("Cookie", "session=1"),
        ("Pragma", "x"),
        ("User-Agent", "scanner"),
        ("X-Token", "1"),
    ];
    let answers = [(200, "private"), (403, "no-store"), (406, ""), (500, "")];
    let cases = fields.into_iter().flat_map(|field| answers.into_iter().map(move |answer| (field, answer)));
    let paths = ["/content/1/N.zip", "/aN_1.0_english_livetri.zip", "/files/N.msi"];
    let targets = paths.into_iter().flat_map(|path| cases.clone().map(move |case| (path, case)));
    let named = |(number, (path, case)): (usize, (&str, _))| (path.replace('N', &number.to_string()), case);
    targets.enumerate().map(named).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_a_spoilt_request_share_a_clean_one() {
    let gate = Gate::default();
    let (held, cases) = (gate.clone(), spoilt_cases());
    let answers: HashMap<_, _> = cases.iter().cloned().collect();
    let site = site_of(move |request| {
        let ((name, value), (status, control)) = *answers.get(&request.target)?;
        let resource = Resource::new("definitions").held(&held);
        Some(match request.header(name) == Some(value) {
            true => resource.status(status).header("Cache-Control", control),
            false => resource.header("Cache-Control", "max-age=600"),
        })
    });
    let address = site.address();
    let (mut spoilt, mut followers) = (JoinSet::new(), JoinSet::new());
    for (target, ((name, value), _)) in cases.clone() {
        let request = Request::get(&target).header(name, value);
        spoilt.spawn(async move { request.send(address).await });
        site.manager.wait_for_requests(&target, 1).await;
    }
    for (target, case) in cases.clone() {
        for _ in 0..4 {
            let target = target.clone();
            followers.spawn(async move { (case, Request::get(&target).send(address).await) });
        }
    }
    site.wait_for_metric("gupd_connections_total", 5.0 * cases.len() as f64).await;
    gate.open();
    while let Some(response) = followers.join_next().await {
        let (case, response) = response.unwrap();
        assert_eq!(response.expect_body(), b"definitions", "{case:?}");
    }
    spoilt.join_all().await;
    for (target, case) in cases {
        // A client that a manager refuses without its fields asks again with all of them.
        let requests = site.manager.request_count(&target);
        assert!(requests <= 3, "{target} {case:?}: {requests} requests");
    }
}

/// Requests that a manager answers for their client alone, and its response.
fn private_cases() -> Vec<(String, SpoiltCase<&'static str>)> {
    let fields = [
        ("Accept", "text/unknown"),
        ("Accept-Encoding", "gzip"),
        ("Accept-Language", "xx"),
        ("Cache-Control", "max-age=0"),
        ("Cookie", "session=1"),
        ("Pragma", "x"),
        ("User-Agent", "scanner"),
        ("Via", "1.1 scanner"),
        ("X-Token", "1"),
    ];
    let answers = [
        ("Cache-Control", "private"),
        ("Cache-Control", "no-store"),
        ("Vary", "*"),
        ("Set-Cookie", "session=1"),
        ("ETag", ""),
    ];
    let cases = fields.into_iter().flat_map(|field| answers.into_iter().map(move |answer| (field, answer)));
    cases.enumerate().map(|(number, case)| (format!("/files/{number}.msi"), case)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn private_answer_to_one_client_leaves_sharing_to_others() {
    const OTHERS: usize = 4;
    let gate = Gate::default();
    let (held, cases) = (gate.clone(), private_cases());
    let answers: HashMap<_, _> = cases.iter().cloned().collect();
    let site = site_of(move |request| {
        let ((name, value), refusal) = *answers.get(&request.target)?;
        Some(match request.header(name).is_some_and(|sent| sent.starts_with(value)) {
            true if refusal.0 == "ETag" => Resource::new("page").without("ETag").without("Last-Modified"),
            true => Resource::new("page").header(refusal.0, refusal.1),
            false => Resource::new("content").header("Cache-Control", "max-age=600").held(&held),
        })
    });
    for (target, ((name, value), refusal)) in &cases {
        let odd = || site.send(Request::get(target).header(name, value));
        assert_eq!(odd().await.expect_body(), b"page", "{name}: {refusal:?}");
        // Its own requests are not collapsed, as those for any private page.
        assert_eq!(odd().await.expect_body(), b"page", "{name}: {refusal:?}");
    }
    let address = site.address();
    let mut others = JoinSet::new();
    let connected = site.metric("gupd_connections_total").await;
    for (target, _) in &cases {
        for _ in 0..OTHERS {
            let target = target.clone();
            others.spawn(async move { Request::get(&target).send(address).await });
        }
    }
    site.wait_for_metric("gupd_connections_total", connected + (OTHERS * cases.len()) as f64).await;
    gate.open();
    for response in others.join_all().await {
        assert_eq!(response.expect_body(), b"content");
    }
    for (target, case) in cases {
        assert_eq!(site.manager.request_count(&target), 3, "{target} {case:?}");
    }
}

/// Fields by which a client asks for another response than others get.
const SPECIAL: [(&str, &str); 14] = [
    ("Prefer", "return=minimal"),
    ("Depth", "1"),
    ("SOAPAction", "\"list\""),
    ("If", "(<urn:uuid:1>)"),
    ("Accept-Datetime", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ("Negotiate", "trans"),
    ("X-Accel-Redirect", "/internal"),
    ("X-Accel-Buffering", "no"),
    ("X-Sendfile", "/etc/passwd"),
    ("X-PJAX", "true"),
    ("RSC", "1"),
    ("X-Middleware-Prefetch", "1"),
    ("X-Api-Key", "1"),
    ("X-Amz-Security-Token", "1"),
];

#[tokio::test(flavor = "multi_thread")]
async fn request_with_a_special_field_decides_for_no_other() {
    for (name, value) in SPECIAL {
        let gate = Gate::default();
        let held = gate.clone();
        let site = site_of(move |request| {
            let special = request.header(name).map(|_| Resource::new("special").held(&held));
            Some(special.unwrap_or_else(|| Resource::new("content")).header("Cache-Control", "max-age=600"))
        });
        let (address, mut special) = (site.address(), JoinSet::new());
        special.spawn(async move { Request::get(FILE).header(name, value).send(address).await });
        site.manager.wait_for_requests(FILE, 1).await;
        // It is no client's leader: others wait for nothing.
        let clean =
            (0..8).map(|_| Request::get(FILE)).map(|request| async move { request.send(address).await });
        for response in clean.collect::<JoinSet<_>>().join_all().await {
            assert_eq!(response.expect_body(), b"content", "{name}");
        }
        gate.open();
        let special = special.join_next().await.unwrap().unwrap();
        assert!(
            special.cache_status().ends_with("detail=special-field"),
            "{name}: {}",
            special.cache_status()
        );
        assert_eq!(special.expect_body(), b"special", "{name}");
        site.wait_until_stored(FILE).await;
        assert_eq!(site.manager.request_count(FILE), 2, "{name}");
        let stored = site.send(Request::get(FILE).header(name, value)).await;
        assert_eq!(stored.cache_status(), "gupd; hit", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vary_on_a_special_field_selects() {
    for (name, value) in SPECIAL {
        let site = site_of(move |request| {
            let body = request.header(name).unwrap_or("none").to_owned();
            Some(Resource::new(body).header("Cache-Control", "max-age=600").header("Vary", name))
        });
        for (request, body) in [
            (Request::get(FILE), "none"),
            (Request::get(FILE).header(name, value), value),
            (Request::get(FILE), "none"),
            (Request::get(FILE).header(name, value), value),
        ] {
            assert_eq!(site.send(request).await.expect_body(), body.as_bytes(), "{name}");
            site.wait_for_fills().await;
        }
        assert_eq!(site.manager.request_count(FILE), 3, "{name}");
    }
}

/// Fields by which applications learn host, path, scheme or client. They write them into links, or obey them.
const MISLEADING: [&str; 21] = [
    "Base-Url",
    "CF-Connecting-IP",
    "Client-IP",
    "Forwarded",
    "Front-End-Https",
    "Proxy",
    "True-Client-IP",
    "X-Client-IP",
    "X-Forwarded-Host",
    "X-Forwarded-Prefix",
    "X-Forwarded-Scheme",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Host",
    "X-HTTP-Path-Override",
    "X-Original-Host",
    "X-Original-URL",
    "X-Override-URL",
    "X-Path",
    "X-Rewrite-URL",
    "X-Wap-Profile",
];

#[tokio::test(flavor = "multi_thread")]
async fn page_made_for_a_host_or_client_is_not_shared() {
    let site = site_of(|request| {
        let links_to = MISLEADING.iter().find_map(|name| request.header(name)).unwrap_or("manager.example");
        Some(Resource::new(links_to.to_owned()).header("Cache-Control", "max-age=600"))
    });
    for (number, name) in MISLEADING.into_iter().enumerate() {
        let page = format!("/pages/{number}.html");
        site.send(Request::get(&page).header(name, "evil.example")).await;
        site.wait_for_fills().await;
        let other = site.get(&page).await;
        assert!(other.cache_status().starts_with("gupd; hit"), "{name}: {}", other.cache_status());
        assert_eq!(other.expect_body(), b"manager.example", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn field_that_a_manager_demands_is_sent_for_its_client() {
    for (name, value) in [
        ("X-Api-Key", "1"),
        ("Cookie", "session=1"),
        ("X-Token", "a"),
        ("Ocp-Apim-Key", "b"),
        ("DeviceId", "c"),
    ] {
        let site = site_of(move |request| {
            let is_known = request.header(name) == Some(value);
            Some(if is_known { Resource::new("definitions") } else { Resource::new("no").status(403) })
        });
        let known = Request::get(PAYLOAD).header(name, value);
        assert_eq!(site.send(known.clone()).await.expect_body(), b"definitions", "{name}");
        assert_eq!(site.get(PAYLOAD).await.status, 403, "{name}");
        assert_eq!(site.send(known).await.expect_body(), b"definitions", "{name}");
        assert_eq!(site.metric("gupd_store_objects").await, 0.0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unsafe_request_leaves_payloads_and_catalogs() {
    for method in ["POST", "PUT", "DELETE", "PATCH", "MERGE"] {
        let site = Site::new();
        for path in [PAYLOAD, CATALOGS[0], CATALOGS[1]] {
            site.manager.put(path, Resource::new("definitions"));
            site.wait_until_stored(path).await;
            assert_eq!(site.send(Request::new(method, path)).await.status, 200);
            // Named by the response to another path.
            site.manager.put(FILE, Resource::new("x").header("Content-Location", path));
            assert_eq!(site.send(Request::new(method, FILE)).await.status, 200);
            assert_eq!(site.get(path).await.cache_status(), "gupd; hit", "{method} {path}");
        }
    }
}

/// A site with a manager that computes its resources.
fn site_of(respond: impl Fn(&RecordedRequest) -> Option<Resource> + Send + Sync + 'static) -> Site {
    Site::for_manager(Manager::with_origin(OriginServer::computed(respond)).unwrap(), |_| {})
}

#[tokio::test(flavor = "multi_thread")]
async fn field_that_asks_for_a_part_never_spoils_shared_content() {
    for (name, value) in [
        ("A-IM", "vcdiff"),
        ("Request-Range", "bytes=0-0"),
        ("Unless-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ] {
        let site = site_of(move |request| {
            let part = Resource::new("difference").status(226);
            let is_special = request.header(name).is_some();
            let resource = if is_special { part } else { Resource::new("definitions") };
            Some(resource.header("Cache-Control", "max-age=600"))
        });
        for path in [PAYLOAD, CATALOGS[0], FILE] {
            for request in [Request::get(path).header(name, value), Request::get(path)] {
                assert_eq!(site.send(request).await.expect_body(), b"definitions", "{name} {path}");
            }
        }
    }
}
