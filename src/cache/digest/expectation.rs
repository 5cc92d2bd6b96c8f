//! Expected digests of one response's content, and the comparison with its bytes. The first announced one of SHA-256,
//! SHA-512 and MD5 decides: SHA-256 is known, because it names the blob; for the others the bytes are read once more. The
//! syntax of the fields is in `field`; the consequences are in `digest`.

use sha2::Digest as _;

use super::field::{AnnouncedDigest, Announcer, Digest};
use super::proof::Provability;
use super::{CompleteContent, Subject};
use gupd_config::{Class, Verification};
use gupd_http::UnstorableReason;
use gupd_store::{BLOCK, ReadError, Store};

/// Bytes at the end that no client receives before verification. A client that has all but these sees a broken
/// transfer, never the clean end of wrong content. A client of content that is shorter has received nothing yet, and gets
/// the second download.
pub(super) const WITHHELD_END: u64 = BLOCK;

/// Digests announced for a response's content.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expectation {
    // All of one algorithm.
    announced: Vec<AnnouncedDigest>,
    is_outvoted: bool,
    /// A catalog, whose entries its readers must not use before verification.
    lists_digests: bool,
    provability: Provability,
    class: Option<Class>,
    verification: Verification,
}

/// Content that differs from an announced digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// Source of the announcement.
    pub(super) by: Announcer,
    /// Announced digest.
    pub(super) expected: Digest,
    /// Digest of the bytes that arrived.
    pub(super) found: Digest,
}

impl Expectation {
    /// Selects the deciding digests of all announced ones. `is_outvoted` marks content of which two downloads agreed on
    /// other bytes; `lists_digests` marks catalogs, which list digests of other content.
    pub(super) fn new(mut announced: Vec<AnnouncedDigest>, is_outvoted: bool, lists_digests: bool) -> Self {
        let decides = ["sha-256", "sha-512", "md5"]
            .into_iter()
            .find(|algorithm| announced.iter().any(|one| one.digest.algorithm() == *algorithm));
        announced.retain(|one| Some(one.digest.algorithm()) == decides);
        let is_outvoted = is_outvoted && !announced.is_empty();
        Self { announced, is_outvoted, lists_digests, ..Self::default() }
    }

    /// Sets the proof that the content needs. Where it needs one, downloads that agree do not outvote a digest.
    pub(super) fn with_proof(self, provability: Provability, subject: Subject<'_>) -> Self {
        let is_outvoted = self.is_outvoted && provability == Provability::Unneeded;
        let Subject { class, verification, .. } = subject;
        Self { is_outvoted, provability, class: Some(class), verification, ..self }
    }

    /// Returns how the content can be proven.
    pub(crate) fn provability(&self) -> Provability {
        self.provability
    }

    /// Returns true if the content must be proven by its bytes: the end of it, and of each
    /// requested range, waits for the proof.
    pub(crate) fn is_strict(&self) -> bool {
        matches!(self.provability, Provability::BySignature | Provability::ByList)
    }

    /// Returns true if no client may see any byte before the verdict.
    pub(crate) fn is_hidden(&self) -> bool {
        match self.provability {
            Provability::BySignature => true,
            Provability::Impossible => self.is_held(),
            Provability::Unneeded | Provability::ByList | Provability::ByTls => false,
        }
    }

    /// Returns true if the content is kept aside without a proof, for an administrator's decision, rather than passed on.
    pub(crate) fn is_held(&self) -> bool {
        self.verification == Verification::Hold && self.class != Some(Class::Generic)
    }

    /// Returns true if no digest was announced.
    pub(crate) fn is_empty(&self) -> bool {
        self.announced.is_empty()
    }

    /// Returns true if the end of the content is withheld until [`verify`](super::Digests::verify) has seen it.
    pub(crate) fn must_verify_first(&self) -> bool {
        self.lists_digests || !self.is_empty()
    }

    /// Returns an error if the response must not be reported as stored: two downloads agreed on other bytes than the
    /// announced ones, or nothing proves it. Outvoted content is kept all the same if it matches at its end.
    pub(crate) fn check_storable(&self) -> Result<(), UnstorableReason> {
        if self.is_outvoted {
            Err(UnstorableReason::DigestMismatch)
        } else if self.provability == Provability::Impossible && !self.is_held() {
            Err(UnstorableReason::Unproven)
        } else {
            Ok(())
        }
    }

    /// Number of bytes, of the first `available`, that clients may receive before verification. Outvoted content is
    /// withheld too: this download may be corrupt.
    pub(crate) fn visible_bytes(&self, available: u64) -> u64 {
        let withheld = if self.must_verify_first() { WITHHELD_END } else { 0 };
        available.saturating_sub(withheld)
    }

    /// Compares the content and returns the first digest that differs. Contradicting digests cannot all match.
    ///
    /// # Errors
    /// Returns an error if the bytes cannot be read again.
    pub(super) async fn compare(
        &self,
        store: &Store,
        content: &CompleteContent,
    ) -> Result<Option<Mismatch>, ReadError> {
        let Some(deciding) = self.deciding() else { return Ok(None) };
        let found = match Hasher::for_digest(deciding) {
            None => content.blob.into(),
            Some(mut hasher) => {
                let mut position = 0_u64;
                while position < content.length {
                    let piece = store.read(&content.source, position).await?;
                    hasher.update(&piece);
                    position = position.saturating_add(piece.len() as u64);
                }
                hasher.finish()
            }
        };
        Ok(self.difference(found))
    }

    /// One of the digests that decide, `None` if none was announced. All are of its algorithm.
    pub(super) fn deciding(&self) -> Option<Digest> {
        self.announced.first().map(|one| one.digest)
    }

    /// Returns the first announced digest that differs from `found`.
    pub(super) fn difference(&self, found: Digest) -> Option<Mismatch> {
        let wrong = self.announced.iter().find(|one| one.digest != found);
        wrong.map(|one| Mismatch { by: one.by, expected: one.digest, found })
    }
}

/// Incremental digest.
pub(super) enum Hasher {
    Sha512(Box<sha2::Sha512>),
    Md5(md5::Md5),
}

impl Hasher {
    /// `None` for SHA-256, which callers compute in any case.
    pub(super) fn for_digest(digest: Digest) -> Option<Self> {
        match digest {
            Digest::Sha256(_) => None,
            Digest::Sha512(_) => Some(Self::Sha512(Box::default())),
            Digest::Md5(_) => Some(Self::Md5(md5::Md5::new())),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha512(hasher) => hasher.update(bytes),
            Self::Md5(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Digest {
        match self {
            Self::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
            Self::Md5(hasher) => Digest::Md5(hasher.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(by: Announcer, digest: Digest) -> AnnouncedDigest {
        AnnouncedDigest { by, digest }
    }

    #[test]
    fn first_strong_digest_decides_alone() {
        let sha256 = announced(Announcer::Catalog, Digest::Sha256([1; 32]));
        let sha512 = announced(Announcer::ReprDigest, Digest::Sha512([2; 64]));
        let md5 = announced(Announcer::ContentMd5, Digest::Md5([3; 16]));
        for (all, decides) in [
            (vec![md5, sha512, sha256], vec![sha256]),
            (vec![md5, sha512], vec![sha512]),
            (vec![md5, md5], vec![md5, md5]),
            (vec![], vec![]),
        ] {
            assert_eq!(Expectation::new(all, false, false).announced, decides);
        }
    }

    #[test]
    fn end_is_withheld_only_before_verification() {
        let all = || vec![announced(Announcer::Catalog, Digest::Sha256([1; 32]))];
        let expected = Expectation::new(all(), false, false);
        assert_eq!((expected.visible_bytes(WITHHELD_END), expected.visible_bytes(WITHHELD_END + 5)), (0, 5));
        assert_eq!(Expectation::new(all(), true, false).visible_bytes(7), 0);
        assert_eq!(Expectation::new(vec![], false, true).visible_bytes(7), 0);
        assert_eq!(Expectation::default().visible_bytes(7), 7);
    }

    #[test]
    fn only_outvoted_digests_prevent_storing() {
        let all = || vec![announced(Announcer::Catalog, Digest::Sha256([1; 32]))];
        assert_eq!(Expectation::new(all(), false, false).check_storable(), Ok(()));
        let mismatch = Err(UnstorableReason::DigestMismatch);
        assert_eq!(Expectation::new(all(), true, false).check_storable(), mismatch);
        assert_eq!(Expectation::new(vec![], true, false).check_storable(), Ok(()), "no digest is announced");
    }
}
