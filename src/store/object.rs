//! A stored response and its byte form, which is length-prefixed and little-endian. The index stores the encoded
//! headers; a blob's trailer stores the whole record, so that a lost index can be rebuilt. Decoding trusts
//! nothing: every length is checked against the remaining bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::ObjectKey;
use super::id::BlobId;
use gupd_config::clock::UnixMillis;

/// Version of the record in a blob's trailer.
const RECORD_VERSION: u8 = 1;

/// One stored response.
#[derive(Debug)]
pub struct Object {
    /// Row in the index; never reused.
    pub id: i64,
    /// Cache key.
    pub key: ObjectKey,
    /// Encoded selecting header fields (RFC 9111 §4.1); empty for a response without `Vary`.
    pub selecting: String,
    /// The response's status.
    pub status: StatusCode,
    /// The response's stored header fields.
    pub headers: HeaderMap,
    /// Label of its content type.
    pub content_type: Arc<str>,
    /// Name of the upstream that sent it.
    pub upstream: Arc<str>,
    /// Time at which its request was sent.
    pub request_time: UnixMillis,
    /// Time at which its head was received.
    pub response_time: UnixMillis,
    /// Its body.
    pub blob: BlobId,
    /// Length of the body in bytes.
    pub len: u64,
    pub(super) last_used: AtomicI64,
}

impl Object {
    /// Notes a use in memory; [`super::Store::record_use`] makes it persistent.
    pub fn touch(&self, now: UnixMillis) {
        self.last_used.store(now, Ordering::Relaxed);
    }

    /// Returns the object with the header fields and times of a `304`.
    pub fn with_head(&self, headers: HeaderMap, request_time: UnixMillis, response_time: UnixMillis) -> Self {
        Self {
            id: self.id,
            key: self.key.clone(),
            selecting: self.selecting.clone(),
            status: self.status,
            headers,
            content_type: self.content_type.clone(),
            upstream: self.upstream.clone(),
            request_time,
            response_time,
            blob: self.blob,
            len: self.len,
            last_used: AtomicI64::new(self.last_used()),
        }
    }

    /// Encodes the record for the trailer of its blob.
    pub(super) fn encode_record(&self) -> Vec<u8> {
        let new = NewObject {
            key: self.key.clone(),
            selecting: self.selecting.clone(),
            status: self.status,
            headers: self.headers.clone(),
            content_type: self.content_type.clone(),
            upstream: self.upstream.clone(),
            request_time: self.request_time,
            response_time: self.response_time,
        };
        new.encode()
    }

    /// Returns the time of the last use.
    pub fn last_used(&self) -> UnixMillis {
        self.last_used.load(Ordering::Relaxed)
    }
}

/// A response to be stored: the fields of [`Object`] that the store does not determine itself.
#[derive(Clone, Debug, PartialEq)]
pub struct NewObject {
    /// Cache key.
    pub key: ObjectKey,
    /// Encoded selecting header fields; empty for a response without `Vary`.
    pub selecting: String,
    /// The response's status.
    pub status: StatusCode,
    /// The response's header fields to store.
    pub headers: HeaderMap,
    /// Label of its content type.
    pub content_type: Arc<str>,
    /// Name of the upstream that sent it.
    pub upstream: Arc<str>,
    /// Time at which its request was sent.
    pub request_time: UnixMillis,
    /// Time at which its head was received.
    pub response_time: UnixMillis,
}

impl NewObject {
    /// Encodes the record for a blob's trailer.
    pub(super) fn encode(&self) -> Vec<u8> {
        self.encode_with_position().0
    }

    /// Encodes the record, and returns the position of the header fields in it.
    fn encode_with_position(&self) -> (Vec<u8>, usize) {
        let texts = [&*self.key, &self.selecting, &self.content_type, &self.upstream];
        let bytes = texts.iter().map(|text| text.len() + 4).sum::<usize>() + 32 + self.headers.len() * 48;
        let mut out = Vec::with_capacity(bytes);
        out.push(RECORD_VERSION);
        for text in texts {
            put(&mut out, text.as_bytes());
        }
        out.extend_from_slice(&self.status.as_u16().to_le_bytes());
        out.extend_from_slice(&self.request_time.to_le_bytes());
        out.extend_from_slice(&self.response_time.to_le_bytes());
        let headers = out.len() + 4;
        out.extend_from_slice(&[0; 4]);
        append_headers(&mut out, &self.headers);
        let length = u32::try_from(out.len() - headers).unwrap_or(u32::MAX);
        out[headers - 4..headers].copy_from_slice(&length.to_le_bytes());
        (out, headers)
    }

    /// Decodes a record; `None` if it is malformed.
    pub(super) fn decode(record: &[u8]) -> Option<Self> {
        let mut fields = FieldReader(record);
        if fields.array::<1>()? != [RECORD_VERSION] {
            return None;
        }
        let new = Self {
            key: fields.text()?.into(),
            selecting: fields.text()?.into(),
            content_type: fields.text()?.into(),
            upstream: fields.text()?.into(),
            status: StatusCode::from_u16(u16::from_le_bytes(fields.array()?)).ok()?,
            request_time: i64::from_le_bytes(fields.array()?),
            response_time: i64::from_le_bytes(fields.array()?),
            headers: decode_headers(fields.bytes()?)?,
        };
        fields.0.is_empty().then_some(new)
    }

    pub(super) fn into_object(self, id: i64, blob: BlobId, len: u64, last_used: UnixMillis) -> Object {
        Object {
            id,
            key: self.key,
            selecting: self.selecting,
            status: self.status,
            headers: self.headers,
            content_type: self.content_type,
            upstream: self.upstream,
            request_time: self.request_time,
            response_time: self.response_time,
            blob,
            len,
            last_used: AtomicI64::new(last_used),
        }
    }
}

/// A response to be stored with its record, which blob, index and journal share.
#[derive(Clone, Debug)]
pub(super) struct EncodedObject {
    new: NewObject,
    record: Vec<u8>,
    /// Position of the header fields, which end the record.
    headers: usize,
}

impl EncodedObject {
    /// Encodes the record.
    pub(super) fn new(new: NewObject) -> Self {
        let (record, headers) = new.encode_with_position();
        Self { new, record, headers }
    }

    /// Returns the response without its record.
    pub(super) fn into_new(self) -> NewObject {
        self.new
    }

    /// Returns the response.
    pub(super) fn object(&self) -> &NewObject {
        &self.new
    }

    /// Returns the record for a blob's trailer.
    pub(super) fn record(&self) -> &[u8] {
        &self.record
    }

    /// Returns the header fields as [`encode_headers`] does.
    pub(super) fn headers(&self) -> &[u8] {
        &self.record[self.headers..]
    }
}

/// Encodes header fields in order, each a name and a value.
pub(super) fn encode_headers(headers: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::new();
    append_headers(&mut out, headers);
    out
}

fn append_headers(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        put(out, name.as_str().as_bytes());
        put(out, value.as_bytes());
    }
}

/// Decodes header fields; `None` if they are malformed.
pub(super) fn decode_headers(encoded: &[u8]) -> Option<HeaderMap> {
    let mut fields = FieldReader(encoded);
    let mut headers = HeaderMap::new();
    while !fields.0.is_empty() {
        let name = HeaderName::from_bytes(fields.bytes()?).ok()?;
        headers.try_append(name, HeaderValue::from_bytes(fields.bytes()?).ok()?).ok()?;
    }
    Some(headers)
}

/// Cursor over encoded fields.
pub(super) struct FieldReader<'a>(pub(super) &'a [u8]);

impl<'a> FieldReader<'a> {
    /// Takes the next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    /// Takes the next length-prefixed bytes.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(u32::from_le_bytes(self.array()?)).ok()?;
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

/// Appends length-prefixed bytes. Heads are bounded far below 4 GiB. The length of a longer field would be wrong,
/// but the bound on a record's size refuses that record.
pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> NewObject {
        let mut headers = HeaderMap::new();
        headers.append("etag", HeaderValue::from_static("\"a\""));
        headers.append("set-cookie", HeaderValue::from_static("one"));
        headers.append("set-cookie", HeaderValue::from_bytes(b"\xfftwo").unwrap());
        NewObject {
            key: "all/content/x".into(),
            selecting: "accept=*".into(),
            status: StatusCode::OK,
            headers,
            content_type: "virus-definitions".into(),
            upstream: "manager:8014".into(),
            request_time: 1,
            response_time: i64::MAX,
        }
    }

    #[test]
    fn record_round_trips() {
        assert_eq!(NewObject::decode(&sample().encode()), Some(sample()));
        assert_eq!(EncodedObject::new(sample()).headers(), encode_headers(&sample().headers));
    }

    #[test]
    fn truncated_record_is_refused() {
        let record = sample().encode();
        for cut in 0..record.len() {
            assert_eq!(NewObject::decode(&record[..cut]), None, "{cut} bytes");
        }
    }

    proptest! {
        #[test]
        fn changed_record_never_panics(at: proptest::sample::Index, to: u8) {
            let mut record = sample().encode();
            let at = at.index(record.len());
            record[at] = to;
            if let Some(new) = NewObject::decode(&record) {
                prop_assert!(new.encode().len() <= record.len());
            }
        }
    }
}
