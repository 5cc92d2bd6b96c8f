//! Upstreams behind an HTTP proxy: tunnels for https, absolute URLs for http, credentials for both.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gupd_config::units::Rate;
use gupd_config::{Clock, Config};
use gupd_config::{HttpProxy, RateSchedule, Trust};
use gupd_net::metrics::NetMetrics;
use gupd_net::shape::WanLimiter;
use gupd_net::upstream::{UpstreamFailure, Upstreams};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Front, Identity, Manager, PAYLOAD, RefusingPort, Resource, Site, bytes};

/// Credentials, and their encoded form.
const CREDENTIALS: (&str, &str) = ("relay:open sesame", "Basic cmVsYXk6b3BlbiBzZXNhbWU=");

/// A proxy that opens tunnels, or sends `instead` as its response.
struct Tunnels {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Tunnels {
    async fn start(instead: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = heads.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let seen = seen.clone();
                tokio::spawn(async move {
                    let mut client = BufReader::new(client);
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") && client.read_line(&mut head).await? > 0 {}
                    seen.lock().unwrap().push(head.clone());
                    match instead {
                        Some(instead) => {
                            client.write_all(instead.as_bytes()).await?;
                            // The connection stays open: the relay must stop reading by itself.
                            client.read_line(&mut head).await.map(drop)
                        }
                        None => {
                            let to = head.split_whitespace().nth(1).unwrap();
                            let mut behind = TcpStream::connect(to).await?;
                            client
                                .write_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 p\r\n\r\n")
                                .await?;
                            copy_bidirectional(&mut client, &mut behind).await.map(drop)
                        }
                    }
                });
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn proxy(address: SocketAddr, auth_file: Option<PathBuf>) -> Option<HttpProxy> {
    Some(HttpProxy { url: format!("http://{address}").parse().unwrap(), auth_file })
}

fn credentials(folder: &TempDir, text: &str) -> Option<PathBuf> {
    let path = folder.path().join("proxy");
    std::fs::write(&path, text).unwrap();
    Some(path)
}

fn upstreams(url: &str, proxy: Option<HttpProxy>) -> Result<Upstreams, String> {
    let mut config = Config::for_upstreams(&[url]).unwrap();
    config.fill.connect_timeout = Duration::from_secs(1);
    config.upstreams[0].trust = Trust { pins: vec![Identity::self_signed().pin()], ..Trust::default() };
    config.upstreams[0].proxy = proxy;
    let wan = Arc::new(WanLimiter::unlimited(&config, Clock::system()));
    let metrics = Arc::new(NetMetrics::register(&prometheus::Registry::new()).unwrap());
    Upstreams::new(&config, Clock::system(), wan, metrics).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_upstream_is_reached_through_a_tunnel() {
    let (manager, identity, folder) =
        (Manager::start(), Identity::self_signed(), tempfile::tempdir().unwrap());
    let pins = vec![identity.pin()];
    let front = Front::start(manager.address(), identity).await;
    let tunnels = Tunnels::start(None).await;
    let auth_file = credentials(&folder, &format!("{}\nanother line\n", CREDENTIALS.0));
    let url = front.url();
    let site = Site::for_manager(manager, |config| {
        config.upstreams = Config::for_upstreams(&[&url]).unwrap().upstreams;
        config.upstreams[0].trust.pins = pins;
        config.upstreams[0].proxy = proxy(tunnels.address, auth_file);
        // The limit counts the bytes to and from the proxy.
        config.wan.limit = RateSchedule::from_rate(Rate(64 << 20));
    });
    let body = bytes(82, 2_000_000);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    let [head] = &tunnels.heads()[..] else { panic!("one download opened several tunnels") };
    let to = front.address();
    assert!(head.starts_with(&format!("CONNECT {to} HTTP/1.1\r\n")), "{head}");
    let head = head.to_lowercase();
    assert!(head.contains(&format!("\r\nhost: {to}\r\n")), "{head}");
    assert!(
        head.contains(&format!("\r\nproxy-authorization: {}\r\n", CREDENTIALS.1.to_lowercase())),
        "{head}"
    );
    assert_eq!(
        site.manager.requests_for(PAYLOAD)[0].header("proxy-authorization"),
        None,
        "the manager never sees it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_upstream_is_requested_by_absolute_url() {
    let folder = tempfile::tempdir().unwrap();
    let auth_file = credentials(&folder, CREDENTIALS.0);
    // A forward proxy is a server that gets absolute URLs.
    let target = format!("http://manager.example:8014{PAYLOAD}");
    let forwarding = Manager::start();
    let site = Site::with_config(|config| {
        config.upstreams = Config::for_upstreams(&["http://manager.example:8014"]).unwrap().upstreams;
        config.upstreams[0].proxy = proxy(forwarding.address(), auth_file);
    });
    let body = bytes(83, 2_000_000);
    forwarding.put(&target, Resource::new(body.clone()).cut(1_000_000, 1));
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    let seen = forwarding.requests_for(&target);
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!(seen.target, target);
        assert_eq!(seen.header("host"), Some("manager.example:8014"));
        assert_eq!(seen.header("proxy-authorization"), Some(CREDENTIALS.1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_tunnel_is_logged_with_proxy_and_reason() {
    for (instead, expected) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"p\"\r\n\r\n",
            "asks for other credentials than it was given (407): correct proxy_auth_file",
        ),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nsorry", "answers 502 Bad Gateway to CONNECT"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "gives no usable answer to CONNECT"),
        ("HTTP/1.1 200 OK\r\n\r\nhello", "sends bytes of its own into the tunnel"),
        ("HTTP/1.1 200 OK\r\n", "gives no tunnel in time"),
    ] {
        let tunnels = Tunnels::start(Some(instead)).await;
        let upstreams = upstreams("https://manager.example", proxy(tunnels.address, None)).unwrap();
        let error = upstreams.iter().next().unwrap().test_connection().await.unwrap_err();
        assert_eq!(error.kind(), UpstreamFailure::Connect);
        let error = error.to_string();
        let begin = format!("upstream manager.example: cannot connect: proxy {} ", tunnels.address);
        assert!(error.starts_with(&begin) && error.contains(expected), "{error}");
        assert!(tunnels.heads()[0].starts_with("CONNECT manager.example:443 HTTP/1.1\r\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_proxy_response_head_is_cut_off() {
    let endless: &'static str = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(100_000)).leak();
    let tunnels = Tunnels::start(Some(endless)).await;
    let upstreams = upstreams("https://manager.example", proxy(tunnels.address, None)).unwrap();
    let error = upstreams.iter().next().unwrap().test_connection().await.unwrap_err().to_string();
    assert!(error.contains("gives no usable answer to CONNECT"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_upstream_proxy_is_never_a_client_response() {
    let refusing = RefusingPort::new();
    let down = upstreams("http://manager.example", proxy(refusing.address(), None)).unwrap();
    let error = down.iter().next().unwrap().test_connection().await.unwrap_err().to_string();
    assert!(error.contains(&format!("proxy {} cannot be connected to: ", refusing.address())), "{error}");
    let forwarding = Manager::start();
    let site = Site::with_config(|config| {
        config.upstreams = Config::for_upstreams(&["http://manager.example"]).unwrap().upstreams;
        config.upstreams[0].proxy = proxy(forwarding.address(), None);
    });
    let wanting = Resource::new("").status(407).header("Proxy-Authenticate", "Basic realm=\"p\"");
    forwarding.put(&format!("http://manager.example{PAYLOAD}"), wanting);
    let response = site.get(PAYLOAD).await;
    assert_eq!(response.status, 504);
    assert_eq!(response.header("proxy-authenticate"), None);
}

#[test]
fn bad_proxy_credentials_are_one_error_line_without_secret() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Some(folder.path().join("missing"));
    let error = upstreams("https://manager", proxy(([127, 0, 0, 1], 1).into(), missing)).unwrap_err();
    assert!(error.starts_with("upstream manager: proxy_auth_file: "), "{error}");
    assert!(error.contains("missing: cannot be read: No such file"), "{error}");
    for text in ["", "\nuser:secret", "no-secret", ":secret", "user:se\tcret"] {
        let file = credentials(&folder, text);
        let error = upstreams("https://manager", proxy(([127, 0, 0, 1], 1).into(), file)).unwrap_err();
        assert!(error.ends_with("proxy: its first line is not user:password"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_to_proxy_proves_nothing_about_upstream() {
    let proxied = Tunnels::start(Some("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")).await;
    let site = Site::with_config(|config| {
        config.upstreams[0].proxy = proxy(proxied.address, None);
        config.health.interval = Some(Duration::from_secs(10));
    });
    let name = site.manager.address();
    let failed = format!("gupd_upstream_checks_total{{outcome=\"server-error\",upstream=\"{name}\"}}");
    site.wait_for_metric(&failed, 1.0).await;
    assert!(proxied.heads()[0].starts_with(&format!("HEAD http://{name}/ HTTP/1.1\r\n")));
}
