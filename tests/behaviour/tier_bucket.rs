//! The shared tier in a bucket that is silent, refuses, breaks off or is full: no client fails or waits, the circuit
//! opens, and each byte has its cause.

use std::io::Write;
use std::time::{Duration, Instant};

use gupd_config::{BucketSettings, TierLocation, TierSettings};
use gupd_site::{ACCESS_KEY, BUCKET, BucketFault, S3Bucket};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::support::{
    Authority, Front, Gate, Manager, PATIENCE, PAYLOAD, RefusingPort, Resource, Site, bytes, get,
};

struct SharedBucket {
    bucket: S3Bucket,
    credentials: NamedTempFile,
    manager: Manager,
}

impl SharedBucket {
    fn start() -> Self {
        let mut credentials = NamedTempFile::new().unwrap();
        writeln!(credentials, "aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = secret").unwrap();
        Self { bucket: S3Bucket::start().unwrap(), credentials, manager: Manager::start() }
    }

    fn site_of(&self, upstream: std::net::SocketAddr, change: impl FnOnce(&mut TierSettings)) -> Site {
        Site::with_tier(upstream, self.credentials.path(), |tier| {
            tier.url = format!("s3://{BUCKET}/a");
            tier.location = TierLocation::Bucket(BucketSettings {
                bucket: BUCKET.to_owned(),
                prefix: "a".to_owned(),
                endpoint: Some(self.bucket.endpoint().parse().unwrap()),
                region: "us-east-1".to_owned(),
                credentials_file: Some(self.credentials.path().to_owned()),
                ca: None,
            });
            change(tier);
        })
    }

    fn site(&self) -> Site {
        self.site_of(self.manager.address(), |_| {})
    }

    /// Publishes deltas through a relay of their own.
    async fn publish(&self, count: u64, length: usize) {
        let site = self.site();
        for at in 0..count {
            self.manager.put(&delta(at), Resource::tagged(bytes(at, length), "\"one\""));
            assert!(site.get(&delta(at)).await.expect_body() == bytes(at, length));
        }
        site.wait_for_metric(&publications("published"), count as f64).await;
    }
}

fn delta(at: u64) -> String {
    PAYLOAD.replace("full.zip", &format!("{at}.dax"))
}

fn publications(outcome: &str) -> String {
    format!("gupd_tier_publications_total{{outcome=\"{outcome}\"}}")
}

fn requests(outcome: &str) -> String {
    format!("gupd_tier_requests_total{{outcome=\"{outcome}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_takes_objects_of_a_bucket_while_manager_is_down() {
    let shared = SharedBucket::start();
    shared.publish(2, 6 << 20).await;
    let down = RefusingPort::new();
    let site = shared.site_of(down.address(), |_| {});
    for at in 0..2 {
        assert!(site.get(&delta(at)).await.expect_body() == bytes(at, 6 << 20));
    }
    assert_eq!(site.metric(&requests("served")).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_bucket_delays_no_client_and_its_circuit_opens() {
    let shared = SharedBucket::start();
    shared.publish(8, 100_000).await;
    let gate = Gate::default();
    shared.bucket.set_fault(Some(BucketFault::Silent(gate.clone())));
    let hedge = Duration::from_millis(20);
    let site = shared.site_of(shared.manager.address(), |tier| tier.hedge = hedge);
    let begun = Instant::now();
    for at in 0..8 {
        assert!(site.get(&delta(at)).await.expect_body() == bytes(at, 100_000));
    }
    assert!(begun.elapsed() < PATIENCE, "the managers were asked after the hedge time");
    assert_eq!(site.metric(&requests("late")).await, 3.0, "then it is asked no more");
    assert_eq!(site.metric("gupd_tier_healthy").await, 0.0);
    assert_eq!(site.metric("gupd_tier_received_bytes_total").await, 0.0);
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn late_bucket_is_waited_for_if_managers_fail() {
    let shared = SharedBucket::start();
    shared.publish(1, 100_000).await;
    let gate = Gate::default();
    shared.bucket.set_fault(Some(BucketFault::Silent(gate.clone())));
    let down = RefusingPort::new();
    let site = shared.site_of(down.address(), |tier| tier.hedge = Duration::from_millis(20));
    let address = site.address();
    let client = tokio::spawn(async move { get(address, &delta(0)).await });
    site.wait_for_metric_at_least(
        &format!(
            "gupd_upstream_requests_total{{outcome=\"connect\",upstream=\"{}\"}}",
            site.config.upstreams[0].name
        ),
        1.0,
    )
    .await;
    gate.open();
    assert!(client.await.unwrap().expect_body() == bytes(0, 100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusing_bucket_fails_no_client_and_its_circuit_opens() {
    for (status, code) in [
        (503, "SlowDown"),
        (403, "AccessDenied"),
        (403, "RequestTimeTooSkewed"),
        (404, "NoSuchBucket"),
        (301, "PermanentRedirect"),
        (500, "InternalError"),
    ] {
        let shared = SharedBucket::start();
        shared.bucket.set_fault(Some(BucketFault::Refused(status, code)));
        let site = shared.site();
        for at in 0..6 {
            shared.manager.put(&delta(at), Resource::tagged(bytes(at, 1_000), "\"one\""));
            assert!(site.get(&delta(at)).await.expect_body() == bytes(at, 1_000), "{code}");
        }
        assert_eq!(site.metric(&requests("failed")).await, 3.0, "{code}");
        assert_eq!(site.metric("gupd_tier_healthy").await, 0.0, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn circuit_of_a_bucket_closes_when_it_works_again() {
    let shared = SharedBucket::start();
    shared.publish(5, 1_000).await;
    shared.bucket.set_fault(Some(BucketFault::Refused(503, "SlowDown")));
    let site = shared.site();
    for at in 0..3 {
        site.get(&delta(at)).await;
    }
    assert_eq!(site.metric("gupd_tier_healthy").await, 0.0);
    shared.bucket.set_fault(None);
    site.clock.advance(Duration::from_secs(60));
    assert!(site.get(&delta(4)).await.expect_body() == bytes(4, 1_000));
    assert_eq!(site.metric(&requests("served")).await, 1.0);
    assert_eq!(site.metric("gupd_tier_healthy").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_breaks_off_continues_at_the_manager() {
    let shared = SharedBucket::start();
    shared.publish(1, 6 << 20).await;
    // The first piece is whole; the second one breaks off.
    shared.bucket.set_fault(Some(BucketFault::Cut((1 << 20) + 1)));
    let site = shared.site();
    assert!(site.get(&delta(0)).await.expect_body() == bytes(0, 6 << 20));
    site.wait_until_stored(&delta(0)).await;
    assert_eq!(site.metric("gupd_tier_damaged_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_bucket_costs_no_client_a_byte() {
    let shared = SharedBucket::start();
    shared.bucket.set_fault(Some(BucketFault::WriteRefused(507, "QuotaExceeded")));
    let site = shared.site();
    for at in 0..5 {
        shared.manager.put(&delta(at), Resource::tagged(bytes(at, 100_000), "\"one\""));
        assert!(site.get(&delta(at)).await.expect_body() == bytes(at, 100_000));
        site.wait_until_stored(&delta(at)).await;
    }
    assert_eq!(site.metric("gupd_tier_healthy").await, 1.0, "it can be read");
    assert!(shared.bucket.names().is_empty());
    site.wait_for_metric_at_least(&publications("failed"), 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_while_publishing_ends_soon_and_loses_nothing_stored() {
    let shared = SharedBucket::start();
    let mut site = shared.site();
    let gate = Gate::default();
    shared.manager.put(PAYLOAD, Resource::tagged(bytes(1, 8 << 20), "\"one\""));
    site.get("/minitri.flg").await;
    let body = bytes(1, 8 << 20);
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    shared.bucket.set_fault(Some(BucketFault::Silent(gate.clone())));
    let begun = Instant::now();
    site.stop();
    assert!(begun.elapsed() < Duration::from_secs(20), "the publication was waited for");
    gate.open();
    shared.bucket.set_fault(None);
    site.restart();
    assert!(site.get(PAYLOAD).await.cache_status().starts_with("gupd; hit"));
    // Whatever is in the bucket is whole.
    let other = shared.site();
    assert!(other.get(PAYLOAD).await.expect_body() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_a_bucket_have_their_own_cause() {
    let shared = SharedBucket::start();
    shared.publish(2, 100_000).await;
    let site = shared.site_of(shared.manager.address(), |tier| tier.wan = true);
    shared.manager.put(&delta(9), Resource::tagged(bytes(9, 50_000), "\"one\""));
    for at in [0, 1, 9] {
        site.get(&delta(at)).await;
    }
    site.wait_for_fills().await;
    site.wait_for_metric("gupd_tier_received_bytes_total", 200_000.0).await;
    site.wait_for_metric("gupd_wan_received_bytes_total{cause=\"tier\"}", 200_000.0).await;
    assert_eq!(site.upstream_bytes_of(&shared.manager).await, 50_000.0, "the manager's bytes are its own");
    let target = "/api/v1/traffic?since=365d&top=1000";
    let report: Value =
        serde_json::from_slice(&get(site.relay().admin(), target).await.expect_body()).unwrap();
    let sum = |cause: &str| -> u64 {
        let rows = report["causes"].as_array().unwrap().iter();
        rows.filter(|row| row["cause"] == cause).map(|row| row["received"].as_u64().unwrap()).sum()
    };
    assert_eq!((sum("tier"), sum("client-miss")), (200_000, 50_000), "{report:#}");
    assert_eq!(report["wan"]["received"], 250_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn bucket_over_tls_is_believed_by_its_issuers_only() {
    let (shared, authority) = (SharedBucket::start(), Authority::new());
    let plain = shared.bucket.server().address();
    let front = Front::start(plain, authority.issue("127.0.0.1")).await;
    let (own, other) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
    std::fs::write(own.path(), authority.pem()).unwrap();
    std::fs::write(other.path(), Authority::new().pem()).unwrap();
    let site_of = |upstream, ca: &NamedTempFile| {
        shared.site_of(upstream, |tier| {
            let TierLocation::Bucket(bucket) = &mut tier.location else { unreachable!() };
            bucket.endpoint = Some(front.url().parse().unwrap());
            bucket.ca = Some(ca.path().to_owned());
        })
    };
    let body = bytes(1, 300_000);
    shared.manager.put(PAYLOAD, Resource::tagged(body.clone(), "\"one\""));
    let first = site_of(shared.manager.address(), &own);
    assert!(first.get(PAYLOAD).await.expect_body() == body);
    first.wait_for_metric(&publications("published"), 1.0).await;
    let second = site_of(RefusingPort::new().address(), &own);
    assert!(second.get(PAYLOAD).await.expect_body() == body, "the bucket has it");
    let shaken = front.accepted();
    assert!(shaken >= 2, "{shaken} handshakes");
    // A relay with other issuers asks the manager, and sends the bucket no credentials.
    let third = site_of(shared.manager.address(), &other);
    assert!(third.get(PAYLOAD).await.expect_body() == body);
    assert_eq!(third.metric(&requests("served")).await, 0.0);
    assert_eq!((shared.manager.request_count(PAYLOAD), front.accepted()), (2, shaken));
}
