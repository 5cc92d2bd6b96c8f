//! `multipart/byteranges` (RFC 9110 §14.6): the text around the parts of a `206` with several ranges, and its exact
//! length. The bytes of the parts come from the caller.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;

use super::range::content_range;
use crate::field;

/// Minimum length in bytes of a part's head, without its type.
const MIN_HEAD: u64 = 64;

/// A body of several parts. Send each part's head, then the bytes of its range, and at the end [`Self::closing`].
#[derive(Clone, Debug)]
pub struct Multipart {
    boundary: String,
    parts: Vec<BodyPart>,
    closing: Bytes,
}

/// One part.
#[derive(Clone, Debug)]
pub struct BodyPart {
    /// Text before the part's bytes, including the boundary.
    pub head: Bytes,
    /// The part's bytes within the whole.
    pub range: Range<u64>,
}

impl Multipart {
    /// Creates the parts for `ranges`, none empty, of a whole of `complete_length` bytes with this type.
    pub fn new(ranges: &[Range<u64>], complete_length: u64, content_type: Option<&HeaderValue>) -> Self {
        let boundary = boundary();
        let part = |(at, range): (usize, &Range<u64>)| {
            let mut head = Vec::new();
            head.extend_from_slice(if at == 0 { b"--" } else { b"\r\n--" });
            head.extend_from_slice(boundary.as_bytes());
            if let Some(content_type) = content_type {
                head.extend_from_slice(b"\r\nContent-Type: ");
                head.extend_from_slice(content_type.as_bytes());
            }
            head.extend_from_slice(b"\r\nContent-Range: ");
            head.extend_from_slice(content_range(range, Some(complete_length)).as_bytes());
            head.extend_from_slice(b"\r\n\r\n");
            BodyPart { head: head.into(), range: range.clone() }
        };
        let parts = ranges.iter().enumerate().map(part).collect();
        let closing = format!("\r\n--{boundary}--\r\n").into();
        Self { boundary, parts, closing }
    }

    /// Estimates whether the heads of so many parts are longer than the whole, without building them.
    pub fn do_heads_exceed(parts: usize, complete_length: u64, content_type: Option<&HeaderValue>) -> bool {
        let head = MIN_HEAD.saturating_add(content_type.map_or(0, |value| value.len() as u64));
        (parts as u64).saturating_mul(head) > complete_length
    }

    /// The response's `Content-Type`. It must have no `Content-Range` of its own (§15.3.7.2).
    pub fn content_type(&self) -> HeaderValue {
        field::composed(format!("multipart/byteranges; boundary={}", self.boundary))
    }

    /// The response's `Content-Length`.
    pub fn content_length(&self) -> u64 {
        let length = |part: &BodyPart| {
            octets(&part.head).saturating_add(part.range.end.saturating_sub(part.range.start))
        };
        self.parts.iter().map(length).fold(octets(&self.closing), u64::saturating_add)
    }

    /// The parts, in the order they are sent.
    pub fn parts(&self) -> &[BodyPart] {
        &self.parts
    }

    /// Returns the text after the last part.
    pub fn closing(&self) -> Bytes {
        self.closing.clone()
    }
}

fn octets(bytes: &Bytes) -> u64 {
    bytes.len() as u64
}

/// Returns 128 random bits that a file's author cannot predict.
fn boundary() -> String {
    let keys = RandomState::new();
    format!("{:016x}{:016x}", keys.hash_one(0), keys.hash_one(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(multipart: &Multipart, whole: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        for BodyPart { head, range } in multipart.parts() {
            body.extend_from_slice(head);
            body.extend_from_slice(&whole[range.start as usize..range.end as usize]);
        }
        body.extend_from_slice(&multipart.closing());
        body
    }

    #[test]
    fn body_and_length_follow_rfc_9110_section_14_6() {
        let multipart = Multipart::new(&[0..3, 7..8], 10, Some(&HeaderValue::from_static("application/zip")));
        let body = body(&multipart, b"abcdefghij");
        let b = &multipart.boundary;
        let expected = format!(
            "--{b}\r\nContent-Type: application/zip\r\nContent-Range: bytes 0-2/10\r\n\r\nabc\
             \r\n--{b}\r\nContent-Type: application/zip\r\nContent-Range: bytes 7-7/10\r\n\r\nh\r\n--{b}--\r\n"
        );
        assert_eq!(String::from_utf8(body.clone()).unwrap(), expected);
        assert_eq!(multipart.content_length(), body.len() as u64);
        assert_eq!(multipart.content_type(), format!("multipart/byteranges; boundary={b}").as_str());
    }

    #[test]
    fn parts_have_no_type_if_the_whole_has_none() {
        let multipart = Multipart::new(&[0..1, 2..3], 3, None);
        let body = body(&multipart, b"abc");
        assert!(!String::from_utf8(body.clone()).unwrap().contains("Content-Type"));
        assert_eq!(multipart.content_length(), body.len() as u64);
    }

    #[test]
    fn boundaries_are_unique() {
        let boundaries: std::collections::HashSet<_> = (0..100).map(|_| boundary()).collect();
        assert_eq!(boundaries.len(), 100);
    }
}
