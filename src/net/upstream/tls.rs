//! Whom to take for an upstream: the certificates that are trusted or pinned, and the relay's own. Owns the rule for
//! pins; relies on rustls to verify chains and, whatever is pinned, that the other side has the certificate's key.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};

use crate::pem::{self, PemError};
use gupd_config::{Pin, Trust};

/// TLS toward upstreams cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The system has no trusted certificates.
    #[error(
        "it is https, but this system has no trusted certificates ({0}); install ca-certificates, give ca, or pin it"
    )]
    NoRoots(String),
    /// A file.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// Certificates of issuers that cannot be such.
    #[error(
        "{path}: its certificates cannot be trusted as issuers: {reason}; to trust one server's own, pin it"
    )]
    Issuers {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// What rustls has to say.
    #[error("TLS toward upstreams cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The system's roots, read once and only if they are needed.
#[derive(Default)]
pub(super) struct Roots(Option<Arc<RootCertStore>>);

/// Whose certificate is taken.
#[derive(Debug)]
enum Known {
    Issuer(Arc<WebPkiServerVerifier>),
    Pin(Vec<Pin>),
    Both(Arc<WebPkiServerVerifier>, Vec<Pin>),
}

/// Judges certificates of one upstream.
#[derive(Debug)]
struct Verifier {
    known: Known,
    provider: Arc<CryptoProvider>,
}

/// Why a certificate is not taken. Names it, so that the administrator can compare it and pin it.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("its certificate is {0}, which is not pinned")]
    NotPinned(Pin),
    #[error("its certificate is {0}, which is not trusted: {1}")]
    NotTrusted(Pin, rustls::Error),
}

/// Settings of TLS toward a server that is known as `trust` says. Reads the files that it names.
pub(super) fn toward(trust: &Trust, roots: &mut Roots) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = Arc::new(ring::default_provider());
    let verifies = |roots: Arc<RootCertStore>| {
        WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()
    };
    let unusable = |error: rustls::client::VerifierBuilderError| rustls::Error::General(error.to_string());
    let issuers = match &trust.ca {
        Some(path) => {
            let mut own = RootCertStore::empty();
            let refused = |reason: String| TrustError::Issuers { path: path.display().to_string(), reason };
            for certificate in pem::read_certificates(path)? {
                own.add(certificate).map_err(|error| refused(error.to_string()))?;
            }
            Some(verifies(Arc::new(own)).map_err(|error| refused(error.to_string()))?)
        }
        None if trust.pins.is_empty() => Some(verifies(roots.of_system()?).map_err(unusable)?),
        None => None,
    };
    let known = match issuers {
        None => Known::Pin(trust.pins.clone()),
        Some(issuers) if trust.pins.is_empty() => Known::Issuer(issuers),
        Some(issuers) => Known::Both(issuers, trust.pins.clone()),
    };
    let verifier = Arc::new(Verifier { known, provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &trust.client {
        None => builder.with_no_client_auth(),
        Some(client) => pem::read_key_pair(client, |chain, key| builder.with_client_auth_cert(chain, key))?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What a handshake failed for, without what rustls wraps around a certificate that was refused.
pub(super) fn failed(error: std::io::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error.get_ref().and_then(|cause| cause.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => {
            why.to_string().into()
        }
        _ => error.into(),
    }
}

impl Roots {
    fn of_system(&mut self) -> Result<Arc<RootCertStore>, TrustError> {
        if let Some(roots) = &self.0 {
            return Ok(roots.clone());
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // The system's list has certificates that rustls does not read; those that it does are enough.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
            return Err(TrustError::NoRoots(why));
        }
        Ok(self.0.insert(Arc::new(roots)).clone())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = Pin::for_certificate(end_entity);
        let refused = |why: Refused| rustls::Error::from(CertificateError::Other(OtherError(Arc::new(why))));
        let (issuers, pins) = match &self.known {
            Known::Issuer(issuers) => (Some(issuers), None),
            Known::Pin(pins) => (None, Some(pins)),
            Known::Both(issuers, pins) => (Some(issuers), Some(pins)),
        };
        if pins.is_some_and(|pins| !pins.contains(&seen)) {
            return Err(refused(Refused::NotPinned(seen)));
        }
        if let Some(issuers) = issuers {
            issuers
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map_err(|error| refused(Refused::NotTrusted(seen, error)))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    // What a certificate proves hangs on these two: anyone can show it, only its owner can sign with its key.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
