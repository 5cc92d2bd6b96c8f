//! Bodies that end before their length or last chunk, where nothing names the content: each attempt starts over, so
//! attempts are few and apart.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gupd_site::OriginServer;
use tokio::task::JoinSet;

use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, Site, WireClient, bytes};

/// Upper bound of attempts, and least time that they take together.
const MAX_ATTEMPTS: usize = 4;
const MIN_TIME: Duration = Duration::from_millis(100);

/// Responses that break off. `{n}` is the number of the request.
const BROKEN: [(&str, &str); 8] = [
    ("a length and no byte", "Content-Length: 1000\n\n"),
    ("a length and some bytes", "Content-Length: 1000\n\nsome bytes"),
    ("all bytes but one", "Content-Length: 3\n\nab"),
    ("no chunk", "Transfer-Encoding: chunked\n\n"),
    ("a chunk and no last one", "Transfer-Encoding: chunked\n\n3\nabc\n"),
    ("half a chunk", "Transfer-Encoding: chunked\n\n30\nabc"),
    ("a weak validator", "ETag: W/\"weak\"\nContent-Length: 1000\n\nsome bytes"),
    ("another validator each time", "ETag: \"{n}\"\nContent-Length: 1000\n\n"),
];

/// Path of a payload and of generic content, for case `number`.
fn paths(number: usize) -> [String; 2] {
    [PAYLOAD.replace("001/", &format!("00{number}/")), format!("/generic/{number}")]
}

/// A site with a manager that breaks the first `times` responses for each path off and is then well.
fn site_with_broken(times: usize) -> Site {
    let requests = Mutex::new(HashMap::<String, usize>::new());
    let origin = OriginServer::computed(move |request| {
        let number =
            (0..BROKEN.len()).find(|number| paths(*number).iter().any(|path| path == request.path()))?;
        let mut requests = requests.lock().unwrap();
        let before = requests.entry(request.target.clone()).or_default();
        let head = format!("HTTP/1.1 200 OK\nCache-Control: max-age=60\n{}", BROKEN[number].1);
        let head = head.replace("{n}", &before.to_string()).replace('\n', "\r\n");
        *before += 1;
        Some(if *before <= times { Resource::raw(head) } else { Resource::new("content") })
    });
    Site::for_manager(Manager::with_origin(origin).unwrap(), |_| {})
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_content_without_validator_is_502_after_few_attempts() {
    let site = site_with_broken(usize::MAX);
    for (number, (name, _)) in BROKEN.iter().enumerate() {
        for path in paths(number) {
            let begun = Instant::now();
            assert_eq!(site.get(&path).await.status, 502, "{name} {path}");
            let attempts = site.manager.request_count(&path);
            assert!((2..=MAX_ATTEMPTS).contains(&attempts), "{name} {path}: {attempts} attempts");
            assert!(begun.elapsed() >= MIN_TIME, "{name} {path}: attempts in {:?}", begun.elapsed());
        }
    }
    assert_eq!(site.metric("gupd_store_objects").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_without_validator_that_breaks_once_is_delivered() {
    let site = site_with_broken(1);
    for (number, (name, _)) in BROKEN.iter().enumerate() {
        for path in paths(number) {
            assert_eq!(site.get(&path).await.expect_body(), b"content", "{name} {path}");
            assert_eq!(site.manager.request_count(&path), 2, "{name} {path}");
        }
    }
}

/// Bytes that arrive before the break.
const BREAK: usize = 200_000;

/// A request of a client that has no bytes at the break.
type Waiting = fn(&str) -> Request;

/// Framing of a response.
type Form = fn(Resource) -> Resource;

/// Responses without a validator, and requests that wait for bytes behind the break.
fn waiting_cases() -> Vec<(&'static str, Form, Waiting)> {
    let with_length: Form = |resource| resource;
    let chunked: Form = Resource::chunked;
    vec![
        ("a range", with_length, |path| Request::get(path).range("250000-250009")),
        ("the last bytes", with_length, |path| Request::get(path).range("-10")),
        ("an open range", with_length, |path| Request::get(path).range("290000-")),
        ("a range of chunks", chunked, |path| Request::get(path).range("250000-250009")),
        ("the last bytes of chunks", chunked, |path| Request::get(path).range("-10")),
        ("chunks for HTTP/1.0", chunked, |path| Request::get(path).http10()),
    ]
}

/// A site whose manager breaks the first `times` responses off, once `gate` opens.
fn site_that_breaks(form: Form, body: &[u8], gate: &Gate, times: usize) -> Site {
    let whole =
        form(Resource::new(body).without("ETag").without_ranges().header("Cache-Control", "max-age=60"));
    let broken = whole.cut(BREAK, times).stalled(BREAK, gate);
    let site = Site::new();
    for path in paths(0) {
        site.manager.put(&path, broken.clone());
    }
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_without_bytes_gets_them_from_a_new_fill() {
    let body = bytes(7, 300_000);
    for (name, form, request) in waiting_cases() {
        for path in paths(0) {
            let gate = Gate::default();
            let site = site_that_breaks(form, &body, &gate, 1);
            let (mut first, mut broken) = site.start_download(&path, 100_000).await;
            let mut followers = JoinSet::new();
            for _ in 0..5 {
                let mut client = WireClient::connect(site.address()).await;
                let request = request(&path);
                followers.spawn(async move { client.send(&request).await.unwrap() });
            }
            site.wait_for_metric("gupd_connections", 6.0).await;
            site.wait_for_metric("gupd_idle_connections", 0.0).await;
            gate.open();
            first.read_to_end(&mut broken.body).await;
            let is_clean = broken.body.len() >= body.len() || broken.body.ends_with(b"0\r\n\r\n");
            assert!(!is_clean, "{name} {path}");
            while let Some(response) = followers.join_next().await {
                let response = response.unwrap();
                assert!(matches!(response.status, 200 | 206), "{name} {path}: {}", response.status);
                let received = response.expect_body();
                assert!(body.ends_with(&received) || body[250_000..].starts_with(&received), "{name} {path}");
            }
            assert_eq!(site.manager.request_count(&path), 2, "{name} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_of_content_that_always_breaks_gets_502() {
    let body = bytes(8, 300_000);
    for path in paths(0) {
        let gate = Gate::default();
        let site = site_that_breaks(|resource| resource, &body, &gate, usize::MAX);
        let (mut first, mut broken) = site.start_download(&path, 100_000).await;
        let mut follower = WireClient::connect(site.address()).await;
        follower.write_request(&Request::get(&path).range("-10")).await.unwrap();
        site.wait_for_metric("gupd_connections", 2.0).await;
        site.wait_for_metric("gupd_idle_connections", 0.0).await;
        gate.open();
        first.read_to_end(&mut broken.body).await;
        assert!(broken.body.len() < body.len());
        assert_eq!(follower.read_head().await.unwrap().status, 502, "{path}");
        let attempts = site.manager.request_count(&path);
        assert!(attempts <= 1 + MAX_ATTEMPTS, "{path}: {attempts} attempts");
    }
}
