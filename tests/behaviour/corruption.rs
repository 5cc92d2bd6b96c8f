//! Corruption on the line: downloads that differ from the announced digest and from each other. No client ever gets the
//! clean end of wrong content; two equal downloads outvote the announcement.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use gupd_site::{OriginServer, Random, mix};
use tokio::task::JoinSet;

use crate::digests::{fields, listing, mismatches, sha256};
use crate::support::{Ending, Manager, PAYLOAD, Request, Resource, Site, bytes};

const DOUBTED: &str = "gupd; fwd=uri-miss; detail=digest-mismatch";

/// A manager with responses that `respond` computes from their number, from 0.
fn manager(respond: impl Fn(usize) -> Resource + Send + Sync + 'static) -> Manager {
    let number = AtomicUsize::new(0);
    let computed = move |_: &_| Some(respond(number.fetch_add(1, Ordering::SeqCst)));
    Manager::with_origin(OriginServer::computed(computed)).unwrap()
}

/// A manager of `body`; response `n` has a flipped bit in byte `flips(n)`.
fn flipping(body: &[u8], flips: impl Fn(usize) -> Option<u64> + Send + Sync + 'static) -> Manager {
    let resource = Resource::new(body.to_vec()).header("Repr-Digest", &sha256(body));
    manager(move |number| match flips(number) {
        Some(place) => resource.clone().flipped(place),
        None => resource.clone(),
    })
}

/// A site with these managers in this order.
fn site_of(managers: &[&Manager], attempts: u32) -> Site {
    let mut site = Site::with_config(|config| config.fill.attempts = attempts);
    site.set_upstreams(&managers.iter().map(|manager| manager.address()).collect::<Vec<_>>());
    site
}

/// Sends requests until a body ends cleanly, and returns the number of those that did not.
async fn failures_until_complete(address: SocketAddr, body: &[u8]) -> usize {
    for failures in 0.. {
        let response = Request::get(PAYLOAD).send(address).await;
        match (response.status, response.ending) {
            (200, Ending::Complete) => {
                assert!(response.body == body, "wrong content with a clean end after {failures} failures");
                return failures;
            }
            (200, _) => assert!(response.body.len() < body.len(), "all bytes of wrong content"),
            (status, _) => assert_eq!(status, 502),
        }
    }
    unreachable!("some download is not corrupt")
}

#[tokio::test(flavor = "multi_thread")]
async fn random_flips_never_end_cleanly() {
    for seed in 0..8_u64 {
        let length = [700, 90_000, 300_000, 1_200_000][seed as usize % 4];
        let body = bytes(seed, length);
        let digests = fields(&body);
        let (name, value) = digests[seed as usize % digests.len()].clone();
        let mut resource = Resource::new(body.clone()).header(name, &value);
        if seed % 3 == 1 {
            resource = resource.chunked();
        }
        let random = Mutex::new(Random::new(mix(seed)));
        // Three of four downloads are corrupt, some of them also break off.
        let manager = manager(move |_| {
            let mut random = random.lock().unwrap();
            let (place, cut) = (random.below(length as u64), random.below(length as u64));
            match random.below(8) {
                0 | 1 => resource.clone(),
                2 => resource.clone().flipped(place).cut(cut as usize, 1),
                _ => resource.clone().flipped(place),
            }
        });
        let site = site_of(&[&manager], 3);
        let mut clients = JoinSet::new();
        let (address, body) = (site.address(), Arc::new(body));
        for _ in 0..6 {
            let body = body.clone();
            clients.spawn(async move { failures_until_complete(address, &body).await });
        }
        clients.join_all().await;
        site.wait_until_stored(PAYLOAD).await;
        assert!(site.get(PAYLOAD).await.expect_body() == *body, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn always_corrupt_content_fails_after_fill_attempts() {
    for (length, attempts) in [(1_000, 1), (1_000, 4), (100_000, 8), (100_000, 20)] {
        let body = bytes(30, length);
        let manager = flipping(&body, |number| Some(number as u64));
        let site = site_of(&[&manager], attempts);
        let response = site.get(PAYLOAD).await;
        assert_eq!(response.status, 502, "{length} bytes");
        site.wait_for_fills().await;
        // The client may come too late for the last download, and then causes one more.
        let downloads = manager.request_count(PAYLOAD) as u32;
        assert!((attempts..=attempts + 1).contains(&downloads), "{downloads} of {attempts}");
        assert_eq!(mismatches(&site, "repr-digest").await, (f64::from(attempts) - 1.0, 0.0));
        let given_up = "gupd_digest_mismatches_total{by=\"repr-digest\",then=\"given-up\"}";
        assert_eq!(site.metric(given_up).await, f64::from(downloads - attempts + 1));
        // Until a download is right, each request costs one.
        assert_eq!(site.get(PAYLOAD).await.status, 502);
        assert_eq!(manager.request_count(PAYLOAD) as u32, downloads + 1);
        assert_eq!(site.metric(given_up).await, f64::from(downloads - attempts + 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_waits_sees_no_corrupt_download() {
    let body = bytes(31, 60_000);
    // More downloads than a request looks its object up.
    let manager = flipping(&body, |number| (number < 7).then_some(number as u64 * 100));
    let site = site_of(&[&manager], 8);
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    site.wait_until_stored(PAYLOAD).await;
    assert_eq!(manager.request_count(PAYLOAD), 8);
    assert_eq!(mismatches(&site, "repr-digest").await, (7.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn later_corruption_of_outvoted_content_never_ends_cleanly() {
    let body = bytes(32, 50_000);
    let wrongly_announced = Resource::new(body.clone()).header("Repr-Digest", &sha256(b"other"));
    let flips = Arc::new(AtomicUsize::new(0));
    let left = flips.clone();
    let manager = manager(move |number| {
        let is_corrupt = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match is_corrupt {
            Ok(_) => wrongly_announced.clone().flipped(number as u64),
            Err(_) => wrongly_announced.clone(),
        }
    });
    let site = site_of(&[&manager], 8);
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    site.wait_for_fills().await;
    flips.store(2, Ordering::SeqCst);
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    site.wait_for_fills().await;
    assert_eq!(flips.load(Ordering::SeqCst), 0);
    assert_eq!(site.get(PAYLOAD).await.cache_status(), DOUBTED);
    site.wait_for_fills().await;
    let downloads = manager.request_count(PAYLOAD) as f64;
    assert_eq!(mismatches(&site, "repr-digest").await, (3.0, downloads - 3.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_upstream_is_asked_first_after_corruption() {
    let body = bytes(33, 70_000);
    let corrupt = flipping(&body, |number| Some(number as u64));
    let sound = flipping(&body, |_| None);
    let site = site_of(&[&corrupt, &sound], 8);
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    site.wait_until_stored(PAYLOAD).await;
    assert_eq!((corrupt.request_count(PAYLOAD), sound.request_count(PAYLOAD)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_alternate_while_both_are_corrupt() {
    let body = bytes(34, 70_000);
    let corrupt = flipping(&body, |number| (number < 2).then_some(number as u64));
    let other = flipping(&body, |number| Some(100 + number as u64));
    let site = site_of(&[&corrupt, &other], 8);
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    site.wait_until_stored(PAYLOAD).await;
    assert_eq!((corrupt.request_count(PAYLOAD), other.request_count(PAYLOAD)), (3, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_upstream_is_asked_again_if_others_lack_the_content() {
    let body = bytes(35, 70_000);
    for status in [404, 403, 500, 503] {
        let corrupt_once = flipping(&body, |number| (number == 0).then_some(9));
        let without = manager(move |_| Resource::empty(status));
        let site = site_of(&[&corrupt_once, &without], 8);
        assert!(site.get(PAYLOAD).await.expect_body() == body, "{status}");
        site.wait_until_stored(PAYLOAD).await;
        assert_eq!((corrupt_once.request_count(PAYLOAD), without.request_count(PAYLOAD)), (2, 1), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_downloads_of_two_upstreams_outvote_the_digest() {
    let body = bytes(36, 70_000);
    let announced = Resource::new(body.clone()).header("Content-MD5", "q1pnS3Bg8NzZb2FPLPMZpQ==");
    let (first, second) = (Manager::start(), Manager::start());
    first.put(PAYLOAD, announced.clone());
    second.put(PAYLOAD, announced);
    let site = site_of(&[&first, &second], 8);
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    site.wait_for_fills().await;
    assert_eq!(second.request_count(PAYLOAD), 1);
    assert_eq!(mismatches(&site, "content-md5").await, (1.0, first.request_count(PAYLOAD) as f64));
    assert_eq!(site.get(PAYLOAD).await.cache_status(), DOUBTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_payload_of_a_catalog_never_ends_cleanly() {
    let (catalog, path) = ("/clu/sesc$20defs_14.3_symalllanguages_livetri.zip", "/clu/1369163480jtun_a.zip");
    let body = bytes(37, 20_000);
    let (payload, listed) = (Resource::new(body.clone()), Resource::new(listing(path, &body)));
    // Response 0 is the catalog.
    let manager = manager(move |number| match number {
        0 => listed.clone(),
        1..=3 => payload.clone().flipped(number as u64),
        _ => payload.clone(),
    });
    let site = site_of(&[&manager], 8);
    site.get(catalog).await.expect_body();
    assert!(site.get(path).await.expect_body() == body);
    site.wait_until_stored(path).await;
    assert_eq!(mismatches(&site, "catalog").await, (3.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_content_with_a_digest_never_ends_cleanly() {
    let body = bytes(38, 20_000);
    let digest = sha256(&body);
    let right = Resource::new(body.clone()).header("Repr-Digest", &digest);
    // Without a length, an early end looks like the end of an empty payload.
    let empty = Resource::new("").header("Repr-Digest", &digest).until_close();
    let manager = manager(move |number| if number == 0 { empty.clone() } else { right.clone() });
    let site = site_of(&[&manager], 8);
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    site.wait_until_stored(PAYLOAD).await;
    assert_eq!(mismatches(&site, "repr-digest").await, (1.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn passed_content_with_a_flip_never_ends_cleanly() {
    for (number, length) in [1, 700, 65_536, 65_537, 300_000, 1_200_000].into_iter().enumerate() {
        let body = bytes(number as u64, length);
        // The flips of the first two downloads differ, the third is right.
        let manager =
            flipping(&body, move |download| [Some(0), Some(length as u64 - 1), None][download.min(2)]);
        let site = site_of(&[&manager], 3);
        for attempt in 0..3 {
            let alone = Request::get(PAYLOAD).header("Authorization", "Basic eA==");
            let response = alone.send(site.address()).await;
            match (attempt, response.status) {
                (2, _) => assert!(response.expect_body() == body, "{length}"),
                (_, 200) => assert_eq!(response.ending, Ending::Broken, "{length}"),
                (_, status) => assert_eq!(status, 502, "{length}"),
            }
            if length == 1 && attempt == 0 {
                // A single byte has only one place for a flip: the second download would outvote the digest.
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_passed_downloads_outvote_a_wrong_digest() {
    let (body, other) = (bytes(60, 300_000), bytes(61, 300_000));
    let resource = Resource::new(body.clone()).header("Repr-Digest", &sha256(&other));
    let manager = manager(move |_| resource.clone());
    let site = site_of(&[&manager], 3);
    let alone = Request::get(PAYLOAD).header("Authorization", "Basic eA==");
    assert_eq!(alone.send(site.address()).await.ending, Ending::Broken);
    assert!(alone.send(site.address()).await.expect_body() == body);
}
