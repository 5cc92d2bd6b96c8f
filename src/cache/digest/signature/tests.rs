//! Signatures made by OpenSSL 3 with RSA keys, in the forms that its commands write. The certificates are valid until 2126.

use proptest::prelude::*;
use rustls::pki_types::pem::PemObject;

use super::*;

/// January 2027.
const NOW: UnixMillis = 1_800_000_000_000;

const LIST: &[u8] = b"[GuardHeader]\r\nLastModifiedUtcSeconds=1369163480\r\n[File-1369163480jtun_a.zip]\r\n\
    SHA1=86f7e437faa5a7fce15d1ddcb9eaeaea377667b8\r\n\
    SHA256=ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb\r\n";

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/signature/", $name))
    };
}

fn roots(accepts_expired: bool) -> SignatureRoots {
    let root = CertificateDer::from_pem_slice(fixture!("root.pem")).unwrap();
    let anchors = vec![webpki::anchor_from_trusted_cert(&root).unwrap().to_owned()];
    SignatureRoots { anchors, accepts_expired }
}

fn verify(signature: &[u8], bytes: &[u8]) -> Result<(), SignatureError> {
    roots(false).verify(signature, SignedBytes { bytes, stated: None }, NOW)
}

#[test]
fn signatures_of_every_form_of_openssl_are_verified() {
    for (name, signature) in [
        ("attributes, SHA-256", &fixture!("attributes.sig")[..]),
        ("no attributes, SHA-512", fixture!("plain.sig")),
        ("embedded content, SHA-384", fixture!("embedded.sig")),
        ("PKCS#7 of smime", fixture!("smime.sig")),
    ] {
        let verified = verify(signature, LIST);
        assert!(verified.is_ok(), "{name}: {}", verified.unwrap_err());
        let changed = [LIST, b" "].concat();
        assert!(matches!(verify(signature, &changed), Err(SignatureError::Mismatch)), "{name}");
        assert!(matches!(verify(signature, b""), Err(SignatureError::Mismatch)), "{name}");
    }
}

#[test]
fn weak_or_unknown_algorithms_are_refused() {
    for signature in [&fixture!("sha1.sig")[..], fixture!("pss.sig")] {
        let error = verify(signature, LIST).unwrap_err();
        assert!(matches!(error, SignatureError::Algorithm(_)), "{error}");
    }
}

#[test]
fn unusable_signature_is_one_line_error() {
    let (good, unknown) = (fixture!("attributes.sig"), SignatureRoots::default());
    let signed = SignedBytes { bytes: LIST, stated: Some(1_369_163_480) };
    let expired = NOW + 200 * 365 * 24 * 3_600_000;
    let not_yet = 0;
    for (outcome, expected) in [
        (verify(&[], LIST), "its signature is not a PKCS#7 SignedData in DER"),
        (verify(b"-----BEGIN PKCS7-----", LIST), "its signature is not a PKCS#7 SignedData in DER"),
        (verify(&[good.as_slice(), &[0]].concat(), LIST), "its signature is not a PKCS#7 SignedData in DER"),
        // A length of 4 GiB, and one that is not minimal.
        (verify(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], LIST), "its signature is not a PKCS#7"),
        (verify(&[0x30, 0x83, 0, 0, 1, 0], LIST), "its signature is not a PKCS#7"),
        (verify(&vec![0x30; MAX_SIGNATURE as usize + 1], LIST), "its signature has more than 65536 bytes"),
        (unknown.verify(good, signed, NOW), "its signer has a certificate of none of verify.roots"),
        (roots(false).verify(good, signed, expired), "its signer's certificate has expired"),
        (roots(false).verify(good, signed, not_yet), "the certificate of its signer is refused"),
        // It was not valid at the stated time either.
        (roots(true).verify(good, signed, expired), "the certificate of its signer is refused"),
        (
            roots(true).verify(good, SignedBytes { stated: None, ..signed }, expired),
            "its signer's certificate has expired",
        ),
    ] {
        let error = outcome.unwrap_err().to_string();
        assert!(error.starts_with(expected) && !error.contains('\n'), "{expected}: {error}");
    }
    let signed = SignedBytes { stated: Some(NOW as u64 / 1_000), ..signed };
    assert!(roots(true).verify(good, signed, expired).is_ok(), "it was valid at the stated time");
}

#[test]
fn truncated_signature_is_refused() {
    let good = fixture!("attributes.sig");
    for cut in 0..good.len() {
        assert!(verify(&good[..cut], LIST).is_err(), "{cut} of {} bytes", good.len());
    }
}

proptest! {
    #[test]
    fn damaged_signature_never_causes_a_panic(at: proptest::sample::Index, to: u8) {
        let mut signature = fixture!("attributes.sig").to_vec();
        let at = at.index(signature.len());
        signature[at] = to;
        // Some bytes, such as those of the parameters of a digest, carry no meaning.
        let _verified = verify(&signature, LIST);
    }
}
