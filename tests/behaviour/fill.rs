//! Fills as clients see them: request collapsing, streaming, disconnects, resumption, and faulty upstreams.

use tokio::task::JoinSet;

use crate::support::{Ending, Gate, PAYLOAD, Request, Resource, Site, WireClient, bytes};

#[tokio::test(flavor = "multi_thread")]
async fn thousand_clients_cost_one_fill() {
    let site = Site::new();
    let body = bytes(1, 300_000);
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(body.clone()).held(&gate));
    let address = site.address();
    let mut clients = JoinSet::new();
    for _ in 0..1000 {
        clients.spawn(async move { Request::get(PAYLOAD).send(address).await });
    }
    site.manager.wait_for_requests(PAYLOAD, 1).await;
    gate.open();
    while let Some(response) = clients.join_next().await {
        assert!(response.unwrap().expect_body() == body);
    }
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
    assert_eq!(site.manager.body_bytes(), body.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_streams_to_every_client_while_manager_sends() {
    let site = Site::new();
    let body = bytes(2, 3_000_000);
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(body.clone()).stalled(2_000_000, &gate));
    let (mut first, mut head) = site.start_download(PAYLOAD, 2_000_000).await;
    // A late client reads the running fill from its first byte.
    let mut late = WireClient::connect(site.address()).await;
    late.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut late_head = late.read_head().await.unwrap();
    assert_eq!(late_head.cache_status(), "gupd; fwd=uri-miss; collapsed");
    late_head.body = late.read_bytes(2_000_000).await.unwrap();
    gate.open();
    first.read_rest("GET", &mut head).await;
    late.read_rest("GET", &mut late_head).await;
    assert!(head.expect_body() == body && late_head.expect_body() == body);
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_delays_no_other() {
    let site = Site::new();
    let body = bytes(3, 30 << 20);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    let (mut slow, mut head) = site.start_download(PAYLOAD, 1000).await;
    // The slow client's socket fills up long before the end; the other clients still finish.
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    slow.read_rest("GET", &mut head).await;
    assert!(head.expect_body() == body);
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_continues_after_its_only_client_leaves() {
    let site = Site::new();
    let body = bytes(4, 2_000_000);
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(body.clone()).stalled(1_500_000, &gate));
    let mut client = WireClient::connect(site.address()).await;
    client.write_request(&Request::get(PAYLOAD)).await.unwrap();
    client.read_head().await.unwrap();
    // More than half has arrived, which is the default share of `fill.finish`.
    client.read_bytes(1_200_000).await.unwrap();
    drop(client);
    gate.open();
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_without_length_is_shared_and_stored() {
    for framed in [Resource::chunked as fn(Resource) -> Resource, Resource::until_close] {
        let site = Site::new();
        let body = bytes(5, 200_000);
        site.manager.put(PAYLOAD, framed(Resource::new(body.clone())));
        assert!(site.get(PAYLOAD).await.expect_body() == body);
        site.wait_until_stored(PAYLOAD).await;
        let hit = site.get(PAYLOAD).await;
        assert_eq!(hit.header("content-length"), Some("200000"));
        assert!(hit.expect_body() == body);
        assert_eq!(site.manager.request_count(PAYLOAD), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_transfer_is_resumed_unseen_by_clients() {
    let site = Site::new();
    let body = bytes(6, 5_000_000);
    site.manager.put(PAYLOAD, Resource::new(body.clone()).cut(700_000, 6));
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    let seen = site.manager.requests_for(PAYLOAD);
    assert_eq!(seen.len(), 7);
    assert!(seen[1].header("range").is_some() && seen[1].header("if-range").is_some());
    // No byte crossed the WAN twice.
    assert_eq!(site.manager.body_bytes(), body.len() as u64);
    assert!(site.metric("gupd_fill_resumes_total").await >= 6.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_answer_to_range_is_read_past_stored_bytes() {
    let site = Site::new();
    let body = bytes(7, 3_000_000);
    site.manager.put(PAYLOAD, Resource::new(body.clone()).cut(1_000_000, 1).without_ranges());
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    assert_eq!(site.manager.request_count(PAYLOAD), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_two_versions_never_mix() {
    // The fill goes on with the new version although its only client is gone.
    let site = Site::with_config(|config| config.fill.finish = gupd_config::FinishPolicy::Always);
    let (old, new) = (bytes(8, 3_000_000), bytes(9, 3_000_000));
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(old.clone()).stalled(1_000_000, &gate).cut(1_500_000, 1));
    let (mut early, mut head) = site.start_download(PAYLOAD, 1_000_000).await;
    site.manager.put(PAYLOAD, Resource::new(new.clone()));
    gate.open();
    early.read_rest("GET", &mut head).await;
    assert_eq!(head.ending, Ending::Broken);
    assert!(old.starts_with(&head.body));
    assert!(site.get(PAYLOAD).await.expect_body() == new);
    // The answer to the resumption attempt became the new fill.
    assert_eq!(site.manager.request_count(PAYLOAD), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_transfer_without_validator_is_not_resumed() {
    let site = Site::new();
    let body = bytes(10, 3_000_000);
    let gate = Gate::default();
    let resource = Resource::new(body.clone()).without("ETag");
    site.manager.put(PAYLOAD, resource.stalled(900_000, &gate).cut(1_000_000, 1));
    let (mut client, mut broken) = site.start_download(PAYLOAD, 900_000).await;
    gate.open();
    client.read_rest("GET", &mut broken).await;
    assert_eq!(broken.ending, Ending::Broken);
    assert!(body.starts_with(&broken.body));
    assert!(site.get(PAYLOAD).await.expect_body() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn unshareable_response_is_fetched_by_each_client() {
    let site = Site::new();
    let gate = Gate::default();
    let private = Resource::new("mine").header("Cache-Control", "private");
    site.manager.put("/account", private.held(&gate));
    let address = site.address();
    let mut clients = JoinSet::new();
    for _ in 0..5 {
        clients.spawn(async move { Request::get("/account").send(address).await });
    }
    site.manager.wait_for_requests("/account", 1).await;
    gate.open();
    while let Some(response) = clients.join_next().await {
        let response = response.unwrap();
        assert!(response.cache_status().contains("private"), "{}", response.cache_status());
        assert_eq!(response.expect_body(), b"mine");
    }
    assert_eq!(site.manager.request_count("/account"), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_upstream_response_is_502_and_stores_nothing() {
    let endless = {
        let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
        for number in 0..100_000 {
            head.extend_from_slice(format!("X-{number}: y\r\n").as_bytes());
        }
        head
    };
    let nonsense: [(&str, Resource); 6] = [
        ("garbage", Resource::raw("SSH-2.0-OpenSSH_9.2\r\n\r\n")),
        ("a length that is too long", Resource::new("short").declaring(1000)),
        (
            "two lengths",
            Resource::raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde"),
        ),
        ("endless fields", Resource::raw(endless)),
        (
            "a truncated chunked body",
            Resource::raw(
                "HTTP/1.1 200 OK\r\nETag: \"a\"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
            ),
        ),
        ("a silent close", Resource::raw("")),
    ];
    for (case, resource) in nonsense {
        let site = Site::with_config(|config| config.fill.attempts = 2);
        site.manager.put(PAYLOAD, resource);
        let response = site.get(PAYLOAD).await;
        assert_eq!(response.status, 502, "{case}");
        assert_eq!(site.metric("gupd_store_objects").await, 0.0, "{case}");
        assert_eq!(site.metric("gupd_responses_total{status=\"5xx\"}").await, 1.0, "{case}");
        // The relay recovers with the manager.
        site.manager.put(PAYLOAD, Resource::new("good"));
        assert_eq!(site.get(PAYLOAD).await.expect_body(), b"good", "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_delta_is_never_stored() {
    let site = Site::new();
    let path = PAYLOAD.replace("full.zip", "xdelta261120001.dax");
    for empty in [Resource::new(""), Resource::new("").chunked()] {
        site.manager.put(&path, empty);
        assert_eq!(site.get(&path).await.status, 200);
    }
    site.manager.put(&path, Resource::new("a delta"));
    assert_eq!(site.get(&path).await.expect_body(), b"a delta");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_manager_is_asked_once() {
    let site = Site::new();
    let body = bytes(11, 1_000_000);
    // A piece each tenth of the idle timeout: slow, but progress.
    site.manager.put(PAYLOAD, Resource::new(body.clone()).rate(1_000_000));
    let address = site.address();
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        clients.spawn(async move { Request::get(PAYLOAD).send(address).await.expect_body() });
    }
    while let Some(got) = clients.join_next().await {
        assert!(got.unwrap() == body);
    }
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn next_client_of_a_left_open_ended_fill_gets_all() {
    let site = Site::new();
    let body = bytes(1, 300_000);
    // The first client leaves before the end, and the fill ends with it. The second one comes in that moment.
    for number in 0..60 {
        let path = format!("/generic/{number}.bin");
        let origin = Resource::tagged(body.clone(), "\"a\"").chunked().without_ranges();
        site.manager.put(&path, origin);
        assert_eq!(site.send(Request::get(&path).range("7-9")).await.status, 206, "{number}");
        assert!(site.get(&path).await.expect_body() == body, "{number}");
    }
}
