//! Bytes that one reader of an arriving content has delivered, as a hash, and the decision whether other content may
//! continue them. A fill starts again when validators disagree: backends behind one name have an `ETag` each for the
//! same bytes. The invariant: a reader goes on with the new content only if everything that it delivered is equal there,
//! and length and date say that the rest is, too.

use http::{HeaderMap, StatusCode, header};
use xxhash_rust::xxh3::Xxh3;

use gupd_http::validator::strong_validator;

/// Head of content, as far as it identifies the bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContentIdentity<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    pub(super) length: Option<u64>,
}

/// Hash of the bytes that a reader has delivered.
#[derive(Clone, Default)]
pub(super) struct DeliveredBytes {
    hash: Box<Xxh3>,
    count: u64,
}

impl ContentIdentity<'_> {
    /// Returns true if both are most likely the same bytes: equal status, length and content coding, and either the
    /// same strong validator or the same modification date.
    pub(super) fn is_like(&self, other: &ContentIdentity<'_>) -> bool {
        let equal = |name| self.headers.get(&name) == other.headers.get(&name);
        let validator = strong_validator(self.headers);
        self.status == StatusCode::OK
            && other.status == StatusCode::OK
            && self.length.is_some()
            && self.length == other.length
            && equal(header::CONTENT_ENCODING)
            && ((validator.is_some() && validator == strong_validator(other.headers))
                || (self.headers.contains_key(header::LAST_MODIFIED) && equal(header::LAST_MODIFIED)))
    }

    /// Returns true if validators disagree about bytes that are most likely the same.
    pub(super) fn disagrees_with(&self, other: &ContentIdentity<'_>) -> bool {
        self.is_like(other) && self.headers.get(header::ETAG) != other.headers.get(header::ETAG)
    }
}

impl DeliveredBytes {
    /// Number of bytes.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        self.hash.update(piece);
        self.count = self.count.saturating_add(piece.len() as u64);
    }
}

impl PartialEq for DeliveredBytes {
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && self.hash.digest128() == other.hash.digest128()
    }
}

impl std::fmt::Debug for DeliveredBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeliveredBytes").field("count", &self.count).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const DATE: &str = "last-modified: Sat, 28 Nov 2026 08:00:00 GMT";
    const LATER: &str = "last-modified: Sat, 28 Nov 2026 08:00:01 GMT";

    fn headers(fields: &[&str]) -> HeaderMap {
        let field = |line: &&str| {
            let (name, value) = line.split_once(": ").unwrap();
            (HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn only_equal_dates_or_strong_validators_identify_bytes() {
        for (one, other, is_like, disagrees) in [
            (&["etag: \"a\"", DATE][..], &["etag: \"b\"", DATE][..], true, true),
            (&["etag: \"a\"", DATE], &[DATE], true, true),
            (&["etag: \"a\"", DATE], &["etag: \"a\"", DATE], true, false),
            (&["etag: \"a\"", DATE], &["etag: \"a\"", LATER], true, false),
            (&["etag: W/\"a\"", DATE], &["etag: W/\"b\"", DATE], true, true),
            (&["etag: \"a\"", DATE], &["etag: \"b\"", LATER], false, false),
            (&["etag: \"a\""], &["etag: \"b\""], false, false),
            (&["etag: W/\"a\""], &["etag: W/\"a\""], false, false),
            (&[], &[], false, false),
            (&["etag: \"a\"", DATE], &["etag: \"b\"", DATE, "content-encoding: gzip"], false, false),
        ] {
            let (one, other) = (headers(one), headers(other));
            let identity =
                |headers, length| ContentIdentity { status: StatusCode::OK, headers, length: Some(length) };
            assert_eq!(identity(&one, 9).is_like(&identity(&other, 9)), is_like, "{one:?} {other:?}");
            assert_eq!(identity(&one, 9).disagrees_with(&identity(&other, 9)), disagrees);
            assert!(!identity(&one, 9).is_like(&identity(&other, 8)), "another length");
        }
    }

    proptest! {
        #[test]
        fn delivered_bytes_are_equal_however_they_are_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
            cuts in proptest::collection::vec(1_usize..300, 1..20),
            flipped in any::<proptest::sample::Index>(),
        ) {
            let (mut whole, mut cut, mut other) =
                (DeliveredBytes::default(), DeliveredBytes::default(), DeliveredBytes::default());
            whole.push(&bytes);
            let (mut left, mut sizes) = (&bytes[..], cuts.iter().cycle());
            while !left.is_empty() {
                let (piece, rest) = left.split_at(left.len().min(*sizes.next().unwrap()));
                cut.push(piece);
                left = rest;
            }
            prop_assert_eq!(&whole, &cut);
            if !bytes.is_empty() {
                let mut wrong = bytes.clone();
                wrong[flipped.index(bytes.len())] ^= 1;
                other.push(&wrong);
                prop_assert_ne!(&whole, &other);
            }
        }
    }
}
