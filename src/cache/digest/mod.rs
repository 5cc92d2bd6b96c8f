//! Verification of content against digests that its head or its catalog announces. Content that does not match is
//! fetched again. Two downloads with the same bytes outvote the announcement: they are passed on, not kept, and
//! reported. Downloads that differ from each other are corrupt and never end cleanly. This module owns the verdict and
//! the remembered mismatches. A fill asks for the verdict before it publishes the end of a body.

mod catalog;
mod expectation;
pub mod field;
mod held;
mod mismatch;
mod passed;
mod proof;
mod reading;
mod signature;
mod signed;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, StatusCode};
use prometheus::{IntCounterVec, IntGauge};
use tokio::sync::{Mutex, Semaphore};

pub(crate) use self::expectation::Expectation;
use self::expectation::Mismatch;
use self::field::{AnnouncedDigest, Announcer};
pub(crate) use self::held::HoldConsequence;
pub use self::held::{HeldDecision, HeldObject, is_held_prefix};
use self::held::{HeldLimit, MAX_REMEMBERED, RememberedHold};
use self::mismatch::MismatchedDownloads;
pub use self::passed::PassedContent;
pub use self::proof::ContentProof;
pub(crate) use self::proof::{Provability, Unproven};
use self::reading::{CatalogReading, CatalogRecord, ListedPayload};
pub use self::signature::SignatureRoots;
use crate::fill::metrics::FillMetrics;
use crate::recent::RecentMap;
use crate::{Cache, CacheEntry};
use gupd_config::policy::Classification;
use gupd_config::profile::DigestList;
use gupd_config::{Class, Verification, VerifySettings};
use gupd_store::{BlobId, BodySource, ObjectKey, ReadError};

/// Maximum number of payload hashes remembered from catalogs, at about 300 bytes each: 5 MiB. A product's catalog lists
/// some tens of files, and a LiveUpdate server has hundreds of products. A forgotten file is not verified until its
/// catalog is read again.
const MAX_LISTED: usize = 16_384;

/// Maximum number of catalogs remembered as read, so that each version is read once.
const MAX_CATALOGS: usize = 1024;

/// Maximum number of keys remembered for a mismatch, at about 700 bytes each at most: 7 MiB.
const MAX_MISMATCHED: usize = 10_000;

/// Time since its last mismatch for which a key is remembered. Long enough that a manager with wrong digests or a line
/// that corrupts content costs little bandwidth, short enough that a repaired one gets all its attempts again.
const REMEMBER_MISMATCHES: Duration = Duration::from_secs(3600);

/// Number of catalogs read at once; each takes memory for its bytes and its inflated lists.
const CATALOG_READS: usize = 1;

/// Digests known to a relay.
#[derive(Debug)]
pub struct Digests {
    cache: Arc<Cache>,
    listed: RecentMap<String, ListedPayload>,
    catalogs: RecentMap<ObjectKey, CatalogRecord>,
    mismatched: RecentMap<ObjectKey, MismatchedDownloads>,
    /// Names of content that was refused a moment ago.
    holds: RecentMap<ObjectKey, RememberedHold>,
    held_limit: HeldLimit,
    roots: ArcSwap<SignatureRoots>,
    reads: Semaphore,
    /// True once the stored catalogs were read. Held while they are: the first payload waits for them.
    has_read_stored: Mutex<bool>,
    mismatches: IntCounterVec,
    unproven: IntCounterVec,
    held_objects: IntGauge,
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
    /// Proof that the content needs.
    pub verification: Verification,
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

impl<'a> Subject<'a> {
    /// The subject of a response under this key.
    pub fn new(key: &'a ObjectKey, status: StatusCode, classification: &Classification) -> Self {
        let (class, verification) = (classification.class, classification.verification);
        Self { key, class, status, digests: classification.digests(), verification }
    }

    /// The subject of a stored response.
    pub fn of(entry: &'a CacheEntry) -> Self {
        Self::new(&entry.object.key, entry.object.status, &entry.classification)
    }
}

impl CompleteContent {
    /// The content of a stored response.
    pub fn of(entry: &CacheEntry) -> Self {
        Self { source: entry.body_source(), length: entry.object.len, blob: entry.object.blob }
    }
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
    /// Creates an empty set.
    pub(crate) fn new(cache: Arc<Cache>, metrics: &FillMetrics) -> Self {
        let (mismatches, unproven) = (metrics.digest_mismatches.clone(), metrics.unproven.clone());
        for by in Announcer::ALL {
            for consequence in [Consequence::FetchedAgain, Consequence::PassedOn, Consequence::GivenUp] {
                mismatches.with_label_values(&[by.as_str(), consequence.as_str()]);
            }
        }
        mismatches.with_label_values(&[Announcer::Catalog.as_str(), Consequence::Forgotten.as_str()]);
        for reason in Unproven::LABELS {
            for consequence in HoldConsequence::ALL {
                unproven.with_label_values(&[reason, consequence.as_str()]);
            }
        }
        Self {
            cache,
            listed: RecentMap::new(MAX_LISTED),
            catalogs: RecentMap::new(MAX_CATALOGS),
            mismatched: RecentMap::with_lifetime(MAX_MISMATCHED, REMEMBER_MISMATCHES),
            holds: RecentMap::new(MAX_REMEMBERED),
            held_limit: HeldLimit(AtomicU64::new(0)),
            roots: ArcSwap::default(),
            reads: Semaphore::new(CATALOG_READS),
            has_read_stored: Mutex::new(false),
            mismatches,
            unproven,
            held_objects: metrics.held_objects.clone(),
        }
    }

    /// Applies the settings of a configuration. Lists that other roots have vouched for are forgotten.
    pub fn configure(&self, roots: Arc<SignatureRoots>, settings: &VerifySettings) {
        self.held_limit.0.store(settings.held_bytes, Ordering::Relaxed);
        self.holds.clear();
        if self.roots.swap(roots.clone()) != roots {
            self.listed.clear();
            self.catalogs.clear();
        }
    }

    /// Returns the digests expected of a response with this head. Only payloads are checked against a catalog: other
    /// content may change under its name and be newer than the catalog. Where content needs proof, a signed list
    /// decides alone.
    pub(crate) fn expect(&self, subject: Subject<'_>, headers: &HeaderMap) -> Expectation {
        let Subject { key, class, status, verification, .. } = subject;
        let mut announced = field::announced_digests(status, headers);
        if !self.cache.verifies_content_md5() {
            announced.retain(|one| one.by != Announcer::ContentMd5);
        }
        if class == Class::Payload
            && status.is_success()
            && let Some(listed) = self.listed.get(&**key)
            && (listed.is_signed || !verification.needs_proof())
        {
            if verification.needs_proof() {
                announced.clear();
            }
            announced.push(AnnouncedDigest { by: Announcer::Catalog, digest: listed.blob.into() });
        }
        let is_outvoted = self.mismatched.get(&**key).is_some_and(|downloads| downloads.is_outvoted());
        let expected = Expectation::new(announced, is_outvoted, is_catalog(subject));
        expected.with_proof(self.provability(subject, headers), subject)
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
                self.mismatched.remove(&**key);
            }
            // The list of a catalog that needs proof counts only with its proof.
            if !subject.verification.needs_proof() {
                self.read_catalog(subject, content).await;
            }
            return Ok(DigestVerdict::Keep);
        };
        Ok(self.judge(subject, content.blob, &mismatch, attempts))
    }

    /// Records a download that does not match its digest, and returns its verdict.
    fn judge(&self, subject: Subject<'_>, blob: BlobId, mismatch: &Mismatch, attempts: u32) -> DigestVerdict {
        let key = subject.key;
        let mut downloads = self.mismatched.get(&**key).unwrap_or_default();
        // An attacker on the line repeats wrong bytes as often as they are fetched.
        let is_believed = !subject.verification.needs_proof();
        let (verdict, consequence) = if downloads.record(blob) && is_believed {
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

    fn report_mismatch(&self, key: &str, mismatch: &Mismatch, consequence: Consequence) {
        let Mismatch { by, expected, found } = mismatch;
        let (by, message) = (by.as_str(), consequence.message());
        tracing::error!(key, by, %expected, %found, "{message}");
        self.mismatches.with_label_values(&[by, consequence.as_str()]).inc();
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

/// Entry points of the fuzz targets (`fuzz/lib.rs`): parsers of bytes that upstreams send.
#[doc(hidden)]
pub mod fuzzing {
    use http::{HeaderMap, StatusCode};

    use super::{catalog, field};

    /// Parses a catalog.
    pub fn parse_catalog(bytes: &[u8]) {
        let _ = catalog::parse(bytes);
    }

    /// Parses the digests of a response head.
    pub fn parse_digests(status: StatusCode, headers: &HeaderMap) {
        let _ = field::announced_digests(status, headers);
    }
}
