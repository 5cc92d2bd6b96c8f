//! Several listeners with settings of their own: certificates by name and their renewal, client certificates with
//! revocation, and the gateway for clients beyond the site.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use gupd_config::week::WeekWindows;
use gupd_config::{
    CertificateFiles, ClientCertificates, Config, ConnectionBounds, GroupSettings, ListenerSettings,
    ListenerTls,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::http2::{Http2Client, TlsClient};
use crate::support::{Authority, Identity, PAYLOAD, Request, Resource, Site, WireClient, bytes};

const PRIVATE: &str = "/secars/secars.dll?action=1";

/// Files of a listener.
struct Files {
    folder: TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a certificate for a name into files of that name.
    fn certificate(&self, name: &str) -> CertificateFiles {
        let folder = self.path(&name.replace('*', "any"));
        std::fs::create_dir_all(&folder).unwrap();
        let (cert, key) = self.authority.issue(name).write_files(&folder);
        CertificateFiles { cert, key }
    }

    fn tls(&self, client_certificates: ClientCertificates) -> ListenerTls {
        let ca = self.path("ca.pem");
        std::fs::write(&ca, self.authority.pem()).unwrap();
        let client_ca = (client_certificates != ClientCertificates::Off).then_some(ca);
        ListenerTls { client_certificates, client_ca, ..self.certificate("localhost").into() }
    }

    fn client(&self) -> TlsClient<'_> {
        TlsClient { protocols: &["http/1.1"], ..TlsClient::new(self.authority.certificate()) }
    }
}

fn listener(name: &str, config: &Config, tls: ListenerTls) -> ListenerSettings {
    let own = config.server.all_listeners().next().unwrap();
    ListenerSettings { name: name.to_owned(), tls: Some(tls), ..own }
}

/// Sends a request over HTTP/1.1. Returns the status; `None` if the relay closes the connection.
async fn ask(stream: &mut TlsStream<TcpStream>, method: &str, target: &str, content: &str) -> Option<u16> {
    let length = content.len();
    let length = if length == 0 { String::new() } else { format!("Content-Length: {length}\r\n") };
    let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{content}");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
    let mut body = vec![0; if method == "HEAD" { 0 } else { length }];
    stream.read_exact(&mut body).await.ok()?;
    head[9..12].parse().ok()
}

/// Status of a request of a client with this certificate.
async fn ask_as(files: &Files, address: SocketAddr, identity: Option<&Identity>) -> Option<u16> {
    let mut stream = TlsClient { identity, ..files.client() }.connect(address).await.ok()?;
    ask(&mut stream, "GET", PAYLOAD, "").await
}

/// Reloads the same configuration, which is refused with this error.
fn refused_reload(site: &mut Site) -> String {
    let config = site.config.clone();
    site.relay_mut().reload(config).unwrap_err().to_string()
}

fn presented(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(path: &Path) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_file(path).unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_have_tls_of_their_own() {
    let files = Files::new();
    let site = Site::with_config(|config| {
        config.server.listeners = vec![listener("internet", config, files.tls(ClientCertificates::Off))];
    });
    let (lan, internet) = (site.relay().addresses()[0], site.relay().addresses()[1]);
    site.manager.put(PAYLOAD, Resource::new("content"));
    assert_eq!(Request::get(PAYLOAD).send(lan).await.expect_body(), b"content");
    assert_eq!(ask_as(&files, internet, None).await, Some(200));
    assert!(files.client().connect(lan).await.is_err(), "the LAN's listener is plain");
    let mut plain = WireClient::connect(internet).await;
    plain.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn name_of_the_client_hello_selects_the_certificate() {
    let files = Files::new();
    let certificates = ["relay.site.example", "*.branch.example", "relay.branch.example"];
    let certificates = certificates.map(|name| files.certificate(name));
    let tls = ListenerTls { certificates: certificates.to_vec(), ..files.tls(ClientCertificates::Off) };
    let site = Site::with_config(|config| config.server.tls = Some(tls));
    for (name, expected) in [
        ("relay.site.example", 0),
        ("RELAY.Site.Example", 0),
        ("a.branch.example", 1),
        ("relay.branch.example", 2),
    ] {
        let stream = TlsClient { name, ..files.client() }.connect(site.address()).await.unwrap();
        assert_eq!(presented(&stream), der(&certificates[expected].cert), "{name}");
    }
    for unknown in ["other.example", "a.b.branch.example", "127.0.0.1"] {
        let failed = TlsClient { name: unknown, ..files.client() }.connect(site.address()).await.unwrap_err();
        assert!(failed.to_string().contains("not valid for name"), "the first, for another name: {failed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_certificate_is_used_without_a_reload() {
    let files = Files::new();
    let site = Site::with_config(|config| config.server.tls = Some(files.tls(ClientCertificates::Off)));
    site.manager.put(PAYLOAD, Resource::new("content"));
    let mut open = files.client().connect(site.address()).await.unwrap();
    let before = presented(&open);
    // The new certificate without its key changes nothing.
    let renewed = files.authority.issue("localhost");
    let elsewhere = tempfile::tempdir().unwrap();
    let (cert, key) = renewed.write_files(elsewhere.path());
    let own = files.path("localhost");
    std::fs::copy(&cert, own.join("client.pem")).unwrap();
    for _ in 0..20 {
        let stream = files.client().connect(site.address()).await.unwrap();
        assert_eq!(presented(&stream), before);
    }
    std::fs::copy(&key, own.join("client.key")).unwrap();
    let is_new = || async {
        presented(&files.client().connect(site.address()).await.unwrap()) == renewed.certificate.to_vec()
    };
    while !is_new().await {}
    assert_eq!(ask(&mut open, "GET", PAYLOAD, "").await, Some(200), "the open connection goes on");
    let expiry = gupd_net::pem::expiry(&renewed.certificate).unwrap() / 1_000;
    let series = "gupd_certificate_expiry_timestamp_seconds{certificate=\"listener\",upstream=\"\"}";
    assert_eq!(site.metric(series).await, expiry as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_renewal_keeps_the_old_certificate() {
    let files = Files::new();
    let mut site = Site::with_config(|config| config.server.tls = Some(files.tls(ClientCertificates::Off)));
    let own = files.path("localhost");
    std::fs::write(own.join("client.key"), "no key").unwrap();
    let error = refused_reload(&mut site);
    assert!(error.contains("client.key: cannot read a private key"), "{error}");
    files.client().connect(site.address()).await.unwrap();
    let other = Authority::new().issue("localhost");
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::copy(other.write_files(elsewhere.path()).1, own.join("client.key")).unwrap();
    let error = refused_reload(&mut site);
    assert!(error.contains("certificate and key do not match"), "{error}");
    files.client().connect(site.address()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_off_optional_or_required() {
    let files = Files::new();
    let (own, foreign) = (files.authority.issue("pc-1.example"), Authority::new().issue("pc-1.example"));
    for (mode, none, good, bad) in [
        (ClientCertificates::Off, Some(200), Some(200), Some(200)),
        (ClientCertificates::Optional, Some(200), Some(200), None),
        (ClientCertificates::Required, None, Some(200), None),
    ] {
        let site = Site::with_config(|config| config.server.tls = Some(files.tls(mode)));
        site.manager.put(PAYLOAD, Resource::new("content"));
        assert_eq!(ask_as(&files, site.address(), None).await, none, "{mode:?}");
        assert_eq!(ask_as(&files, site.address(), Some(&own)).await, good, "{mode:?}");
        assert_eq!(ask_as(&files, site.address(), Some(&foreign)).await, bad, "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_and_unverifiable_certificates_are_refused() {
    let files = Files::new();
    let (good, revoked) = (files.authority.issue_numbered("a", 1), files.authority.issue_numbered("b", 2));
    let list = files.path("list.crl");
    let other = Authority::new().revoke(&[], 2100);
    for (text, of_good, of_revoked, of_none) in [
        (files.authority.revoke(&[], 2100), Some(200), Some(200), Some(200)),
        (files.authority.revoke(&[2, 3], 2100), Some(200), None, Some(200)),
        // An expired list says nothing about today, and the list of another issuer nothing about this one.
        (files.authority.revoke(&[2], 2001), None, None, Some(200)),
        (other, None, None, Some(200)),
    ] {
        std::fs::write(&list, text).unwrap();
        let mut tls = files.tls(ClientCertificates::Optional);
        tls.client_crl = vec![list.clone()];
        let site = Site::with_config(|config| config.server.tls = Some(tls));
        site.manager.put(PAYLOAD, Resource::new("content"));
        assert_eq!(ask_as(&files, site.address(), Some(&good)).await, of_good);
        assert_eq!(ask_as(&files, site.address(), Some(&revoked)).await, of_revoked);
        assert_eq!(ask_as(&files, site.address(), None).await, of_none);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_revocation_list_applies_to_new_connections() {
    let files = Files::new();
    let client = files.authority.issue_numbered("a", 7);
    let list = files.path("list.crl");
    std::fs::write(&list, files.authority.revoke(&[], 2100)).unwrap();
    let tls = ListenerTls { client_crl: vec![list.clone()], ..files.tls(ClientCertificates::Required) };
    let site = Site::with_config(|config| config.server.tls = Some(tls));
    site.manager.put(PAYLOAD, Resource::new("content"));
    assert_eq!(ask_as(&files, site.address(), Some(&client)).await, Some(200));
    std::fs::write(&list, files.authority.revoke(&[7], 2100)).unwrap();
    while ask_as(&files, site.address(), Some(&client)).await.is_some() {}
}

fn gateway(config: &Config, files: &Files) -> ListenerSettings {
    let tls = files.tls(ClientCertificates::Required);
    ListenerSettings { is_gateway: true, ..listener("internet", config, tls) }
}

/// The group that the configuration reader adds for a gateway.
fn group_of_gateway() -> GroupSettings {
    GroupSettings { listeners: vec!["internet".to_owned()], ..GroupSettings::catch_all("internet") }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_serves_content_to_certified_clients_only() {
    let files = Files::new();
    let site = Site::with_config(|config| {
        config.server.listeners = vec![gateway(config, &files)];
        config.groups = vec![group_of_gateway()];
    });
    let (lan, internet) = (site.relay().addresses()[0], site.relay().addresses()[1]);
    for path in [PAYLOAD, "/secars/secars.dll", "/minitri.flg"] {
        site.manager.put(path, Resource::new("content"));
    }
    assert_eq!(Request::get(PRIVATE).send(lan).await.status, 200, "the LAN reaches the manager");
    assert_eq!(ask_as(&files, internet, None).await, None);
    let identity = files.authority.issue("pc-1.example");
    let tls = TlsClient { identity: Some(&identity), ..files.client() };
    for (method, path, content, status) in [
        ("GET", PAYLOAD, "", 200),
        ("HEAD", PAYLOAD, "", 200),
        ("GET", PRIVATE, "", 403),
        ("GET", "/secars/secars.dll", "", 403),
        ("GET", "/", "", 403),
        ("GET", "/console/apps/sepm", "", 403),
        ("GET", "/metrics", "", 403),
        ("GET", "/api/v1/status", "", 403),
        ("GET", "/healthz", "", 403),
        ("POST", PAYLOAD, "content", 403),
        ("PUT", PAYLOAD, "content", 403),
        ("DELETE", PAYLOAD, "", 403),
        ("OPTIONS", "*", "", 403),
        ("GET", PAYLOAD, "content", 403),
    ] {
        let mut stream = tls.connect(internet).await.unwrap();
        assert_eq!(ask(&mut stream, method, path, content).await, Some(status), "{method} {path}");
    }
    let before = site.manager.request_count("/secars/secars.dll");
    let tls = TlsClient { protocols: &["h2"], ..tls };
    let client = Http2Client::connect(internet, &tls).await.unwrap();
    assert_eq!(client.get(PAYLOAD).await.unwrap().status(), 200);
    assert_eq!(client.get(PRIVATE).await.unwrap().status(), 403);
    let post = client.send(client.request("POST", PAYLOAD, &[]), b"content").await.unwrap();
    assert_eq!(post.status(), 403);
    assert_eq!(site.manager.request_count("/secars/secars.dll"), before);
    assert!(site.metric("gupd_refused_total{reason=\"not-content\"}").await >= 14.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_clients_are_in_no_group_of_the_site() {
    let files = Files::new();
    let closed = |name: &str, listeners: &[&str], subnets: &[&str]| GroupSettings {
        listeners: listeners.iter().map(|&name| name.to_owned()).collect(),
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        windows: WeekWindows::constant(false),
        ..GroupSettings::catch_all(name)
    };
    let identity = files.authority.issue("pc-1.example");
    for (groups, of_lan, of_internet) in [
        (vec![closed("lan", &[], &["127.0.0.0/8"]), group_of_gateway()], 503, 200),
        (vec![closed("rest", &[], &[]), group_of_gateway()], 503, 200),
        (vec![closed("internet", &["internet"], &[])], 200, 503),
        (vec![closed("here", &["default"], &[]), group_of_gateway()], 503, 200),
        (vec![closed("some", &["internet"], &["127.0.0.0/8"]), group_of_gateway()], 200, 503),
        (vec![closed("others", &["internet"], &["10.0.0.0/8"]), group_of_gateway()], 200, 200),
    ] {
        let names: Vec<_> = groups.iter().map(|group| group.name.clone()).collect();
        let site = Site::with_config(|config| {
            config.server.listeners = vec![gateway(config, &files)];
            config.groups = groups;
        });
        site.manager.put(PAYLOAD, Resource::new("content"));
        let (lan, internet) = (site.relay().addresses()[0], site.relay().addresses()[1]);
        assert_eq!(ask_as(&files, internet, Some(&identity)).await, Some(of_internet), "{names:?}");
        assert_eq!(Request::get(PAYLOAD).send(lan).await.status, of_lan, "{names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_of_a_gateway_leaves_connections_to_the_site() {
    let files = Files::new();
    let site = Site::with_config(|config| {
        let connections = Some(ConnectionBounds { max: 8, max_client: 8 });
        config.server.listeners = vec![ListenerSettings { connections, ..gateway(config, &files) }];
        config.server.max_connections = 64;
        config.groups = vec![group_of_gateway()];
    });
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 100_000)));
    let (lan, internet) = (site.relay().addresses()[0], site.relay().addresses()[1]);
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(internet).await.unwrap());
    }
    site.wait_for_metric_at_least("gupd_refused_total{reason=\"too-many-client-connections\"}", 32.0).await;
    for _ in 0..10 {
        assert_eq!(Request::get(PAYLOAD).send(lan).await.status, 200);
    }
    drop(silent);
    let identity = files.authority.issue("pc-1.example");
    while ask_as(&files, internet, Some(&identity)).await.is_none() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_renews_tls_of_listeners_and_names_the_rest() {
    let files = Files::new();
    let mut site = Site::with_config(|config| {
        config.server.listeners = vec![listener("internet", config, files.tls(ClientCertificates::Off))];
    });
    let internet = site.relay().addresses()[1];
    let mut open = files.client().connect(internet).await.unwrap();
    let mut next = site.config.clone();
    next.server.listeners[0].tls = Some(files.tls(ClientCertificates::Required));
    assert_eq!(site.relay_mut().reload(next.clone()).unwrap(), [""; 0]);
    assert_eq!(ask_as(&files, internet, None).await, None);
    assert_eq!(ask(&mut open, "GET", "/none", "").await, Some(404), "the open connection goes on");
    next.server.listeners[0].is_gateway = true;
    assert_eq!(site.relay_mut().reload(next.clone()).unwrap(), ["listener"]);
    next.server.listeners.clear();
    assert_eq!(site.relay_mut().reload(next).unwrap(), ["listener"]);
    let identity = files.authority.issue("pc-1.example");
    assert_eq!(ask_as(&files, internet, Some(&identity)).await, Some(404), "it stays as it was");
}
