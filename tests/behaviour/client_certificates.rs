//! TLS client certificates: the subject selects the group, and presenting one is optional.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use gupd_config::week::WeekWindows;
use gupd_config::{CertificateFiles, ClientCertificates, GroupSettings, ListenerTls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{Authority, Identity, PAYLOAD, Resource, Site, bytes};

#[tokio::test(flavor = "multi_thread")]
async fn certificate_selects_group_and_is_optional() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let server = authority.issue("localhost");
    let (cert, key) = server.write_files(folder.path());
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    // The relay reads the files when it starts.
    let site = Site::with_config(|config| {
        config.server.tls = Some(ListenerTls {
            client_certificates: ClientCertificates::Optional,
            client_ca: Some(ca),
            ..CertificateFiles { cert, key }.into()
        });
        config.groups = vec![GroupSettings {
            certificates: vec!["*.branch.example".to_owned(), "urn:pc:7".to_owned()],
            windows: WeekWindows::constant(false),
            ..GroupSettings::catch_all("branch")
        }];
    });
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 10_000)));
    let ask = |identity| request_twice(site.address(), &authority, identity);
    assert_eq!(ask(None).await.as_deref(), Some("HTTP/1.1 200"));
    for (name, status) in [
        ("PC-7.Branch.example", "HTTP/1.1 503"),
        ("pc.deep.branch.example", "HTTP/1.1 503"),
        ("branch.example", "HTTP/1.1 200"),
        ("pc-7.other.example", "HTTP/1.1 200"),
    ] {
        assert_eq!(ask(Some(authority.issue(name))).await.as_deref(), Some(status), "{name}");
    }
    assert_eq!(ask(Some(Authority::new().issue("pc-7.branch.example"))).await, None);
    site.wait_for_metric("gupd_refused_total{reason=\"tls\"}", 1.0).await;
}

/// Sends two requests on one connection, because the names belong to the connection. Returns the head of the response,
/// or `None` if the connection ends without one.
async fn request_twice(
    address: SocketAddr,
    authority: &Authority,
    identity: Option<Identity>,
) -> Option<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let folder = tempfile::tempdir().unwrap();
            let (chain, key) = read(identity.write_files(folder.path()));
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.ok()?;
    let head = format!(
        "HEAD /minitri.flg HTTP/1.1\r\nHost: a\r\n\r\nGET {PAYLOAD} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.ok()?;
    let text = String::from_utf8_lossy(&response);
    text.match_indices("HTTP/1.1 ").nth(1).map(|(at, _)| text[at..at + 12].to_owned())
}

fn read(
    (cert, key): (impl AsRef<Path>, impl AsRef<Path>),
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    (vec![CertificateDer::from_pem_file(cert).unwrap()], PrivateKeyDer::from_pem_file(key).unwrap())
}
