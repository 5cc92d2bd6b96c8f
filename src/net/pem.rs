//! Certificates and keys in files, the relay's own and those that it trusts. Owns reading them and saying what is wrong
//! with a file; what a certificate is good for is not known here.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use gupd_config::CertificateFiles;

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// Not a PEM file with certificates.
    #[error("{}: no certificate can be read from it: {reason}; give a PEM file of certificates, in a chain the leaf first", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificates of issuers that cannot be such.
    #[error("{}: its certificates cannot be trusted as issuers: {reason}; give those of the issuers, not of clients", path.display())]
    Issuers {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Not a PEM file with a private key.
    #[error("{}: no private key can be read from it: {reason}; give a PEM file with an unencrypted key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key do not fit.
    #[error("{} and {}: not a certificate and its key: {reason}", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        reason: rustls::Error,
    },
}

/// All certificates of a file; at least one.
///
/// # Errors
/// When the file cannot be read, or has none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let unusable = |reason: String| PemError::Certificate { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() { Err(unusable("it has none".to_owned())) } else { Ok(certificates) }
}

/// A chain and its key, as `take` takes them.
///
/// # Errors
/// When a file cannot be read, or `take` refuses the two.
pub fn pair<T>(
    tls: &CertificateFiles,
    take: impl FnOnce(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) -> Result<T, rustls::Error>,
) -> Result<T, PemError> {
    let chain = certificates(&tls.cert)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|error| PemError::Key { path: tls.key.clone(), reason: error.to_string() })?;
    take(chain, key).map_err(|reason| PemError::Pair { cert: tls.cert.clone(), key: tls.key.clone(), reason })
}
