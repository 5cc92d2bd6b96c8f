//! Release and rejection of held content, and the bounds of what is held.

use std::fs;

use gupd_config::Verification;
use sha2::{Digest, Sha256};

use super::{CATALOG, LISTED, STATED, TrustSite, UNLISTED};
use crate::support::signing::Vendor;
use crate::support::{Resource, bytes};

#[tokio::test(flavor = "multi_thread")]
async fn released_content_is_served_and_audited() {
    let (mut trust, body) = (TrustSite::new(Verification::Hold), bytes(1, 100_000));
    let catalog = Vendor::new().catalog(STATED, &[(LISTED, &body)]);
    trust.site.manager.put(CATALOG, Resource::new(catalog.clone()));
    trust.site.manager.put(LISTED, Resource::new(body.clone()));
    assert_eq!(trust.site.get(CATALOG).await.status, 503);
    let sha256: String = Sha256::digest(&catalog).iter().map(|byte| format!("{byte:02x}")).collect();
    let response = trust.decide("release", &sha256[..12]).await;
    assert_eq!((response.status, String::from_utf8(response.body).unwrap().contains(CATALOG)), (200, true));
    assert!(trust.site.get(CATALOG).await.expect_body() == catalog);
    // What a released catalog lists is proven.
    trust.site.wait_until_stored(LISTED).await;
    assert!(trust.site.get(LISTED).await.expect_body() == body);
    trust.site.clock.advance(super::MINUTE);
    assert!(trust.site.get(CATALOG).await.expect_body() == catalog, "revalidated, and released still");
    trust.site.restart();
    assert_eq!(trust.site.get(LISTED).await.cache_status(), "gupd; hit");
    let audit = fs::read_to_string(trust.site.store().join("audit.log")).unwrap();
    let line = audit.lines().find(|line| line.contains("release-held")).unwrap();
    assert!(line.contains("anna") && line.contains(&sha256) && line.contains(CATALOG), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_content_is_gone() {
    let trust = TrustSite::new(Verification::Hold);
    trust.site.manager.put(UNLISTED, Resource::new("evil"));
    assert_eq!(trust.site.get(UNLISTED).await.status, 503);
    let sha256 = trust.held().await[0]["sha256"].as_str().unwrap().to_owned();
    for (decision, prefix, status) in [
        ("release", "00000000", 404),
        ("keep", &*sha256, 400),
        ("release", &sha256[..7], 400),
        ("reject", &sha256, 200),
        ("reject", &sha256, 404),
        ("release", &sha256, 404),
    ] {
        assert_eq!(trust.decide(decision, prefix).await.status, status, "{decision} {prefix}");
    }
    assert!(trust.held().await.is_empty());
    assert_eq!(trust.site.metric("gupd_held_objects").await, 0.0);
    assert_eq!(trust.site.get(UNLISTED).await.status, 503, "it is held anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn decision_needs_the_token() {
    let trust = TrustSite::new(Verification::Hold);
    let body = r#"{"by":"eve","decision":"release","sha256":"00000000"}"#;
    for token in ["", "Bearer wrong"] {
        let request = crate::support::Request::new("POST", "/api/v1/store/held");
        let request = request.header("Authorization", token).body(body);
        assert_eq!(request.send(trust.site.relay().admin()).await.status, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn held_content_stays_within_its_bytes() {
    let trust = TrustSite::with_config(Verification::Hold, |config| config.verify.held_bytes = 250_000);
    for at in 0..4 {
        let path = format!("/clu/136916348{at}jtun_x.zip");
        trust.site.manager.put(&path, Resource::new(bytes(at, 100_000)));
        assert_eq!(trust.site.get(&path).await.status, 503);
    }
    trust.site.wait_for_fills().await;
    assert_eq!(trust.held().await.len(), 2);
    assert_eq!(
        (trust.unproven("unlisted", "held").await, trust.unproven("unlisted", "refused").await),
        (2.0, 2.0)
    );
    assert_eq!(trust.site.metric("gupd_store_objects").await, 2.0);
}
