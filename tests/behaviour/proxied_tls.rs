//! TLS behind a proxy that passes connections on: the PROXY header comes first, in the clear, and the handshake is the
//! client's own. Address and certificate then both decide.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use gupd_config::{
    AccessSettings, CertificateFiles, ClientAddressSource, ClientCertificates, GroupSettings, ListenerTls,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::support::http2::{Http2Client, TlsClient};
use crate::support::{Authority, PAYLOAD, Resource, Site, bytes};

const PRIVATE: &str = "/secars/secars.dll";
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 8);
const REQUEST: &[u8] = b"GET /secars/secars.dll HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// A relay with TLS behind a proxy, and the authority of its certificate and its clients'.
fn site() -> (Site, Authority) {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let (cert, key) = authority.issue("localhost").write_files(folder.path());
    let client_ca = folder.path().join("ca.pem");
    std::fs::write(&client_ca, authority.pem()).unwrap();
    let subnet = |text: &str| text.parse().unwrap();
    let site = Site::with_config(|config| {
        config.server.proxies.subnets = vec![IpAddr::from(PROXY).into()];
        config.server.proxies.source = ClientAddressSource::ProxyProtocol;
        config.server.header_timeout = Duration::from_secs(2);
        config.server.access = AccessSettings { allow: Vec::new(), deny: vec![subnet("10.9.0.0/16")] };
        config.server.tls = Some(ListenerTls {
            client_certificates: ClientCertificates::Optional,
            client_ca: Some(client_ca),
            ..CertificateFiles { cert, key }.into()
        });
        let denying = |name: &str| GroupSettings {
            deny: vec!["virus-definitions-32".to_owned()],
            ..GroupSettings::catch_all(name)
        };
        config.groups = vec![
            GroupSettings { subnets: vec![subnet("10.2.0.0/16")], ..denying("branch") },
            GroupSettings { certificates: vec!["*.kiosk.example".to_owned()], ..denying("kiosk") },
        ];
    });
    site.manager.put(PRIVATE, Resource::new("profile"));
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 10_000)));
    (site, authority)
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.10 4711 2967\r\n").into_bytes()
}

fn v2(client: &str) -> Vec<u8> {
    let client: Ipv4Addr = client.parse().unwrap();
    let addresses = [&client.octets()[..], &[192, 0, 2, 10], &[0x12, 0x67, 0x0b, 0x97]].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..], &addresses].concat()
}

/// Connects from an address and sends bytes before the handshake.
async fn connect(from: Ipv4Addr, address: SocketAddr, begin: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(begin).await.unwrap();
    stream
}

/// Sends one request over HTTP/1.1 and returns the response as text.
async fn exchange(mut stream: TlsStream<TcpStream>, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.ok();
    String::from_utf8_lossy(&response).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn header_before_the_handshake_names_the_client() {
    let (site, authority) = site();
    let tls = TlsClient::new(authority.certificate());
    let http1 = TlsClient { protocols: &["http/1.1"], ..tls.clone() };
    for (number, header) in [v1("10.1.2.3"), v2("10.1.2.4")].iter().enumerate() {
        let client = format!("10.1.2.{}", number + 3);
        let seen = || site.manager.requests_for(PRIVATE).pop().unwrap();
        let stream = http1.connect_over(connect(PROXY, site.address(), header).await).await.unwrap();
        let response = exchange(stream, REQUEST).await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        assert_eq!(seen().header("x-forwarded-for"), Some(&*client));
        let stream = tls.connect_over(connect(PROXY, site.address(), header).await).await.unwrap();
        let http2 = Http2Client::over(stream, site.address()).await.unwrap();
        assert_eq!(http2.get(PRIVATE).await.unwrap().status(), 200);
        assert_eq!(seen().header("x-forwarded-for"), Some(&*client));
    }
    // A client that comes by itself needs no header.
    let stream = http1.connect_over(connect(STRANGER, site.address(), b"").await).await.unwrap();
    assert!(exchange(stream, REQUEST).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn address_and_certificate_both_decide() {
    let (site, authority) = site();
    let (kiosk, other) = (authority.issue("a.kiosk.example"), authority.issue("b.other.example"));
    for (client, identity, status) in [
        ("10.1.0.1", None, 200),
        ("10.1.0.1", Some(&kiosk), 404),
        ("10.1.0.1", Some(&other), 200),
        ("10.2.0.1", None, 404),
        ("10.2.0.1", Some(&other), 404),
    ] {
        let tls = TlsClient { identity, ..TlsClient::new(authority.certificate()) };
        let stream = tls.connect_over(connect(PROXY, site.address(), &v2(client)).await).await.unwrap();
        let http2 = Http2Client::over(stream, site.address()).await.unwrap();
        let answer = http2.get(PAYLOAD).await.unwrap();
        assert_eq!(answer.status(), status, "{client} {:?}", identity.is_some());
    }
    // A client that is not served gets no handshake.
    let tls = TlsClient::new(authority.certificate());
    let denied = connect(PROXY, site.address(), &v2("10.9.0.1")).await;
    assert!(tls.connect_over(denied).await.is_err());
    site.wait_for_metric("gupd_refused_total{reason=\"client-denied\"}", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn header_in_another_place_names_no_client() {
    let (site, authority) = site();
    let tls = TlsClient { protocols: &["http/1.1"], ..TlsClient::new(authority.certificate()) };
    let refused = |reason: &str| format!("gupd_refused_total{{reason=\"{reason}\"}}");
    // A stranger's header before the handshake.
    let stranger = connect(STRANGER, site.address(), &v2("10.1.2.3")).await;
    assert!(tls.connect_over(stranger).await.is_err());
    site.wait_for_metric(&refused("unlisted-proxy"), 1.0).await;
    // A proxy that begins with the handshake.
    let proxy = connect(PROXY, site.address(), b"").await;
    assert!(tls.connect_over(proxy).await.is_err());
    site.wait_for_metric(&refused("proxy-header"), 1.0).await;
    // A header within TLS, also after a real one.
    for (from, begin) in [(STRANGER, Vec::new()), (PROXY, v2("10.1.2.3"))] {
        let stream = tls.connect_over(connect(from, site.address(), &begin).await).await.unwrap();
        let inner = [&v1("10.1.9.9")[..], REQUEST].concat();
        let response = exchange(stream, &inner).await;
        assert!(!response.contains(" 200 "), "{response}");
    }
    site.wait_for_metric(&refused("unlisted-proxy"), 3.0).await;
    assert_eq!(site.manager.total_requests(), 0);
}
