//! Framing of upstream responses (RFC 9112 §6, §7): one meaning, or `502`, for every method and class.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::support::{Ending, PAYLOAD, Request, Resource, Response, Site, WireClient};

const PRIVATE: &str = "/secars/secars.dll";
const BODY: &str = "0123456789";

/// Responses to a request of each class and method for a resource with these fields and this body.
async fn responses(site: &Site, fields: &str, body: &str) -> Vec<(&'static str, Response)> {
    let head = format!("HTTP/1.1 200 OK\n{fields}Connection: close\n\n").replace('\n', "\r\n");
    let (whole, head) = (Resource::raw(format!("{head}{body}")), Resource::raw(head));
    // Nothing of an earlier response is stored under these paths.
    let number = site.manager.total_requests();
    let (payload, generic) = (format!("{PAYLOAD}?{number}"), format!("/generic?{number}"));
    for path in [PAYLOAD, PRIVATE, "/generic"] {
        site.manager.put(path, whole.clone());
    }
    let no_store = |path| Request::get(path).header("Cache-Control", "no-store");
    let mut all = vec![
        ("payload", site.get(&payload).await),
        ("generic", site.get(&generic).await),
        ("private", site.get(PRIVATE).await),
        ("no-store", site.send(no_store(&generic)).await),
        ("POST", site.send(Request::new("POST", PRIVATE).body("x")).await),
        ("HTTP/1.0", site.send(Request::get(PRIVATE).http10()).await),
    ];
    for (path, target) in [("/head", format!("/head?{number}")), (PRIVATE, PRIVATE.to_owned())] {
        site.manager.put(path, head.clone());
        all.push(("HEAD", site.send(Request::head(&target)).await));
    }
    all
}

fn lengths(response: &Response) -> Vec<&str> {
    let is_length = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("content-length");
    response.headers.iter().filter(is_length).map(|(_, value)| value.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_lengths_become_one() {
    let site = Site::new();
    for fields in [
        "Content-Length: 10\nContent-Length: 10\n",
        "Content-Length: 10,10\n",
        "Content-Length: 10, 10\n",
        "Content-Length: 10\nETag: \"a\"\nContent-Length: 10 , 10\n",
        "content-length: 010\nContent-Length: 10\n",
    ] {
        for (case, response) in responses(&site, fields, BODY).await {
            assert_eq!((response.status, lengths(&response)), (200, vec!["10"]), "{case}: {fields}");
            assert!(response.ending == Ending::Complete, "{case}: {fields}");
            assert!(response.body == if case == "HEAD" { "" } else { BODY }.as_bytes(), "{case}: {fields}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contradicting_lengths_are_502() {
    let site = Site::new();
    for fields in [
        "Content-Length: 10\nContent-Length: 9\n",
        "Content-Length: 10,9\n",
        "Content-Length: 10,\n",
        "Content-Length: ten\n",
        "Content-Length: +10\n",
        "Content-Length: -10\n",
        "Content-Length: 1 0\n",
        "Content-Length: 10\nContent-Length: 0x0a\n",
        "Content-Length: 99999999999999999999\n",
        "Content-Length:\n",
    ] {
        for (case, response) in responses(&site, fields, BODY).await {
            assert_eq!(response.status, 502, "{case}: {fields}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_chunk_framing_is_502() {
    let site = Site::new();
    for body in [
        "a\n0123456789\n0\n\n",
        "a\r\n0123456789\n0\r\n\r\n",
        "a\r\n0123456789\r\n0\n\n",
        "a\r\n0123456789x\r\n0\r\n\r\n",
        "x\r\n",
        "\r\n",
        "-1\r\n\r\n",
        "a",
        "ffffffffffffffffffff\r\n0",
    ] {
        for (case, response) in responses(&site, "Transfer-Encoding: chunked\n", body).await {
            let expected = if case == "HEAD" { 200 } else { 502 };
            assert_eq!(response.status, expected, "{case}: {body:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_coding_other_than_chunked_is_502_and_not_stored() {
    let site = Site::new();
    let chunks = "a\r\n0123456789\r\n0\r\n\r\n";
    for coding in [
        "gzip, chunked",
        "gzip",
        "deflate, chunked",
        "unknown",
        "identity",
        "chunked, identity",
        "chunked, chunked",
        "gzip\nTransfer-Encoding: chunked",
    ] {
        for (case, response) in responses(&site, &format!("Transfer-Encoding: {coding}\n"), chunks).await {
            assert_eq!(response.status, 502, "{case}: {coding}");
        }
    }
    for coding in ["chunked", "Chunked", "chunked\nContent-Length: 3", "chunked\nContent-Length: x"] {
        for (case, response) in responses(&site, &format!("Transfer-Encoding: {coding}\n"), chunks).await {
            assert_eq!(response.status, 200, "{case}: {coding}");
            assert!(case == "HEAD" || response.body == BODY.as_bytes(), "{case}: {coding}");
            assert!(lengths(&response).iter().all(|length| *length == "10"), "{case}: {coding}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn space_before_the_colon_of_a_field_is_removed() {
    let site = Site::new();
    for fields in [
        "Content-Length : 10\n",
        "Content-Length\t: 10\n",
        "Content-Length  \t : 10\n",
        "Content-Length: 10\nContent-Length : 10\n",
        "Transfer-Encoding : chunked\n",
        "X-First : 1\nContent-Length: 10\n",
    ] {
        let chunked = fields.starts_with("Transfer");
        let body = if chunked { "a\r\n0123456789\r\n0\r\n\r\n" } else { BODY };
        for (case, response) in responses(&site, fields, body).await {
            assert_eq!(response.status, 200, "{case}: {fields}");
            assert!(case == "HEAD" || response.body == BODY.as_bytes(), "{case}: {fields}");
            assert!(response.headers.iter().all(|(name, _)| name.trim_end() == name), "{case}: {fields}");
        }
    }
    // In a name, or before the first, it is no field.
    for fields in ["Content Length: 10\n", " X-First: 1\nContent-Length: 10\n"] {
        for (case, response) in responses(&site, fields, BODY).await {
            assert_eq!(response.status, 502, "{case}: {fields}");
        }
    }
}

/// An upstream that gives these responses, in pieces, and keeps its connections. Returns its address and the number of
/// its connections.
async fn start_upstream(responses: HashMap<&'static str, Vec<String>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, responses) = (listener.local_addr().unwrap(), Arc::new(responses));
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let responses = responses.clone();
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                let mut stream = BufReader::new(stream);
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if stream.read_line(&mut head).await? == 0 {
                            return Ok(());
                        }
                    }
                    let path = head.split(' ').nth(1).unwrap_or_default();
                    for piece in responses.get(path).into_iter().flatten() {
                        stream.get_mut().write_all(piece.as_bytes()).await?;
                        tokio::task::yield_now().await;
                    }
                }
                #[expect(unreachable_code, reason = "gives the block its type")]
                Ok::<_, std::io::Error>(())
            });
        }
    });
    (address, connections)
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_http_1_0_response_is_decoded_and_then_closed() {
    let head = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = "a\r\n0123456789\r\n0\r\n\r\n";
    let kept = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\ntransfer-encoding : Chunked\r\n\r\n";
    let bytes = format!("{head}{chunks}").chars().map(String::from).collect();
    let responses = HashMap::from([
        ("/secars/whole", vec![format!("{head}{chunks}")]),
        ("/secars/kept", vec![format!("{kept}{chunks}")]),
        ("/secars/bytes", bytes),
        ("/secars/lines", vec![head.replace("\r\n", "\n"), chunks.to_owned()]),
        ("/secars/head", vec![head.to_owned(), chunks.to_owned()]),
        (
            "/stored",
            vec![head.replace("\r\n\r\n", "\r\nETag: \"a\"\r\nCache-Control: max-age=60\r\n\r\n") + chunks],
        ),
        ("/secars/gzip", vec![head.replace("chunked", "gzip, chunked") + chunks]),
        ("/secars/1.1", vec![format!("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{BODY}")]),
        (
            "/secars/1.0",
            vec![format!("HTTP/1.0 200 OK\r\nContent-Length: 10\r\nConnection: keep-alive\r\n\r\n{BODY}")],
        ),
        // The body looks like the head of another response.
        ("/secars/inner", vec![format!("{head}{:x}\r\n{head}\r\n0\r\n\r\n", head.len())]),
    ]);
    let (address, connections) = start_upstream(responses).await;
    let site = Site::with_upstreams(&[address]);
    // After a response of HTTP/1.1 the same connection brings one of HTTP/1.0.
    let mut opened = 0;
    for path in ["/secars/whole", "/secars/kept", "/secars/bytes", "/secars/lines", "/secars/head", "/stored"]
    {
        for _ in 0..2 {
            assert_eq!(site.get("/secars/1.1").await.expect_body(), BODY.as_bytes());
            let response = site.get(path).await;
            assert_eq!(response.status, 200, "{path}");
            assert!(response.expect_body() == BODY.as_bytes(), "{path}");
        }
        opened += 2;
        assert!(connections.load(Ordering::SeqCst) <= opened + 1, "{path}");
    }
    assert!(connections.load(Ordering::SeqCst) >= opened - 1, "a connection was used again");
    assert_eq!(site.get("/secars/inner").await.expect_body(), head.as_bytes());
    assert_eq!(site.get("/secars/gzip").await.status, 502);
    let before = connections.load(Ordering::SeqCst);
    // One that is returned to the pool late is replaced.
    for _ in 0..10 {
        let passed = site.get("/secars/1.0").await;
        assert_eq!(passed.header("via"), Some("1.0 gupd"));
        assert_eq!(passed.expect_body(), BODY.as_bytes());
    }
    assert!(connections.load(Ordering::SeqCst) < before + 10, "HTTP/1.0 with a length keeps its connection");
    let healthy = format!("gupd_upstream_healthy{{upstream=\"{address}\"}}");
    assert_eq!(site.metric(&healthy).await, 1.0);
    let mut client = WireClient::connect(site.address()).await;
    let posted = client.send(&Request::new("POST", "/secars/whole").body(vec![7; 100_000])).await.unwrap();
    assert_eq!(posted.expect_body(), BODY.as_bytes());
}
