//! Downloads of one object that did not match its announced digest: pure. Two downloads with the same bytes prove that
//! the announcement is wrong; corruption on the line does not repeat. Only the last downloads are remembered, so the
//! memory of an object is bounded.

use gupd_store::BlobId;

/// Number of downloads of which the hash is remembered, at 32 bytes each.
const MAX_BLOBS: usize = 16;

/// Downloads that differ from the announced digest.
#[derive(Clone, Debug, Default)]
pub(super) struct MismatchedDownloads {
    count: u32,
    /// SHA-256 of the last downloads, oldest first, without repetitions.
    blobs: Vec<BlobId>,
    is_outvoted: bool,
}

impl MismatchedDownloads {
    /// Records a download. Returns true if one of the remembered ones had the same bytes.
    pub(super) fn record(&mut self, blob: BlobId) -> bool {
        self.count = self.count.saturating_add(1);
        if self.blobs.contains(&blob) {
            self.is_outvoted = true;
            return true;
        }
        if self.blobs.len() == MAX_BLOBS {
            self.blobs.remove(0);
        }
        self.blobs.push(blob);
        false
    }

    /// Number of recorded downloads.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Returns true if two downloads had the same bytes.
    pub(super) fn is_outvoted(&self) -> bool {
        self.is_outvoted
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn blob(number: u8) -> BlobId {
        BlobId::from([number; 32])
    }

    #[test]
    fn oldest_download_is_forgotten() {
        let mut downloads = MismatchedDownloads::default();
        assert!((0..=MAX_BLOBS as u8).all(|number| !downloads.record(blob(number))));
        assert!(!downloads.record(blob(0)), "forgotten");
        assert!(!downloads.is_outvoted());
        assert!(downloads.record(blob(MAX_BLOBS as u8)));
        assert!(downloads.is_outvoted());
    }

    proptest! {
        #[test]
        fn only_equal_downloads_outvote_the_digest(numbers in proptest::collection::vec(0_u8..12, 0..40)) {
            let (mut downloads, mut seen) = (MismatchedDownloads::default(), HashSet::new());
            for (index, number) in numbers.iter().enumerate() {
                prop_assert_eq!(downloads.record(blob(*number)), !seen.insert(*number));
                prop_assert_eq!(downloads.is_outvoted(), seen.len() <= index);
                prop_assert_eq!(downloads.count() as usize, index + 1);
            }
        }
    }
}
