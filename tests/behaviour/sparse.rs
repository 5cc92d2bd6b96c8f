//! Fills as sets of chunks: the range that a client waits for comes first, stored bytes are never fetched again, and an
//! unfinished fill is resumed.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use gupd_config::FinishPolicy;
use gupd_store::BLOCK;
use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};

use crate::support::{Ending, Gate, Manager, PAYLOAD, Request, Resource, Site, WireClient, bytes};

const MIB: usize = 1 << 20;

/// Site with a relay that fetches only the ranges that clients wait for.
fn site_without_background_fetch() -> Site {
    Site::with_config(|config| config.fill.finish = FinishPolicy::Never)
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_of_cold_object_does_not_wait_for_its_beginning() {
    let site = site_without_background_fetch();
    let body = bytes(1, 64 * MIB + 12_345);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    let last = site.send(Request::get(PAYLOAD).range("-1048576")).await;
    assert_eq!(last.status, 206);
    assert!(last.expect_body() == body[body.len() - MIB..]);
    let first = body.len() - MIB - 500;
    let other = site.send(Request::get(PAYLOAD).range(&format!("{first}-"))).await;
    assert!(other.expect_body() == body[first..]);
    site.wait_for_fills().await;
    assert!(site.manager.body_bytes() <= 4 * MIB as u64, "{} bytes", site.manager.body_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_far_apart_do_not_wait_for_each_other() {
    let site = Site::new();
    let body = bytes(2, 32 * MIB);
    let gate = Gate::default();
    // The reader of the complete content stops at 3 MiB until the gate opens.
    site.manager.put(PAYLOAD, Resource::new(body.clone()).stalled(3 * MIB, &gate));
    let (mut whole, mut head) = site.start_download(PAYLOAD, 2 * MIB).await;
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    for segment in (8..32).step_by(4) {
        let range = format!("{}-{}", segment * MIB, (segment + 2) * MIB - 1);
        let part = site.send(Request::get(PAYLOAD).range(&range)).await;
        assert!(part.expect_body() == body[segment * MIB..(segment + 2) * MIB], "{range}");
    }
    gate.open();
    whole.read_rest("GET", &mut head).await;
    assert!(head.expect_body() == body);
    site.wait_until_stored(PAYLOAD).await;
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    let received = site.upstream_bytes().await;
    assert!(received <= 1.02 * body.len() as f64, "{received} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_without_ranges_is_asked_once() {
    let site = Site::new();
    let body = bytes(3, 8 * MIB);
    let gate = Gate::default();
    let resource = Resource::new(body.clone()).without_ranges().stalled(MIB, &gate);
    site.manager.put(PAYLOAD, resource);
    let mut clients = Vec::new();
    for range in ["7000000-7000099", "0-99", "-100"] {
        let mut client = WireClient::connect(site.address()).await;
        client.write_request(&Request::get(PAYLOAD).range(range)).await.unwrap();
        site.manager.wait_for_requests(PAYLOAD, 1).await;
        clients.push(client);
    }
    gate.open();
    for (client, part) in clients.iter_mut().zip([7_000_000..7_000_100, 0..100, body.len() - 100..body.len()])
    {
        let mut response = client.read_head().await.unwrap();
        client.read_rest("GET", &mut response).await;
        assert!(response.expect_body() == body[part]);
    }
    site.wait_until_stored(PAYLOAD).await;
    assert_eq!(site.manager.body_bytes(), body.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_fill_is_resumed_by_next_client() {
    let site = site_without_background_fetch();
    let body = bytes(4, 6 * MIB);
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(body.clone()).stalled(3 * MIB, &gate));
    let mut leaving = WireClient::connect(site.address()).await;
    leaving.write_request(&Request::get(PAYLOAD)).await.unwrap();
    leaving.read_head().await.unwrap();
    leaving.read_bytes(3 * MIB).await.unwrap();
    drop(leaving);
    site.wait_for_fills().await;
    gate.open();
    let saved = site.metric("gupd_saved_bytes_total").await;
    let response = site.get(PAYLOAD).await;
    assert_eq!(response.cache_status(), "gupd; fwd=partial; stored");
    assert!(response.expect_body() == body);
    site.wait_for_metric("gupd_saved_bytes_total", saved + 3.0 * MIB as f64).await;
    let ranges: Vec<_> = site
        .manager
        .requests_for(PAYLOAD)
        .iter()
        .map(|seen| seen.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [None, Some(format!("bytes={}-", 3 * MIB))]);
    site.wait_until_stored(PAYLOAD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finish_percentage_fetches_the_rest() {
    let site = Site::with_config(|config| config.fill.finish = FinishPolicy::Above(50));
    let body = bytes(5, 8 * MIB);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    site.send(Request::get(PAYLOAD).range("0-2097151")).await.expect_body();
    site.wait_for_fills().await;
    assert_eq!(site.manager.body_bytes(), 2 * MIB as u64, "a quarter is below the threshold");
    site.send(Request::get(PAYLOAD).range("2097152-5242879")).await.expect_body();
    site.wait_until_stored(PAYLOAD).await;
    let ranges: Vec<_> = site
        .manager
        .requests_for(PAYLOAD)
        .iter()
        .map(|seen| seen.header("range").map(str::to_owned))
        .collect();
    assert_eq!(site.manager.body_bytes(), body.len() as u64, "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn few_bytes_of_a_cold_object_cost_few_bytes() {
    let body = bytes(6, 40 * MIB);
    for range in ["0-0", "-1", "20000000-20000000", "0-1048575", "41943039-", "0-0,41943039-41943039"] {
        let site = Site::new();
        site.manager.put(PAYLOAD, Resource::new(body.clone()));
        assert_eq!(site.send(Request::get(PAYLOAD).range(range)).await.status, 206, "{range}");
        site.wait_for_fills().await;
        let few = site.manager.body_bytes();
        assert!(few <= 4 * MIB as u64, "{range}: {few} bytes");
        // The next client still finds them.
        assert!(site.get(PAYLOAD).await.expect_body() == body, "{range}");
        site.wait_until_stored(PAYLOAD).await;
        assert!(site.upstream_bytes().await <= 1.02 * body.len() as f64, "{range}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_object_is_fetched_whole() {
    let site = Site::new();
    let body = bytes(7, 900_000);
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(body.clone()).stalled(100_000, &gate));
    let (client, _head) = site.start_download(PAYLOAD, 50_000).await;
    drop(client);
    gate.open();
    site.wait_until_stored(PAYLOAD).await;
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

/// Relay that stopped in the middle of a fill, with three of eight megabytes stored.
async fn site_with_interrupted_fill(resource: Resource) -> Site {
    let mut site =
        Site::with_config(|config| config.server.drain_timeout = std::time::Duration::from_millis(1));
    let gate = Gate::default();
    site.manager.put(PAYLOAD, resource.stalled(3 * MIB, &gate));
    let mut client = WireClient::connect(site.address()).await;
    client.write_request(&Request::get(PAYLOAD)).await.unwrap();
    client.read_head().await.unwrap();
    client.read_bytes(3 * MIB).await.unwrap();
    site.stop();
    gate.open();
    site
}

/// The only partial file.
fn partial_file(site: &Site) -> PathBuf {
    let files = fs::read_dir(site.store().join("partial")).unwrap().map(|file| file.unwrap().path());
    files.into_iter().find(|path| path.extension().is_none()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_stopped_in_mid_fill_fetches_no_byte_again() {
    let body = bytes(5, 8 * MIB);
    let mut site = site_with_interrupted_fill(Resource::new(body.clone())).await;
    site.restart();
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    // The manager may have sent one more write before it noticed the closed connection.
    let more = site.manager.body_bytes() - body.len() as u64;
    assert!(more < BLOCK, "{more} bytes more");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_changed_during_downtime_is_fetched_whole() {
    let mut site = site_with_interrupted_fill(Resource::new(bytes(6, 8 * MIB))).await;
    let new = bytes(7, 8 * MIB);
    site.manager.put(PAYLOAD, Resource::new(new.clone()));
    site.restart();
    assert!(site.get(PAYLOAD).await.expect_body() == new);
    site.wait_until_stored(PAYLOAD).await;
    assert!(site.get(PAYLOAD).await.expect_body() == new);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_lost_from_partial_file_are_fetched_again() {
    let body = bytes(8, 8 * MIB);
    for from_the_damage in [true, false] {
        let mut site = site_with_interrupted_fill(Resource::new(body.clone())).await;
        let file = partial_file(&site);
        // State after a power cut: the journal reached the disk, some of the bytes did not.
        fs::File::options().write(true).open(file).unwrap().write_all_at(&[0; 5000], 1_200_000).unwrap();
        site.restart();
        let request = Request::get(PAYLOAD);
        let request = if from_the_damage { request.range("1150000-") } else { request.range("5000000-") };
        let begin = if from_the_damage { 1_150_000 } else { 5_000_000 };
        assert!(site.send(request).await.expect_body() == body[begin..]);
        site.wait_until_stored(PAYLOAD).await;
        assert!(site.get(PAYLOAD).await.expect_body() == body);
        let more = site.manager.body_bytes() - body.len() as u64;
        assert!(more <= MIB as u64 + 65_536, "{more} bytes more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unresumable_fill_restarts_at_next_upstream() {
    let mut site = site_with_interrupted_fill(Resource::new(bytes(9, 8 * MIB))).await;
    let other = Manager::start();
    let body = bytes(10, 5 * MIB);
    other.put(PAYLOAD, Resource::new(body.clone()));
    let second = gupd_config::Config::for_upstreams(&[&other.url()]).unwrap().upstreams.remove(0);
    site.config.upstreams.push(second);
    for route in &mut site.config.routes {
        route.upstreams.push(1);
    }
    site.manager.put(PAYLOAD, Resource::new("busy").status(503));
    site.restart();
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    // A manager without the content answered the range request with its own complete content.
    assert!(other.requests_for(PAYLOAD)[0].header("if-range").is_some());
    assert_eq!(other.request_count(PAYLOAD), 1);
    site.wait_until_stored(PAYLOAD).await;
    assert!(site.get(PAYLOAD).await.expect_body() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn part_without_validator_is_not_combined() {
    let site = Site::new();
    let body = bytes(11, 4 * MIB);
    site.manager.put(PAYLOAD, Resource::new(body.clone()).without("ETag"));
    let part = site.send(Request::get(PAYLOAD).range("3000000-3000009")).await;
    assert!(part.expect_body() == body[3_000_000..3_000_010]);
    site.wait_until_stored(PAYLOAD).await;
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    let last = site.manager.requests_for(PAYLOAD).pop().unwrap();
    assert_eq!(last.header("range"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_changed_between_parts_is_never_mixed() {
    let site = site_without_background_fetch();
    let (old, new) = (bytes(12, 8 * MIB), bytes(13, 8 * MIB));
    site.manager.put(PAYLOAD, Resource::new(old.clone()));
    let mut reading = WireClient::connect(site.address()).await;
    let first = site.send(Request::get(PAYLOAD).range("0-99")).await;
    assert!(first.expect_body() == old[..100]);
    site.manager.put(PAYLOAD, Resource::new(new.clone()));
    reading.write_request(&Request::get(PAYLOAD).range("500000-5999999")).await.unwrap();
    let mut response = reading.read_head().await.unwrap();
    reading.read_rest("GET", &mut response).await;
    match response.ending {
        Ending::Complete => assert!(response.body == new[500_000..6_000_000]),
        _ => assert!(response.body == old[500_000..500_000 + response.body.len()]),
    }
    assert!(
        site.send(Request::get(PAYLOAD).range("4000000-4000999")).await.expect_body()
            == new[4_000_000..4_001_000]
    );
}

#[test]
fn sixty_random_ranges_of_cold_object_cost_its_bytes_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let body = bytes(14, 40 * MIB);
    let ranges = prop::collection::vec((0..body.len(), 1..3 * MIB), 60);
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 2, failure_persistence: None, ..ProptestConfig::default() });
    runner
        .run(&(ranges, 1usize..9), |(ranges, at_once)| {
            runtime.block_on(async {
                let site = Site::new();
                site.manager.put(PAYLOAD, Resource::new(body.clone()));
                for ranges in ranges.chunks(at_once) {
                    let asking = ranges.iter().map(async |(from, length)| {
                        let last = (from + length - 1).min(body.len() - 1);
                        let request = Request::get(PAYLOAD).range(&format!("{from}-{last}"));
                        assert!(site.send(request).await.expect_body() == body[*from..=last]);
                    });
                    futures_util::future::join_all(asking).await;
                }
                site.wait_until_stored(PAYLOAD).await;
                assert!(site.get(PAYLOAD).await.expect_body() == body);
                let received = site.upstream_bytes().await;
                assert!(received <= 1.05 * body.len() as f64, "{received} bytes");
            });
            Ok(())
        })
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn object_larger_than_quota_is_passed_through_and_annotated() {
    let site = Site::with_config(|config| config.store.quota = 2 << 20);
    let body = bytes(15, 3 * MIB);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    for _ in 0..2 {
        let response = site.get(PAYLOAD).await;
        assert_eq!(response.cache_status(), "gupd; fwd=uri-miss; detail=store-failed");
        assert!(response.expect_body() == body);
    }
    let part = site.send(Request::get(PAYLOAD).range("2000000-2000009")).await;
    assert!(part.expect_body() == body[2_000_000..2_000_010]);
    assert_eq!(site.metric("gupd_store_bytes").await, 0.0);
    assert_eq!(site.metric("gupd_fill_oversized_total").await, 3.0);
}

/// Step of the test below.
#[derive(Clone, Debug)]
enum Step {
    /// A client reads a number of bytes of a range, or all of it.
    Read {
        from: usize,
        length: usize,
        leaving: Option<usize>,
    },
    Restart,
}

fn step(length: usize) -> impl Strategy<Value = Step> {
    let read = (0..length, 1..length, prop::option::of(0..2 * MIB));
    prop_oneof![
        6 => read.prop_map(|(from, length, leaving)| Step::Read { from, length, leaving }),
        1 => Just(Step::Restart),
    ]
}

/// Over a link that breaks and a relay that restarts, clients get the bytes they request or see a broken transfer. The
/// object stored at the end is right.
#[test]
fn random_ranges_over_random_chunks_are_right_or_break() {
    const LENGTH: usize = 7 * MIB + 4321;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let body = bytes(16, LENGTH);
    let case = (prop::collection::vec(step(LENGTH), 1..14), 300_000..4 * MIB);
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() });
    runner
        .run(&case, |(steps, cut)| {
            runtime.block_on(async {
                let mut site = Site::with_config(|config| {
                    config.fill.finish = FinishPolicy::Never;
                    config.server.drain_timeout = std::time::Duration::from_millis(1);
                });
                site.manager.put(PAYLOAD, Resource::new(body.clone()).cut(cut, 3));
                for step in steps {
                    let Step::Read { from, length, leaving } = step else {
                        site.restart();
                        continue;
                    };
                    let last = (from + length - 1).min(LENGTH - 1);
                    let mut client = WireClient::connect(site.address()).await;
                    client
                        .write_request(&Request::get(PAYLOAD).range(&format!("{from}-{last}")))
                        .await
                        .unwrap();
                    let mut response = client.read_head().await.unwrap();
                    assert_eq!(response.status, 206);
                    if let Some(bytes) = leaving.filter(|bytes| *bytes <= last - from) {
                        let some = client.read_bytes(bytes).await.unwrap_or_default();
                        assert!(some == body[from..from + some.len()]);
                        continue;
                    }
                    client.read_rest("GET", &mut response).await;
                    assert!(response.body == body[from..from + response.body.len()]);
                    assert!(response.ending != Ending::Complete || response.body.len() == last + 1 - from);
                }
                site.manager.put(PAYLOAD, Resource::new(body.clone()));
                assert!(site.get(PAYLOAD).await.expect_body() == body);
                site.wait_until_stored(PAYLOAD).await;
                assert!(site.get(PAYLOAD).await.expect_body() == body);
            });
            Ok(())
        })
        .unwrap();
}
