//! The relay's certificate, and the names in client certificates. Relies on `pem` to read files, and on rustls to
//! verify a client certificate before this module reads it.

use std::path::Path;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tokio_rustls::TlsAcceptor;
use webpki::EndEntityCert;

use crate::pem::{self, PemError};
use gupd_config::ServerSettings;

/// Maximum of names read from one certificate; machines have a handful.
const MAX_NAMES: usize = 32;

/// Loads the relay's certificate and key, and the issuers of client certificates; `None` without TLS.
///
/// # Errors
/// If a file cannot be read or used.
pub fn load_acceptor(server: &ServerSettings) -> Result<Option<TlsAcceptor>, PemError> {
    let Some(tls) = &server.tls else { return Ok(None) };
    let clients = server.client_ca.as_deref().map(optional_client_verifier).transpose()?;
    let mut config = pem::read_key_pair(tls, |chain, key| {
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

/// Returns the names of the client's certificate in lower case; `None` without a certificate. Only subject
/// alternative names count: common names are obsolete (RFC 9525 §2).
pub(super) fn client_names(connection: &ServerConnection) -> Option<Arc<[Box<str>]>> {
    let certificate = EndEntityCert::try_from(connection.peer_certificates()?.first()?).ok()?;
    let names = certificate.valid_dns_names().chain(certificate.valid_uri_names());
    Some(names.take(MAX_NAMES).map(|name| name.to_ascii_lowercase().into_boxed_str()).collect())
}

/// Returns a verifier for optional client certificates of these issuers.
fn optional_client_verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, PemError> {
    let unusable = |reason: String| PemError::Issuers { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for issuer in pem::read_certificates(path)? {
        roots.add(issuer).map_err(|error| unusable(error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
    verifier.map_err(|error| unusable(error.to_string()))
}
