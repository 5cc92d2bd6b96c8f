//! The record of one object of the tier: its key, head, length, SHA-256 and the checksum of each block. The form is a
//! version, a JSON head, the checksums, and a checksum of all before it. A record comes from the network: every length is
//! checked, and a later version is told apart from damage, because a later relay may share the tier.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_128;

use crate::BLOCK;

/// Version of the form.
pub(crate) const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"gupdtier";

/// Maximum size: the checksums of 16 GiB, and a head.
pub(crate) const MAX_RECORD: u64 = 5 << 20;

/// Maximum size of the head.
const MAX_HEAD: usize = 256 << 10;

/// Size of the parts before the head.
const PREFIX: usize = 16;

/// Size of a checksum.
const CHECKSUM: usize = 16;

/// Fields that are not recorded: those of a connection, those that each relay sets, and the length, which is recorded.
const LEFT_OUT: [HeaderName; 11] = [
    header::AGE,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::SET_COOKIE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VIA,
    HeaderName::from_static("cache-status"),
    HeaderName::from_static("keep-alive"),
];

/// Record of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct TierRecord {
    /// Cache key.
    pub key: String,
    /// Label of its content type.
    pub content_type: String,
    /// Fields of the head of the complete response.
    pub fields: HeaderMap,
    /// Length of the body in bytes.
    pub length: u64,
    /// SHA-256 of the body.
    pub sha256: [u8; 32],
    /// XXH3-128 of each block.
    pub checksums: Arc<[u128]>,
}

/// Reason why a record cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// A later version of gupd wrote it.
    Later(u32),
    /// It is damaged.
    Malformed,
}

#[derive(Serialize, Deserialize)]
struct Head {
    key: String,
    content_type: String,
    length: u64,
    sha256: String,
    fields: Vec<(String, String)>,
}

impl TierRecord {
    /// Returns the SHA-256 of the body as text.
    pub fn digest_text(&self) -> String {
        hex(&self.sha256)
    }

    /// Returns its size in memory.
    pub(crate) fn weight(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| name.as_str().len().saturating_add(value.len()));
        let checksums = self.checksums.len().saturating_mul(CHECKSUM);
        fields.sum::<usize>().saturating_add(checksums).saturating_add(self.key.len()).saturating_add(512)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let texts = self
            .fields
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
        let head = Head {
            key: self.key.clone(),
            content_type: self.content_type.clone(),
            length: self.length,
            sha256: hex(&self.sha256),
            fields: texts.collect(),
        };
        // Text and numbers always have a JSON form.
        let head = serde_json::to_vec(&head).unwrap_or_default();
        let mut out = Vec::with_capacity(head.len().saturating_add(self.weight()));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&head);
        self.checksums.iter().for_each(|checksum| out.extend_from_slice(&checksum.to_le_bytes()));
        let sum = xxh3_128(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Decodes the record of the object with this key.
    pub(crate) fn decode(bytes: &[u8], key: &str) -> Result<Self, RecordError> {
        let record = Self::decode_any(bytes)?;
        if record.key == key { Ok(record) } else { Err(RecordError::Malformed) }
    }

    /// Decodes a record.
    pub(crate) fn decode_any(bytes: &[u8]) -> Result<Self, RecordError> {
        let malformed = RecordError::Malformed;
        let (prefix, _) = bytes.split_at_checked(PREFIX).ok_or(malformed)?;
        let number = |at: usize| {
            let bytes = prefix.get(at..)?.first_chunk::<4>()?;
            Some(u32::from_le_bytes(*bytes))
        };
        match (prefix.starts_with(MAGIC), number(8)) {
            (true, Some(VERSION)) => {}
            (true, Some(later)) if later > VERSION => return Err(RecordError::Later(later)),
            _ => return Err(malformed),
        }
        let (content, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(malformed)?;
        if xxh3_128(content) != u128::from_le_bytes(*sum) {
            return Err(malformed);
        }
        let length = number(12).and_then(|length| usize::try_from(length).ok()).ok_or(malformed)?;
        let rest = content.get(PREFIX..).ok_or(malformed)?;
        let (head, checksums) = rest.split_at_checked(length.min(MAX_HEAD)).ok_or(malformed)?;
        let head: Head = serde_json::from_slice(head).map_err(|_unreadable| malformed)?;
        let (checksums, odd) = checksums.as_chunks::<CHECKSUM>();
        let expected = usize::try_from(head.length.div_ceil(BLOCK)).ok();
        if !odd.is_empty() || expected != Some(checksums.len()) || head.length == 0 {
            return Err(malformed);
        }
        let fields = head.fields.iter().map(|(name, value)| {
            Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?))
        });
        let fields: HeaderMap = fields.collect::<Option<Vec<_>>>().ok_or(malformed)?.into_iter().collect();
        Ok(Self {
            sha256: unhex(&head.sha256).ok_or(malformed)?,
            fields: recorded_fields(&fields),
            key: head.key,
            content_type: head.content_type,
            length: head.length,
            checksums: checksums.iter().map(|bytes| u128::from_le_bytes(*bytes)).collect(),
        })
    }
}

/// Returns the fields of a stored head that are recorded. Those of the relay's own are left out.
pub(crate) fn recorded_fields(headers: &HeaderMap) -> HeaderMap {
    let is_recorded = |name: &HeaderName| !LEFT_OUT.contains(name) && !name.as_str().starts_with("gupd-");
    let fields = headers.iter().filter(|(name, value)| is_recorded(name) && value.to_str().is_ok());
    fields.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Returns the name of the record of a key.
pub(crate) fn name_of(key: &str) -> String {
    hex(&Sha256::digest(key.as_bytes()).into())
}

pub(crate) fn hex(digest: &[u8; 32]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != digest.len() || !odd.is_empty() || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        let pair = std::str::from_utf8(pair)
            .ok()
            .filter(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn record(key: &str, length: u64) -> TierRecord {
        let blocks = length.div_ceil(BLOCK);
        TierRecord {
            key: key.to_owned(),
            content_type: "virus-definitions".to_owned(),
            fields: [(header::ETAG, HeaderValue::from_static("\"a\""))].into_iter().collect(),
            length,
            sha256: [7; 32],
            checksums: (0..blocks).map(u128::from).collect(),
        }
    }

    #[test]
    fn record_of_a_later_version_is_told_from_damage() {
        let mut bytes = record("/ /a", 1).encode();
        bytes[8] = 2;
        assert_eq!(TierRecord::decode(&bytes, "/ /a"), Err(RecordError::Later(2)));
        bytes[8] = 0;
        assert_eq!(TierRecord::decode(&bytes, "/ /a"), Err(RecordError::Malformed));
    }

    #[test]
    fn record_of_another_key_is_malformed() {
        let bytes = record("/ /a", 1).encode();
        assert_eq!(TierRecord::decode(&bytes, "/ /b"), Err(RecordError::Malformed));
    }

    #[test]
    fn fields_of_relay_and_connection_are_left_out() {
        let names = ["etag", "gupd-proof", "via", "age", "connection", "set-cookie", "content-length"];
        let fields = names.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("\"a\"")));
        let kept = recorded_fields(&fields.into_iter().collect());
        assert_eq!(kept.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["etag"]);
    }

    #[test]
    fn names_are_64_lower_case_hex_digits() {
        let name = name_of("/ /content/a");
        assert_eq!(unhex(&name).map(|digest| hex(&digest)), Some(name));
        assert!(unhex(&"A".repeat(64)).is_none() && unhex(&"+1".repeat(32)).is_none());
    }

    proptest! {
        #[test]
        fn decoded_record_equals_the_encoded_one(key in "[ -~é]{1,80}", length in 1u64..40 * BLOCK) {
            let record = record(&key, length);
            prop_assert_eq!(TierRecord::decode(&record.encode(), &key), Ok(record));
        }

        #[test]
        fn flipped_or_missing_bytes_are_never_accepted(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
            let mut bytes = record("/ /a", 3 * BLOCK).encode();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at); } else { bytes[at] ^= 1 << bit; }
            prop_assert!(TierRecord::decode(&bytes, "/ /a").is_err());
        }

        #[test]
        fn arbitrary_bytes_are_never_a_record(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(TierRecord::decode_any(&bytes).is_err());
        }
    }
}
