//! Faulty managers, clients and disks whose errors must never reach the bytes of a client.

use tokio::task::JoinSet;

use crate::support::{Ending, Gate, PAYLOAD, Request, Resource, Site, WireClient, bytes};

/// Response as it stands on the wire.
fn wire(head: &str, body: &[u8]) -> Resource {
    Resource::raw([head.replace('\n', "\r\n").as_bytes(), b"\r\n", body].concat())
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in body.chunks(size) {
        text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}

/// Client that has the first half of `body`; the manager then stops and answers `then` to the next request.
async fn break_off_at_half(site: &Site, body: &[u8], then: Resource) -> crate::support::Response {
    let gate = Gate::default();
    let half = body.len() / 2;
    site.manager.put(PAYLOAD, Resource::new(body).etag("\"old\"").stalled(half, &gate).cut(half, 1));
    let (mut client, mut response) = site.start_download(PAYLOAD, half).await;
    site.manager.put(PAYLOAD, then);
    gate.open();
    client.read_rest("GET", &mut response).await;
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn length_beside_transfer_coding_does_not_cut_the_body() {
    for path in [PAYLOAD, "/secars/secars.dll"] {
        let site = Site::new();
        let body = bytes(20, 163_840);
        let head = "HTTP/1.1 200 OK\nETag: \"a\"\nTransfer-Encoding: chunked\nContent-Length: 10\n";
        site.manager.put(path, wire(head, &chunked(&body, 4096)));
        assert!(site.get(path).await.expect_body() == body, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn part_without_validator_does_not_continue_a_transfer() {
    let site = Site::with_config(|config| config.fill.attempts = 1);
    let (old, new) = (bytes(21, 400_000), bytes(22, 400_000));
    let head =
        "HTTP/1.1 206 Partial Content\nContent-Length: 200000\nContent-Range: bytes 200000-399999/400000\n";
    let broken = break_off_at_half(&site, &old, wire(head, &new[200_000..])).await;
    assert_eq!(broken.ending, Ending::Broken);
    assert!(old.starts_with(&broken.body));
    site.manager.put(PAYLOAD, Resource::new(new.clone()));
    assert!(site.get(PAYLOAD).await.expect_body() == new);
}

#[tokio::test(flavor = "multi_thread")]
async fn shorter_resumed_answer_is_not_a_clean_end() {
    let site = Site::with_config(|config| config.fill.attempts = 1);
    let body = bytes(23, 400_000);
    let gate = Gate::default();
    let unsaid = Resource::new(body.clone()).etag("\"old\"").chunked();
    site.manager.put(PAYLOAD, unsaid.stalled(200_000, &gate).cut(200_000, 1));
    let mut client = WireClient::connect(site.address()).await;
    client.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut response = client.read_head().await.unwrap();
    let head = "HTTP/1.1 200 OK\nETag: \"old\"\nTransfer-Encoding: chunked\n";
    site.manager.put(PAYLOAD, wire(head, &chunked(&body[..256], 256)));
    site.manager.wait_for_requests(PAYLOAD, 1).await;
    gate.open();
    client.read_rest("GET", &mut response).await;
    assert_eq!(response.ending, Ending::Broken);
    assert_eq!(site.metric("gupd_store_objects").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn part_longer_than_declared_is_rejected() {
    let site = Site::with_config(|config| config.fill.attempts = 1);
    let body = bytes(24, 400_000);
    let head = "HTTP/1.1 206 Partial Content\nETag: \"old\"\nContent-Range: bytes 200000-399999/400000\n\
                Transfer-Encoding: chunked\n";
    let broken = break_off_at_half(&site, &body, wire(head, &chunked(&bytes(25, 300_000), 65_536))).await;
    assert_eq!(broken.ending, Ending::Broken);
    assert_eq!(site.metric("gupd_store_objects").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn single_byte_chunks_are_merged() {
    let site = Site::new();
    let body = bytes(26, 300_000);
    let head = "HTTP/1.1 200 OK\nETag: \"a\"\nTransfer-Encoding: chunked\n";
    site.manager.put(PAYLOAD, wire(head, &chunked(&body, 1)));
    let address = site.address();
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        clients.spawn(async move { Request::get(PAYLOAD).send(address).await.expect_body() });
    }
    while let Some(got) = clients.join_next().await {
        assert!(got.unwrap() == body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_response_is_limited_to_its_share_of_quota() {
    let site = Site::with_config(|config| config.store.quota = 64 << 20);
    // An eighth of the quota is 8 MiB.
    let body = bytes(27, 12 << 20);
    site.manager.put("/feed", Resource::new(body.clone()).until_close());
    let broken = site.get("/feed").await;
    assert_eq!(broken.ending, Ending::Broken);
    assert!(broken.body.len() <= 8 << 20);
    // Later requests are passed through, whole, because nothing is stored.
    let alone = site.get("/feed").await;
    assert!(alone.cache_status().contains("open-ended"), "{}", alone.cache_status());
    assert!(alone.body == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn private_page_is_not_shared() {
    let site = Site::new();
    site.manager.put("/portal", Resource::new("for Alice").without("ETag"));
    let alice = site.send(Request::get("/portal").header("Cookie", "user=alice")).await;
    assert_eq!(alice.expect_body(), b"for Alice");
    site.manager.put("/portal", Resource::new("for Bob").without("ETag"));
    assert_eq!(site.get("/portal").await.expect_body(), b"for Bob");
    assert_eq!(site.metric("gupd_store_objects").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_cannot_disable_request_collapsing() {
    let site = Site::new();
    site.manager.put(PAYLOAD, Resource::new("secret"));
    let with_credentials = site.send(Request::get(PAYLOAD).header("Authorization", "Basic eA==")).await;
    assert!(with_credentials.cache_status().contains("authorization"));
    site.manager.put(PAYLOAD, Resource::new("nothing for you").status(403));
    assert_eq!(site.get(PAYLOAD).await.status, 403);
    site.manager.put(PAYLOAD, Resource::new("for all"));
    let before = site.manager.request_count(PAYLOAD);
    for _ in 0..5 {
        assert_eq!(site.get(PAYLOAD).await.expect_body(), b"for all");
    }
    assert_eq!(site.manager.request_count(PAYLOAD), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_disk_removes_no_object() {
    // The memory holds one chunk, so the other object is read from disk.
    let site = Site::with_config(|config| config.store.memory = 1 << 20);
    let body = bytes(28, 1 << 20);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    site.get(PAYLOAD).await.expect_body();
    site.wait_until_stored(PAYLOAD).await;
    site.manager.put("/other/full.dax", Resource::new(bytes(29, 1 << 20)));
    let mut site = site;
    site.restart();
    let blob = only_blob(&site);
    let aside = blob.with_extension("aside");
    std::fs::rename(&blob, &aside).unwrap();
    std::fs::create_dir(&blob).unwrap();
    // The manager has the content, and `Cache-Status` reports the fetch.
    let passed = site.get(PAYLOAD).await;
    assert!(passed.cache_status().contains("fwd="), "{}", passed.cache_status());
    assert!(passed.expect_body() == body);
    assert_eq!(site.metric("gupd_store_objects").await, 1.0);
    std::fs::remove_dir(&blob).unwrap();
    std::fs::rename(&aside, &blob).unwrap();
    let hit = site.get(PAYLOAD).await;
    assert_eq!(hit.cache_status(), "gupd; hit");
    assert!(hit.expect_body() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bit_on_disk_is_never_served() {
    let mut site = Site::new();
    let body = bytes(30, 3 << 20);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    site.get(PAYLOAD).await.expect_body();
    site.wait_until_stored(PAYLOAD).await;
    site.restart();
    let blob = only_blob(&site);
    let mut stored = std::fs::read(&blob).unwrap();
    stored[1000] ^= 4;
    std::fs::write(&blob, stored).unwrap();
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    assert_eq!(site.manager.request_count(PAYLOAD), 2);
    assert!(site.metric("gupd_store_verification_failures_total").await >= 1.0);
}

fn only_blob(site: &Site) -> std::path::PathBuf {
    let folders = std::fs::read_dir(site.store().join("blobs")).unwrap();
    let mut files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    let only = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    only
}
