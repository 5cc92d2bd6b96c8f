//! Certificates: how the relay verifies a server that it connects to (`ca`, `pin`), and how it identifies itself to
//! servers and clients. Holds paths only; the files are read where connections are made.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;
use http::uri::Scheme;
use sha2::{Digest, Sha256};

use crate::document::Section;
use crate::reader::{file, files};

/// Paths of a PEM certificate chain and its key.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// Rules that verify a server's certificate. Without `ca` and `pins` the system's trust store decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trust {
    /// PEM file of issuers that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// Pins, one of which the certificate must match. Without `ca` a match is enough: issuer, name and dates are not
    /// checked.
    pub pins: Vec<Pin>,
    /// The relay's own certificate and key, for servers that ask for one.
    pub client: Option<CertificateFiles>,
}

/// SHA-256 of a certificate (DER), read and shown as `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl Pin {
    /// Returns the pin of a certificate.
    pub fn for_certificate(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl FromStr for Pin {
    type Err = String;

    /// Parses a pin. Colons between digits are allowed, as `openssl x509 -fingerprint` writes them.
    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!("{text:?} is not a pin: write sha256: and the 64 hex digits of the certificate's SHA-256")
        };
        let digits = text.strip_prefix("sha256:").ok_or_else(refused)?;
        let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b':').collect();
        let mut pin = [0; 32];
        let (pairs, []) = digits.as_chunks::<2>() else { return Err(refused()) };
        if pairs.len() != pin.len() {
            return Err(refused());
        }
        for (byte, pair) in pin.iter_mut().zip(pairs) {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            let (high, low) = high.zip(low).ok_or_else(refused)?;
            *byte = u8::try_from((high << 4) | low).map_err(|_| refused())?;
        }
        Ok(Self(pin))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads the two paths of a certificate and its key, which are set together or not at all.
pub(crate) fn certificate_files(
    s: &mut Section,
    cert_key: &'static str,
    key_key: &'static str,
) -> Option<CertificateFiles> {
    match (file(s, cert_key), file(s, key_key)) {
        (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
        (None, None) => None,
        (cert, _) => {
            let (set, missing) = if cert.is_some() { (cert_key, key_key) } else { (key_key, cert_key) };
            if !s.is_given(missing) {
                s.refuse(set, format!("is set without {missing}: set both or neither"));
            }
            None
        }
    }
}

/// Reads the paths of certificates and of their keys, two lists of the same order.
pub(crate) fn certificate_list(
    s: &mut Section,
    certs_key: &'static str,
    keys_key: &'static str,
) -> Vec<CertificateFiles> {
    match (files(s, certs_key), files(s, keys_key)) {
        (Some(certs), Some(keys)) if certs.len() == keys.len() => {
            certs.into_iter().zip(keys).map(|(cert, key)| CertificateFiles { cert, key }).collect()
        }
        (Some(certs), Some(keys)) => {
            let (certs, keys) = (certs.len(), keys.len());
            s.refuse(
                keys_key,
                format!("lists {keys} for {certs} of {certs_key}: list one for each, in their order"),
            );
            Vec::new()
        }
        (None, None) => Vec::new(),
        (certs, _) => {
            let (set, missing) = if certs.is_some() { (certs_key, keys_key) } else { (keys_key, certs_key) };
            if !s.is_given(missing) {
                s.refuse(set, format!("is set without {missing}: set both or neither"));
            }
            Vec::new()
        }
    }
}

/// Reads the certificate rules of the server at `url`, which is `None` if its URL was refused.
pub(crate) fn read_trust(s: &mut Section, url: Option<&Uri>) -> Trust {
    let ca = file(s, "ca");
    let pins = s.read_list("pin", Pin::from_str).unwrap_or_default();
    let client = certificate_files(s, "client_cert", "client_key");
    if url.is_some_and(|url| url.scheme() == Some(&Scheme::HTTP)) {
        for key in ["ca", "pin", "client_cert"] {
            if s.is_given(key) {
                s.refuse(key, "is set, but the URL is http: use https or remove it");
            }
        }
    }
    Trust { ca, pins, client }
}
