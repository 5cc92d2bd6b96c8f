//! Payloads that a signed catalog lists, or that nothing proves.

use gupd_config::{Trust, Verification};
use gupd_store::{Inventory, Store, bundle};

use super::{CATALOG, LISTED, MINITRI, STATED, TrustSite, UNLISTED};
use crate::support::{Authority, Ending, Front, PAYLOAD, Request, Resource, Wan, bytes, get};

#[tokio::test(flavor = "multi_thread")]
async fn swapped_payload_never_ends_cleanly() {
    for verification in [Verification::Hold, Verification::Pass] {
        for length in [1_000, 300_000] {
            let (trust, body) = (TrustSite::new(verification), bytes(1, length));
            trust.publish(STATED, &body);
            trust.site.wait_until_stored(CATALOG).await;
            let evil = bytes(2, length);
            // A digest of the attacker's own does not help him.
            let digest = crate::digests::sha256(&evil);
            trust.site.manager.put(LISTED, Resource::new(evil).header("Repr-Digest", &digest));
            for request in [Request::get(LISTED), Request::get(LISTED).range("500-")] {
                let response = trust.site.send(request).await;
                assert!(response.status == 502 || response.ending == Ending::Broken, "{}", response.status);
                trust.site.wait_for_fills().await;
            }
            trust.site.manager.put(LISTED, Resource::new(body.clone()));
            trust.site.wait_until_stored(LISTED).await;
            assert!(trust.site.get(LISTED).await.expect_body() == body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bit_that_flips_on_the_line_is_never_delivered() {
    let (trust, body) = (TrustSite::new(Verification::Hold), bytes(3, 200_000));
    let line = Wan::unlimited(trust.site.manager.address());
    let mut site = trust.site;
    site.set_upstreams(&[line.address()]);
    site.config.routes[0].verification = Verification::Hold;
    let config = site.config.clone();
    site.relay_mut().reload(config).unwrap();
    site.manager.put(CATALOG, Resource::new(trust.vendor.catalog(STATED, &[(LISTED, &body)])));
    site.manager.put(LISTED, Resource::new(body.clone()));
    site.wait_until_stored(CATALOG).await;
    line.damage().flip(150_000);
    let response = site.get(LISTED).await;
    assert!(response.ending == Ending::Broken || response.expect_body() == body);
    assert_eq!(line.damage().flipped(), 1);
    site.wait_until_stored(LISTED).await;
    assert!(site.get(LISTED).await.expect_body() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn unlisted_payload_is_held_or_passed_on() {
    let (trust, body) = (TrustSite::new(Verification::Hold), bytes(4, 100_000));
    for path in [UNLISTED, PAYLOAD] {
        trust.site.manager.put(path, Resource::new(body.clone()));
        for request in [
            Request::get(path),
            Request::get(path).range("0-9"),
            Request::get(path).header("Cache-Control", "no-store"),
            Request::get(path).header("Content-Length", "1").body("x"),
        ] {
            assert_eq!(trust.site.send(request).await.status, 503, "{path}");
        }
        trust.site.wait_for_fills().await;
        assert_eq!(trust.site.manager.request_count(path), 1, "{path}");
    }
    assert_eq!(trust.unproven("unlisted", "held").await, 2.0);
    assert_eq!(trust.held().await.len(), 2);
    let trust = TrustSite::new(Verification::Pass);
    trust.site.manager.put(UNLISTED, Resource::new(body.clone()));
    for requests in 1..=2 {
        let response = trust.site.get(UNLISTED).await;
        assert_eq!(response.cache_status(), "gupd; fwd=uri-miss; detail=unproven");
        assert!(response.expect_body() == body);
        trust.site.wait_for_fills().await;
        assert_eq!(trust.site.manager.request_count(UNLISTED), requests);
    }
    assert!(trust.held().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn held_payload_is_released_once_a_catalog_lists_it() {
    for (length, range, is_restarted) in
        [(100_000, None, false), (100_000, Some("5-9"), true), (3 << 20, None, true)]
    {
        let (mut trust, body) = (TrustSite::new(Verification::Hold), bytes(5, length));
        trust.publish(STATED, &body);
        assert_eq!(trust.site.get(LISTED).await.status, 503);
        trust.site.wait_for_fills().await;
        assert_eq!(trust.held().await.len(), 1);
        trust.site.wait_until_stored(CATALOG).await;
        if is_restarted {
            trust.site.restart();
        }
        let request = range.into_iter().fold(Request::get(LISTED), |request, range| request.range(range));
        let response = trust.site.send(request).await;
        assert_eq!(response.cache_status(), "gupd; hit");
        assert!(response.expect_body() == if range.is_some() { &body[5..10] } else { &body[..] });
        assert!(trust.held().await.is_empty());
        // The list is its proof from now on.
        trust.site.restart();
        assert!(trust.site.get(LISTED).await.expect_body() == body);
        assert_eq!(trust.site.manager.request_count(LISTED), 1, "it crossed the line once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn held_payload_with_unlisted_bytes_stays_held() {
    let (trust, body) = (TrustSite::new(Verification::Hold), bytes(5, 100_000));
    trust.publish(STATED, &body);
    trust.site.manager.put(LISTED, Resource::new(bytes(6, 100_000)));
    assert_eq!(trust.site.get(LISTED).await.status, 503);
    trust.site.wait_for_fills().await;
    trust.site.manager.put(LISTED, Resource::new(body.clone()));
    trust.site.wait_until_stored(CATALOG).await;
    assert_eq!(trust.site.get(LISTED).await.cache_status(), "gupd; fwd=uri-miss; stored");
    assert!(trust.site.get(LISTED).await.expect_body() == body);
    assert_eq!(trust.held().await.len(), 1);
    assert_eq!(trust.site.manager.request_count(LISTED), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn proof_outlives_a_restart_and_its_catalog() {
    let (mut trust, body) = (TrustSite::new(Verification::Hold), bytes(6, 100_000));
    trust.store(STATED, &body).await;
    trust.site.manager.put(CATALOG, Resource::new(trust.vendor.catalog(STATED + 1, &[])));
    trust.site.restart();
    assert_eq!(trust.site.get(LISTED).await.cache_status(), "gupd; hit");
    assert_eq!(trust.site.get(CATALOG).await.cache_status(), "gupd; hit");
    assert_eq!(trust.site.manager.request_count(LISTED), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_catalog_proves_payloads_after_a_restart() {
    let (mut trust, body) = (TrustSite::new(Verification::Hold), bytes(8, 100_000));
    trust.publish(STATED, &body);
    trust.site.wait_until_stored(CATALOG).await;
    trust.site.restart();
    // Its client had the catalog before.
    assert_eq!(trust.site.get(LISTED).await.cache_status(), "gupd; fwd=uri-miss; stored");
    assert!(trust.held().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_content_is_proven_when_its_route_begins_to_need_it() {
    let (mut trust, body) = (TrustSite::new(Verification::Off), bytes(7, 100_000));
    trust.store(STATED, &body).await;
    trust.site.manager.put(UNLISTED, Resource::new("evil"));
    trust.site.wait_until_stored(UNLISTED).await;
    let requests = [CATALOG, LISTED].map(|path| trust.site.manager.request_count(path));
    trust.reload(Verification::Hold);
    for path in [CATALOG, LISTED] {
        assert_eq!(trust.site.get(path).await.cache_status(), "gupd; hit", "{path}");
    }
    assert_eq!([CATALOG, LISTED].map(|path| trust.site.manager.request_count(path)), requests);
    assert_eq!(trust.site.get(UNLISTED).await.status, 503, "it was stored without a proof");
    trust.site.restart();
    assert_eq!(trust.site.get(LISTED).await.cache_status(), "gupd; hit", "the proof is stored");
    assert_eq!(trust.site.get(UNLISTED).await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_proves_content_without_a_signature_format() {
    let (mut trust, authority) = (TrustSite::new(Verification::Hold), Authority::new());
    let front = Front::start(trust.site.manager.address(), authority.issue("127.0.0.1")).await;
    let ca = trust.site.store().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    trust.site.config.upstreams[0].url = front.url().parse().unwrap();
    trust.site.config.upstreams[0].trust = Trust { ca: Some(ca), ..Trust::default() };
    let config = trust.site.config.clone();
    trust.site.relay_mut().reload(config).unwrap();
    for path in [PAYLOAD, "/agent/index2.dax", "/files/readme.txt", MINITRI] {
        let resource = Resource::new("content").header("Cache-Control", "max-age=600");
        // What the manager says about proofs is no proof.
        trust.site.manager.put(path, resource.header("gupd-proof", "released"));
        trust.site.wait_until_stored(path).await;
        assert_eq!(trust.site.get(path).await.header("gupd-proof"), None);
    }
    // A catalog has a format for signatures, and needs one.
    trust.site.manager.put(CATALOG, Resource::new("unsigned"));
    assert_eq!(trust.site.get(CATALOG).await.status, 503);
    trust.site.restart();
    assert_eq!(trust.site.get(PAYLOAD).await.cache_status(), "gupd; hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn generic_content_is_passed_on_and_not_stored() {
    let trust = TrustSite::new(Verification::Hold);
    let page = Resource::new("page").header("Cache-Control", "public, max-age=31536000");
    trust.site.manager.put("/files/page", page);
    for requests in 1..=2 {
        let response = trust.site.get("/files/page").await;
        assert_eq!(response.cache_status(), "gupd; fwd=uri-miss; detail=unproven");
        trust.site.wait_for_fills().await;
        assert_eq!(trust.site.manager.request_count("/files/page"), requests);
    }
    // A proof in a response is none.
    let forged = Resource::new("evil").header("gupd-proof", "released").header("gupd-proof", "tls");
    trust.site.manager.put(UNLISTED, forged);
    assert_eq!(get(trust.site.address(), UNLISTED).await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_proofs_nor_held_content_travel_in_bundles() {
    // The other site knows another vendor.
    let (mut trust, mut other) = (TrustSite::new(Verification::Hold), TrustSite::new(Verification::Hold));
    trust.store(STATED, &bytes(9, 10_000)).await;
    trust.site.manager.put(UNLISTED, Resource::new("evil"));
    assert_eq!(trust.site.get(UNLISTED).await.status, 503);
    trust.site.stop();
    other.site.stop();
    let bundle = other.site.store().join("bundle.tar.zst");
    let (now, settings) = (trust.site.clock.now(), other.site.config.store.clone());
    let inventory = Inventory::open(trust.site.store()).unwrap();
    let exported = bundle::export(&inventory, 0, now, &bundle, |_| {}).unwrap();
    assert_eq!(exported.objects, 2);
    let (clock, runtime) = (other.site.clock.clone(), tokio::runtime::Handle::current());
    let imported = tokio::task::spawn_blocking(move || {
        let store = Store::open(&settings, clock).unwrap();
        bundle::import(&store, &runtime, &bundle, settings.quota, now, |_| {}).unwrap()
    });
    assert_eq!(imported.await.unwrap().objects, 2);
    other.site.restart();
    for path in [CATALOG, LISTED] {
        assert_eq!(other.site.get(path).await.status, 404, "its manager does not have it: {path}");
    }
}
