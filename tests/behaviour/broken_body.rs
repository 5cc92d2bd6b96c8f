//! Bodies that end before their length or last chunk, where nothing names the content: each attempt starts over, so
//! attempts are few and apart.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gupd_site::OriginServer;

use crate::support::{Manager, PAYLOAD, Resource, Site};

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
