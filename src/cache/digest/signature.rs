//! Signatures of catalogs: a detached PKCS#7 `SignedData` (RFC 5652, in DER) over the bytes of a `.grd`, by a signer whose
//! certificate chains to a configured root. Only the message is parsed here; webpki verifies the chain and the signature.
//! The bytes come from the network: size, signers and certificates are bounded, and any doubt is an error.

use std::time::Duration;

use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier, SignerInfo};
use der::asn1::{ObjectIdentifier, OctetString, OctetStringRef};
use der::{Decode, Encode};
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use webpki::{EndEntityCert, KeyUsage, ring};
use x509_cert::Certificate;

use gupd_config::VerifySettings;
use gupd_config::clock::UnixMillis;
use gupd_net::pem::{PemError, read_certificates};

/// Maximum size of a signature in bytes: a chain of certificates with much in them has 8 KiB.
pub(super) const MAX_SIGNATURE: u64 = 64 << 10;

/// Maximum number of signers. One is expected.
const MAX_SIGNERS: usize = 4;

/// Maximum number of certificates. A chain has three.
const MAX_CERTIFICATES: usize = 16;

/// Use of a signer's certificate, if it states any: code signing (RFC 5280 §4.2.1.12), OID 1.3.6.1.5.5.7.3.3.
const CODE_SIGNING: KeyUsage = KeyUsage::required_if_present(&[0x2b, 6, 1, 5, 5, 7, 3, 3]);

const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA_512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const RSA_SHA_512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const ECDSA_SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");

/// Algorithms of the signatures in a chain. SHA-1 and RSA keys below 2,048 bits are not among them.
static CHAIN: [&dyn SignatureVerificationAlgorithm; 7] = [
    ring::RSA_PKCS1_2048_8192_SHA256,
    ring::RSA_PKCS1_2048_8192_SHA384,
    ring::RSA_PKCS1_2048_8192_SHA512,
    ring::ECDSA_P256_SHA256,
    ring::ECDSA_P256_SHA384,
    ring::ECDSA_P384_SHA256,
    ring::ECDSA_P384_SHA384,
];

/// Reason for which a signature proves nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignatureError {
    /// The signature has too many bytes.
    #[error("its signature has more than {MAX_SIGNATURE} bytes")]
    TooLarge,
    /// The signature is not what its name says.
    #[error("its signature is not a PKCS#7 SignedData in DER: {0}")]
    Malformed(der::Error),
    /// The parts of the signature do not fit together.
    #[error("its signature is not usable: {0}")]
    Unusable(&'static str),
    /// The algorithm is too weak or not known.
    #[error("its signature uses algorithm {0}, which is not accepted")]
    Algorithm(ObjectIdentifier),
    /// The signature is for other bytes.
    #[error("its signature does not match: the .grd or the signature was changed")]
    Mismatch,
    /// The signer is not known.
    #[error("its signer has a certificate of none of verify.roots")]
    UnknownRoot,
    /// A certificate has expired.
    #[error("its signer's certificate has expired: see verify.expired_signers")]
    Expired,
    /// The chain is refused for another reason.
    #[error("the certificate of its signer is refused: {0}")]
    Chain(webpki::Error),
}

impl From<der::Error> for SignatureError {
    fn from(error: der::Error) -> Self {
        Self::Malformed(error)
    }
}

/// Roots that signers of catalogs must chain to.
#[derive(Debug, Default, PartialEq)]
pub struct SignatureRoots {
    anchors: Vec<TrustAnchor<'static>>,
    accepts_expired: bool,
}

/// Signed bytes and the time that they state.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignedBytes<'a> {
    pub(super) bytes: &'a [u8],
    /// Seconds since 1970.
    pub(super) stated: Option<u64>,
}

impl SignatureRoots {
    /// Reads the configured roots.
    ///
    /// # Errors
    /// If a file cannot be read, or a certificate in it cannot be a root.
    pub fn load(settings: &VerifySettings) -> Result<Self, PemError> {
        let mut anchors = Vec::new();
        for path in &settings.roots {
            for certificate in &read_certificates(path)? {
                let anchor = webpki::anchor_from_trusted_cert(certificate);
                let anchor = anchor
                    .map_err(|error| PemError::Issuers { path: path.clone(), reason: error.to_string() })?;
                anchors.push(anchor.to_owned());
            }
        }
        Ok(Self { anchors, accepts_expired: settings.accepts_expired })
    }

    /// Verifies a signature over `signed` at the time `now`. Any one of the signers suffices.
    ///
    /// # Errors
    /// The failure of the last signer.
    pub(super) fn verify(
        &self,
        signature: &[u8],
        signed: SignedBytes<'_>,
        now: UnixMillis,
    ) -> Result<(), SignatureError> {
        if signature.len() as u64 > MAX_SIGNATURE {
            return Err(SignatureError::TooLarge);
        }
        let message = ContentInfo::from_der(signature)?;
        if message.content_type != SIGNED_DATA {
            return Err(SignatureError::Unusable("it is another kind of message"));
        }
        let message: SignedData = message.content.decode_as()?;
        check_content(&message, signed.bytes)?;
        let certificates = certificates(&message)?;
        let signers = message.signer_infos.0.as_slice();
        if signers.len() > MAX_SIGNERS {
            return Err(SignatureError::Unusable("it has too many signers"));
        }
        let mut failure = SignatureError::Unusable("it has no signer");
        for signer in signers {
            match self.verify_signer(signer, &certificates, signed, now) {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn verify_signer(
        &self,
        signer: &SignerInfo,
        certificates: &[(Certificate, CertificateDer<'static>)],
        signed: SignedBytes<'_>,
        now: UnixMillis,
    ) -> Result<(), SignatureError> {
        let own = certificates.iter().find(|(parsed, _)| is_of(&signer.sid, parsed));
        let (_, own) = own.ok_or(SignatureError::Unusable("it lacks the certificate of its signer"))?;
        let own = EndEntityCert::try_from(own).map_err(SignatureError::Chain)?;
        let message = signed_message(signer, signed.bytes)?;
        let message = message.as_deref().unwrap_or(signed.bytes);
        let signature = signer.signature.as_bytes();
        let algorithms = signature_algorithms(signer)?;
        if !algorithms.iter().any(|one| own.verify_signature(*one, message, signature).is_ok()) {
            return Err(SignatureError::Mismatch);
        }
        let others: Vec<_> = certificates.iter().map(|(_, der)| der.clone()).collect();
        match self.verify_chain(&own, &others, unix_time(now)) {
            Err(SignatureError::Expired) if self.accepts_expired => {
                let stated = signed.stated.ok_or(SignatureError::Expired)?;
                self.verify_chain(&own, &others, UnixTime::since_unix_epoch(Duration::from_secs(stated)))
            }
            verified => verified,
        }
    }

    fn verify_chain(
        &self,
        own: &EndEntityCert<'_>,
        others: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<(), SignatureError> {
        let verified = own.verify_for_usage(&CHAIN, &self.anchors, others, at, CODE_SIGNING, None, None);
        verified.map(drop).map_err(|error| match error {
            // A root with the name of a configured one, and a key of its own.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                SignatureError::UnknownRoot
            }
            webpki::Error::CertExpired { .. } => SignatureError::Expired,
            other => SignatureError::Chain(other),
        })
    }
}

/// Checks that the message is over `signed`, whether it contains the bytes or not.
fn check_content(message: &SignedData, signed: &[u8]) -> Result<(), SignatureError> {
    let content = &message.encap_content_info;
    if content.econtent_type != DATA {
        return Err(SignatureError::Unusable("it is not over plain data"));
    }
    let Some(contained) = &content.econtent else { return Ok(()) };
    let contained: OctetStringRef<'_> = contained.decode_as()?;
    if contained.as_bytes() == signed { Ok(()) } else { Err(SignatureError::Mismatch) }
}

/// Returns the certificates of a message, and the bytes of each.
fn certificates(message: &SignedData) -> Result<Vec<(Certificate, CertificateDer<'static>)>, SignatureError> {
    let all = message.certificates.iter().flat_map(|set| set.0.iter());
    let mut certificates = Vec::new();
    for choice in all {
        if certificates.len() == MAX_CERTIFICATES {
            return Err(SignatureError::Unusable("it has too many certificates"));
        }
        if let CertificateChoices::Certificate(certificate) = choice {
            certificates.push((certificate.clone(), certificate.to_der()?.into()));
        }
    }
    Ok(certificates)
}

fn is_of(signer: &SignerIdentifier, certificate: &Certificate) -> bool {
    let fields = &certificate.tbs_certificate;
    match signer {
        SignerIdentifier::IssuerAndSerialNumber(id) => {
            id.issuer == fields.issuer && id.serial_number == fields.serial_number
        }
        SignerIdentifier::SubjectKeyIdentifier(id) => {
            let own = certificate.tbs_certificate.get::<x509_cert::ext::pkix::SubjectKeyIdentifier>();
            matches!(own, Ok(Some((_, own))) if own == *id)
        }
    }
}

/// Returns the bytes that a signer has signed: its attributes, which must have the digest of `signed`. `None` if it has
/// none, and signed the bytes themselves (RFC 5652 §5.4).
fn signed_message(signer: &SignerInfo, signed: &[u8]) -> Result<Option<Vec<u8>>, SignatureError> {
    let Some(attributes) = &signer.signed_attrs else { return Ok(None) };
    let value = |name: ObjectIdentifier| {
        let mut found = attributes.iter().filter(|attribute| attribute.oid == name);
        match (found.next().map(|attribute| attribute.values.as_slice()), found.next()) {
            (Some([value]), None) => Ok(value),
            _ => Err(SignatureError::Unusable("it lacks an attribute of the signed bytes")),
        }
    };
    if value(CONTENT_TYPE)?.decode_as::<ObjectIdentifier>()? != DATA {
        return Err(SignatureError::Unusable("its attributes are not over plain data"));
    }
    let stated: OctetString = value(MESSAGE_DIGEST)?.decode_as()?;
    let found = match signer.digest_alg.oid {
        SHA_256 => Sha256::digest(signed).to_vec(),
        SHA_384 => Sha384::digest(signed).to_vec(),
        SHA_512 => Sha512::digest(signed).to_vec(),
        other => return Err(SignatureError::Algorithm(other)),
    };
    if stated.as_bytes() != found {
        return Err(SignatureError::Mismatch);
    }
    Ok(Some(attributes.to_der()?))
}

/// Returns the algorithms that a signature may be of. RSA signatures often name the key's algorithm alone, and the digest
/// beside it.
fn signature_algorithms(
    signer: &SignerInfo,
) -> Result<&'static [&'static dyn SignatureVerificationAlgorithm], SignatureError> {
    static RSA_256: [&dyn SignatureVerificationAlgorithm; 1] = [ring::RSA_PKCS1_2048_8192_SHA256];
    static RSA_384: [&dyn SignatureVerificationAlgorithm; 1] = [ring::RSA_PKCS1_2048_8192_SHA384];
    static RSA_512: [&dyn SignatureVerificationAlgorithm; 1] = [ring::RSA_PKCS1_2048_8192_SHA512];
    static ECDSA_256: [&dyn SignatureVerificationAlgorithm; 2] =
        [ring::ECDSA_P256_SHA256, ring::ECDSA_P384_SHA256];
    static ECDSA_384: [&dyn SignatureVerificationAlgorithm; 2] =
        [ring::ECDSA_P256_SHA384, ring::ECDSA_P384_SHA384];
    Ok(match (signer.signature_algorithm.oid, signer.digest_alg.oid) {
        (RSA | RSA_SHA_256, SHA_256) => &RSA_256,
        (RSA | RSA_SHA_384, SHA_384) => &RSA_384,
        (RSA | RSA_SHA_512, SHA_512) => &RSA_512,
        (ECDSA_SHA_256, SHA_256) => &ECDSA_256,
        (ECDSA_SHA_384, SHA_384) => &ECDSA_384,
        (RSA, digest) => return Err(SignatureError::Algorithm(digest)),
        (other, _) => return Err(SignatureError::Algorithm(other)),
    })
}

fn unix_time(now: UnixMillis) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
