//! TLS toward upstreams: trusted issuers, pinned certificates, and the relay's own certificate. The module applies
//! pins; rustls verifies chains and, with any pin, that the server owns the certificate's key.

use std::io::ErrorKind;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::pem::{self, PemError};
use gupd_config::{Pin, Trust};

/// Failure to set up TLS toward upstreams.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The system has no trusted certificates.
    #[error(
        "it is https, but this system has no trusted certificates ({0}): install ca-certificates, give ca, or pin it"
    )]
    NoRoots(String),
    /// A file is unusable.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// Certificates that cannot be issuers.
    #[error("{path}: cannot trust its certificates as issuers: {reason}: to trust one server's own, pin it")]
    Issuers {
        /// The file.
        path: String,
        /// The cause.
        reason: String,
    },
    /// An error of rustls.
    #[error("TLS toward upstreams cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The system's roots, read once and only if needed.
#[derive(Default)]
pub(super) struct SystemRoots(Option<Arc<RootCertStore>>);

/// Accepted certificates.
#[derive(Debug)]
enum AcceptedCertificates {
    Issuer(Arc<WebPkiServerVerifier>),
    Pin(Vec<Pin>),
    Both(Arc<WebPkiServerVerifier>, Vec<Pin>),
}

/// Verifies certificates of one upstream.
#[derive(Debug)]
struct UpstreamVerifier {
    known: AcceptedCertificates,
    provider: Arc<CryptoProvider>,
}

/// Reason to reject a certificate. It names the certificate, so that an administrator can compare and pin it.
#[derive(Debug, thiserror::Error)]
enum CertificateRejection {
    #[error("its certificate is {0}, which is not pinned: if it was renewed, replace the pin")]
    NotPinned(Pin),
    #[error("its certificate is {0}, which is not trusted: {1}: {remedy}", remedy = certificate_remedy(.1))]
    NotTrusted(Pin, rustls::Error),
}

/// Creates TLS settings for a server trusted as `trust` says. Reads the files that it names.
pub(super) fn client_config(trust: &Trust, roots: &mut SystemRoots) -> Result<Arc<ClientConfig>, TrustError> {
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
        None if trust.pins.is_empty() => Some(verifies(roots.load()?).map_err(unusable)?),
        None => None,
    };
    let known = match issuers {
        None => AcceptedCertificates::Pin(trust.pins.clone()),
        Some(issuers) if trust.pins.is_empty() => AcceptedCertificates::Issuer(issuers),
        Some(issuers) => AcceptedCertificates::Both(issuers, trust.pins.clone()),
    };
    let verifier = Arc::new(UpstreamVerifier { known, provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &trust.client {
        None => builder.with_no_client_auth(),
        Some(client) => pem::read_key_pair(client, |chain, key| builder.with_client_auth_cert(chain, key))?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Creates TLS settings for servers trusted as `trust` says. Reads the files that it names, and the system's roots.
///
/// # Errors
/// When a file of `trust` cannot be used, or the system has no roots and none are given.
pub fn load_tls(trust: &Trust) -> Result<Arc<ClientConfig>, TrustError> {
    client_config(trust, &mut SystemRoots::default())
}

/// Starts TLS with the server of an open connection, which is known by its address.
///
/// # Errors
/// When a file of `trust` cannot be used, or the server is not trusted.
pub async fn connect_tls(
    stream: TcpStream,
    trust: &Trust,
) -> Result<TlsStream<TcpStream>, Box<dyn std::error::Error + Send + Sync>> {
    let name = ServerName::from(stream.peer_addr()?.ip().to_canonical());
    connect_tls_to(stream, name, trust).await
}

/// Starts TLS with the server of this host name or address, for a command.
///
/// # Errors
/// When the name is none, the trust cannot be loaded, or the handshake fails.
pub async fn connect_tls_by_name(
    stream: TcpStream,
    host: &str,
    trust: &Trust,
) -> Result<TlsStream<TcpStream>, Box<dyn std::error::Error + Send + Sync>> {
    let name = ServerName::try_from(host.to_owned())?;
    connect_tls_to(stream, name, trust).await
}

/// Starts TLS with the server of this name.
pub(crate) async fn connect_tls_to(
    stream: TcpStream,
    name: ServerName<'static>,
    trust: &Trust,
) -> Result<TlsStream<TcpStream>, Box<dyn std::error::Error + Send + Sync>> {
    let connector = TlsConnector::from(client_config(trust, &mut SystemRoots::default())?);
    connector.connect(name, stream).await.map_err(handshake_error)
}

/// Failure of a handshake that took too long.
pub(super) const NO_HANDSHAKE: &str = "no TLS handshake in time: check that the port is for https";

/// Returns the cause of a failed handshake: a rejected certificate without rustls's wrapper, and no message about a
/// record that is no TLS.
pub(super) fn handshake_error(error: std::io::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => {
                format!("the server ended the TLS handshake ({error}): check that the port is for https")
                    .into()
            }
            _ => error.into(),
        };
    };
    match cause {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => {
            reason.to_string().into()
        }
        rustls::Error::InvalidMessage(_) => {
            "the server does not speak TLS on this port: write http in its URL, or its port for https".into()
        }
        rustls::Error::PeerIncompatible(reason) => {
            format!("the server has no TLS version or cipher of the relay ({reason:?}): enable TLS 1.2 there")
                .into()
        }
        _ => explain_alert(cause).map_or_else(|| error.into(), Into::into),
    }
}

/// Explains an alert that the server sent, in the handshake or after it.
pub(super) fn explain_alert(error: &rustls::Error) -> Option<String> {
    use AlertDescription as Alert;
    let rustls::Error::AlertReceived(alert) = error else { return None };
    let remedy = match alert {
        Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::InsufficientSecurity => {
            "enable TLS 1.2 or later there, and if it asks for a certificate, set client_cert and client_key"
        }
        Alert::UnrecognisedName => "write a host that it knows in its URL",
        Alert::CertificateRequired => "set client_cert and client_key to a certificate that it accepts",
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => "it does not accept the certificate of client_cert: use one that it accepts",
        _ => "see the log of the server",
    };
    Some(format!("the server refused the connection with the TLS alert {alert:?}: {remedy}"))
}

/// Returns what to do about a certificate that is not trusted.
fn certificate_remedy(error: &rustls::Error) -> &'static str {
    use CertificateError as Wrong;
    let rustls::Error::InvalidCertificate(wrong) = error else {
        return "pin it, or see the log of the server";
    };
    match wrong {
        Wrong::Expired | Wrong::ExpiredContext { .. } => {
            "renew it at the server, or correct the clock of this machine"
        }
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
            "correct the clock of this machine or of the server"
        }
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
            "write one of its names in the URL, or pin it"
        }
        // Another issuer of the same name.
        Wrong::UnknownIssuer | Wrong::BadSignature => "set ca to the certificate of its issuer, or pin it",
        Wrong::Revoked => "replace it at the server",
        // Such as a certificate of an authority, which signs itself.
        _ => "pin it, or replace it at the server",
    }
}

impl SystemRoots {
    fn load(&mut self) -> Result<Arc<RootCertStore>, TrustError> {
        if let Some(roots) = &self.0 {
            return Ok(roots.clone());
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Skip certificates that rustls does not read; the others suffice.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let reason = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
            return Err(TrustError::NoRoots(reason));
        }
        Ok(self.0.insert(Arc::new(roots)).clone())
    }
}

impl ServerCertVerifier for UpstreamVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pin = Pin::for_certificate(end_entity);
        let refused = |reason: CertificateRejection| {
            rustls::Error::from(CertificateError::Other(OtherError(Arc::new(reason))))
        };
        let (issuers, pins) = match &self.known {
            AcceptedCertificates::Issuer(issuers) => (Some(issuers), None),
            AcceptedCertificates::Pin(pins) => (None, Some(pins)),
            AcceptedCertificates::Both(issuers, pins) => (Some(issuers), Some(pins)),
        };
        if pins.is_some_and(|pins| !pins.contains(&pin)) {
            return Err(refused(CertificateRejection::NotPinned(pin)));
        }
        if let Some(issuers) = issuers {
            issuers
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map_err(|error| refused(CertificateRejection::NotTrusted(pin, error)))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    // The next two prove ownership of the key: any server can show a certificate, only its owner can sign.
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
