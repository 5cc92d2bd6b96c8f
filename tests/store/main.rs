//! Tests of the store's guarantees on real folders: bytes are returned as written or not at all, a crash loses
//! nothing that was committed, and the limits hold. This file has the shared steps; each other file covers one
//! guarantee.

#![allow(clippy::unwrap_used, reason = "test steps: a failure here fails the test")]

mod bytes_on_disk;
mod clients;
mod damage;
mod health;
mod index;
mod limits;
mod lost_index;
mod memory;
mod migration;
mod packs;
mod pins;
mod power_loss;
mod publication;
mod restart;
mod scrub;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gupd_config as config;
use gupd_config::clock::Clock;
use gupd_config::policy::{Classification, PayloadForm};
use gupd_config::{Class, Verification};
use gupd_store::{
    BlobId, BlobWriter, BodySource, CommittedObject, NewObject, ObjectCopy, PartialBlob, Publication,
    ReadError, Segment, Store, StoreError,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const NOW: i64 = 1_700_000_000_000;

/// A store folder and a manual clock.
struct Site {
    dir: TempDir,
    config: config::StoreSettings,
    clock: Clock,
}

impl Site {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let config = config::StoreSettings {
            dir: dir.path().join("store"),
            quota: 1 << 30,
            min_free: 0,
            max_unused: Duration::from_secs(3600),
            memory: 64 * MIB,
            scrub_period: None,
            scrub_rate: 64 * MIB,
        };
        Self { dir, config, clock: Clock::manual(NOW) }
    }

    fn with(change: impl FnOnce(&mut config::StoreSettings)) -> Self {
        let mut site = Self::new();
        change(&mut site.config);
        site
    }

    fn open(&self) -> Arc<Store> {
        Store::open(&self.config, self.clock.clone()).unwrap()
    }

    /// Copies the folder as a power failure would leave it now.
    fn crashed(&self) -> Self {
        let to = TempDir::new().unwrap();
        copy(&self.config.dir, &to.path().join("store"));
        let config = config::StoreSettings { dir: to.path().join("store"), ..self.config.clone() };
        Self { dir: to, config, clock: self.clock.clone() }
    }

    fn blob(&self, id: BlobId) -> PathBuf {
        let name = id.to_string();
        self.config.dir.join("blobs").join(&name[..2]).join(name)
    }

    /// Returns the sizes of all blob files and packs, including unfinished ones.
    fn files(&self) -> Vec<u64> {
        let mut sizes = Vec::new();
        let dirs = fs::read_dir(self.config.dir.join("blobs")).unwrap().map(|dir| dir.unwrap().path());
        for folder in dirs.chain(["partial", "packs"].map(|name| self.config.dir.join(name))) {
            // A file removed meanwhile takes no room.
            sizes.extend(
                fs::read_dir(folder).unwrap().filter_map(|file| Some(file.unwrap().metadata().ok()?.len())),
            );
        }
        sizes
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Returns `len` bytes that differ by seed and never repeat at a block's distance.
fn body(seed: u64, len: u64) -> Bytes {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let word = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32).to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(word).collect();
    bytes.truncate(usize::try_from(len).unwrap());
    bytes.into()
}

fn response(key: &str) -> NewObject {
    let mut headers = HeaderMap::new();
    headers.insert("etag", HeaderValue::from_static("\"1\""));
    NewObject {
        key: key.into(),
        selecting: String::new(),
        status: StatusCode::OK,
        headers,
        content_type: "test".into(),
        upstream: "manager".into(),
        request_time: NOW - 20,
        response_time: NOW - 10,
    }
}

fn payload() -> Classification {
    Classification {
        class: Class::Payload,
        form: PayloadForm::Full,
        content_type: Arc::from("test"),
        rule: None,
        format: None,
        verification: Verification::Off,
    }
}

/// A blob written in order.
#[derive(Debug)]
struct InOrder {
    writer: BlobWriter,
    segment: Segment,
}

impl InOrder {
    async fn begin(store: &Arc<Store>, len: Option<u64>) -> Result<Self, StoreError> {
        let mut writer = store.begin_blob(len).await?;
        let segment = writer.begin_segment(0);
        Ok(Self { writer, segment })
    }

    fn partial(&self) -> &Arc<PartialBlob> {
        self.writer.partial()
    }

    async fn write(&mut self, frames: Vec<Bytes>) -> Result<u64, StoreError> {
        self.segment.write(frames).await
    }

    fn end(&mut self) -> u64 {
        self.segment.end().unwrap()
    }

    async fn commit(mut self, object: NewObject) -> Result<CommittedObject, StoreError> {
        self.segment.end()?;
        self.writer.return_segment(self.segment);
        self.writer.commit(object).await
    }
}

async fn store(store: &Arc<Store>, key: &str, body: &Bytes) -> Result<CommittedObject, StoreError> {
    let mut writer = InOrder::begin(store, Some(body.len() as u64)).await?;
    writer.write(vec![body.clone()]).await?;
    writer.commit(response(key)).await
}

/// Publishes a copy of the object under `key` as `@1 key`.
async fn publish_copy(store: &Store, key: &str) {
    let object = store.lookup(key).await.unwrap().remove(0);
    let key = format!("@1 {key}").into();
    let copy = ObjectCopy { object: object.id, blob: object.blob, key, last_used: NOW };
    store.publish(Publication { copies: vec![copy], ..Publication::default() }).await.unwrap();
}

async fn read_from(store: &Store, source: &BodySource, from: u64, to: u64) -> Result<Bytes, ReadError> {
    let mut all = Vec::new();
    let mut position = from;
    while position < to {
        let piece = store.read(source, position).await?;
        assert!(!piece.is_empty());
        assert!(position % MIB + piece.len() as u64 <= MIB, "a piece goes past its chunk");
        position += piece.len() as u64;
        all.extend_from_slice(&piece);
    }
    assert_eq!(position, to, "a piece goes past the body");
    Ok(all.into())
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}
