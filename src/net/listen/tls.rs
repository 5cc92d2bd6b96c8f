//! TLS of a listener: the relay's certificates, the rules for those of clients, and the names in them. Relies on `pem`
//! to read files, and on rustls to verify a client certificate before this module reads it. Of the relay's certificates
//! the client's SNI selects one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tokio_rustls::TlsAcceptor;
use webpki::EndEntityCert;

use crate::pem::{self, PemError};
use gupd_config::{ClientCertificates, ListenerTls};

/// Maximum of names read from one certificate; machines have a handful.
const MAX_NAMES: usize = 32;

/// Protocol identifiers of ALPN (RFC 7301, RFC 9113 §3.2).
const HTTP_1_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// Certificates of a listener by the names that they are for.
#[derive(Debug)]
struct CertificatesByName {
    /// In lower case; `*.` and the rest for all names of one label more.
    names: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// For clients that name none of them.
    first: Option<Arc<CertifiedKey>>,
}

/// Loads the relay's certificates and keys, and the issuers and revocation lists of client certificates.
///
/// # Errors
/// If a file cannot be read or used.
pub(super) fn load_acceptor(tls: &ListenerTls, has_http2: bool) -> Result<TlsAcceptor, PemError> {
    let builder = ServerConfig::builder();
    let certificates = CertificatesByName::load(tls, builder.crypto_provider())?;
    let builder = match client_verifier(tls)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.ignore_client_order = true;
    config.alpn_protocols = if has_http2 { vec![HTTP_2, HTTP_1_1] } else { vec![HTTP_1_1] }
        .into_iter()
        .map(<[u8]>::to_vec)
        .collect();
    if tls.asks_clients() {
        // A resumed session repeats no verification, and a certificate may have been revoked or expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Returns true if the client chose HTTP/2.
pub(super) fn is_http2(connection: &ServerConnection) -> bool {
    connection.alpn_protocol() == Some(HTTP_2)
}

/// Returns the names of the client's certificate in lower case; `None` without a certificate. Only subject
/// alternative names count: common names are obsolete (RFC 9525 §2).
pub(super) fn client_names(connection: &ServerConnection) -> Option<Arc<[Box<str>]>> {
    let certificate = EndEntityCert::try_from(connection.peer_certificates()?.first()?).ok()?;
    let names = certificate.valid_dns_names().chain(certificate.valid_uri_names());
    Some(names.take(MAX_NAMES).map(|name| name.to_ascii_lowercase().into_boxed_str()).collect())
}

/// Returns the verifier of client certificates; `None` if clients are not asked for one.
fn client_verifier(tls: &ListenerTls) -> Result<Option<Arc<dyn ClientCertVerifier>>, PemError> {
    let Some(path) = tls.client_ca.as_deref().filter(|_| tls.asks_clients()) else { return Ok(None) };
    let unusable = |path: &Path, reason: String| PemError::Issuers { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for issuer in pem::read_certificates(path)? {
        roots.add(issuer).map_err(|error| unusable(path, error.to_string()))?;
    }
    let mut verifier = WebPkiClientVerifier::builder(Arc::new(roots));
    if tls.client_certificates == ClientCertificates::Optional {
        verifier = verifier.allow_unauthenticated();
    }
    for path in &tls.client_crl {
        verifier = verifier.with_crls(pem::read_crls(path)?);
    }
    if !tls.client_crl.is_empty() {
        // An attacker who keeps the new list away must not get a revoked certificate accepted.
        verifier = verifier.enforce_revocation_expiration();
    }
    let built = verifier.build().map_err(|error| match tls.client_crl.first() {
        Some(list) => PemError::Crl { path: list.clone(), reason: error.to_string() },
        None => unusable(path, error.to_string()),
    });
    built.map(Some)
}

impl CertificatesByName {
    fn load(tls: &ListenerTls, provider: &CryptoProvider) -> Result<Self, PemError> {
        let (mut names, mut first) = (HashMap::new(), None);
        for files in &tls.certificates {
            let key = pem::read_key_pair(files, |chain, key| CertifiedKey::from_der(chain, key, provider))?;
            let key = Arc::new(key);
            let leaf = key.cert.first().and_then(|leaf| EndEntityCert::try_from(leaf).ok());
            for name in leaf.iter().flat_map(|leaf| leaf.valid_dns_names()) {
                // The first certificate of a name applies, as the administrator listed them.
                names.entry(name.to_ascii_lowercase().into()).or_insert_with(|| key.clone());
            }
            first.get_or_insert(key);
        }
        Ok(Self { names, first })
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let wildcard = || self.names.get(&*format!("*.{}", name.split_once('.')?.1));
        self.names.get(&*name).or_else(wildcard)
    }
}

impl ResolvesServerCert for CertificatesByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().and_then(|name| self.find(name)).or(self.first.as_ref()).cloned()
    }
}
