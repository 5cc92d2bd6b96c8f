//! Payloads that change under their name, which a client's `no-cache` or a check of the relay finds.

use gupd_config::Verification;

use super::{CATALOG, LISTED, MINUTE, STATED, TrustSite};
use crate::support::{PAYLOAD, Request, Resource, Site, bytes};

fn reload() -> Request {
    Request::get(PAYLOAD).header("Cache-Control", "no-cache")
}

/// Stores a payload, then has the manager change it.
async fn store_and_change(site: &Site, before: &[u8], after: &[u8]) {
    site.manager.put(PAYLOAD, Resource::new(before));
    site.wait_until_stored(PAYLOAD).await;
    site.manager.put(PAYLOAD, Resource::new(after));
    site.clock.advance(MINUTE);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_payload_is_refused_kept_aside_and_reported() {
    let trust = TrustSite::new(Verification::Changes);
    for length in [1_000, 300_000] {
        let (before, after) = (bytes(1, length), bytes(2, length));
        store_and_change(&trust.site, &before, &after).await;
        let requests = trust.site.manager.request_count(PAYLOAD);
        assert!(trust.site.send(reload()).await.expect_body() == before);
        assert!(trust.site.get(PAYLOAD).await.expect_body() == before);
        assert_eq!(trust.site.manager.request_count(PAYLOAD), requests + 1);
        // The changed bytes do not cross the line each minute.
        trust.site.clock.advance(MINUTE);
        assert!(trust.site.send(reload()).await.expect_body() == before);
        assert_eq!(trust.site.manager.request_count(PAYLOAD), requests + 1);
        let held = trust.held().await;
        assert_eq!((held.len(), &held[0]["bytes"]), (1, &length.into()));
        assert!(held[0]["reason"].as_str().unwrap().contains("never changes"));
        // Only a release replaces the stored bytes.
        let sha256 = held[0]["sha256"].as_str().unwrap().to_owned();
        assert_eq!(trust.decide("release", &sha256).await.status, 200);
        assert!(trust.site.get(PAYLOAD).await.expect_body() == after);
        trust.site.clock.advance(MINUTE);
        trust.site.send(reload()).await.expect_body();
        assert!(trust.held().await.is_empty(), "the manager still has the released bytes");
        trust.site.manager.remove(PAYLOAD);
        let purge = Request::new("POST", "/api/v1/store/purge")
            .header("Authorization", &format!("Bearer {}", super::TOKEN))
            .body(r#"{"by":"anna","select":{"path":"**"}}"#);
        assert_eq!(purge.send(trust.site.relay().admin()).await.status, 200);
    }
    assert_eq!(trust.unproven("changed", "held").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_payload_is_reported_and_reclassified_by_default() {
    let trust = TrustSite::new(Verification::Off);
    let (before, after) = (bytes(3, 1_000), bytes(4, 1_000));
    store_and_change(&trust.site, &before, &after).await;
    assert!(trust.site.send(reload()).await.expect_body() == after);
    trust.site.wait_for_fills().await;
    assert_eq!(trust.unproven("changed", "replaced").await, 1.0);
    assert_eq!(trust.site.get(PAYLOAD).await.cache_status(), "gupd; hit");
    // From now on it is revalidated like a catalog, also after a restart, and not reported again.
    let last = bytes(5, 1_000);
    trust.site.manager.put(PAYLOAD, Resource::new(last.clone()));
    trust.site.clock.advance(MINUTE);
    assert!(trust.site.get(PAYLOAD).await.expect_body() == last);
    trust.site.wait_for_fills().await;
    let mut trust = trust;
    trust.site.restart();
    trust.site.manager.put(PAYLOAD, Resource::new(before.clone()));
    trust.site.clock.advance(MINUTE);
    assert!(trust.site.get(PAYLOAD).await.expect_body() == before);
    trust.site.wait_for_fills().await;
    assert_eq!(trust.unproven("changed", "replaced").await, 0.0, "counted by the process before");
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_list_corrects_wrong_stored_bytes() {
    let (mut trust, body) = (TrustSite::new(Verification::Off), bytes(6, 1_000));
    trust.publish(STATED, &body);
    trust.site.manager.put(LISTED, Resource::new(bytes(7, 1_000)));
    trust.site.wait_until_stored(LISTED).await;
    trust.reload(Verification::Hold);
    trust.site.wait_until_stored(CATALOG).await;
    trust.site.manager.put(LISTED, Resource::new(body.clone()));
    trust.site.wait_until_stored(LISTED).await;
    assert!(trust.site.get(LISTED).await.expect_body() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn unsigned_catalog_removes_no_payload_that_keeps_its_bytes() {
    let (trust, body) = (TrustSite::new(Verification::Changes), bytes(8, 1_000));
    trust.store(STATED, &body).await;
    // A man in the middle lists other bytes, to have the stored ones removed.
    let evil = bytes(9, 1_000);
    trust.publish(STATED, &evil);
    trust.site.clock.advance(MINUTE);
    trust.site.get(CATALOG).await.expect_body();
    trust.site.wait_for_fills().await;
    assert!(trust.site.get(LISTED).await.expect_body() == body);
}
