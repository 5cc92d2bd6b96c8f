//! Validators that disagree: backends behind one name have an `ETag` each for the same bytes. A fill then takes its
//! content from one connection, and a client's transfer continues only with bytes that are equal to those it has.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use gupd_site::{OriginServer, Random, mix};
use tokio::task::JoinSet;

use crate::digests::sha256;
use crate::support::{Ending, Gate, Manager, PAYLOAD, Request, Resource, Response, Site, bytes};

const DATE: &str = "Sat, 28 Nov 2026 08:00:00 GMT";

fn path(number: u64) -> String {
    PAYLOAD.replace("261121001", &format!("2611210{number:02}"))
}

/// A farm: its response `n` comes from the backend `n % backends`, with an `ETag` of its own.
fn farm(backends: usize, respond: impl Fn(usize, Resource) -> Resource + Send + Sync + 'static) -> Manager {
    let number = AtomicUsize::new(0);
    let computed = move |_: &_| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        let tagged = Resource::tagged("", &format!("\"m{}\"", number % backends));
        Some(respond(number, tagged.header("Last-Modified", DATE)))
    };
    Manager::with_origin(OriginServer::computed(computed)).unwrap()
}

fn site_of(manager: &Manager) -> Site {
    Site::with_upstreams(&[manager.address()])
}

async fn get_parts(site: &Site, path: &str, parts: &[Range<usize>]) -> Vec<Response> {
    let mut clients = JoinSet::new();
    for (index, part) in parts.iter().enumerate() {
        let range = format!("{}-{}", part.start, part.end - 1);
        let (request, address) = (Request::get(path).range(&range), site.address());
        clients.spawn(async move { (index, request.send(address).await) });
    }
    let mut responses = clients.join_all().await;
    responses.sort_by_key(|(index, _)| *index);
    responses.into_iter().map(|(_, response)| response).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_ranges_are_right_when_backends_disagree() {
    const LENGTH: usize = 3 << 20;
    for respects_if_range in [true, false] {
        let body = bytes(50, LENGTH);
        let content = body.clone();
        let manager = farm(3, move |_, resource| {
            let resource = resource.with_content(content.clone()).rate(20 << 20);
            if respects_if_range { resource } else { resource.ignoring_if_range() }
        });
        let site = site_of(&manager);
        let parts: Vec<_> = (0..8).map(|part| part * LENGTH / 8..(part + 1) * LENGTH / 8).collect();
        for number in 1..=4 {
            let before = manager.body_bytes();
            for (response, part) in get_parts(&site, &path(number), &parts).await.into_iter().zip(&parts) {
                assert_eq!(response.status, 206);
                assert!(response.expect_body() == body[part.clone()], "{number}: {part:?}");
            }
            site.wait_until_stored(&path(number)).await;
            assert!(site.get(&path(number)).await.expect_body() == body);
            // The first object shows that the backends disagree.
            let crossed = (manager.body_bytes() - before) as f64 / LENGTH as f64;
            assert!(number == 1 || crossed <= 1.0, "{crossed} times the content crossed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_transfer_continues_at_a_disagreeing_backend() {
    let body = bytes(51, 3_000_000);
    for (cuts, respects_if_range) in [(1, true), (4, true), (1, false), (3, false)] {
        let content = body.clone();
        let manager = farm(2, move |number, resource| {
            let resource = resource.with_content(content.clone());
            let resource = if respects_if_range { resource } else { resource.ignoring_if_range() };
            if number < cuts { resource.cut(1_000_000 + 200_000 * number, 1) } else { resource }
        });
        let site = site_of(&manager);
        assert!(site.get(PAYLOAD).await.expect_body() == body, "{cuts} cuts");
        site.wait_until_stored(PAYLOAD).await;
        assert!(site.get(PAYLOAD).await.expect_body() == body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_of_equal_date_and_length_never_mix() {
    // Bytes differ from the beginning, where the client has them, or only behind it; the last is told by its date.
    for (differs_at, date) in
        [(0, DATE), (700_000, DATE), (999_999, DATE), (2_000_000, "Sun, 29 Nov 2026 08:00:00 GMT")]
    {
        let (old, gate) = (bytes(52, 3_000_000), Gate::default());
        let mut new = old.clone();
        new[differs_at..].iter_mut().for_each(|byte| *byte ^= 1);
        let versions = [old.clone(), new.clone()];
        let stop = gate.clone();
        let computed = AtomicUsize::new(0);
        let manager = Manager::with_origin(OriginServer::computed(move |_| {
            Some(match computed.fetch_add(1, Ordering::SeqCst) {
                0 => Resource::tagged(versions[0].clone(), "\"old\"")
                    .header("Last-Modified", DATE)
                    .stalled(1_000_000, &stop)
                    .cut(1_500_000, 1),
                _ => Resource::tagged(versions[1].clone(), "\"new\"").header("Last-Modified", date),
            })
        }))
        .unwrap();
        let site = site_of(&manager);
        let (mut client, mut response) = site.start_download(PAYLOAD, 1_000_000).await;
        gate.open();
        client.read_rest("GET", &mut response).await;
        assert_eq!(response.ending, Ending::Broken, "{differs_at}");
        assert!(old.starts_with(&response.body), "{differs_at}");
        site.wait_until_stored(PAYLOAD).await;
        assert!(site.get(PAYLOAD).await.expect_body() == new);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_of_a_restarted_fill_is_right_or_broken() {
    const LENGTH: usize = 2_500_000;
    for seed in 0..6_u64 {
        let body = bytes(seed, LENGTH);
        let (content, random) = (body.clone(), std::sync::Mutex::new(Random::new(mix(seed))));
        let manager = farm(3, move |_, resource| {
            let mut random = random.lock().unwrap();
            let resource = resource.with_content(content.clone()).rate(30 << 20);
            let resource = if random.below(2) == 0 { resource.ignoring_if_range() } else { resource };
            match random.below(3) {
                0 => resource.cut(random.below(LENGTH as u64) as usize, 1),
                _ => resource,
            }
        });
        let site = site_of(&manager);
        let mut random = Random::new(mix(!seed));
        let parts: Vec<_> = (0..12)
            .map(|_| {
                let begin = random.below(LENGTH as u64 - 1) as usize;
                begin..begin + 1 + random.below((LENGTH - begin - 1) as u64) as usize
            })
            .collect();
        for (response, part) in get_parts(&site, PAYLOAD, &parts).await.into_iter().zip(&parts) {
            if response.status == 206 {
                assert!(body[part.clone()].starts_with(&response.body), "{seed}: {part:?}");
                assert!(response.ending == Ending::Broken || response.body.len() == part.len());
            }
        }
        site.wait_until_stored(PAYLOAD).await;
        assert!(site.get(PAYLOAD).await.expect_body() == body, "{seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_dates_join_transfers_of_backends_without_tags() {
    let body = bytes(53, 3_000_000);
    let content = body.clone();
    let manager = farm(2, move |number, resource| {
        let resource = resource.without("ETag").with_content(content.clone());
        if number == 0 { resource.cut(1_000_000, 1) } else { resource }
    });
    let site = site_of(&manager);
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    site.wait_until_stored(PAYLOAD).await;
    assert_eq!(manager.body_bytes(), body.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_tail_is_replaced_under_a_running_download() {
    let (body, gate) = (bytes(54, 2_000_000), Gate::default());
    let right = Resource::new(body.clone()).header("Repr-Digest", &sha256(&body));
    let (stop, number) = (gate.clone(), AtomicUsize::new(0));
    let manager = Manager::with_origin(OriginServer::computed(move |_| {
        Some(match number.fetch_add(1, Ordering::SeqCst) {
            0 => right.clone().stalled(1_000_000, &stop).flipped(1_990_000),
            _ => right.clone(),
        })
    }))
    .unwrap();
    let site = site_of(&manager);
    let (mut client, mut response) = site.start_download(PAYLOAD, 1_000_000 - (64 << 10)).await;
    gate.open();
    client.read_rest("GET", &mut response).await;
    assert!(response.expect_body() == body);
    assert_eq!(manager.request_count(PAYLOAD), 2);
}
