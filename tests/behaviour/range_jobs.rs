//! Range jobs: clients that ask for the length and then for one range after the other, with pauses between them, as
//! BITS does in the background. Each pause ends the fill, and no byte may cross the line again because of it.

use std::time::Duration;

use gupd_config::FinishPolicy;

use crate::support::{Gate, PAYLOAD, Request, Resource, Site, WireClient, bytes};

const MIB: usize = 1 << 20;

/// Fetches `length` bytes in ranges of `size` bytes that grow by `growth`, and pauses until the fill of each has ended.
/// Returns the number of ranges.
async fn fetch_in_ranges(site: &Site, body: &[u8], mut size: usize, growth: usize) -> usize {
    let mut client = WireClient::connect(site.address()).await;
    let head = client.send(&Request::head(PAYLOAD)).await.unwrap();
    assert_eq!(head.length(), Some(body.len() as u64));
    let (mut received, mut ranges) = (0, 0);
    while received < body.len() {
        let end = (received + size).min(body.len());
        let request = Request::get(PAYLOAD).range(&format!("{received}-{}", end - 1));
        let response = client.send(&request.header("User-Agent", "Microsoft BITS/7.8")).await.unwrap();
        assert_eq!((response.status, response.length()), (206, Some((end - received) as u64)));
        assert!(response.expect_body() == body[received..end], "{received}-{end}");
        site.wait_for_fills().await;
        (received, size, ranges) = (end, size * growth, ranges + 1);
    }
    ranges
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_range_job_costs_each_byte_once() {
    for (length, size, growth, finish) in [
        (5 * MIB + 1, 100_000, 1, FinishPolicy::Above(50)),
        (9 * MIB, 2_048, 3, FinishPolicy::Above(50)),
        (12 * MIB + 77, MIB + 1, 1, FinishPolicy::Above(50)),
        (6 * MIB, 300_001, 1, FinishPolicy::Never),
        (6 * MIB, MIB, 1, FinishPolicy::Never),
    ] {
        let site = Site::with_config(|config| config.fill.finish = finish);
        let body = bytes(length as u64, length);
        site.manager.put(PAYLOAD, Resource::new(body.clone()));
        let ranges = fetch_in_ranges(&site, &body, size, growth).await;
        let (requests, crossed) = (site.manager.request_count(PAYLOAD), site.manager.body_bytes());
        let case = format!("{length} bytes in {ranges} ranges: {requests} requests, {crossed} bytes");
        assert_eq!(crossed, length as u64, "{case}");
        // The length, and at most one request for each chunk or range.
        assert!(requests <= 1 + ranges.min(length.div_ceil(MIB)), "{case}");
        assert!(site.get(PAYLOAD).await.expect_body() == body, "{case}");
        site.wait_until_stored(PAYLOAD).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_range_of_an_unfinished_object_needs_no_manager() {
    let site = Site::new();
    let body = bytes(1, 20 * MIB);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    site.send(Request::get(PAYLOAD).range("5000000-5000009")).await.expect_body();
    site.wait_for_fills().await;
    site.manager.set_down(true);
    let stored = 4 * MIB;
    for (from, to) in [(stored, stored + 99), (5_000_000, 5_000_009), (stored, 5 * MIB - 1)] {
        let response = site.send(Request::get(PAYLOAD).range(&format!("{from}-{to}"))).await;
        assert_eq!((response.status, response.cache_status()), (206, "gupd; hit"), "{from}-{to}");
        assert!(response.expect_body() == body[from..=to], "{from}-{to}");
    }
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_range_is_validated_on_demand_and_when_stale() {
    const GENERIC: &str = "/other/file.bin";
    let site = Site::new();
    let body = bytes(2, 20 * MIB);
    let resource = Resource::new(body.clone()).header("Cache-Control", "max-age=60");
    site.manager.put(GENERIC, resource);
    let part = || Request::get(GENERIC).range("0-99");
    let requests = async |request: Request| {
        assert!(site.send(request).await.expect_body() == body[..100]);
        site.wait_for_fills().await;
        site.manager.request_count(GENERIC)
    };
    assert_eq!(requests(part()).await, 1);
    assert_eq!(requests(part()).await, 1, "fresh");
    assert_eq!(requests(part().header("Cache-Control", "no-cache")).await, 2);
    site.clock.advance(Duration::from_secs(61));
    assert_eq!(requests(part()).await, 3, "stale");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_leaves_costs_the_rest_of_its_chunk() {
    let body = bytes(3, 40 * MIB);
    for range in [None, Some("0-0"), Some("20971520-")] {
        let site = Site::new();
        // Slow enough that the relay notices the end of the client before many chunks have arrived.
        site.manager.put(PAYLOAD, Resource::new(body.clone()).rate(4 << 20));
        let mut client = WireClient::connect(site.address()).await;
        let request = Request::get(PAYLOAD);
        let request = range.into_iter().fold(request, |request, range| request.range(range));
        client.write_request(&request).await.unwrap();
        client.read_head().await.unwrap();
        client.read_bytes(1).await.unwrap();
        drop(client);
        site.wait_for_fills().await;
        let received = site.upstream_bytes().await as usize;
        assert!(received <= 4 * MIB, "{range:?}: {received} bytes");
    }
}

/// Starts a download that stalls within a chunk and leaves it.
async fn leave_stalled_fill(site: &Site, gate: &Gate) {
    site.manager.put(PAYLOAD, Resource::new(bytes(4, 8 * MIB)).stalled(MIB + MIB / 2, gate));
    let (client, _head) = site.start_download(PAYLOAD, MIB).await;
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_without_clients_waits_a_bounded_time_for_its_chunk() {
    let gate = Gate::default();
    let idle = Site::with_config(|config| config.fill.idle_timeout = Duration::from_secs(1));
    leave_stalled_fill(&idle, &gate).await;
    idle.wait_for_metric("gupd_fills_total{outcome=\"abandoned\"}", 1.0).await;
    // No fill that a client waits for may find the permits taken.
    let busy = Site::with_config(|config| config.fill.max_concurrent = 1);
    leave_stalled_fill(&busy, &gate).await;
    busy.wait_for_fills().await;
    gate.open();
}
