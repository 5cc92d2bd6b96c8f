//! How a server that the relay connects to is known, and how the relay makes itself known to it: `ca`, `pin`,
//! `client_cert` and `client_key` of whatever table names such a server. Reads no file: what is in them is for those who
//! connect.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;
use http::uri::Scheme;
use sha2::{Digest, Sha256};

use super::CertificateFiles;
use super::document::Section;
use super::settings::path;

/// Whom to take for a server. Without `ca` and `pins`: whoever the system trusts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trust {
    /// A PEM file of issuers, trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// Its certificate is one of these. Without `ca` that is enough, whoever issued it, for what name and how long.
    pub pins: Vec<Pin>,
    /// The relay's own certificate and key, for servers that ask for one.
    pub client: Option<CertificateFiles>,
}

/// SHA-256 of a certificate (DER). Reads and shows as `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl Pin {
    /// That of a certificate.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl FromStr for Pin {
    type Err = String;

    /// Colons between digits are allowed, as `openssl x509 -fingerprint` writes them.
    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!("{text:?} is not a pin; write sha256: and the 64 hex digits of the certificate's SHA-256")
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
            *byte = u8::try_from(high * 16 + low).map_err(|_| refused())?;
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

/// Reads how the server at `url` is known. Of a URL that was refused nothing more is said.
pub(super) fn trust(s: &mut Section, url: Option<&Uri>) -> Trust {
    let ca = s.one("ca", path);
    let pins = s.many("pin", Pin::from_str).unwrap_or_default();
    let client = match (s.one("client_cert", path), s.one("client_key", path)) {
        (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
        (None, None) => None,
        (cert, _) => {
            let (there, missing) = match cert {
                Some(_) => ("client_cert", "client_key"),
                None => ("client_key", "client_cert"),
            };
            if !s.given(missing) {
                s.refuse(there, format!("is given without {missing}; give both or neither"));
            }
            None
        }
    };
    if url.is_some_and(|url| url.scheme() == Some(&Scheme::HTTP)) {
        for key in ["ca", "pin", "client_cert"] {
            if s.given(key) {
                s.refuse(key, "is given, but the URL is http; write https, or leave it out");
            }
        }
    }
    Trust { ca, pins, client }
}
