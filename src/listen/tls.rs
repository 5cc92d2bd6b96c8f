//! The relay's own certificate, shown to clients. Relies on `pem` to read it; rustls does the rest.

use std::sync::Arc;

use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use crate::config::Tls;
use crate::pem::{self, PemError};

/// Reads a certificate and its key.
///
/// # Errors
/// When a file cannot be read or used; nothing is half set up.
pub fn acceptor(tls: &Tls) -> Result<TlsAcceptor, PemError> {
    let mut config = pem::pair(tls, |chain, key| {
        ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
