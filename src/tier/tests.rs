//! Publication and reading over a folder: concurrent writers, damage of every kind, absent and unwritable storage.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, header};
use prometheus::Registry;
use sha2::{Digest, Sha256};

use super::record::{hex, name_of};
use super::{NewRecord, Tier, TierError, TierProblem, TierPublication};
use crate::metrics::TierMetrics;
use gupd_config::{TierLocation, TierSettings};

pub(crate) const KEY: &str = "/ /content/a/full.zip";

fn settings(folder: &FilePath) -> TierSettings {
    TierSettings {
        url: format!("file://{}", folder.display()),
        location: TierLocation::Folder(folder.to_owned()),
        hedge: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        publish: true,
        wan: false,
        max_object: 1 << 30,
    }
}

fn tier(folder: &FilePath) -> Arc<Tier> {
    let metrics = Arc::new(TierMetrics::register(&Registry::new()).unwrap());
    Arc::new(Tier::new(&settings(folder), metrics).unwrap())
}

pub(crate) fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

fn new_record(body: &[u8]) -> NewRecord {
    NewRecord {
        key: KEY.to_owned(),
        content_type: "virus-definitions".to_owned(),
        headers: HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("\"a\""))]),
        length: body.len() as u64,
        sha256: Sha256::digest(body).into(),
    }
}

pub(crate) async fn publish(tier: &Tier, body: &[u8]) -> Result<TierPublication, super::PublicationError> {
    // Pieces that fit neither blocks nor parts.
    let pieces: Vec<Result<Bytes, TierError>> =
        body.chunks(100_001).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    tier.publish(&new_record(body), stream::iter(pieces)).await
}

pub(crate) async fn read(
    tier: &Arc<Tier>,
    range: std::ops::Range<u64>,
) -> Option<Result<Vec<u8>, TierError>> {
    let record = tier.find(KEY).await.unwrap()?;
    let pieces: Vec<_> = tier.stream(&record, range).collect().await;
    let joined: Result<Vec<Bytes>, TierError> = pieces.into_iter().collect();
    Some(joined.map(|pieces| pieces.concat()))
}

fn blob(folder: &FilePath, body: &[u8]) -> std::path::PathBuf {
    folder.join("blobs").join(hex(&Sha256::digest(body).into()))
}

#[tokio::test]
async fn published_object_is_read_by_another_relay_in_any_range() {
    for length in [1, 65_536, 65_537, 3 << 20, (11 << 20) + 5] {
        let (folder, body) = (tempfile::tempdir().unwrap(), body(length));
        assert_eq!(publish(&tier(folder.path()), &body).await.unwrap(), TierPublication::Published);
        let (other, length) = (tier(folder.path()), length as u64);
        for range in [0..length, length / 2..length, length / 3..length / 2 + 1, length - 1..length] {
            let bytes = read(&other, range.clone()).await.unwrap().unwrap();
            assert!(bytes == body[range.start as usize..range.end as usize], "{range:?} of {length}");
        }
        assert_eq!(publish(&other, &body).await.unwrap(), TierPublication::Present);
    }
}

#[tokio::test]
async fn concurrent_writers_agree_on_one_object() {
    let (folder, body) = (tempfile::tempdir().unwrap(), body(6 << 20));
    let tiers: Vec<_> = (0..6).map(|_| tier(folder.path())).collect();
    let outcomes = join_all(tiers.iter().map(|tier| publish(tier, &body))).await;
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    let new = outcomes.iter().filter(|outcome| **outcome == TierPublication::Published).count();
    assert_eq!(new, 1, "{outcomes:?}");
    assert!(read(&tier(folder.path()), 0..6 << 20).await.unwrap().unwrap() == body);
    assert_eq!(fs::read_dir(folder.path().join("blobs")).unwrap().count(), 1, "no parts are left");
}

#[tokio::test]
async fn damaged_object_is_absent_until_it_is_replaced() {
    type Damage = fn(&FilePath, &[u8]);
    let damages: [(&str, Damage); 6] = [
        ("flipped bit", |folder, body| {
            let mut bytes = body.to_vec();
            bytes[200_000] ^= 1;
            fs::write(blob(folder, body), bytes).unwrap();
        }),
        ("truncated blob", |folder, body| fs::write(blob(folder, body), &body[..100_000]).unwrap()),
        ("empty blob", |folder, body| fs::write(blob(folder, body), b"").unwrap()),
        ("missing blob", |folder, body| fs::remove_file(blob(folder, body)).unwrap()),
        ("truncated record", |folder, _| {
            let path = folder.join("objects").join(name_of(KEY));
            let record = fs::read(&path).unwrap();
            fs::write(path, &record[..record.len() / 2]).unwrap();
        }),
        ("empty record", |folder, _| fs::write(folder.join("objects").join(name_of(KEY)), b"").unwrap()),
    ];
    for (name, damage) in damages {
        let (folder, body) = (tempfile::tempdir().unwrap(), body(300_000));
        publish(&tier(folder.path()), &body).await.unwrap();
        damage(folder.path(), &body);
        let reader = tier(folder.path());
        if let Some(read) = read(&reader, 0..300_000).await {
            assert!(read.is_err(), "{name}");
        }
        assert!(reader.is_damaged(KEY), "{name}");
        assert!(reader.find(KEY).await.unwrap().is_none(), "{name}");
        assert_eq!(publish(&reader, &body).await.unwrap(), TierPublication::Repaired, "{name}");
        assert!(!reader.is_damaged(KEY));
        assert!(read(&tier(folder.path()), 0..300_000).await.unwrap().unwrap() == body, "{name}");
    }
}

#[tokio::test]
async fn other_content_under_a_key_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    publish(&tier(folder.path()), &body(1_000)).await.unwrap();
    assert_eq!(publish(&tier(folder.path()), &body(2_000)).await.unwrap(), TierPublication::Conflict);
    assert!(read(&tier(folder.path()), 0..1_000).await.unwrap().unwrap() == body(1_000));
}

#[tokio::test]
async fn record_of_a_later_version_is_left_alone() {
    let (folder, body) = (tempfile::tempdir().unwrap(), body(1_000));
    publish(&tier(folder.path()), &body).await.unwrap();
    let path = folder.path().join("objects").join(name_of(KEY));
    let mut record = fs::read(&path).unwrap();
    record[8] = 9;
    fs::write(&path, &record).unwrap();
    let tier = tier(folder.path());
    assert!(tier.find(KEY).await.unwrap().is_none() && !tier.is_damaged(KEY));
    assert_eq!(publish(&tier, &body).await.unwrap(), TierPublication::Present);
    assert!(fs::read(&path).unwrap() == record);
}

#[tokio::test]
async fn absent_folder_is_an_error_and_is_never_created() {
    let folder = tempfile::tempdir().unwrap();
    let share = folder.path().join("share");
    let tier = tier(&share);
    assert_eq!(tier.find(KEY).await.unwrap_err().problem, TierProblem::Missing);
    assert!(publish(&tier, &body(1_000)).await.is_err());
    assert!(!share.exists());
    // It is mounted, used, and lost again.
    fs::create_dir(&share).unwrap();
    assert_eq!(publish(&tier, &body(1_000)).await.unwrap(), TierPublication::Published);
    fs::remove_dir_all(&share).unwrap();
    assert!(publish(&tier, &body(2_000)).await.is_err());
    assert!(!share.exists());
}

#[tokio::test]
async fn folder_without_permission_is_named_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let written = publish(&tier(folder.path()), &body(1_000)).await;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    // The superuser may write anywhere.
    if let Err(error) = written {
        assert!(error.to_string().contains("tier.publish = false"), "{error}");
    }
}

#[tokio::test]
async fn body_of_another_length_leaves_no_record() {
    let (folder, body) = (tempfile::tempdir().unwrap(), body(6 << 20));
    let tier = tier(folder.path());
    for length in [0, 5_000, (6 << 20) - 1] {
        let short = stream::iter([Ok::<_, TierError>(Bytes::copy_from_slice(&body[..length]))]);
        assert!(tier.publish(&new_record(&body), short).await.is_err());
    }
    assert!(tier.find(KEY).await.unwrap().is_none());
}
