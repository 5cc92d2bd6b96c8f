//! Access to the admin address: problem documents, roles of tokens, and TLS for commands, probes and the guard.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::guarded::{is_running, signal, workers};
use crate::process::{Ended, PATIENCE, Process, Relay, gupd};
use crate::support::http2::TlsClient;
use crate::support::{Authority, Manager, Request, WireClient, get, write_secret};

const OPERATE: &str = "may-change-everything";
const READ: &str = "may-read-everything";
const HIDDEN: &str = "stands-as-a-digest";

/// Requests that change something, with a body that is wrong: nothing happens if they are let in.
const CHANGES: [(&str, &str); 8] = [
    ("POST", "/api/v1/refresh"),
    ("POST", "/api/v1/reload"),
    ("POST", "/api/v1/upgrade"),
    ("POST", "/api/v1/drain"),
    ("DELETE", "/api/v1/drain"),
    ("POST", "/api/v1/store/purge"),
    ("POST", "/api/v1/store/held"),
    ("POST", "/api/v1/rollout"),
];

/// The folder of a relay with tokens of each kind.
struct Setup {
    manager: Manager,
    folder: tempfile::TempDir,
}

impl Setup {
    fn new(settings: &str) -> Self {
        let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
        let digest: Vec<String> = Sha256::digest(HIDDEN).iter().map(|octet| format!("{octet:02x}")).collect();
        let tokens = format!("{OPERATE}\n# monitoring\nread {READ}\noperate sha256:{}\n", digest.concat());
        write_secret(folder.path().join("token"), &tokens);
        let setup = Self { manager, folder };
        setup.write_config(settings);
        setup
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn write_config(&self, settings: &str) {
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nadmin_token_file = {:?}\n{settings}\n\
             [store]\ndir = {:?}\nmin_free = 0\n[[upstream]]\nurl = \"{}\"\n",
            self.path("token"),
            self.path("store"),
            self.manager.url()
        );
        fs::write(self.folder.path().join("gupd.toml"), text).unwrap();
    }

    fn serve(&self, flags: &[&str]) -> Relay {
        Relay::start(gupd(["serve", "--config", &self.path("gupd.toml")]).args(flags))
    }

    /// Runs a command for the relay.
    fn run(&self, relay: &Relay, arguments: &[&str]) -> Ended {
        let mut command = gupd(arguments);
        command.args(["--config", &self.path("gupd.toml"), "--admin", &relay.admin.to_string()]);
        Process::start(&mut command).wait_for_exit()
    }
}

async fn send(relay: &Relay, method: &str, path: &str, token: Option<&str>) -> (u16, Value) {
    let mut request = Request::new(method, path);
    if let Some(token) = token {
        request = request.header("Authorization", &format!("Bearer {token}"));
    }
    let response = request.send(relay.admin).await;
    let document = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
    if response.status >= 400 {
        assert_eq!(response.header("content-type"), Some("application/problem+json"), "{response:?}");
        assert_eq!(document["status"], response.status, "{document}");
        assert_eq!(document["type"], "about:blank", "{document}");
        for member in ["title", "detail"] {
            assert!(document[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {document}");
        }
    }
    (response.status, document)
}

#[tokio::test(flavor = "multi_thread")]
async fn token_for_reading_changes_nothing() {
    let setup = Setup::new("");
    let relay = setup.serve(&[]);
    for (method, path) in CHANGES {
        let (status, problem) = send(&relay, method, path, Some(READ)).await;
        assert_eq!(status, 403, "{method} {path}");
        assert!(problem["detail"].as_str().unwrap().contains("may only read"), "{problem}");
        assert_eq!(send(&relay, method, path, None).await.0, 401, "{method} {path}");
    }
    for token in [OPERATE, HIDDEN] {
        assert_eq!(send(&relay, "POST", "/api/v1/store/purge", Some(token)).await.0, 400, "{token}");
        assert_eq!(send(&relay, "DELETE", "/api/v1/drain", Some(token)).await.0, 200, "{token}");
    }
    // The digest itself is no token.
    let text = fs::read_to_string(setup.path("token")).unwrap();
    let digest = text.rsplit(' ').next().unwrap().trim();
    assert_eq!(send(&relay, "DELETE", "/api/v1/drain", Some(digest)).await.0, 401);
    assert_eq!(send(&relay, "GET", "/api/v1/status", Some(READ)).await.0, 200);
    // A command with a token file of its own.
    write_secret(setup.folder.path().join("own"), READ);
    setup.run(&relay, &["reload", "--token-file", &setup.path("own")]).assert_error(1, &["may only read"]);
    write_secret(setup.folder.path().join("own"), HIDDEN);
    let ended = setup.run(&relay, &["reload", "--token-file", &setup.path("own")]);
    assert!(ended.status.success(), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_a_problem_document() {
    let setup = Setup::new("");
    let relay = setup.serve(&[]);
    for (method, path, status, words) in [
        ("GET", "/api/v1/none", 404, "/api/v1/none"),
        ("GET", "/none", 404, "no such resource"),
        ("DELETE", "/api/v1/status", 405, "DELETE"),
        ("POST", "/metrics", 405, "POST"),
        ("GET", "/api/v1/traffic?since=yesterday", 400, "since"),
        ("GET", "/api/v1/rollout", 404, "[[ring]]"),
        ("GET", "/api/v1/rollout?catalogs=perhaps", 400, "catalogs=true"),
        ("GET", "/api/v1/rollout/clients?light=blue", 400, "green"),
        ("GET", "/api/v1/rollout/view", 400, "client="),
        ("POST", "/api/v1/store/purge", 400, "purge: invalid"),
        ("POST", "/api/v1/store/held", 400, "held: invalid"),
        ("POST", "/api/v1/rollout", 400, "command: invalid"),
        ("POST", "/api/v1/drain?redirect=perhaps", 400, "redirect=true"),
    ] {
        let (answered, problem) = send(&relay, method, path, Some(OPERATE)).await;
        assert_eq!(answered, status, "{method} {path}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{method} {path}: {problem}");
    }
    let refused = Request::new("DELETE", "/api/v1/status").send(relay.admin).await;
    assert!(refused.header("allow").is_some_and(|allow| allow.contains("GET")), "{refused:?}");
    let refused = Request::new("POST", "/api/v1/refresh").send(relay.admin).await;
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"), "{refused:?}");
    let foreign = Request::get("/api/v1/status").header("Host", "rebound.example").send(relay.admin).await;
    assert_eq!((foreign.status, foreign.header("content-type")), (421, Some("application/problem+json")));
    // Health answers are no errors.
    let ready = get(relay.admin, "/readyz").await;
    assert_eq!((ready.status, &*ready.body), (200, &b"serving\n"[..]));
}

/// TLS files of an admin address.
struct AdminTls {
    authority: Authority,
    settings: String,
}

impl AdminTls {
    fn write(folder: &Path) -> Self {
        let authority = Authority::new();
        let (cert, key) = authority.issue("127.0.0.1").write_files(folder);
        fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
        Self { authority, settings: format!("admin_tls_cert = {cert:?}\nadmin_tls_key = {key:?}") }
    }

    async fn get(&self, relay: &Relay, path: &str) -> Option<String> {
        self.send(relay, &format!("GET {path} HTTP/1.1\r\n"), "").await
    }

    /// Sends a request over TLS; `None` without a response.
    async fn send(&self, relay: &Relay, head: &str, body: &str) -> Option<String> {
        let client = TlsClient { name: "127.0.0.1", ..TlsClient::new(self.authority.certificate()) };
        let mut stream = client.connect(relay.admin).await.ok()?;
        let fields =
            format!("Host: 127.0.0.1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let request = format!("{head}{fields}{body}");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut response = Vec::new();
        let _end = stream.read_to_end(&mut response).await;
        String::from_utf8(response).ok().filter(|response| !response.is_empty())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_address_with_tls_serves_commands_and_probes() {
    let setup = Setup::new("");
    let tls = AdminTls::write(setup.folder.path());
    setup.write_config(&tls.settings);
    let mut relay = setup.serve(&[]);
    let ready = tls.get(&relay, "/readyz").await.unwrap();
    assert!(ready.starts_with("HTTP/1.1 200") && ready.ends_with("serving\n"), "{ready}");
    // Plain HTTP gets no response.
    let mut plain = WireClient::connect(relay.admin).await;
    assert!(plain.send(&Request::get("/readyz")).await.is_err());
    for command in [&["status"][..], &["reload"], &["why"]] {
        let ended = setup.run(&relay, command);
        assert!(ended.status.success(), "{ended:#?}");
    }
    // From another machine, the issuer is named.
    let admin = relay.admin.to_string();
    let remote = |issuer: &str| {
        let mut command = gupd(["status", "--admin", &admin, "--admin-ca", &setup.path(issuer)]);
        Process::start(&mut command).wait_for_exit()
    };
    let ended = remote("ca.pem");
    assert!(ended.status.success(), "{ended:#?}");
    fs::write(setup.path("other.pem"), Authority::new().pem()).unwrap();
    remote("other.pem").assert_error(1, &["not trusted"]);
    // A renewed certificate is used without a restart.
    let renewed = AdminTls::write(setup.folder.path());
    relay.process.wait_for_log("changed certificates are in use");
    assert!(renewed.get(&relay, "/healthz").await.unwrap().ends_with("alive\n"));
    assert_eq!(tls.get(&relay, "/healthz").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_serves_the_admin_address_with_tls() {
    let setup = Setup::new("");
    let tls = AdminTls::write(setup.folder.path());
    setup.write_config(&tls.settings);
    let relay = setup.serve(&["--guard"]);
    let deadline = Instant::now() + PATIENCE;
    // Each worker that begins is killed, so the guard answers in the end.
    loop {
        for worker in workers(&relay) {
            signal(worker, "KILL");
            while is_running(worker) {
                tokio::task::yield_now().await;
            }
        }
        if let Some(metrics) = tls.get(&relay, "/metrics").await
            && metrics.contains("gupd_guard_answering 1\n")
        {
            break;
        }
        assert!(Instant::now() < deadline, "the guard does not answer over TLS");
    }
    assert!(tls.get(&relay, "/healthz").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn session_over_tls_has_a_secure_cookie() {
    let setup = Setup::new("");
    let tls = AdminTls::write(setup.folder.path());
    setup.write_config(&tls.settings);
    let relay = setup.serve(&[]);
    let sign_in = async |origin: &str| {
        let head = format!("POST /sign-in HTTP/1.1\r\nOrigin: {origin}\r\n");
        tls.send(&relay, &head, &format!("token={OPERATE}")).await.unwrap()
    };
    let signed_in = sign_in("https://127.0.0.1").await;
    let cookie = signed_in.lines().find(|line| line.to_lowercase().starts_with("set-cookie:")).unwrap();
    assert!(signed_in.starts_with("HTTP/1.1 303") && cookie.ends_with("; Secure"), "{signed_in}");
    // A page of the same name without TLS is another origin.
    for origin in ["http://127.0.0.1", "https://127.0.0.2", "null"] {
        let refused = sign_in(origin).await;
        assert!(refused.starts_with("HTTP/1.1 403"), "{origin}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn session_reads_pages_and_api_from_other_machines() {
    let setup = Setup::new("");
    let relay = setup.serve(&[]);
    let sign_in = Request::new("POST", "/sign-in").header("Origin", &format!("http://{}", relay.admin));
    let signed_in = sign_in.body(format!("token={OPERATE}").as_bytes()).send(relay.admin).await;
    let cookie = signed_in.header("set-cookie").unwrap();
    assert!(!cookie.contains("Secure"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    // A request through a proxy is not of this machine.
    let get = async |path: &str, cookie: &str| {
        let request = Request::get(path).header("X-Forwarded-For", "203.0.113.9").header("Cookie", cookie);
        request.send(relay.admin).await
    };
    for (path, media_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/clients.csv", "text/html; charset=utf-8"),
        ("/events", "text/html; charset=utf-8"),
        ("/api/v1/status", "application/problem+json"),
        ("/api/v1/events", "application/problem+json"),
        ("/api/v1/inventory", "application/problem+json"),
    ] {
        let refused = get(path, "gupd_session=0").await;
        assert_eq!((refused.status, refused.header("content-type")), (401, Some(media_type)), "{path}");
        let status = get(path, &cookie).await.status;
        assert!(status == 200 || path == "/api/v1/inventory" && status == 404, "{path}: {status}");
    }
    // It changes nothing without the form's token.
    let reload = Request::new("POST", "/api/v1/reload").header("Cookie", &cookie).send(relay.admin).await;
    assert_eq!(reload.status, 401);
}
