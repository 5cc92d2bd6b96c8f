//! The tier in a bucket, over the protocol of S3: uploads of every size, writers at once, and each refusal with its
//! remedy.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gupd_site::{ACCESS_KEY, BUCKET, BucketFault, S3Bucket};
use prometheus::Registry;
use tempfile::NamedTempFile;

use crate::metrics::TierMetrics;
use crate::tests::{KEY, body, publish, read};
use crate::{Tier, TierError, TierProblem, TierPublication};
use gupd_config::{BucketSettings, TierLocation, TierSettings};

struct TestBucket {
    bucket: S3Bucket,
    credentials: NamedTempFile,
}

impl TestBucket {
    fn start() -> Self {
        let mut credentials = NamedTempFile::new().unwrap();
        writeln!(credentials, "aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = secret").unwrap();
        Self { bucket: S3Bucket::start().unwrap(), credentials }
    }

    fn settings(&self) -> BucketSettings {
        BucketSettings {
            bucket: BUCKET.to_owned(),
            prefix: "gupd/a".to_owned(),
            endpoint: Some(self.bucket.endpoint().parse().unwrap()),
            region: "us-east-1".to_owned(),
            credentials_file: Some(self.credentials.path().to_owned()),
            ca: None,
        }
    }

    fn tier(&self) -> Arc<Tier> {
        tier(self.settings()).unwrap()
    }
}

fn tier(bucket: BucketSettings) -> Result<Arc<Tier>, TierError> {
    let settings = TierSettings {
        url: "s3://content/gupd/a".to_owned(),
        location: TierLocation::Bucket(bucket),
        hedge: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        publish: true,
        wan: true,
        max_object: 1 << 30,
    };
    let metrics = Arc::new(TierMetrics::register(&Registry::new()).unwrap());
    Tier::new(&settings, metrics).map(Arc::new)
}

#[tokio::test]
async fn object_of_every_size_is_read_from_a_bucket() {
    for length in [1, 100_000, 5 << 20, (5 << 20) + 1, (11 << 20) + 7] {
        let (bucket, body) = (TestBucket::start(), body(length));
        assert_eq!(publish(&bucket.tier(), &body).await.unwrap(), TierPublication::Published);
        let names = bucket.bucket.names();
        assert!(names.iter().all(|name| name.starts_with("gupd/a/")) && names.len() == 2, "{names:?}");
        let (reader, length) = (bucket.tier(), length as u64);
        for range in [0..length, length / 2..length, length - 1..length] {
            let bytes = read(&reader, range.clone()).await.unwrap().unwrap();
            assert!(bytes == body[range.start as usize..range.end as usize], "{range:?} of {length}");
        }
        assert_eq!(publish(&reader, &body).await.unwrap(), TierPublication::Present);
    }
}

#[tokio::test]
async fn one_of_concurrent_writers_creates_the_record() {
    let (bucket, body) = (TestBucket::start(), body(200_000));
    let tiers: Vec<_> = (0..5).map(|_| bucket.tier()).collect();
    let outcomes = join_all(tiers.iter().map(|tier| publish(tier, &body))).await;
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == TierPublication::Published).count(), 1);
    let (created, _refused) = bucket.bucket.creations();
    assert_eq!(created, 2, "a blob and a record");
}

#[tokio::test]
async fn damaged_object_of_a_bucket_is_replaced() {
    for part in ["/blobs/", "/objects/"] {
        let (bucket, body) = (TestBucket::start(), body(300_000));
        publish(&bucket.tier(), &body).await.unwrap();
        bucket.bucket.change(part, |bytes| bytes[100] ^= 1);
        let reader = bucket.tier();
        assert!(read(&reader, 0..300_000).await.is_none_or(|read| read.is_err()), "{part}");
        assert_eq!(publish(&reader, &body).await.unwrap(), TierPublication::Repaired);
        assert!(read(&bucket.tier(), 0..300_000).await.unwrap().unwrap() == body);
    }
}

#[tokio::test]
async fn each_refusal_of_a_bucket_is_named_with_its_remedy() {
    for (status, code, problem, remedy) in [
        (404, "NoSuchBucket", TierProblem::Missing, "correct tier.url"),
        (403, "AccessDenied", TierProblem::Denied, "permissions or credentials"),
        (403, "InvalidAccessKeyId", TierProblem::Denied, "permissions or credentials"),
        (403, "SignatureDoesNotMatch", TierProblem::Denied, "permissions or credentials"),
        (403, "RequestTimeTooSkewed", TierProblem::Clock, "synchronize the clock"),
        (400, "AuthorizationHeaderMalformed", TierProblem::Region, "tier.region"),
        (301, "PermanentRedirect", TierProblem::Region, "tier.region"),
        (503, "SlowDown", TierProblem::Busy, "request limit"),
        (507, "QuotaExceeded", TierProblem::Full, "gupd tier gc"),
    ] {
        let bucket = TestBucket::start();
        bucket.bucket.set_fault(Some(BucketFault::Refused(status, code)));
        let error = bucket.tier().find(KEY).await.unwrap_err();
        assert_eq!(error.problem, problem, "{code}: {error}");
        let line = error.to_string();
        assert!(line.contains(remedy) && !line.contains('\n'), "{code}: {line}");
        bucket.bucket.set_fault(Some(BucketFault::WriteRefused(status, code)));
        let tier = bucket.tier();
        assert!(tier.find(KEY).await.unwrap().is_none(), "reading works");
        assert!(publish(&tier, &body(1_000)).await.is_err(), "{code}");
        // The next attempt succeeds.
        bucket.bucket.set_fault(None);
        assert_eq!(publish(&tier, &body(1_000)).await.unwrap(), TierPublication::Published);
    }
}

#[tokio::test]
async fn wrong_bucket_key_or_port_is_named() {
    let bucket = TestBucket::start();
    let other = BucketSettings { bucket: "other".to_owned(), ..bucket.settings() };
    assert_eq!(tier(other).unwrap().find(KEY).await.unwrap_err().problem, TierProblem::Missing);
    std::fs::write(bucket.credentials.path(), "aws_access_key_id = x\naws_secret_access_key = y").unwrap();
    assert_eq!(bucket.tier().find(KEY).await.unwrap_err().problem, TierProblem::Denied);
    std::fs::write(bucket.credentials.path(), "aws_access_key_id = x").unwrap();
    let error = tier(bucket.settings()).err().unwrap();
    assert_eq!(error.problem, TierProblem::Credentials);
    assert!(error.to_string().contains("0600"), "{error}");
    let refusing = gupd_site::RefusingPort::new();
    let closed = TestBucket::start();
    let settings = BucketSettings { endpoint: Some(refusing.url().parse().unwrap()), ..closed.settings() };
    let error = tier(settings).unwrap().find(KEY).await.unwrap_err();
    assert_eq!(error.problem, TierProblem::Unreachable, "{error}");
}

#[tokio::test]
async fn body_that_breaks_off_is_an_error_and_no_damage() {
    let (bucket, body) = (TestBucket::start(), body(300_000));
    publish(&bucket.tier(), &body).await.unwrap();
    let reader = bucket.tier();
    assert!(reader.find(KEY).await.unwrap().is_some());
    bucket.bucket.set_fault(Some(BucketFault::Cut(70_000)));
    assert!(read(&reader, 0..300_000).await.unwrap().is_err());
    assert!(!reader.is_damaged(KEY));
    bucket.bucket.set_fault(None);
    assert!(read(&reader, 0..300_000).await.unwrap().unwrap() == body);
}

#[tokio::test]
async fn collection_removes_only_old_blobs_that_no_record_names() {
    let bucket = TestBucket::start();
    let tier = bucket.tier();
    publish(&tier, &body(100_000)).await.unwrap();
    let far = i64::MAX;
    let kept = tier.collect(|_| false, far, false).await.unwrap();
    assert_eq!((kept.records, kept.blobs), (0, 0), "the record names its blob");
    let counted = tier.collect(|_| true, far, true).await.unwrap();
    assert_eq!((counted.records, counted.blobs, bucket.bucket.names().len()), (1, 1, 2), "only counted");
    let young = tier.collect(|_| true, 0, false).await.unwrap();
    assert_eq!((young.records, young.blobs, bucket.bucket.names().len()), (1, 0, 1), "the blob is young");
    let old = tier.collect(|_| false, far, false).await.unwrap();
    assert_eq!((old.blobs, old.bytes, bucket.bucket.names().len()), (1, 100_000, 0));
    // A later relay may name any blob.
    publish(&tier, &body(1_000)).await.unwrap();
    bucket.bucket.change("/objects/", |bytes| bytes[8] = 7);
    let later = tier.collect(|_| true, far, false).await.unwrap();
    assert_eq!((later.later, later.blobs, bucket.bucket.names().len()), (1, 0, 2));
}

#[tokio::test]
async fn verification_finds_every_kind_of_damage() {
    let bucket = TestBucket::start();
    publish(&bucket.tier(), &body(200_000)).await.unwrap();
    let verify = async || {
        let tier = bucket.tier();
        let objects = tier.list().await.unwrap();
        match &objects[0].state {
            crate::ListedState::Usable(record) => tier.verify(record).await.unwrap(),
            crate::ListedState::Later | crate::ListedState::Damaged => false,
        }
    };
    assert!(verify().await);
    bucket.bucket.change("/blobs/", |bytes| bytes.truncate(199_999));
    assert!(!verify().await);
    bucket.bucket.change("/blobs/", |bytes| bytes.push(0));
    assert!(!verify().await, "the last byte differs");
    bucket.bucket.change("/objects/", Vec::clear);
    assert!(!verify().await);
}
