//! PEM files with certificates and keys: the relay's own and trusted ones. The module reads them and explains
//! unusable files; it does not know the purpose of a certificate.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use x509_parser::time::ASN1Time;
use x509_parser::{parse_x509_certificate, parse_x509_crl};

use gupd_config::CertificateFiles;
use gupd_config::clock::UnixMillis;

/// Unusable certificate or key.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// Not a PEM file with certificates.
    #[error("{}: cannot read certificates: {reason}: use a PEM file of certificates, with the leaf first in a chain", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// Certificates that cannot be issuers.
    #[error("{}: cannot trust its certificates as issuers: {reason}: use the certificates of the issuers, not of clients", path.display())]
    Issuers {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// Not a PEM file with revocation lists.
    #[error("{}: cannot read revocation lists: {reason}: use a PEM file of X509 CRL blocks (openssl crl -inform der converts)", path.display())]
    Crl {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// Not a PEM file with a private key.
    #[error("{}: cannot read a private key: {reason}: use a PEM file with an unencrypted key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// Certificate and key do not match.
    #[error("{} and {}: certificate and key do not match: {reason}: use the key with which the certificate was requested", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The cause.
        reason: rustls::Error,
    },
}

/// Reads all certificates of a file; at least one.
///
/// # Errors
/// If the file cannot be read or has no certificate.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let unusable = |reason: String| PemError::Certificate { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() { Err(unusable("it has none".to_owned())) } else { Ok(certificates) }
}

/// Time in which a certificate is valid, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first moment.
    pub from: UnixMillis,
    /// Its last moment.
    pub until: UnixMillis,
}

/// Reads the validity of the first certificate of a file.
///
/// # Errors
/// If the file cannot be read or has no certificate.
pub fn read_validity(path: &Path) -> Result<Validity, PemError> {
    let unusable = |reason: String| PemError::Certificate { path: path.to_owned(), reason };
    let certificates = read_certificates(path)?;
    let first = certificates.first().map(AsRef::as_ref).unwrap_or_default();
    let (_, parsed) = parse_x509_certificate(first).map_err(|error| unusable(error.to_string()))?;
    let millis = |time: ASN1Time| time.timestamp().saturating_mul(1_000);
    let validity = parsed.validity();
    Ok(Validity { from: millis(validity.not_before), until: millis(validity.not_after) })
}

/// Reads the time at which the first of a file's certificates expires, in milliseconds since 1970.
///
/// # Errors
/// If the file cannot be read or has no certificate.
pub fn read_earliest_expiry(path: &Path) -> Result<UnixMillis, PemError> {
    let reason = || "none of them can be parsed".to_owned();
    let unusable = || PemError::Certificate { path: path.to_owned(), reason: reason() };
    read_certificates(path)?.iter().filter_map(|certificate| expiry(certificate)).min().ok_or_else(unusable)
}

/// Reads all revocation lists of a file; at least one.
///
/// # Errors
/// If the file cannot be read or has none.
pub fn read_crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let unusable = |reason: String| PemError::Crl { path: path.to_owned(), reason };
    let lists = CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(error.to_string()))?;
    if lists.is_empty() { Err(unusable("it has none".to_owned())) } else { Ok(lists) }
}

/// Reads the time in which all revocation lists of a file are current. A list that names no next one is always.
///
/// # Errors
/// If the file cannot be read or has no list.
pub fn read_crl_validity(path: &Path) -> Result<Validity, PemError> {
    let unusable = |reason: String| PemError::Crl { path: path.to_owned(), reason };
    let mut all = Validity { from: UnixMillis::MIN, until: UnixMillis::MAX };
    for list in read_crls(path)? {
        let (_, parsed) = parse_x509_crl(&list).map_err(|error| unusable(error.to_string()))?;
        let millis = |time: ASN1Time| time.timestamp().saturating_mul(1_000);
        all.from = all.from.max(millis(parsed.last_update()));
        all.until = all.until.min(parsed.next_update().map_or(UnixMillis::MAX, millis));
    }
    Ok(all)
}

/// Returns the time at which a certificate (DER) expires, in milliseconds since 1970; `None` if it cannot be read.
pub fn expiry(certificate: &[u8]) -> Option<UnixMillis> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp().saturating_mul(1_000))
}

/// Reads a certificate chain and its key, and builds a `T` of them.
///
/// # Errors
/// If a file cannot be read, or `build` rejects the pair.
pub fn read_key_pair<T>(
    tls: &CertificateFiles,
    build: impl FnOnce(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) -> Result<T, rustls::Error>,
) -> Result<T, PemError> {
    let chain = read_certificates(&tls.cert)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|error| PemError::Key { path: tls.key.clone(), reason: error.to_string() })?;
    build(chain, key).map_err(|reason| PemError::Pair {
        cert: tls.cert.clone(),
        key: tls.key.clone(),
        reason,
    })
}
