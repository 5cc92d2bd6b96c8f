//! Catalogs as they are read: each version once, its list of payloads remembered, and stored payloads that it disowns
//! removed. On a route that demands proof, only a proven catalog is read.

use http::{HeaderMap, StatusCode};
use tokio::task::spawn_blocking;

use super::expectation::Mismatch;
use super::field::Announcer;
use super::{CompleteContent, Consequence, ContentProof, Digests, Subject, catalog, is_catalog, signed};
use crate::CacheEntry;
use gupd_config::profile::DigestList;
use gupd_config::{Class, Verification};
use gupd_http::SelectingRequest;
use gupd_store::{BlobId, BodySource, Object, ReadError};

/// SHA-256 of a payload by its catalog.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListedPayload {
    pub(super) blob: BlobId,
    /// True if the catalog was proven.
    pub(super) is_signed: bool,
}

/// Version of a catalog that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct CatalogRecord {
    blob: BlobId,
    /// Time that it states, if it was proven by its signature.
    pub(super) stated: Option<u64>,
}

/// Result of reading a catalog.
pub(super) enum CatalogReading {
    /// A catalog that needs no proof, or was released.
    List(Vec<catalog::ListedFile>),
    /// A proven catalog.
    Signed { listed: Vec<catalog::ListedFile>, stated: u64 },
    /// The catalog is not proven, for this reason.
    Unsigned(String),
    /// The bytes cannot be read now.
    Ignored,
}

/// Returns true for a stored catalog with a proven signature.
fn is_signed_catalog(object: &Object) -> bool {
    matches!(ContentProof::from_headers(&object.headers), Some(ContentProof::Signature { .. }))
        && !object.is_held()
}

#[derive(Debug, thiserror::Error)]
enum CatalogReadError {
    #[error(transparent)]
    Catalog(#[from] catalog::CatalogError),
    #[error(transparent)]
    Unsigned(#[from] signed::UnsignedCatalog),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the catalog reader stopped: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

impl Digests {
    /// Removes a stored payload that does not match its catalog: it was stored before the catalog was read. Returns
    /// true if it was removed.
    pub async fn remove_mismatched(&self, entry: &CacheEntry) -> bool {
        let Object { key, status, blob, .. } = &entry.object;
        let classification = &entry.classification;
        // Without a signature, the catalog is no more to be believed than the stored bytes, which keep their name.
        let is_final = |is_signed: bool| !is_signed && classification.verification != Verification::Off;
        let listed = self.listed.get(&**key).filter(|listed| listed.blob != *blob);
        let listed = listed.filter(|listed| !is_final(listed.is_signed));
        let Some(listed) =
            listed.filter(|_| classification.class == Class::Payload && *status == StatusCode::OK)
        else {
            return false;
        };
        let mismatch =
            Mismatch { by: Announcer::Catalog, expected: listed.blob.into(), found: (*blob).into() };
        self.report_mismatch(key, &mismatch, Consequence::Forgotten);
        if let Err(error) = self.cache.invalidate(key).await {
            tracing::error!(%error, key = &**key, "cannot remove a mismatched payload from the index");
        }
        true
    }

    /// Reads a stored catalog unless this version was read before.
    pub async fn read_stored_catalog(&self, entry: &CacheEntry) {
        let (subject, content) = (Subject::of(entry), CompleteContent::of(entry));
        let is_released = ContentProof::from_headers(&entry.object.headers) == Some(ContentProof::Released);
        self.read(subject, &content, is_released).await;
    }

    /// Reads the stored catalogs that are proven, once after the start: a client may ask for their payloads before any
    /// client asks for them.
    pub(crate) async fn read_proven_catalogs(&self) {
        let mut is_done = self.has_read_stored.lock().await;
        if *is_done {
            return;
        }
        let (store, mut after) = (self.cache.store(), 0);
        loop {
            let page = match store.page(after).await {
                Ok(page) => page,
                Err(error) => return tracing::warn!(%error, "stored catalogs cannot be listed"),
            };
            let Some(last) = page.last() else { break };
            after = last.id;
            for object in page.iter().filter(|object| is_signed_catalog(object)) {
                let Object { key, status, blob, len, .. } = object;
                let (class, digests) = (Class::Catalog, Some(DigestList::Grd));
                let subject =
                    Subject { key, class, status: *status, digests, verification: Verification::Hold };
                let source = BodySource::Blob { id: *blob, len: *len };
                self.read(subject, &CompleteContent { source, length: *len, blob: *blob }, false).await;
            }
        }
        *is_done = true;
    }

    /// Reads a catalog that has just arrived, unless this version was read before. An invalid catalog is logged and
    /// changes nothing.
    pub(super) async fn read_catalog(&self, subject: Subject<'_>, content: &CompleteContent) {
        self.read(subject, content, false).await;
    }

    async fn read(&self, subject: Subject<'_>, content: &CompleteContent, is_released: bool) {
        let key = subject.key;
        let is_known = || self.catalogs.get(&**key).is_some_and(|known| known.blob == content.blob);
        if !is_catalog(subject) || is_known() {
            return;
        }
        let Ok(_permit) = self.reads.acquire().await else { return };
        if is_known() {
            return;
        }
        let reading = match is_released {
            true => self.judge_catalog(Subject { verification: Verification::Off, ..subject }, content).await,
            false => self.judge_catalog(subject, content).await,
        };
        let (files, stated) = match reading {
            CatalogReading::List(files) => (files, None),
            CatalogReading::Signed { listed, stated } => (listed, Some(stated)),
            CatalogReading::Ignored => return,
            CatalogReading::Unsigned(reason) => {
                tracing::warn!(
                    reason,
                    key = &**key,
                    "catalog ignored; its payloads are not verified against it"
                );
                (Vec::new(), None)
            }
        };
        self.record_catalog(subject, content.blob, files, stated).await;
    }

    /// Remembers the list of a catalog. Stored payloads that it disowns are removed.
    pub(super) async fn record_catalog(
        &self,
        subject: Subject<'_>,
        blob: BlobId,
        files: Vec<catalog::ListedFile>,
        stated: Option<u64>,
    ) {
        let (key, version) = (subject.key, blob);
        for (name, blob) in files {
            let Some(payload) = catalog::payload_key(key, &name) else { continue };
            self.listed.insert(
                payload.clone(),
                ListedPayload { blob, is_signed: subject.verification.needs_proof() },
            );
            // Entries that are not hot are compared by the next lookup.
            let request = SelectingRequest { headers: &HeaderMap::new(), target: "" };
            if let Some(entry) = self.cache.find_hot(&payload, request) {
                self.remove_mismatched(&entry).await;
            }
        }
        self.catalogs.insert(key.clone(), CatalogRecord { blob: version, stated });
    }

    /// Keys of the payloads listed by remembered catalogs.
    pub fn listed_keys(&self) -> Vec<String> {
        self.listed.keys()
    }

    /// Reads the bytes of a catalog and verifies its signature, if its route needs one.
    pub(super) async fn judge_catalog(
        &self,
        subject: Subject<'_>,
        content: &CompleteContent,
    ) -> CatalogReading {
        match self.load_catalog(subject.verification.needs_proof(), content).await {
            Ok(reading) => reading,
            // The bytes may be readable the next time.
            Err(CatalogReadError::Read(error)) => {
                tracing::warn!(%error, key = &**subject.key, "cannot read the hashes of a catalog");
                CatalogReading::Ignored
            }
            Err(error) => CatalogReading::Unsigned(error.to_string()),
        }
    }

    async fn load_catalog(
        &self,
        needs_proof: bool,
        content: &CompleteContent,
    ) -> Result<CatalogReading, CatalogReadError> {
        if content.length > catalog::MAX_CATALOG {
            return Err(catalog::CatalogError::TooLarge(content.length).into());
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < content.length {
            bytes.extend_from_slice(&self.cache.store().read(&content.source, bytes.len() as u64).await?);
        }
        let (roots, now) = (self.roots.load_full(), self.cache.clock().now());
        spawn_blocking(move || match needs_proof {
            false => Ok(CatalogReading::List(catalog::parse(&bytes)?)),
            true => {
                let signed::SignedCatalog { listed, stated } = signed::verify(&bytes, &roots, now)?;
                Ok(CatalogReading::Signed { listed, stated })
            }
        })
        .await?
    }
}
