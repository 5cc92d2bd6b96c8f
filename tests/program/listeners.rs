//! Several listeners as a process has them: named by the configuration, handed from the guard to its workers and to the
//! guard that replaces it, and each with its own rules in the guard too.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::guarded::{is_running, kill, wait_for_worker};
use crate::process::{Process, Relay, gupd};
use crate::support::http2::{Http2Client, TlsClient};
use crate::support::{Authority, Gate, Identity, Manager, PAYLOAD, Request, Resource, bytes, get};

const PRIVATE: &str = "/secars/secars.dll";

/// A relay with a plain listener and a gateway.
struct Setup {
    manager: Manager,
    folder: tempfile::TempDir,
    authority: Authority,
    identity: Identity,
    /// The gateway's table of the configuration.
    gateway: String,
}

impl Setup {
    fn new() -> Self {
        let authority = Authority::new();
        let identity = authority.issue("pc-1.example");
        let (manager, folder, gateway) = (Manager::start(), tempfile::tempdir().unwrap(), String::new());
        let mut setup = Self { manager, folder, authority, identity, gateway };
        setup.manager.put(PAYLOAD, Resource::new("content"));
        setup.manager.put(PRIVATE, Resource::new("private"));
        let (cert, key) = setup.authority.issue("localhost").write_files(setup.folder.path());
        let ca = setup.folder.path().join("ca.pem");
        std::fs::write(&ca, setup.authority.pem()).unwrap();
        setup.gateway = format!(
            "[[listener]]\nname = \"internet\"\nlisten = \"127.0.0.1:0\"\ngateway = true\ntls_cert = {cert:?}\n\
             tls_key = {key:?}\nclient_ca = {ca:?}\n"
        );
        setup.write_config(&setup.gateway);
        setup
    }

    fn config(&self) -> std::path::PathBuf {
        self.folder.path().join("gupd.toml")
    }

    fn write_config(&self, listeners: &str) {
        let store = self.folder.path().join("store");
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[guard]\nrestart_max = \"100ms\"\n\
             answer = \"redirect\"\n[store]\ndir = {store:?}\nmin_free = 0\n[[upstream]]\nurl = \"{}\"\n{listeners}",
            self.manager.url()
        );
        std::fs::write(self.config(), text).unwrap();
    }

    fn serve(&self) -> Command {
        gupd([Path::new("serve"), Path::new("--guard"), Path::new("--config"), &self.config()])
    }

    fn tls(&self) -> TlsClient<'_> {
        TlsClient { identity: Some(&self.identity), ..TlsClient::new(self.authority.certificate()) }
    }

    /// Asserts that each listener keeps to its rules.
    async fn assert_rules(&self, [lan, internet]: [SocketAddr; 2]) {
        assert_eq!(get(lan, PAYLOAD).await.expect_body(), b"content");
        assert_eq!(get(lan, PRIVATE).await.expect_body(), b"private");
        let client = Http2Client::connect(internet, &self.tls()).await.unwrap();
        assert_eq!(client.get(PAYLOAD).await.unwrap().body, b"content");
        assert_eq!(client.get(PRIVATE).await.unwrap().status(), 403);
        assert!(is_refused_without_certificate(self, internet).await);
    }
}

async fn is_refused_without_certificate(setup: &Setup, internet: SocketAddr) -> bool {
    let tls = TlsClient { identity: None, ..setup.tls() };
    match Http2Client::connect(internet, &tls).await {
        Err(_) => true,
        Ok(client) => client.get(PAYLOAD).await.is_err(),
    }
}

fn addresses(process: &mut Process) -> [SocketAddr; 2] {
    let serving = process.logged_once("serving");
    let listen = serving["listen"].as_str().unwrap().trim_matches(['[', ']']);
    let addresses: Vec<_> = listen.split(", ").map(|address| address.parse().unwrap()).collect();
    addresses.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_and_guard_that_are_replaced_keep_listeners_apart() {
    let setup = Setup::new();
    let mut relay = Relay::start(&mut setup.serve());
    let both = addresses(&mut relay.process);
    setup.assert_rules(both).await;
    let old = wait_for_worker(&relay).await;
    relay.process.signal("USR2");
    relay.process.wait_for_log("replacing the guard");
    while is_running(old) || wait_for_worker(&relay).await == old {}
    setup.assert_rules(both).await;
    // The new guard passes them on as the old one did.
    kill(&relay).await;
    wait_for_worker(&relay).await;
    relay.process.wait_for_log("serving");
    setup.assert_rules(both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_finishes_downloads_over_http2() {
    let setup = Setup::new();
    let body = bytes(1, 4_000_000);
    let gate = Gate::default();
    setup.manager.put(PAYLOAD, Resource::new(body.clone()).stalled(2_000_000, &gate));
    let mut relay = Relay::start(&mut setup.serve());
    let [_, internet] = addresses(&mut relay.process);
    let client = Http2Client::connect(internet, &setup.tls()).await.unwrap();
    let (_, mut running) = client.start(client.request("GET", PAYLOAD, &[]), b"").await.unwrap();
    let old = wait_for_worker(&relay).await;
    relay.process.signal("USR2");
    relay.process.wait_for_log("handed over; finishing running downloads");
    gate.open();
    let mut read = Vec::new();
    while let Some(data) = running.data().await {
        let data = data.unwrap();
        running.flow_control().release_capacity(data.len()).unwrap();
        read.extend_from_slice(&data);
    }
    assert!(read == body);
    // The old connection is told to end, and a new one is with the new worker.
    client.wait_until_closed().await.unwrap();
    while is_running(old) || wait_for_worker(&relay).await == old {}
    let client = Http2Client::connect(internet, &setup.tls()).await.unwrap();
    assert_eq!(client.get(PAYLOAD).await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_revocation_list_is_one_line_and_refuses_certificates() {
    let setup = Setup::new();
    let list = setup.folder.path().join("list.crl");
    std::fs::write(&list, setup.authority.revoke(&[], 2001)).unwrap();
    setup.write_config(&format!("{}client_crl = {list:?}\n", setup.gateway));
    let mut relay = Relay::start(&mut setup.serve());
    let [lan, internet] = addresses(&mut relay.process);
    let message = "revocation list expired: clients with certificates are refused: replace client_crl";
    assert_eq!(relay.process.logged_once(message)["level"], "ERROR");
    assert_eq!(get(lan, PAYLOAD).await.expect_body(), b"content");
    let is_served = || async {
        match Http2Client::connect(internet, &setup.tls()).await {
            Ok(client) => client.get(PAYLOAD).await.is_ok(),
            Err(_) => false,
        }
    };
    assert!(!is_served().await);
    // A current list applies without a reload.
    std::fs::write(&list, setup.authority.revoke(&[], 2100)).unwrap();
    while !is_served().await {}
}

#[test]
fn certificate_without_its_key_stops_the_start_with_one_line() {
    let setup = Setup::new();
    let other = tempfile::tempdir().unwrap();
    let (_, key) = setup.authority.issue("localhost").write_files(other.path());
    std::fs::copy(key, setup.folder.path().join("client.key")).unwrap();
    let mut command = gupd([Path::new("serve"), Path::new("--config"), &setup.config()]);
    let ended = Process::start(&mut command).wait_for_exit();
    ended.assert_error(2, &["client.pem and ", "client.key: certificate and key do not match"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_without_rules_serves_no_client() {
    let setup = Setup::new();
    let mut relay = Relay::start(&mut setup.serve());
    let [lan, internet] = addresses(&mut relay.process);
    setup.write_config("");
    let old = wait_for_worker(&relay).await;
    relay.process.signal("USR2");
    while is_running(old) || wait_for_worker(&relay).await == old {}
    relay.process.logged_once("listener was removed: its clients wait until a restart");
    assert_eq!(get(lan, PAYLOAD).await.expect_body(), b"content");
    // Its clients must not become clients of the LAN.
    let mut plain = tokio::net::TcpStream::connect(internet).await.unwrap();
    plain.write_all(format!("GET {PRIVATE} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    let answer = tokio::time::timeout(std::time::Duration::from_millis(300), plain.read_u8()).await;
    assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_relays_content_to_a_gateway_and_redirects_the_site() {
    let setup = Setup::new();
    let mut command = setup.serve();
    command.env("GUPD_GUARD_RESTART_MAX", "1h");
    let mut relay = Relay::start(&mut command);
    let [lan, internet] = addresses(&mut relay.process);
    // The first restart is immediate, the second not within this test.
    for _ in 0..2 {
        kill(&relay).await;
    }
    let redirected = Request::get(PAYLOAD).send(lan).await;
    assert_eq!(redirected.status, 307);
    assert!(redirected.header("location").unwrap().starts_with(&setup.manager.url()));
    let tls = TlsClient { protocols: &["http/1.1"], ..setup.tls() };
    for (method, path, expected) in [
        ("GET", PAYLOAD, "HTTP/1.1 200"),
        ("GET", PRIVATE, "HTTP/1.1 403"),
        ("POST", PAYLOAD, "HTTP/1.1 403"),
        ("OPTIONS", "*", "HTTP/1.1 403"),
    ] {
        let mut stream = tls.connect(internet).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _end = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with(expected), "{method} {path}: {answer}");
    }
    let tls = TlsClient { identity: None, ..tls };
    let mut answer = Vec::new();
    if let Ok(mut stream) = tls.connect(internet).await {
        let _refused = stream.read_to_end(&mut answer).await;
    }
    assert!(answer.is_empty());
}
