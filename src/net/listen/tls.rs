//! The relay's own certificate, shown to clients, and the names in those that clients may show. Relies on `pem` to read
//! files, and on rustls to verify what a client shows before anything here looks into it.

use std::path::Path;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tokio_rustls::TlsAcceptor;
use webpki::EndEntityCert;

use crate::pem::{self, PemError};
use gupd_config::ServerSettings;

/// Names of one certificate that are looked at; machines have a handful.
const MAX_NAMES: usize = 32;

/// Reads the relay's certificate and its key, and whose certificates clients may show; `None` without TLS.
///
/// # Errors
/// When a file cannot be read or used; nothing is half set up.
pub fn load_acceptor(server: &ServerSettings) -> Result<Option<TlsAcceptor>, PemError> {
    let Some(tls) = &server.tls else { return Ok(None) };
    let clients = server.client_ca.as_deref().map(issued_by).transpose()?;
    let mut config = pem::pair(tls, |chain, key| {
        let builder = ServerConfig::builder();
        let builder = match clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        builder.with_single_cert(chain, key)
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// The names that the client's certificate was issued for, in lower case; `None` if it has shown none. Only those of the
/// subject's alternative names: common names are out of use (RFC 9525 §2).
pub(super) fn names(connection: &ServerConnection) -> Option<Arc<[Box<str>]>> {
    let certificate = EndEntityCert::try_from(connection.peer_certificates()?.first()?).ok()?;
    let names = certificate.valid_dns_names().chain(certificate.valid_uri_names());
    Some(names.take(MAX_NAMES).map(|name| name.to_ascii_lowercase().into_boxed_str()).collect())
}

/// Clients may show a certificate of these issuers, and need not show any.
fn issued_by(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, PemError> {
    let unusable = |reason: String| PemError::Issuers { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for issuer in pem::certificates(path)? {
        roots.add(issuer).map_err(|error| unusable(error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
    verifier.map_err(|error| unusable(error.to_string()))
}
