//! Publication of stored payloads in the shared tier, in the background. Fills offer what they got from managers; a
//! task reads it from the store and writes it to the tier. The queue, the number of publications at once and their
//! attempts are bounded. What is lost by a stop or a full queue is published by the next relay that fills it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{FuturesUnordered, StreamExt, unfold};
use http::{HeaderValue, StatusCode, header};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::CacheEntry;
use gupd_config::Class;
use gupd_http::{internal, key};
use gupd_net::upstream::TIER;
use gupd_store::{BLOCK, BodySource, ReadError, Store};
use gupd_tier::metrics::PublicationOutcome;
use gupd_tier::{NewRecord, PublicationError, Tier, TierPublication};

// The blocks of both have the same checksums.
const _: () = assert!(gupd_tier::BLOCK == BLOCK);

/// Maximum number of publications that wait. A new revision has some hundred payloads.
const QUEUE: usize = 1_024;

/// Number of publications at once: each holds some MiB.
const CONCURRENT: usize = 2;

/// Attempts at one publication.
const ATTEMPTS: u32 = 4;

/// Wait before the second attempt; each further one waits four times as long.
const BACKOFF: Duration = Duration::from_millis(250);

/// Takes offers of fills.
#[derive(Debug)]
pub struct Publisher {
    tier: Arc<Tier>,
    queue: mpsc::Sender<Arc<CacheEntry>>,
}

/// Publishes the payloads that fills offered.
#[derive(Debug)]
pub struct PublicationTask {
    tier: Arc<Tier>,
    store: Arc<Store>,
    queue: mpsc::Receiver<Arc<CacheEntry>>,
}

impl Publisher {
    /// Creates the publisher of a relay, and its task.
    pub fn new(tier: Arc<Tier>, store: Arc<Store>) -> (Self, PublicationTask) {
        let (sender, queue) = mpsc::channel(QUEUE);
        (Self { tier: tier.clone(), queue: sender }, PublicationTask { tier, store, queue })
    }

    /// Offers a stored response. Responses that the tier must not have are ignored.
    pub(crate) fn offer(&self, entry: &Arc<CacheEntry>) {
        let settings = self.tier.settings();
        if !settings.publish || entry.object.len > settings.max_object || !is_publishable(entry) {
            return;
        }
        let came_from_tier = &*entry.object.upstream == TIER;
        if came_from_tier && !self.tier.is_damaged(&entry.object.key) {
            return;
        }
        self.tier.metrics().pending.inc();
        if self.queue.try_send(entry.clone()).is_err() {
            self.tier.metrics().pending.dec();
            self.tier.metrics().count(PublicationOutcome::Dropped);
        }
    }
}

impl PublicationTask {
    /// Publishes until `end` completes. Publications that run are dropped then; the tier has at most a blob without a
    /// record.
    pub async fn run(mut self, end: impl Future<Output = ()>) {
        let mut end = std::pin::pin!(end);
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = &mut end => return,
                Some(()) = running.next() => {}
                Some(entry) = self.queue.recv(), if running.len() < CONCURRENT => {
                    running.push(publish(&self.tier, &self.store, entry));
                }
                else => return,
            }
        }
    }
}

/// Returns true for content that is immutable by its name, and the same for every client.
fn is_publishable(entry: &CacheEntry) -> bool {
    let object = &entry.object;
    let is_coding = |names: &HeaderValue| names.as_bytes().eq_ignore_ascii_case(b"accept-encoding");
    let varies = !object.headers.get_all(header::VARY).iter().all(is_coding);
    entry.classification.class == Class::Payload
        && object.status == StatusCode::OK
        && object.len > 0
        && !varies
        && entry.selecting.is_empty_but_for_coding()
        && !object.headers.contains_key(header::CONTENT_ENCODING)
        && !object.headers.contains_key(internal::MUTABLE)
        && !object.headers.contains_key(header::SET_COOKIE)
        && key::split_key(&object.key).binding.is_none()
        && matches!(entry.body_source(), BodySource::Blob { .. })
}

async fn publish(tier: &Tier, store: &Store, entry: Arc<CacheEntry>) {
    let outcome = publish_patiently(tier, store, &entry).await;
    tier.metrics().count(outcome);
    tier.metrics().pending.dec();
}

/// Publishes with bounded attempts.
async fn publish_patiently(tier: &Tier, store: &Store, entry: &CacheEntry) -> PublicationOutcome {
    let object = &entry.object;
    let new = NewRecord {
        key: object.key.as_str().to_owned(),
        content_type: object.content_type.to_string(),
        headers: object.headers.clone(),
        length: object.len,
        sha256: *object.blob.as_bytes(),
    };
    let (source, mut backoff) = (entry.body_source(), BACKOFF);
    for attempt in 1..=ATTEMPTS {
        match tier.publish(&new, read_body(store, &source, object.len)).await {
            Ok(TierPublication::Published) => return PublicationOutcome::Published,
            Ok(TierPublication::Repaired) => return PublicationOutcome::Repaired,
            Ok(TierPublication::Present) => return PublicationOutcome::Present,
            Ok(TierPublication::Conflict) => return PublicationOutcome::Conflict,
            Err(PublicationError::Body(error)) => {
                tracing::debug!(%error, key = &*new.key, "object could not be read for its publication");
                return PublicationOutcome::Failed;
            }
            Err(PublicationError::Tier(error)) => {
                tracing::debug!(%error, key = &*new.key, attempt, "publication failed");
            }
        }
        if attempt < ATTEMPTS {
            sleep(backoff).await;
            backoff = backoff.saturating_mul(4);
        }
    }
    PublicationOutcome::Failed
}

/// Streams a stored body of `length` bytes in verified pieces.
fn read_body(
    store: &Store,
    source: &BodySource,
    length: u64,
) -> impl Stream<Item = Result<Bytes, ReadError>> {
    unfold(0, move |position| async move {
        if position >= length {
            return None;
        }
        let piece = store.read(source, position).await;
        let next = piece.as_ref().map_or(length, |piece| position.saturating_add(piece.len() as u64));
        Some((piece, next))
    })
}
