//! Digests in header fields: `Repr-Digest` and `Content-Digest` (RFC 9530), `Digest` (RFC 3230) and `Content-MD5` (RFC
//! 1864), and the relay's own `Repr-Digest` for clients that want it. Parsing only: no bytes are hashed here. An
//! unknown or malformed member is ignored (RFC 9530 §2) and hides no other.

use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use gupd_http::field::{WANT_REPR_DIGEST, composed, members};
use gupd_store::BlobId;

/// Digest of the representation: the same in a `200` and in each `206` of it.
pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// Digest of the content of one message.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// Older digest of the content of one message.
pub const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

const DIGEST: HeaderName = HeaderName::from_static("digest");

/// Padding is optional, as RFC 9651 §4.2.7 requires of a parser.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Digest of a supported algorithm.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Digest {
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-512.
    Sha512([u8; 64]),
    /// MD5, which detects accidents, not malice.
    Md5([u8; 16]),
}

/// Source of an announced digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announcer {
    /// `Repr-Digest`.
    ReprDigest,
    /// `Content-Digest`.
    ContentDigest,
    /// `Digest`.
    Digest,
    /// `Content-MD5`.
    ContentMd5,
    /// The catalog beside the payload.
    Catalog,
}

/// Digest and its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AnnouncedDigest {
    /// Source.
    pub by: Announcer,
    /// Expected digest.
    pub digest: Digest,
}

/// Returns the digests in a response's head that cover the complete representation as transferred, in no order. The
/// number is bounded by the size of the head.
///
/// `Content-Digest` and `Content-MD5` cover the content of their own message, which in a `206` is a part. Encoded
/// content is stored as it arrived, so its digests apply unchanged.
pub(super) fn announced_digests(status: StatusCode, headers: &HeaderMap) -> Vec<AnnouncedDigest> {
    let mut all = Vec::new();
    dictionary(headers, REPR_DIGEST, Announcer::ReprDigest, &mut all);
    for member in members(headers, DIGEST) {
        let named = split(member, b'=');
        all.extend(named.and_then(|(name, value)| AnnouncedDigest::parse(Announcer::Digest, name, value)));
    }
    if status != StatusCode::PARTIAL_CONTENT {
        dictionary(headers, CONTENT_DIGEST, Announcer::ContentDigest, &mut all);
        let values = members(headers, CONTENT_MD5);
        all.extend(values.filter_map(|value| AnnouncedDigest::parse(Announcer::ContentMd5, b"md5", value)));
    }
    all
}

/// Returns the `Repr-Digest` for a client that prefers SHA-256 (RFC 9530 §4), unless the origin has sent one. Costs one
/// lookup for a request without the preference.
pub fn repr_digest(request: &HeaderMap, stored: &HeaderMap, blob: BlobId) -> Option<HeaderValue> {
    if !request.contains_key(WANT_REPR_DIGEST) || stored.contains_key(REPR_DIGEST) {
        return None;
    }
    let preferences = members(request, WANT_REPR_DIGEST).filter_map(|member| split(member, b'='));
    // The last member of several with one key counts (RFC 9651 §4.2.2).
    let (_, preference) = preferences.filter(|(name, _)| *name == b"sha-256").last()?;
    let is_preferred = matches!(without_parameters(preference), b"10" | [b'1'..=b'9']);
    is_preferred.then(|| composed(format!("sha-256=:{}:", BASE64.encode(blob.as_bytes()))))
}

impl AnnouncedDigest {
    /// `None` for an unsupported algorithm or an invalid value.
    fn parse(by: Announcer, algorithm: &[u8], base64: &[u8]) -> Option<Self> {
        let bytes = BASE64.decode(base64.trim_ascii()).ok()?;
        let digest = match algorithm.to_ascii_lowercase().as_slice() {
            b"sha-256" => Digest::Sha256(bytes.try_into().ok()?),
            b"sha-512" => Digest::Sha512(bytes.try_into().ok()?),
            b"md5" => Digest::Md5(bytes.try_into().ok()?),
            _ => return None,
        };
        Some(Self { by, digest })
    }
}

impl Digest {
    /// Name of the algorithm in the HTTP registry.
    pub(super) const fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha-256",
            Self::Sha512(_) => "sha-512",
            Self::Md5(_) => "md5",
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
            Self::Md5(bytes) => bytes,
        }
    }
}

impl From<BlobId> for Digest {
    fn from(blob: BlobId) -> Self {
        Self::Sha256(*blob.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.algorithm())?;
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Announcer {
    /// All announcers, for the label set of a metric.
    pub(super) const ALL: [Self; 5] =
        [Self::ReprDigest, Self::ContentDigest, Self::Digest, Self::ContentMd5, Self::Catalog];

    /// Spelling in logs and metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::ReprDigest => "repr-digest",
            Self::ContentDigest => "content-digest",
            Self::Digest => "digest",
            Self::ContentMd5 => "content-md5",
            Self::Catalog => "catalog",
        }
    }
}

/// Parses a dictionary of byte sequences (RFC 9651 §3.2, §3.3.5). The last of several members with one key counts.
fn dictionary(headers: &HeaderMap, name: HeaderName, by: Announcer, all: &mut Vec<AnnouncedDigest>) {
    for member in members(headers, name) {
        let read = split(member, b'=').and_then(|(algorithm, value)| {
            let (base64, rest) = split(value.strip_prefix(b":")?, b':')?;
            without_parameters(rest).is_empty().then(|| AnnouncedDigest::parse(by, algorithm, base64))?
        });
        if let Some(read) = read {
            all.retain(|other| other.by != by || other.digest.algorithm() != read.digest.algorithm());
            all.push(read);
        }
    }
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == at)?;
    Some((text.get(..at)?, text.get(at.checked_add(1)?..)?))
}

fn without_parameters(value: &[u8]) -> &[u8] {
    split(value, b';').map_or(value, |(value, _)| value).trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_MD5: &str = "1B2M2Y8AsgTpgAmY7PhCfg==";
    const EMPTY_SHA256: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn read(status: u16, fields: &[(&'static str, &str)]) -> Vec<String> {
        let all = announced_digests(StatusCode::from_u16(status).unwrap(), &headers(fields));
        all.iter().map(|one| format!("{} {}", one.by.as_str(), one.digest.algorithm())).collect()
    }

    #[test]
    fn part_yields_only_digests_of_the_whole() {
        let fields = [
            ("repr-digest", &*format!("sha-256=:{EMPTY_SHA256}:;q=1")),
            ("content-digest", &format!("unixsum=:MTIz:, md5=:{EMPTY_MD5}:")),
            ("digest", &format!("UNIXsum=30637,MD5={EMPTY_MD5} , sha-256={EMPTY_SHA256}")),
            ("content-md5", EMPTY_MD5),
        ];
        let whole_digests = ["repr-digest sha-256", "digest md5", "digest sha-256"];
        assert_eq!(read(206, &fields), whole_digests);
        let all = [&whole_digests[..], &["content-digest md5", "content-md5 md5"]].concat();
        assert_eq!(read(200, &fields), all);
    }

    #[test]
    fn malformed_member_hides_no_other() {
        let unpadded = EMPTY_SHA256.trim_end_matches('=');
        for bad in ["sha-256", "sha-256=:AAAA:", "sha-512=:!!:", "sha-256=x", "=:AAAA:", "sha-256=:AA", "\""]
        {
            let value = format!("{bad}, sha-256=:{unpadded}:");
            assert_eq!(read(200, &[("repr-digest", &value)]), ["repr-digest sha-256"], "{bad}");
        }
    }

    #[test]
    fn last_member_of_a_key_counts_but_both_older_digests_do() {
        let other = format!("sha-256=:{}:", "A".repeat(43));
        let all = announced_digests(
            StatusCode::OK,
            &headers(&[("repr-digest", &other), ("repr-digest", &format!("sha-256=:{EMPTY_SHA256}:"))]),
        );
        assert_eq!(all.len(), 1);
        assert!(all[0].digest.to_string().starts_with("sha-256:e3b0c44298fc1c14"), "{}", all[0].digest);
        let older = format!("md5={EMPTY_MD5}, md5=AAAAAAAAAAAAAAAAAAAAAA==");
        assert_eq!(read(200, &[("digest", &older)]).len(), 2);
    }

    #[test]
    fn repr_digest_is_sent_only_to_clients_that_prefer_it() {
        let blob: BlobId =
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse().unwrap();
        let given = |want: &str, stored: &HeaderMap| {
            repr_digest(&headers(&[("want-repr-digest", want)]), stored, blob)
        };
        let expected = format!("sha-256=:{EMPTY_SHA256}:");
        for want in ["sha-256=1", "sha-512=10, sha-256=3", "sha-256=0, sha-256=10;x"] {
            assert_eq!(given(want, &HeaderMap::new()).unwrap(), expected, "{want}");
        }
        for want in ["sha-256=0", "sha-256", "sha-512=10", "sha-256=11", "sha-256=-1", "sha-256=1, sha-256=0"]
        {
            assert_eq!(given(want, &HeaderMap::new()), None, "{want}");
        }
        assert_eq!(given("sha-256=1", &headers(&[("repr-digest", "sha-512=:AA:")])), None);
        assert_eq!(repr_digest(&HeaderMap::new(), &HeaderMap::new(), blob), None);
    }
}
