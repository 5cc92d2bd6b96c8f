//! The relay's own certificate. Owns reading it and saying what is wrong with it; rustls does the rest.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::Tls;

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not a PEM file with certificates.
    #[error("{}: no certificate can be read from it: {reason}; give a PEM file, the server's certificate first", path.display())]
    Certificate {
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

/// Reads a certificate and its key.
///
/// # Errors
/// When a file cannot be read or used; nothing is half set up.
pub fn acceptor(tls: &Tls) -> Result<TlsAcceptor, TlsError> {
    let unusable = |reason: String| TlsError::Certificate { path: tls.cert.clone(), reason };
    let chain = CertificateDer::pem_file_iter(&tls.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(error.to_string()))?;
    if chain.is_empty() {
        return Err(unusable("it has none".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|error| TlsError::Key { path: tls.key.clone(), reason: error.to_string() })?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|reason| TlsError::Pair { cert: tls.cert.clone(), key: tls.key.clone(), reason })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
