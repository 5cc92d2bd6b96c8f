//! Secrets that a relay holds or passes on: the admin token, credentials for a proxy, keys, and what clients and managers
//! send. None may be in its log at the most talkative level, its metrics, its API or its errors.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::process::{Ended, Process, Relay, gupd};
use crate::support::{Authority, Manager, PAYLOAD, Request, Resource, WireClient, bytes};

const TOKEN: &str = "planted-admin-token";
const GUESS: &str = "planted-guess-of-the-token";
const PROXY: &str = "planted-proxy-user:planted-proxy-password";
const BASIC: &str = "planted-client:planted-client-password";
const BEARER: &str = "planted-bearer-token";
const COOKIE: &str = "planted-cookie-of-a-client";
const SET_COOKIE: &str = "planted-cookie-of-the-manager";
/// Type 3 message of NTLM, with the client's response to the challenge.
const NTLM: &str = "TlRMTVNTUAADAAAAcGxhbnRlZC1udGxtLXJlc3BvbnNl";
const CHALLENGE: &str = "TlRMTVNTUAACAAAAcGxhbnRlZC1udGxtLWNoYWxsZW5nZQ==";

/// Every text that must not appear: credentials as they are, as they are sent, and by their password.
fn secrets(key: &str) -> Vec<String> {
    let mut secrets: Vec<String> =
        [TOKEN, GUESS, PROXY, BASIC, BEARER, COOKIE, SET_COOKIE, NTLM, CHALLENGE].map(str::to_owned).into();
    secrets.extend([PROXY, BASIC].map(|pair| STANDARD.encode(pair)));
    secrets.extend([PROXY, BASIC].map(|pair| pair.split_once(':').unwrap().1.to_owned()));
    secrets.extend(key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned));
    secrets
}

/// The files of a relay: its upstream is behind a proxy with credentials, another one asks for a certificate.
fn write_files(folder: &Path, proxy: &str) -> String {
    let authority = Authority::new();
    let (cert, key) = authority.issue("127.0.0.1").write_files(folder);
    for (name, text) in [("token", TOKEN), ("proxy", PROXY), ("ca.pem", &authority.pem())] {
        fs::write(folder.join(name), text).unwrap();
    }
    let path = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nadmin_token_file = {:?}\n\
         [store]\ndir = {:?}\nmin_free = 0\n[log]\nlevel = \"trace\"\nformat = \"json\"\n\
         [[upstream]]\nname = \"sepm\"\nurl = \"http://sepm.invalid:8014\"\nproxy = {proxy:?}\nproxy_auth_file = {:?}\n\
         [[upstream]]\nname = \"secure\"\nurl = \"https://127.0.0.1:1\"\nca = {:?}\nclient_cert = {cert:?}\n\
         client_key = {key:?}\n[[route]]\nprefix = \"/secure\"\nupstreams = \"secure\"\n[[route]]\nprefix = \"/\"\n\
         upstreams = \"sepm\"\n",
        path("token"),
        path("store"),
        path("proxy"),
        path("ca.pem"),
    );
    fs::write(folder.join("gupd.toml"), text).unwrap();
    fs::read_to_string(key).unwrap()
}

fn with_secrets(request: Request) -> Request {
    let basic = format!("Basic {}", STANDARD.encode(BASIC));
    let request = request.header("Authorization", &basic).header("Cookie", &format!("session={COOKIE}"));
    request.header("Proxy-Authorization", &format!("Bearer {BEARER}"))
}

/// Requests of every way through the relay, each with secrets.
async fn send_requests(relay: &Relay) {
    let ntlm = Request::new("POST", "/secars/secars.dll").header("Authorization", &format!("NTLM {NTLM}"));
    for request in [
        with_secrets(Request::get(PAYLOAD)),
        with_secrets(Request::get(PAYLOAD)),
        with_secrets(Request::get("/minitri.flg")).range("0-3"),
        with_secrets(Request::get("/broken")),
        with_secrets(Request::get("/malformed")),
        with_secrets(Request::get("/absent")),
        with_secrets(Request::get("/secure/object")),
        with_secrets(Request::get("/secars/secars.dll")),
        with_secrets(Request::new("POST", "/secars/secars.dll")).body(COOKIE),
        ntlm.body("negotiated"),
        with_secrets(Request::new("TRACE", "/")),
        with_secrets(Request::new("CONNECT", "sepm.invalid:8014")),
        with_secrets(Request::get("http://foreign.invalid/")),
        with_secrets(Request::get(&format!("http://{BASIC}@sepm.invalid:8014/"))),
        with_secrets(Request::get("/..")),
    ] {
        // Some end without a response.
        let _response = WireClient::connect(relay.address).await.send(&request).await;
    }
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {BEARER}");
    for malformed in [format!("{head}\u{1}\r\n\r\n"), format!("{head}{}\r\n\r\n", " ".repeat(64 << 10))] {
        let mut client = WireClient::connect(relay.address).await;
        client.write(malformed.as_bytes()).await.unwrap();
        let _refusal = client.read_head().await;
    }
}

/// Everything that the admin address says, with the token, without it and with a wrong one.
async fn read_admin(relay: &Relay) -> Vec<String> {
    let mut texts = Vec::new();
    let paths = [
        "/",
        "/metrics",
        "/healthz",
        "/readyz",
        "/api/v1/rollout",
        "/api/v1/rollout/clients",
        "/api/v1/rollout/view",
    ];
    for path in paths {
        for token in [None, Some(GUESS), Some(TOKEN)] {
            for method in ["GET", "POST"] {
                let mut request = Request::new(method, path);
                if let Some(token) = token {
                    request = request.header("Authorization", &format!("Bearer {token}"));
                }
                let response = request.send(relay.admin).await;
                texts.push(format!("{:?} {}", response.headers, String::from_utf8_lossy(&response.body)));
            }
        }
    }
    texts
}

fn run(command: &mut std::process::Command) -> Ended {
    Process::start(command).wait_for_exit()
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_secrets_are_in_no_log_metric_response_or_error() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    // The relay asks for whole URLs, because the manager is its proxy.
    let put = |path: &str, resource| manager.put(&format!("http://sepm.invalid:8014{path}"), resource);
    let cookie = format!("id={SET_COOKIE}");
    put(PAYLOAD, Resource::new(bytes(1, 100_000)).header("Set-Cookie", &cookie));
    put("/minitri.flg", Resource::new("catalog").header("Set-Cookie", &cookie));
    put("/broken", Resource::new(bytes(1, 1_000)).header("Set-Cookie", &cookie).cut(10, 100));
    let malformed = format!("HTTP/1.1 200 OK\r\nSet-Cookie: {cookie}\u{1}\r\nContent-Length: 2\r\n\r\nok");
    put("/malformed", Resource::raw(malformed));
    let challenge = format!("NTLM {CHALLENGE}");
    put("/secars/secars.dll", Resource::empty(401).header("WWW-Authenticate", &challenge));
    let key = write_files(folder.path(), &manager.url());
    let file = folder.path().join("gupd.toml");
    let mut relay = Relay::start(gupd(["serve", "--config"]).arg(&file));
    send_requests(&relay).await;
    assert!(
        manager.request_count("http://sepm.invalid:8014/minitri.flg") > 0,
        "nothing went through the proxy"
    );
    let stored = WireClient::connect(relay.address).await.send(&Request::get(PAYLOAD)).await.unwrap();
    assert_eq!(stored.expect_body(), bytes(1, 100_000));
    let mut texts = read_admin(&relay).await;

    manager.set_down(true);
    send_requests(&relay).await;
    // A configuration with credentials in a URL, which a reload refuses with a message.
    let text = fs::read_to_string(&file).unwrap();
    let wrong = text.replace("http://sepm.invalid", &format!("http://{PROXY}@sepm.invalid"));
    fs::write(&file, wrong).unwrap();
    relay.process.signal("HUP");
    relay.process.wait_for_log("reload refused; the old configuration stays in force");
    let mut ended = vec![run(gupd(["check", "--config"]).arg(&file))];
    fs::write(&file, &text).unwrap();
    for arguments in [
        &["check", "--probe"][..],
        &["policy", "explain", "--client", "10.0.0.1", "--path", "/minitri.flg"],
        &["clients-config"],
    ] {
        ended.push(run(gupd(arguments).arg("--config").arg(&file)));
    }
    texts.extend(read_admin(&relay).await);
    relay.process.signal("TERM");
    ended.push(relay.process.wait_for_exit());

    texts.extend(ended.into_iter().flat_map(|ended| ended.lines.into_iter().chain([ended.errors])));
    assert!(texts.len() > 200, "only {} texts: is the log at trace?", texts.len());
    let secrets = secrets(&key);
    let leaks: Vec<_> =
        texts.iter().filter(|text| secrets.iter().any(|secret| text.contains(secret))).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
}
