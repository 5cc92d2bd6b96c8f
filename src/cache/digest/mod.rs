//! Verification of content against digests that its head or its catalog announces. Content that does not match is
//! fetched again. Two downloads with the same bytes outvote the announcement: they are passed on, not kept, and
//! reported. Downloads that differ from each other are corrupt and never end cleanly. This module owns the verdict and
//! the remembered mismatches. A fill asks for the verdict before it publishes the end of a body.

mod catalog;
mod expectation;
pub mod field;
mod mismatch;
mod passed;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use prometheus::IntCounterVec;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

pub(crate) use self::expectation::Expectation;
use self::expectation::Mismatch;
use self::field::{AnnouncedDigest, Announcer};
use self::mismatch::MismatchedDownloads;
pub use self::passed::PassedContent;
use crate::{Cache, CacheEntry};
use gupd_config::Class;
use gupd_config::profile::DigestList;
use gupd_http::SelectingRequest;
use gupd_store::{BlobId, BodySource, Object, ObjectKey, ReadError};

/// Maximum number of payload hashes remembered from catalogs, at about 300 bytes each: 5 MiB. A product's catalog lists
/// some tens of files, and a LiveUpdate server has hundreds of products. A forgotten file is not verified until its
/// catalog is read again.
const MAX_LISTED: u64 = 16_384;

/// Maximum number of catalogs remembered as read, so that each version is read once.
const MAX_CATALOGS: u64 = 1024;

/// Maximum number of keys remembered for a mismatch, at about 700 bytes each at most: 7 MiB.
const MAX_MISMATCHED: u64 = 10_000;

/// Time since its last mismatch for which a key is remembered. Long enough that a manager with wrong digests or a line
/// that corrupts content costs little bandwidth, short enough that a repaired one gets all its attempts again.
const REMEMBER_MISMATCHES: Duration = Duration::from_secs(3600);

/// Number of catalogs read at once; each takes memory for its bytes and its inflated lists.
const CATALOG_READS: usize = 1;

/// Digests known to a relay.
#[derive(Debug)]
pub struct Digests {
    cache: Arc<Cache>,
    listed: moka::sync::Cache<String, BlobId>,
    catalogs: moka::sync::Cache<ObjectKey, BlobId>,
    mismatched: moka::sync::Cache<ObjectKey, MismatchedDownloads>,
    reads: Semaphore,
    mismatches: IntCounterVec,
}

/// Response that content belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its key.
    pub key: &'a ObjectKey,
    /// Class of its path.
    pub class: Class,
    /// Its status.
    pub status: StatusCode,
    /// Form of the list of payload digests, if the path is that of a catalog with one.
    pub digests: Option<DigestList>,
}

/// Content with all its bytes.
#[derive(Clone, Debug)]
pub struct CompleteContent {
    /// Location of the bytes.
    pub source: BodySource,
    /// Number of bytes.
    pub length: u64,
    /// SHA-256 of the bytes.
    pub blob: BlobId,
}

/// Verdict on complete content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DigestVerdict {
    /// The content matches, or no digest was announced: keep it.
    Keep,
    /// The content does not match: hide its end and fetch it again.
    FetchAgain,
    /// Two downloads agree with each other and not with the digest: pass the content on and keep nothing.
    PassOn,
    /// As many downloads as allowed neither match nor agree: hide the end and give up.
    GiveUp,
}

impl Digests {
    /// Creates an empty set. `mismatches` counts by announcer and consequence.
    pub(crate) fn new(cache: Arc<Cache>, mismatches: IntCounterVec) -> Self {
        for by in Announcer::ALL {
            for consequence in [Consequence::FetchedAgain, Consequence::PassedOn, Consequence::GivenUp] {
                mismatches.with_label_values(&[by.as_str(), consequence.as_str()]);
            }
        }
        mismatches.with_label_values(&[Announcer::Catalog.as_str(), Consequence::Forgotten.as_str()]);
        Self {
            cache,
            listed: moka::sync::Cache::new(MAX_LISTED),
            catalogs: moka::sync::Cache::new(MAX_CATALOGS),
            mismatched: moka::sync::Cache::builder()
                .max_capacity(MAX_MISMATCHED)
                .time_to_live(REMEMBER_MISMATCHES)
                .build(),
            reads: Semaphore::new(CATALOG_READS),
            mismatches,
        }
    }

    /// Returns the digests expected of a response with this head. Only payloads are checked against a catalog: other
    /// content may change under its name and be newer than the catalog.
    pub(crate) fn expect(&self, subject: Subject<'_>, headers: &HeaderMap) -> Expectation {
        let Subject { key, class, status, .. } = subject;
        let mut announced = field::announced_digests(status, headers);
        if !self.cache.verifies_content_md5() {
            announced.retain(|one| one.by != Announcer::ContentMd5);
        }
        if class == Class::Payload
            && status.is_success()
            && let Some(blob) = self.listed.get(&**key)
        {
            announced.push(AnnouncedDigest { by: Announcer::Catalog, digest: blob.into() });
        }
        let is_outvoted = self.mismatched.get(&**key).is_some_and(|downloads| downloads.is_outvoted());
        Expectation::new(announced, is_outvoted, is_catalog(subject))
    }

    /// Verifies complete content before its end is published. `attempts` is the number of downloads that may differ
    /// from the digest and from each other. A catalog is also read at this point, so its hashes are known before a
    /// client can request its payloads.
    ///
    /// # Errors
    /// Returns an error if the bytes cannot be read; the content is then unverified.
    pub(crate) async fn verify(
        &self,
        subject: Subject<'_>,
        expected: &Expectation,
        content: &CompleteContent,
        attempts: u32,
    ) -> Result<DigestVerdict, ReadError> {
        let key = subject.key;
        let Some(mismatch) = expected.compare(self.cache.store(), content).await? else {
            if !expected.is_empty() {
                self.mismatched.invalidate(&**key);
            }
            self.read_catalog(subject, content).await;
            return Ok(DigestVerdict::Keep);
        };
        Ok(self.judge(subject, content.blob, &mismatch, attempts))
    }

    /// Records a download that does not match its digest, and returns its verdict.
    fn judge(&self, subject: Subject<'_>, blob: BlobId, mismatch: &Mismatch, attempts: u32) -> DigestVerdict {
        let key = subject.key;
        let mut downloads = self.mismatched.get(&**key).unwrap_or_default();
        let (verdict, consequence) = if downloads.record(blob) {
            (DigestVerdict::PassOn, Consequence::PassedOn)
        } else if downloads.count() < attempts {
            (DigestVerdict::FetchAgain, Consequence::FetchedAgain)
        } else {
            (DigestVerdict::GiveUp, Consequence::GivenUp)
        };
        self.mismatched.insert(key.clone(), downloads);
        self.report_mismatch(key, mismatch, consequence);
        verdict
    }

    /// Removes a stored payload that does not match its catalog: it was stored before the catalog was read. Returns
    /// true if it was removed.
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
            tracing::error!(%error, key = &**key, "cannot remove a mismatched payload from the index");
        }
        true
    }

    /// Reads a catalog unless this version was read before: one that has just arrived, or one stored before the relay
    /// started. An invalid catalog is logged and changes nothing.
    pub async fn read_catalog(&self, subject: Subject<'_>, content: &CompleteContent) {
        let key = subject.key;
        let is_known = || self.catalogs.get(&**key) == Some(content.blob);
        if !is_catalog(subject) || is_known() {
            return;
        }
        let Ok(_permit) = self.reads.acquire().await else { return };
        if is_known() {
            return;
        }
        let files = match self.load_catalog(content).await {
            Ok(files) => files,
            // The bytes may be readable the next time.
            Err(CatalogReadError::Read(error)) => {
                tracing::warn!(%error, key = &**key, "cannot read the hashes of a catalog");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, key = &**key, "catalog ignored; its payloads are not verified against it");
                Vec::new()
            }
        };
        for (name, blob) in files {
            let Some(payload) = catalog::payload_key(key, &name) else { continue };
            self.listed.insert(payload.clone(), blob);
            // Entries that are not hot are compared by the next lookup.
            let request = SelectingRequest { headers: &HeaderMap::new(), target: "" };
            if let Some(entry) = self.cache.find_hot(&payload, request) {
                self.remove_mismatched(&entry).await;
            }
        }
        self.catalogs.insert(key.clone(), content.blob);
    }

    /// Keys of the payloads listed by remembered catalogs.
    pub fn listed_keys(&self) -> Vec<Arc<String>> {
        self.listed.iter().map(|(key, _)| key).collect()
    }

    fn report_mismatch(&self, key: &str, mismatch: &Mismatch, consequence: Consequence) {
        let Mismatch { by, expected, found } = mismatch;
        let (by, message) = (by.as_str(), consequence.message());
        tracing::error!(key, by, %expected, %found, "{message}");
        self.mismatches.with_label_values(&[by, consequence.as_str()]).inc();
    }

    async fn load_catalog(
        &self,
        content: &CompleteContent,
    ) -> Result<Vec<catalog::ListedFile>, CatalogReadError> {
        if content.length > catalog::MAX_CATALOG {
            return Err(catalog::CatalogError::TooLarge(content.length).into());
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < content.length {
            bytes.extend_from_slice(&self.cache.store().read(&content.source, bytes.len() as u64).await?);
        }
        Ok(spawn_blocking(move || catalog::parse(&bytes)).await??)
    }
}

/// Returns true if the response is a catalog with hashes.
fn is_catalog(subject: Subject<'_>) -> bool {
    subject.class == Class::Catalog
        && subject.status == StatusCode::OK
        && subject.digests == Some(DigestList::Grd)
}

/// Consequence of a mismatch.
#[derive(Clone, Copy)]
enum Consequence {
    FetchedAgain,
    PassedOn,
    GivenUp,
    Forgotten,
}

impl Consequence {
    /// Label value of the metric.
    const fn as_str(self) -> &'static str {
        match self {
            Self::FetchedAgain => "fetched-again",
            Self::PassedOn => "passed-on",
            Self::GivenUp => "given-up",
            Self::Forgotten => "forgotten",
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::FetchedAgain => "content does not match its announced digest; fetching it again",
            Self::PassedOn => {
                "content again does not match its announced digest; passed on and not stored: check the file on the manager"
            }
            Self::GivenUp => {
                "content does not match its announced digest and differs at each download; broken off: check the line to the manager"
            }
            Self::Forgotten => {
                "stored payload does not match its catalog; removed, to be fetched again on request"
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
    #[error("the catalog reader stopped: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}
