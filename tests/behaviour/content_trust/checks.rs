//! Checks of stored payloads by the relay itself.

use std::time::Duration;

use gupd_config::Verification;

use super::TrustSite;
use crate::support::{PAYLOAD, Resource, bytes};

const HOUR: Duration = Duration::from_secs(3_600);

fn payload(at: usize) -> String {
    PAYLOAD.replace("full.zip", &format!("{at}.dax"))
}

async fn checks(trust: &TrustSite, outcome: &str) -> f64 {
    trust.site.metric(&format!("gupd_payload_checks_total{{outcome=\"{outcome}\"}}")).await
}

async fn wait_for_checks(trust: &TrustSite, outcome: &str, count: f64) {
    let name = format!("gupd_payload_checks_total{{outcome=\"{outcome}\"}}");
    trust.site.wait_for_metric(&name, count).await;
}

/// A site with 24 checks a day and three stored payloads.
async fn site(verification: Verification) -> TrustSite {
    let trust = TrustSite::with_config(verification, |config| config.verify.checks_per_day = 24);
    for at in 0..3 {
        trust.site.manager.put(&payload(at), Resource::new(bytes(at as u64, 10_000)));
        trust.site.wait_until_stored(&payload(at)).await;
    }
    trust
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_payloads_are_checked_one_an_hour() {
    let trust = site(Verification::Off).await;
    for hour in 1..=3 {
        trust.site.clock.advance(HOUR);
        wait_for_checks(&trust, "unchanged", f64::from(hour)).await;
    }
    for at in 0..3 {
        let requests = trust.site.manager.requests_for(&payload(at));
        assert_eq!(requests.len(), 2);
        assert!(requests[1].header("If-None-Match").is_some());
        assert_eq!(trust.site.get(&payload(at)).await.cache_status(), "gupd; hit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_a_changed_payload_and_keeps_or_replaces_it() {
    for (verification, then) in [(Verification::Changes, "held"), (Verification::Off, "replaced")] {
        let trust = site(verification).await;
        let (before, after) = (bytes(0, 10_000), bytes(9, 10_000));
        trust.site.manager.put(&payload(0), Resource::new(after.clone()));
        trust.site.clock.advance(HOUR);
        wait_for_checks(&trust, "changed", 1.0).await;
        assert_eq!(trust.unproven("changed", then).await, 1.0);
        let expected = if verification == Verification::Off { after } else { before };
        assert!(trust.site.get(&payload(0)).await.expect_body() == expected, "{then}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_takes_nothing_from_the_store() {
    let trust = site(Verification::Off).await;
    trust.site.manager.remove(&payload(0));
    trust.site.manager.put(&payload(1), Resource::new("broken").status(500));
    let same = bytes(2, 10_000);
    trust.site.manager.put(&payload(2), Resource::tagged(same.clone(), "\"rebuilt\""));
    for outcome in ["absent", "failed", "same"] {
        trust.site.clock.advance(HOUR);
        wait_for_checks(&trust, outcome, 1.0).await;
    }
    for at in 0..3 {
        let response = trust.site.get(&payload(at)).await;
        assert_eq!(response.cache_status(), "gupd; hit", "{at}");
        assert!(response.expect_body() == bytes(at as u64, 10_000));
    }
    assert_eq!(checks(&trust, "changed").await, 0.0);
}
