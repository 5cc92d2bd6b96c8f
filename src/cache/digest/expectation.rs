//! What one response's content is expected to be, and whether it is. Decided by the strongest digest that costs
//! nothing: SHA-256, which names the blob anyway; only without one are the bytes read once more for SHA-512 or MD5.
//! Knows neither the fields' syntax nor what follows from a mismatch.

use sha2::Digest as _;

use super::CompleteContent;
use super::field::{AnnouncedDigest, Announcer, Digest};
use gupd_http::UnstorableReason;
use gupd_store::{BLOCK, ReadError, Store};

/// Bytes that are shown to nobody before the content has been verified. A client that gets all but these sees a broken
/// transfer, never the clean end of wrong content; one that waits for a delta smaller than this sees nothing at all,
/// and can be given the next try. As much as a response is held back at its beginning.
const HELD_BACK: u64 = BLOCK;

/// What is known beforehand of a response's content.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    // All by one algorithm.
    announced: Vec<AnnouncedDigest>,
    doubted: bool,
    catalog: bool,
}

/// Content that is not what was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Who announced it.
    pub by: Announcer,
    /// What was announced.
    pub expected: Digest,
    /// What arrived.
    pub found: Digest,
}

impl Expectation {
    /// Of everything announced about one response, what decides. `doubted` if the same content was not what it should
    /// be before; `catalog` if it says itself what other content should be.
    pub(super) fn new(mut announced: Vec<AnnouncedDigest>, doubted: bool, catalog: bool) -> Self {
        let decides = ["sha-256", "sha-512", "md5"]
            .into_iter()
            .find(|algorithm| announced.iter().any(|one| one.digest.algorithm() == *algorithm));
        announced.retain(|one| Some(one.digest.algorithm()) == decides);
        let doubted = doubted && !announced.is_empty();
        Self { announced, doubted, catalog }
    }

    /// Whether nothing is known: the content is what arrives.
    pub fn is_empty(&self) -> bool {
        self.announced.is_empty()
    }

    /// Whether the end is for nobody before [`judge`](super::Digests::judge) has seen it.
    pub fn must_verify_first(&self) -> bool {
        self.catalog || !self.is_empty()
    }

    /// Whether the same content was not what it should be before: it is passed on as it comes, and kept only if it
    /// proves right at its end.
    pub fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// Whether the response may be announced as one that will be kept.
    pub fn check_storable(&self) -> Result<(), UnstorableReason> {
        if self.doubted { Err(UnstorableReason::DigestMismatch) } else { Ok(()) }
    }

    /// How many of the first `available` bytes may be shown before all are judged.
    pub fn visible_bytes(&self, available: u64) -> u64 {
        let held = if self.must_verify_first() && !self.doubted { HELD_BACK } else { 0 };
        available.saturating_sub(held)
    }

    /// Compares content, and gives the first announcement it does not agree with. Two that contradict each other are
    /// never both right.
    ///
    /// # Errors
    /// When bytes that have to be read again cannot be.
    pub async fn compare(
        &self,
        store: &Store,
        whole: &CompleteContent,
    ) -> Result<Option<Mismatch>, ReadError> {
        let Some(first) = self.announced.first() else { return Ok(None) };
        let found = match Hasher::for_digest(first.digest) {
            None => whole.blob.into(),
            Some(mut hasher) => {
                let mut position = 0;
                while position < whole.length {
                    let piece = store.read(&whole.source, position).await?;
                    hasher.update(&piece);
                    position += piece.len() as u64;
                }
                hasher.finish()
            }
        };
        let wrong = self.announced.iter().find(|one| one.digest != found);
        Ok(wrong.map(|one| Mismatch { by: one.by, expected: one.digest, found }))
    }
}

/// A digest in the making, fed the content in order.
enum Hasher {
    Sha512(Box<sha2::Sha512>),
    Md5(md5::Md5),
}

impl Hasher {
    /// `None` for SHA-256: the store has it.
    fn for_digest(digest: Digest) -> Option<Self> {
        match digest {
            Digest::Sha256(_) => None,
            Digest::Sha512(_) => Some(Self::Sha512(Box::default())),
            Digest::Md5(_) => Some(Self::Md5(md5::Md5::new())),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha512(hasher) => hasher.update(bytes),
            Self::Md5(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Digest {
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
    fn the_digest_that_is_known_anyway_decides_alone() {
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
    fn the_end_is_held_back_only_while_there_is_something_to_verify_and_hope_for() {
        let all = || vec![announced(Announcer::Catalog, Digest::Sha256([1; 32]))];
        let expected = Expectation::new(all(), false, false);
        assert_eq!((expected.visible_bytes(HELD_BACK), expected.visible_bytes(HELD_BACK + 5)), (0, 5));
        assert_eq!(Expectation::new(all(), true, false).visible_bytes(7), 7);
        assert_eq!(Expectation::new(vec![], false, true).visible_bytes(7), 0);
        assert_eq!(Expectation::default().visible_bytes(7), 7);
        assert!(!Expectation::new(vec![], true, false).is_doubted(), "nothing says what it should be");
    }
}
