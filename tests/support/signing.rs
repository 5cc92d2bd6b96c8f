//! A vendor that signs catalogs: a root, an issuer below it, and PKCS#7 messages over lists of files. The DER is written
//! here byte for byte, so that the tests do not depend on the library that reads it.

use std::io::{Cursor, Write};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SigningKey, date_time_ymd,
};
use sha2::{Digest, Sha256};

/// Digits of the serial number of the signer's certificate.
const SERIAL: u8 = 3;

pub struct Vendor {
    root: CertifiedIssuer<'static, KeyPair>,
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Last year of the signer's certificate.
    valid_until: i32,
}

impl Vendor {
    /// A vendor with keys of its own.
    pub fn new() -> Self {
        Self::valid_until(2126)
    }

    /// A vendor with a signer's certificate that ends with this year.
    pub fn valid_until(valid_until: i32) -> Self {
        let ca = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            (params, KeyPair::generate().unwrap())
        };
        let ((root, root_key), (issuer, issuer_key)) = (ca("Test Root"), ca("Test Code Signing CA"));
        let root = CertifiedIssuer::self_signed(root, root_key).unwrap();
        let issuer = CertifiedIssuer::signed_by(issuer, issuer_key, &root).unwrap();
        Self { root, issuer, valid_until }
    }

    /// The root's certificate.
    pub fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// A signature over these bytes.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Product Group - LiveUpdate");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params.serial_number = Some(vec![SERIAL].into());
        params.not_after = date_time_ymd(self.valid_until, 12, 31);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let sha256 = seq(&[&oid(&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1])]);
        let data = oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1]);
        let attribute = |last: u8, value: &[u8]| {
            seq(&[&oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, last]), &der(0x31, &[value])])
        };
        let digest = der(0x04, &[&Sha256::digest(bytes)]);
        let attributes = [attribute(3, &data), attribute(4, &digest)].concat();
        let signature = key.sign(&der(0x31, &[&attributes])).unwrap();
        let ecdsa = seq(&[&oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])]);
        let id = seq(&[&subject_of(self.issuer.der()), &der(0x02, &[&[SERIAL]])]);
        let signer = seq(&[
            &der(0x02, &[&[1]]),
            &id,
            &sha256,
            &der(0xa0, &[&attributes]),
            &ecdsa,
            &der(0x04, &[&signature]),
        ]);
        let certificates = [certificate.der().as_ref(), self.issuer.der().as_ref()].concat();
        let message = seq(&[
            &der(0x02, &[&[1]]),
            &der(0x31, &[&sha256]),
            &seq(&[&data]),
            &der(0xa0, &[&certificates]),
            &der(0x31, &[&signer]),
        ]);
        let signed_data = oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2]);
        seq(&[&signed_data, &der(0xa0, &[&message])])
    }

    /// A signed catalog with the SHA-256 of these payloads, which states this time.
    pub fn catalog(&self, stated: u64, payloads: &[(&str, &[u8])]) -> Vec<u8> {
        let tri = b"[TriHeader]\r\n";
        let listed: Vec<_> = payloads.iter().copied().chain([("liveupdt.tri", &tri[..])]).collect();
        let list = list(stated, &listed);
        let signature = self.sign(list.as_bytes());
        archive(&[("liveupdt.tri", tri), ("v.grd", list.as_bytes()), ("v.sig", &signature)])
    }
}

/// A list of files.
pub fn list(stated: u64, files: &[(&str, &[u8])]) -> String {
    let mut text = format!("[GuardHeader]\r\nLastModifiedUtcSeconds={stated}\r\n");
    for (path, body) in files {
        let hash: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
        let name = path.rsplit('/').next().unwrap_or(path);
        text.push_str(&format!("[File-{name}]\r\nSHA1=00\r\nSHA256={hash}\r\n"));
    }
    text
}

/// A zip archive of these members.
pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn seq(parts: &[&[u8]]) -> Vec<u8> {
    der(0x30, parts)
}

fn oid(bytes: &[u8]) -> Vec<u8> {
    der(0x06, &[bytes])
}

/// A value in DER (X.690 §10).
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut value = vec![tag];
    match length {
        0..128 => value.push(length as u8),
        128..256 => value.extend([0x81, length as u8]),
        _ => value.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    value.extend(content);
    value
}

/// Splits the first value off: its head and content, its content, and the rest.
fn split(bytes: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let (head, length) = match bytes[1] {
        short @ 0..=127 => (2, usize::from(short)),
        0x81 => (3, usize::from(bytes[2])),
        _ => (4, usize::from(bytes[2]) << 8 | usize::from(bytes[3])),
    };
    let (value, rest) = bytes.split_at(head + length);
    (value, &value[head..], rest)
}

/// The subject of a certificate, which is the issuer in those that it signs.
fn subject_of(certificate: &[u8]) -> Vec<u8> {
    let (_, certificate, _) = split(certificate);
    let (_, mut fields, _) = split(certificate);
    // Version, serial number, algorithm, issuer and validity.
    for _ in 0..5 {
        (_, _, fields) = split(fields);
    }
    split(fields).0.to_vec()
}
