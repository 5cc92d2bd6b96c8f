//! TLS in front of a manager, and its certificates. The manager behind it sees plain connections. Ends with the
//! runtime of its test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gupd_config::Pin;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
    KeyPair, RevokedCertParams, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

pub struct Front {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

/// An issuer of certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and a key, which need not be its own.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Front {
    /// Starts a TLS server with `identity` that passes connections on to `behind`.
    pub async fn start(behind: SocketAddr, identity: Identity) -> Self {
        let config = ServerConfig::builder().with_no_client_auth();
        Self::start_with_config(behind, config.with_cert_resolver(Arc::new(identity.unchecked()))).await
    }

    /// Starts the same server, which requires a client certificate issued by `clients`.
    pub async fn start_with_client_auth(behind: SocketAddr, identity: Identity, clients: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(clients.certificate()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let config = ServerConfig::builder().with_client_cert_verifier(verifier);
        Self::start_with_config(behind, config.with_cert_resolver(Arc::new(identity.unchecked()))).await
    }

    async fn start_with_config(behind: SocketAddr, config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let accepted = Arc::<AtomicUsize>::default();
        let counted = accepted.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (acceptor, counted) = (acceptor.clone(), counted.clone());
                tokio::spawn(async move {
                    let mut client = acceptor.accept(client).await?;
                    counted.fetch_add(1, Ordering::SeqCst);
                    copy_bidirectional(&mut client, &mut TcpStream::connect(behind).await?).await
                });
            }
        });
        Self { address, accepted }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL with an address that an issued certificate may name.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.address.port())
    }

    /// Number of completed handshakes.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for this name or address that is valid now.
    pub fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        Identity { certificate: params.signed_by(&key, &self.0).unwrap().der().clone(), key }
    }

    /// Issues a certificate for this name that expires at the beginning of a day.
    pub fn issue_until(&self, name: &str, day: jiff::civil::Date) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        let [month, of_month] = [day.month(), day.day()].map(|number| u8::try_from(number).unwrap());
        params.not_after = date_time_ymd(day.year().into(), month, of_month);
        Identity { certificate: params.signed_by(&key, &self.0).unwrap().der().clone(), key }
    }

    /// Issues a certificate with a serial number, by which a revocation list names it.
    pub fn issue_numbered(&self, name: &str, serial: u64) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.serial_number = Some(serial.into());
        Identity { certificate: params.signed_by(&key, &self.0).unwrap().der().clone(), key }
    }

    /// A revocation list (PEM) with these serial numbers, which expires at the end of a year.
    pub fn revoke(&self, serials: &[u64], last_year: i32) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2000, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2000, 1, 1),
            next_update: date_time_ymd(last_year, 12, 31),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

impl Identity {
    /// A certificate as managers make them: self-signed, for another name, and expired.
    pub fn self_signed() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["another-name".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2001, 1, 1);
        Self { certificate: params.self_signed(&key).unwrap().der().clone(), key }
    }

    /// Another server's certificate, without its key.
    pub fn stolen(certificate: CertificateDer<'static>) -> Self {
        Self { certificate, key: KeyPair::generate().unwrap() }
    }

    pub fn pin(&self) -> Pin {
        Pin::for_certificate(&self.certificate)
    }

    pub fn pem(&self) -> String {
        pem(&self.certificate)
    }

    /// Writes certificate and key to files.
    pub fn write_files(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let (cert, key) = (folder.join("client.pem"), folder.join("client.key"));
        std::fs::write(&cert, pem(&self.certificate)).unwrap();
        std::fs::write(&key, self.key.serialize_pem()).unwrap();
        (cert, key)
    }

    /// The key as a TLS client takes it.
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }

    /// Skips the check of rustls that the key fits the certificate.
    fn unchecked(self) -> UncheckedCertificate {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let key = ring::sign::any_supported_type(&key).unwrap();
        UncheckedCertificate(Arc::new(CertifiedKey::new(vec![self.certificate], key)))
    }
}

#[derive(Debug)]
struct UncheckedCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for UncheckedCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
