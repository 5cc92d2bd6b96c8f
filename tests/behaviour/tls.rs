//! TLS towards clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gupd_config::CertificateFiles;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{PAYLOAD, Request, Resource, Site, WireClient, bytes};

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_served_over_tls() {
    let (site, certificate) = site(|_| {});
    let body = bytes(1, 3_000_000);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    for expected in ["gupd; fwd=uri-miss; stored", "gupd; hit"] {
        let mut stream = connect(site.address(), &certificate).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let request = format!("GET {PAYLOAD} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        // The read fails if the peer omits close_notify.
        stream.read_to_end(&mut response).await.unwrap();
        let head_end = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(response[..head_end].to_vec()).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains(&format!("cache-status: {expected}\r\n")), "{head}");
        assert!(response[head_end..] == body);
        site.wait_for_fills().await;
    }
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_request_on_tls_port_is_refused() {
    let (site, certificate) = site(|_| {});
    let mut secure = connect(site.address(), &certificate).await;
    let mut plain = WireClient::connect(site.address()).await;
    plain.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"));
    site.wait_for_metric("gupd_refused_total{reason=\"tls\"}", 1.0).await;
    secure.write_all(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    secure.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 404");
    assert_eq!(site.manager.request_count(PAYLOAD), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_tls_handshake_is_dropped() {
    let (site, _) = site(|config| config.server.header_timeout = Duration::from_millis(200));
    let mut silent = WireClient::connect(site.address()).await;
    assert!(silent.is_closed().await);
    site.wait_for_metric("gupd_refused_total{reason=\"tls\"}", 1.0).await;
}

fn site(change: impl FnOnce(&mut gupd_config::Config)) -> (Site, CertificateDer<'static>) {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    // The files are read at the start and not needed afterwards.
    let site = Site::with_config(|config| {
        config.server.tls = Some(CertificateFiles { cert, key }.into());
        change(config);
    });
    (site, made.cert.der().clone())
}

async fn connect(address: SocketAddr, certificate: &CertificateDer<'static>) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}
