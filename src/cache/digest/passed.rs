//! Verification of content that is passed on to one client and not stored. It is hashed as it passes. The caller
//! withholds the end until the verdict, so that wrong content never ends cleanly, as for stored content.

use sha2::{Digest as _, Sha256};

use super::expectation::{Expectation, Hasher};
use super::{DigestVerdict, Subject};
use crate::fill::Fills;
use gupd_config::{Class, Verification};
use gupd_store::{BlobId, ObjectKey};
use http::{HeaderMap, StatusCode};

/// A passed download is not repeated by the relay.
const ATTEMPTS: u32 = 1;

/// Check of one response's content against its announced digest.
pub struct PassedContent {
    fills: Fills,
    key: ObjectKey,
    class: Class,
    status: StatusCode,
    verification: Verification,
    expected: Expectation,
    sha256: Sha256,
    /// `None` if the SHA-256 decides.
    hasher: Option<Hasher>,
}

impl PassedContent {
    /// Creates the check of a response with this head; `None` if no digest is announced.
    pub fn new(fills: &Fills, subject: Subject<'_>, headers: &HeaderMap) -> Option<Self> {
        let expected = fills.digests().expect(subject, headers);
        let hasher = Hasher::for_digest(expected.deciding()?);
        let Subject { key, class, status, verification, .. } = subject;
        let (fills, key, sha256) = (fills.clone(), key.clone(), Sha256::new());
        Some(Self { fills, key, class, status, verification, expected, sha256, hasher })
    }

    /// Number of bytes at the end to withhold until the verdict.
    pub const WITHHELD_END: usize = super::expectation::WITHHELD_END as usize;

    /// Adds the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
    }

    /// Returns true if the content may end cleanly: it matches, or an earlier download had the same bytes.
    pub fn finish(self) -> bool {
        let blob = BlobId::from(<[u8; 32]>::from(self.sha256.finalize()));
        let found = self.hasher.map_or_else(|| blob.into(), Hasher::finish);
        let Some(mismatch) = self.expected.difference(found) else { return true };
        let (key, class, status, verification) = (&self.key, self.class, self.status, self.verification);
        let subject = Subject { key, class, status, digests: None, verification };
        self.fills.digests().judge(subject, blob, &mismatch, ATTEMPTS) == DigestVerdict::PassOn
    }
}
