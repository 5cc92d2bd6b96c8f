//! What content ought to be, by the word of the origin's header fields or of the catalog beside it, and what follows
//! when it is not: it is fetched once more, and if that is no better, passed on and not kept, with an alarm. Owns that
//! judgement and what it remembers; relies on `store` for bytes and their SHA-256, and on `cache` to forget. It stores
//! nothing and stops no fill: `fill` asks before it shows the end of a body and does what it is told.

pub mod catalog;
pub mod expectation;
pub mod field;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use prometheus::IntCounterVec;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

pub use self::expectation::{Expectation, Mismatch};
use self::field::{AnnouncedDigest, Announcer};
use crate::{Cache, CacheEntry};
use gupd_config::Class;
use gupd_store::{BlobId, BodySource, Object, ObjectKey, ReadError};

/// Files whose hash is remembered from catalogs, at about 300 bytes each: 5 MiB. A product's catalog lists some tens, a
/// LiveUpdate server has hundreds of products; what is forgotten is not checked until its catalog is read again.
const MAX_LISTED: u64 = 16_384;

/// Catalogs remembered as read, so that each version is read once.
const MAX_CATALOGS: u64 = 1024;

/// Keys whose content was not what was announced.
const MAX_DOUBTED: u64 = 10_000;

/// How long each of them is passed on at once, before it is fetched twice again: long enough that a manager whose
/// digests are wrong costs the line little, short enough that one that was mended is soon kept.
const DOUBT: Duration = Duration::from_secs(3600);

/// Catalogs read at once: each takes its own bytes and its inflated lists.
const CATALOG_READS: usize = 1;

/// What is known of content before it arrives, for one relay.
#[derive(Debug)]
pub struct Digests {
    cache: Arc<Cache>,
    listed: moka::sync::Cache<String, BlobId>,
    catalogs: moka::sync::Cache<ObjectKey, BlobId>,
    doubted: moka::sync::Cache<ObjectKey, ()>,
    reads: Semaphore,
    mismatches: IntCounterVec,
}

/// The response that content belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its key.
    pub key: &'a ObjectKey,
    /// The class of its path.
    pub class: Class,
    /// Its status.
    pub status: StatusCode,
}

/// Content that is here whole.
#[derive(Clone, Debug)]
pub struct CompleteContent {
    /// Where it is read.
    pub source: BodySource,
    /// Its bytes.
    pub length: u64,
    /// Their SHA-256.
    pub blob: BlobId,
}

/// What to do with content that has arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestVerdict {
    /// It is what was announced, or nothing was: keep it.
    Keep,
    /// It is not: show its end to nobody, and fetch it again.
    FetchAgain,
    /// It was not before either: pass it on, keep nothing.
    PassOn,
}

impl Digests {
    /// Knows nothing yet. `mismatches` counts by announcer and consequence.
    pub fn new(cache: Arc<Cache>, mismatches: IntCounterVec) -> Self {
        for by in Announcer::ALL {
            for then in [Consequence::FetchedAgain, Consequence::PassedOn] {
                mismatches.with_label_values(&[by.as_str(), then.as_str()]);
            }
        }
        mismatches.with_label_values(&[Announcer::Catalog.as_str(), Consequence::Forgotten.as_str()]);
        Self {
            cache,
            listed: moka::sync::Cache::new(MAX_LISTED),
            catalogs: moka::sync::Cache::new(MAX_CATALOGS),
            doubted: moka::sync::Cache::builder().max_capacity(MAX_DOUBTED).time_to_live(DOUBT).build(),
            reads: Semaphore::new(CATALOG_READS),
            mismatches,
        }
    }

    /// What the content of a response with this head must be; `again` if it is one fetched again. Only payloads are checked against a catalog: what may
    /// change under its name may be newer than the catalog at hand.
    pub fn expect(&self, subject: Subject<'_>, headers: &HeaderMap, again: bool) -> Expectation {
        let Subject { key, class, status } = subject;
        let mut announced = field::announced_digests(status, headers);
        if class == Class::Payload
            && status.is_success()
            && let Some(blob) = self.listed.get(&**key)
        {
            announced.push(AnnouncedDigest { by: Announcer::Catalog, digest: blob.into() });
        }
        Expectation::new(announced, again || self.doubted.contains_key(&**key), is_catalog(subject))
    }

    /// Judges content that has arrived, before its end is shown to anyone. If it is a catalog that will be kept, it has
    /// then been read: nobody can ask for its payloads before they are known.
    ///
    /// # Errors
    /// When its bytes cannot be read; then it cannot be vouched for.
    pub async fn verify(
        &self,
        subject: Subject<'_>,
        expected: &Expectation,
        whole: &CompleteContent,
    ) -> Result<DigestVerdict, ReadError> {
        let key = subject.key;
        let Some(mismatch) = expected.compare(self.cache.store(), whole).await? else {
            if !expected.is_empty() {
                self.doubted.invalidate(&**key);
            }
            self.read_catalog(subject, whole).await;
            return Ok(DigestVerdict::Keep);
        };
        let (judgement, then) = if expected.is_doubted() {
            (DigestVerdict::PassOn, Consequence::PassedOn)
        } else {
            (DigestVerdict::FetchAgain, Consequence::FetchedAgain)
        };
        self.doubted.insert(key.clone(), ());
        self.report_mismatch(key, &mismatch, then);
        Ok(judgement)
    }

    /// Forgets a stored payload that is not what the catalog beside it lists: it was stored before that was known. Says
    /// whether it was one.
    pub async fn remove_mismatched(&self, entry: &CacheEntry) -> bool {
        let Object { key, status, blob, .. } = &entry.object;
        let listed = self.listed.get(&**key).filter(|listed| listed != blob);
        let Some(listed) =
            listed.filter(|_| entry.classification.class == Class::Payload && *status == StatusCode::OK)
        else {
            return false;
        };
        let mismatch = Mismatch { by: Announcer::Catalog, expected: listed.into(), found: (*blob).into() };
        self.report_mismatch(key, &mismatch, Consequence::Forgotten);
        if let Err(error) = self.cache.invalidate(key).await {
            tracing::error!(%error, key = &**key, "it cannot be removed from the index");
        }
        true
    }

    /// Reads a catalog that has not been read: one that has just arrived, or one that was stored before the relay
    /// started. One that is not to be believed is told of in the log, and changes nothing.
    pub async fn read_catalog(&self, subject: Subject<'_>, whole: &CompleteContent) {
        let key = subject.key;
        let known = || self.catalogs.get(&**key) == Some(whole.blob);
        if !is_catalog(subject) || known() {
            return;
        }
        let Ok(_permit) = self.reads.acquire().await else { return };
        if known() {
            return;
        }
        let files = match self.load_catalog(whole).await {
            Ok(files) => files,
            // Its bytes may be better the next time.
            Err(CatalogReadError::Read(error)) => {
                tracing::warn!(%error, key = &**key, "a catalog's hashes cannot be read");
                return;
            }
            Err(error) => {
                let said = "a catalog's hashes cannot be used; its payloads are not checked against it";
                tracing::warn!(%error, key = &**key, "{said}");
                Vec::new()
            }
        };
        for (name, blob) in files {
            let Some(sibling) = catalog::payload_key(key, &name) else { continue };
            self.listed.insert(sibling.clone(), blob);
            // One that is not hot is compared when it is next found.
            if let Some(entry) = self.cache.find_hot(&sibling, &HeaderMap::new()) {
                self.remove_mismatched(&entry).await;
            }
        }
        self.catalogs.insert(key.clone(), whole.blob);
    }

    /// Keys of the payloads that catalogs list, as far as they are remembered.
    pub fn listed_keys(&self) -> Vec<Arc<String>> {
        self.listed.iter().map(|(key, _)| key).collect()
    }

    fn report_mismatch(&self, key: &str, mismatch: &Mismatch, then: Consequence) {
        let Mismatch { by, expected, found } = mismatch;
        let (by, said) = (by.as_str(), then.message());
        tracing::error!(key, by, %expected, %found, "{said}");
        self.mismatches.with_label_values(&[by, then.as_str()]).inc();
    }

    async fn load_catalog(
        &self,
        whole: &CompleteContent,
    ) -> Result<Vec<catalog::ListedFile>, CatalogReadError> {
        if whole.length > catalog::MAX_CATALOG {
            return Err(catalog::CatalogError::TooLarge(whole.length).into());
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < whole.length {
            bytes.extend_from_slice(&self.cache.store().read(&whole.source, bytes.len() as u64).await?);
        }
        Ok(spawn_blocking(move || catalog::parse(&bytes)).await??)
    }
}

/// Whether this is a catalog to read.
fn is_catalog(subject: Subject<'_>) -> bool {
    let Subject { key, class, status } = subject;
    class == Class::Catalog && status == StatusCode::OK && catalog::is_catalog(key)
}

/// What follows from a mismatch.
#[derive(Clone, Copy)]
enum Consequence {
    FetchedAgain,
    PassedOn,
    Forgotten,
}

impl Consequence {
    /// The metric's label.
    const fn as_str(self) -> &'static str {
        match self {
            Self::FetchedAgain => "fetched-again",
            Self::PassedOn => "passed-on",
            Self::Forgotten => "forgotten",
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::FetchedAgain => "content is not what was announced; it is fetched again",
            Self::PassedOn => {
                "content is again not what was announced; it is passed on and not stored: look at the manager's file"
            }
            Self::Forgotten => {
                "a stored payload is not what its catalog lists; it is fetched again when asked for"
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum CatalogReadError {
    #[error(transparent)]
    Catalog(#[from] catalog::CatalogError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("its reader ended: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}
