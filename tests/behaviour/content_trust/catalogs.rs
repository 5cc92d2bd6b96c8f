//! Catalogs with and without a usable signature.

use std::time::Duration;

use gupd_config::Verification;

use super::{CATALOG, LISTED, MINITRI, MINUTE, STATED, TrustSite};
use crate::support::collector::everyone_at_once;
use crate::support::signing::{Vendor, archive, list};
use crate::support::{Resource, bytes};

/// Catalogs that must not be believed, each with a part of the reason.
fn unproven_catalogs(vendor: &Vendor, body: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let text = list(STATED, &[(LISTED, body)]);
    let (grd, signature) = (text.as_bytes(), vendor.sign(text.as_bytes()));
    let mut cut = signature.clone();
    cut.truncate(signature.len() / 2);
    let other = list(STATED, &[(LISTED, b"evil")]);
    let signed = archive(&[("v.grd", grd), ("v.sig", &signature)]);
    // A member before the directory's first, which a reader that scans for heads finds.
    let hidden = [&archive(&[("liveupdt.tri", b"evil")])[..], &signed].concat();
    vec![
        ("none of verify.roots", Vendor::new().catalog(STATED, &[(LISTED, body)])),
        ("expired", Vendor::valid_until(2001).catalog(STATED, &[(LISTED, body)])),
        ("not a PKCS#7 SignedData", archive(&[("v.grd", grd), ("v.sig", &cut)])),
        ("not a PKCS#7 SignedData", archive(&[("v.grd", grd), ("v.sig", b"-----BEGIN PKCS7-----")])),
        ("more than 65536 bytes", archive(&[("v.grd", grd), ("v.sig", &vec![0x30; 70_000])])),
        ("no .grd with a .sig beside it", archive(&[("v.grd", grd)])),
        ("no .grd with a .sig beside it", archive(&[("v.grd", grd), ("w.sig", &signature)])),
        ("no .grd with a .sig beside it", archive(&[("liveupdt.tri", b"tri")])),
        ("does not match", archive(&[("v.grd", other.as_bytes()), ("v.sig", &signature)])),
        ("\"liveupdt.tri\"", archive(&[("v.grd", grd), ("v.sig", &signature), ("liveupdt.tri", b"evil")])),
        ("would not agree", hidden),
        ("would not agree", [&signed[..], b"evil"].concat()),
        ("not a readable zip archive", b"PK\x03\x04 and nothing more".to_vec()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_catalog_and_its_payload_are_stored_and_hit() {
    for verification in [Verification::Pass, Verification::Hold] {
        let (trust, body) = (TrustSite::new(verification), bytes(1, 300_000));
        trust.publish(STATED, &body);
        trust.site.manager.put(MINITRI, Resource::new(" "));
        for path in [CATALOG, LISTED, MINITRI] {
            assert_eq!(trust.site.get(path).await.cache_status(), "gupd; fwd=uri-miss; stored", "{path}");
            trust.site.wait_until_stored(path).await;
            assert_eq!(trust.site.manager.request_count(path), 1, "{path}");
        }
        assert!(trust.site.get(LISTED).await.expect_body() == body);
        assert!(trust.held().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unproven_catalog_is_held_with_its_reason() {
    let (trust, body) = (TrustSite::new(Verification::Hold), bytes(2, 1_000));
    for (at, (reason, catalog)) in unproven_catalogs(&trust.vendor, &body).into_iter().enumerate() {
        let path = format!("/clu/{at}_livetri.zip");
        trust.site.manager.put(&path, Resource::new(catalog.clone()));
        let response = trust.site.get(&path).await;
        assert_eq!((response.status, response.header("Retry-After")), (503, Some("60")), "{reason}");
        // It is not fetched for each client.
        assert_eq!(trust.site.get(&path).await.status, 503, "{reason}");
        assert_eq!(trust.site.manager.request_count(&path), 1, "{reason}");
        let held = trust.held().await;
        let held = held.iter().find(|held| held["path"] == path.as_str()).expect(reason);
        assert!(held["reason"].as_str().unwrap().contains(reason), "{reason}: {held}");
        assert_eq!(held["bytes"], catalog.len(), "{reason}");
        assert_eq!(trust.site.metric("gupd_held_objects").await, at as f64 + 1.0, "{reason}");
        assert_eq!(trust.unproven("signature", "held").await, at as f64 + 1.0, "{reason}");
    }
    trust.site.manager.put(LISTED, Resource::new(body));
    assert_eq!(trust.site.get(LISTED).await.status, 503, "no list of theirs is believed");
}

#[tokio::test(flavor = "multi_thread")]
async fn unproven_catalog_is_passed_on_and_not_stored() {
    let (trust, body) = (TrustSite::new(Verification::Pass), bytes(3, 1_000));
    for (at, (reason, catalog)) in unproven_catalogs(&trust.vendor, &body).into_iter().enumerate() {
        let path = format!("/clu/{at}_livetri.zip");
        trust.site.manager.put(&path, Resource::new(catalog.clone()));
        for requests in 1..=2 {
            let response = trust.site.get(&path).await;
            assert_eq!(response.cache_status(), "gupd; fwd=uri-miss; detail=unproven", "{reason}");
            assert!(response.expect_body() == catalog, "{reason}");
            trust.site.wait_for_fills().await;
            assert_eq!(trust.site.manager.request_count(&path), requests, "{reason}");
        }
    }
    assert!(trust.held().await.is_empty());
    assert_eq!(trust.site.metric("gupd_store_objects").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn proven_catalog_outlives_unproven_and_replayed_ones() {
    for verification in [Verification::Hold, Verification::Pass] {
        let (trust, body) = (TrustSite::new(verification), bytes(4, 1_000));
        trust.publish(STATED, &body);
        trust.site.wait_until_stored(CATALOG).await;
        let first = trust.site.get(CATALOG).await.expect_body();
        trust.publish(STATED + 1, &body);
        trust.site.clock.advance(MINUTE);
        let second = trust.site.get(CATALOG).await.expect_body();
        assert!(second != first);
        trust.site.wait_for_fills().await;
        // The first one is signed, and a year old.
        trust.site.manager.put(CATALOG, Resource::new(first.clone()));
        trust.site.clock.advance(MINUTE);
        let (replayed, then) = match verification {
            Verification::Hold => (second.clone(), "held"),
            _ => (first, "passed-on"),
        };
        assert!(trust.site.get(CATALOG).await.expect_body() == replayed, "{then}");
        trust.site.wait_for_fills().await;
        assert_eq!(trust.unproven("older", then).await, 1.0);
        // The next publication is accepted again.
        trust.publish(STATED + 2, &body);
        trust.site.clock.advance(MINUTE);
        trust.site.wait_until_stored(CATALOG).await;
        assert!(trust.site.get(CATALOG).await.expect_body() != second);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_signer_is_accepted_for_the_time_of_its_catalog() {
    let vendor = Vendor::valid_until(2014);
    for (stated, accepts, status) in [
        (STATED, true, 200),
        (STATED, false, 503),
        // 2020: the certificate had expired before.
        (1_600_000_000, true, 503),
    ] {
        let files = tempfile::tempdir().unwrap();
        let roots = files.path().join("roots.pem");
        std::fs::write(&roots, vendor.root_pem()).unwrap();
        let trust = TrustSite::with_config(Verification::Hold, |config| {
            config.verify.roots = vec![roots];
            config.verify.accepts_expired = accepts;
        });
        trust.site.manager.put(CATALOG, Resource::new(vendor.catalog(stated, &[])));
        assert_eq!(trust.site.get(CATALOG).await.status, status, "{stated} {accepts}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn catalog_that_forbids_storage_is_not_passed_either() {
    for verification in [Verification::Hold, Verification::Pass] {
        for value in ["no-store", "private"] {
            let trust = TrustSite::new(verification);
            let evil = Resource::new("evil").header("Cache-Control", value);
            trust.site.manager.put(CATALOG, evil);
            let expected = if verification == Verification::Hold { 503 } else { 200 };
            assert_eq!(trust.site.get(CATALOG).await.status, expected, "{value}");
            let request = crate::support::Request::get(CATALOG).header("Cache-Control", "no-store");
            assert_eq!(trust.site.send(request).await.status, expected, "client's no-store");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revision_has_only_proven_catalogs() {
    let trust = TrustSite::with_config(Verification::Hold, |config| {
        config.rings = vec![everyone_at_once()];
        config.refresh.catalogs = vec![CATALOG.parse().unwrap()];
    });
    let body = bytes(5, 1_000);
    trust.publish(STATED, &body);
    let report = trust.site.relay().refresher().refresh().await.unwrap();
    assert_eq!((report.changed, report.failed), (1, 0));
    let proven = trust.site.get(CATALOG).await.expect_body();
    trust.site.manager.put(CATALOG, Resource::new(Vendor::new().catalog(STATED + 9, &[(LISTED, &body)])));
    let report = trust.site.relay().refresher().refresh().await.unwrap();
    assert_eq!((report.changed, report.failed, report.revision), (0, 1, None));
    assert!(trust.site.get(CATALOG).await.expect_body() == proven);
    assert_eq!(trust.held().await.len(), 1);
    trust.publish(STATED + 10, &body);
    trust.site.clock.advance(Duration::from_secs(700));
    let report = trust.site.relay().refresher().refresh().await.unwrap();
    assert_eq!((report.changed, report.failed), (1, 0));
    assert!(trust.site.get(CATALOG).await.expect_body() != proven);
}
