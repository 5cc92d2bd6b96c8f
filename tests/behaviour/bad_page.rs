//! Faults of single pages and single clients: they get an error and cost the other pages of the manager nothing.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{PAYLOAD, Request, Resource, Site, WireClient};

const CATALOG: &str = "/minitri.flg";

/// Responses of a page that is not what HTTP demands, and the status for its client.
fn bad_pages() -> Vec<(&'static str, Resource, u16)> {
    let raw = |text: &str| Resource::raw(text.replace('\n', "\r\n"));
    vec![
        (
            "a control character in a field value",
            raw("HTTP/1.1 200 OK\nContent-Length: 2\nSet-Cookie: a=dmo\u{1}OZ; path=/\n\nok"),
            502,
        ),
        ("a null octet in a field value", raw("HTTP/1.1 200 OK\nContent-Length: 2\nX-A: a\0b\n\nok"), 502),
        ("a space in a field name", raw("HTTP/1.1 200 OK\nContent-Length: 2\nX A: b\n\nok"), 502),
        ("closed unanswered", raw(""), 502),
        ("closed within the head", raw("HTTP/1.1 200 OK\nContent-Le"), 502),
        ("a status line without a status", raw("HTTP/1.1 OK\n\n"), 502),
        ("not HTTP", raw("SSH-2.0-OpenSSH_9.6\n"), 502),
        ("a head that never ends", raw(&format!("HTTP/1.1 200 OK\nX: {}", "x".repeat(1 << 20))), 502),
        ("too many fields", raw(&format!("HTTP/1.1 200 OK\n{}\n", "X: y\n".repeat(1_000))), 502),
        ("a service that is stopped", Resource::new("stopped").status(503), 503),
        ("a gateway without its server", Resource::new("").status(504), 504),
    ]
}

async fn is_healthy(site: &Site) -> bool {
    site.metric(&format!("gupd_upstream_healthy{{upstream=\"{}\"}}", site.manager.address())).await == 1.0
}

/// A site whose manager has content, and the bad page at `/bad/1` to `/bad/4`, in each class.
fn site_with_bad_page(page: &Resource) -> Site {
    let site = Site::new();
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    site.manager.put(CATALOG, Resource::new("catalog"));
    for number in 1..=4 {
        site.manager.put(&format!("/bad/{number}.php"), page.clone());
    }
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_page_asked_often_costs_other_pages_nothing() {
    let site = site_with_bad_page(&Resource::new(""));
    for (case, (name, page, expected)) in bad_pages().into_iter().enumerate() {
        for number in 1..=4 {
            let path = format!("/bad/{case}/{number}.php");
            site.manager.put(&path, page.clone());
            assert_eq!(site.get(&path).await.status, expected, "{name}");
            let posted = site.send(Request::new("POST", &path).body("x")).await;
            assert_eq!(posted.status, expected, "{name}");
        }
        assert!(is_healthy(&site).await, "{name}");
    }
    assert_eq!(site.get(PAYLOAD).await.expect_body(), b"definitions");
    assert_eq!(site.get(CATALOG).await.expect_body(), b"catalog");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_of_one_bad_page_open_no_circuit() {
    let site = site_with_bad_page(&Resource::raw("nonsense"));
    for last in 2..12 {
        let mut client = WireClient::connect_from([127, 0, 0, last].into(), site.address()).await;
        let path = format!("/bad/{}.php", last % 4 + 1);
        assert_eq!(client.send(&Request::get(&path)).await.unwrap().status, 502);
    }
    assert!(is_healthy(&site).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_of_many_bad_pages_opens_no_circuit() {
    let site = Site::new();
    for number in 0..10 {
        let path = format!("/bad-{number}/page");
        site.manager.put(&path, Resource::raw(""));
        assert_eq!(site.get(&path).await.status, 502);
    }
    assert!(is_healthy(&site).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn unrelated_bad_pages_of_several_clients_open_the_circuit() {
    for (name, page, expected) in bad_pages() {
        let site = Site::new();
        site.put_independently(&page);
        assert_eq!(site.delete_independently().await, [expected; 3], "{name}");
        assert!(!is_healthy(&site).await, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn success_between_bad_pages_keeps_the_circuit_closed() {
    let site = site_with_bad_page(&Resource::raw(""));
    site.put_independently(&Resource::raw(""));
    for (last, path) in [(2, "/secars/fails"), (3, "/reporting/fails"), (4, CATALOG), (5, "/fails")] {
        let mut client = WireClient::connect_from([127, 0, 0, last].into(), site.address()).await;
        client.send(&Request::get(path)).await.unwrap();
    }
    assert!(is_healthy(&site).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_page_brings_the_next_check_forward() {
    let site = Site::with_config(|config| {
        config.health.interval = Some(Duration::from_secs(3_600));
        config.upstreams[0].check = Some("/check".parse().unwrap());
    });
    let well =
        format!("gupd_upstream_checks_total{{outcome=\"well\",upstream=\"{}\"}}", site.manager.address());
    site.wait_for_metric(&well, 1.0).await;
    for (checks, (name, page, _)) in (2_u32..).zip(bad_pages()) {
        site.manager.put("/bad/page", page);
        assert!(site.get("/bad/page").await.status >= 502);
        site.clock.advance(site.config.health.retry);
        site.wait_for_metric(&well, checks.into()).await;
        assert!(is_healthy(&site).await, "{name}");
    }
}

/// Upstream that reads a little of each request, responds, and closes over the unread rest. A kernel then resets the
/// connection.
async fn refuse_uploads(listener: TcpListener, response: Vec<u8>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let response = response.clone();
        tokio::spawn(async move {
            let mut read = vec![0; 2_000];
            let _ = stream.read(&mut read).await;
            let _ = stream.write_all(&response).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn early_refusal_of_an_upload_is_delivered_every_time() {
    let body = vec![7; 1 << 20];
    let page = "x".repeat(30_000);
    let with_length = |status: &str, field: &str, page: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{field}\r\n{page}", page.len())
    };
    for (status, response) in [
        (413, with_length("413 Content Too Large", "Connection: close\r\n", "too large")),
        (413, with_length("413 Content Too Large", "", "too large")),
        (413, with_length("413 Content Too Large", "", &page)),
        (413, format!("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n{page}")),
        (401, with_length("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", "")),
        (
            400,
            "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbad\r\n0\r\n\r\n".to_owned(),
        ),
        (307, with_length("307 Temporary Redirect", "Location: /elsewhere\r\n", "")),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = Site::with_upstreams(&[listener.local_addr().unwrap()]);
        let refusing = tokio::spawn(refuse_uploads(listener, response.clone().into_bytes()));
        for attempt in 0..20 {
            let mut client = WireClient::connect(site.address()).await;
            let upload = Request::new("POST", "/secars/secars.dll").body(body.clone());
            // The relay may close before it has read the whole upload, as the manager does.
            let _ = client.write_request(&upload).await;
            let mut refused = client.read_head().await.unwrap();
            assert_eq!(refused.status, status, "attempt {attempt}: {response:.80}");
            client.read_rest("POST", &mut refused).await;
            assert!(response.ends_with(std::str::from_utf8(&refused.body).unwrap()) || status == 400);
        }
        refusing.abort();
    }
}
