//! New upstream connections that end without a response: a request that may be repeated gets another attempt, at another
//! upstream first. Attempts are few and apart, because a page may always close.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gupd_config::Config;
use gupd_site::{LinkSwitch, Listener, OriginServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, Site};

const CATALOG: &str = "/minitri.flg";
const PRIVATE: &str = "/secars/secars.dll";

/// End of a connection without a response.
#[derive(Clone, Copy, Debug)]
enum End {
    Accepted,
    RequestRead,
    InStatusLine,
    InHead,
    Reset,
    ResetInHead,
}

const ENDS: [End; 6] =
    [End::Accepted, End::RequestRead, End::InStatusLine, End::InHead, End::Reset, End::ResetInHead];

impl End {
    async fn end(self, mut stream: TcpStream) -> io::Result<()> {
        match self {
            Self::Accepted => {}
            // The kernel resets a connection that is closed with unread bytes.
            Self::Reset => {
                stream.read_u8().await?;
            }
            Self::ResetInHead => {
                stream.read_u8().await?;
                stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            }
            Self::RequestRead => read_head(&mut stream).await?,
            Self::InStatusLine => {
                read_head(&mut stream).await?;
                stream.write_all(b"HTTP/1.1 2").await?;
            }
            Self::InHead => {
                read_head(&mut stream).await?;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le").await?;
            }
        }
        Ok(())
    }
}

async fn read_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(())
}

/// An upstream that ends every second connection, beginning with the first, and serves one request on each other one.
fn start_flaky(end: End) -> (Listener, OriginServer) {
    let origin = OriginServer::computed(|_| Some(Resource::new("content").header("Connection", "close")));
    let (served, connections) = (origin.clone(), AtomicUsize::new(0));
    let listener = Listener::start(LinkSwitch::default(), move |stream| {
        let (served, number) = (served.clone(), connections.fetch_add(1, Ordering::SeqCst));
        async move {
            match number % 2 {
                0 => end.end(stream).await,
                _ => served.serve(stream).await,
            }
        }
    });
    (listener.unwrap(), origin)
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_that_ends_unanswered_costs_no_client_an_error() {
    for end in ENDS {
        let (upstream, origin) = start_flaky(end);
        let site = Site::with_upstreams(&[upstream.address()]);
        for (method, path) in [
            ("GET", PAYLOAD),
            ("GET", CATALOG),
            ("GET", "/generic"),
            ("GET", PRIVATE),
            ("HEAD", "/head"),
            ("PUT", "/put"),
        ] {
            let response = site.send(Request::new(method, path)).await;
            assert_eq!(response.status, 200, "{end:?} {method} {path}");
            assert_eq!(origin.request_count(path), 1, "{end:?} {method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_an_unanswered_request_get_the_content() {
    let gate = Gate::default();
    let (held, requests) = (gate.clone(), AtomicUsize::new(0));
    let origin = OriginServer::computed(move |_| match requests.fetch_add(1, Ordering::SeqCst) {
        0 => Some(Resource::raw("").held(&held)),
        _ => Some(Resource::new("content")),
    });
    let site = Site::for_manager(Manager::with_origin(origin).unwrap(), |_| {});
    let address = site.address();
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        clients.spawn(async move { Request::get(PAYLOAD).send(address).await });
    }
    site.manager.wait_for_requests(PAYLOAD, 1).await;
    gate.open();
    while let Some(response) = clients.join_next().await {
        assert_eq!(response.unwrap().expect_body(), b"content");
    }
    assert_eq!(site.manager.request_count(PAYLOAD), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_and_new_connection_that_end_unanswered_cost_no_error() {
    let requests = Arc::<AtomicUsize>::default();
    let origin = OriginServer::computed(move |_| match requests.fetch_add(1, Ordering::SeqCst) {
        1 | 2 => Some(Resource::raw("")),
        _ => Some(Resource::new("content")),
    });
    // One pool of connections.
    let one_worker = |config: &mut Config| config.server.workers = 1;
    let site = Site::for_manager(Manager::with_origin(origin).unwrap(), one_worker);
    assert_eq!(site.get("/first").await.expect_body(), b"content");
    assert_eq!(site.get(PAYLOAD).await.expect_body(), b"content");
    assert_eq!(site.manager.request_count(PAYLOAD), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_upstream_is_asked_before_the_one_that_closed() {
    for end in ENDS {
        let (upstream, origin) = start_flaky(end);
        let second = Manager::start();
        second.put(PAYLOAD, Resource::new("second"));
        let site = Site::with_upstreams(&[upstream.address(), second.address()]);
        if matches!(end, End::Accepted) {
            // Nothing of the request was sent, so the HTTP client repeats it itself.
            continue;
        }
        assert_eq!(site.get(PAYLOAD).await.expect_body(), b"second", "{end:?}");
        assert_eq!((origin.total_requests(), second.request_count(PAYLOAD)), (0, 1), "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_that_always_closes_costs_two_requests() {
    let site = Site::new();
    for (number, (method, requests)) in [("GET", 2), ("HEAD", 2), ("POST", 1)].into_iter().enumerate() {
        for path in [PAYLOAD.replace("001/", &format!("00{number}/")), format!("/secars/{number}.dll")] {
            site.manager.put(&path, Resource::raw(""));
            assert_eq!(site.send(Request::new(method, &path)).await.status, 502, "{method} {path}");
            assert_eq!(site.manager.request_count(&path), requests, "{method} {path}");
        }
    }
    let healthy = format!("gupd_upstream_healthy{{upstream=\"{}\"}}", site.manager.address());
    assert_eq!(site.metric(&healthy).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn setting_of_one_attempt_allows_no_other() {
    let site = Site::with_config(|config| config.fill.attempts = 1);
    site.manager.put(PAYLOAD, Resource::raw(""));
    assert_eq!(site.get(PAYLOAD).await.status, 502);
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}
