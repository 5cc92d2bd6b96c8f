//! Two relays behind HAProxy, as a site has them: as one cache, also when one of them is killed under load.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::process::{PATIENCE, Relay, gupd};
use crate::rollout::{CATALOG, post};
use crate::support::http2::{Http2Client, TlsClient};
use crate::support::{
    Authority, Ending, Gate, Manager, PAYLOAD, Request, Resource, Response, WireClient, bytes,
};

/// Address that HAProxy connects from.
pub(crate) const PROXY: &str = "127.0.0.5";
const CLIENTS: usize = 30;
const OBJECTS: usize = 40;

pub(crate) fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

/// HAProxy with the shipped configuration, in front of two relays.
pub(crate) struct HaProxy {
    process: Child,
    pub(crate) address: std::net::SocketAddr,
    _folder: tempfile::TempDir,
}

impl HaProxy {
    /// Starts it with the shipped configuration; `header` is how it tells clients' addresses.
    fn start(relays: [&Relay; 2], header: &str) -> Self {
        let mut text = std::fs::read_to_string(deployed("haproxy/gupd-pair.cfg")).unwrap();
        let (listener, bind) = Self::listen();
        let [one, two] = relays.map(|relay| format!("{} check port {}", relay.address, relay.admin.port()));
        for (shipped, here) in [
            ("bind :2967", &bind),
            ("192.0.2.11:2967", &one),
            ("192.0.2.12:2967", &two),
            ("check port 9467 inter", &"inter".to_owned()),
            // An address of its own, as in a site. Relays of the pair have another one.
            ("    balance uri\n", &format!("    balance uri\n    source {PROXY}\n")),
            ("send-proxy-v2\n", &format!("{header}\n")),
        ] {
            assert!(text.contains(shipped), "{shipped}");
            text = text.replace(shipped, here);
        }
        Self::run(&text, &listener)
    }

    /// Starts it before a TLS listener of a relay: it passes connections on and terminates nothing.
    fn start_passing(relay: std::net::SocketAddr) -> Self {
        let (listener, bind) = Self::listen();
        let text = format!(
            "defaults\n    mode tcp\n    timeout connect 2s\n    timeout client 60s\n    timeout server 60s\n\
             frontend clients\n    {bind}\n    default_backend relay\n\
             backend relay\n    source {PROXY}\n    server relay {relay} send-proxy-v2\n"
        );
        Self::run(&text, &listener)
    }

    /// Returns a socket and its `bind` line. HAProxy inherits the socket, so no free port has to be guessed.
    pub(crate) fn listen() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
        let bind = format!("bind fd@{}", listener.as_raw_fd());
        (listener, bind)
    }

    pub(crate) fn run(text: &str, listener: &TcpListener) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let mut haproxy = Command::new("haproxy");
        let started = haproxy.args(["-db", "-f"]).arg(file).stderr(Stdio::null()).spawn();
        let process = started.unwrap_or_else(|error| panic!("haproxy: {error}; tests/run installs it"));
        Self { process, address: listener.local_addr().unwrap(), _folder: folder }
    }

    /// Waits until HAProxy has found a relay that is up.
    pub(crate) async fn wait_until_serving(&self) {
        let deadline = Instant::now() + PATIENCE;
        let serves = async || {
            let mut client = WireClient::connect(self.address).await;
            let response = client.send(&Request::get("/nothing")).await;
            response.is_ok_and(|response| response.status == 404)
        };
        while !serves().await {
            assert!(Instant::now() < deadline, "HAProxy forwarded no request");
        }
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// A relay's configuration, in a folder of its own.
struct RelayFolder(tempfile::TempDir);

impl RelayFolder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn configure(&self, manager: &Manager, peers: &[&Relay]) -> PathBuf {
        self.configure_with("", manager, peers)
    }

    /// Writes the configuration with more settings, the first of them of `[server]`.
    fn configure_with(&self, settings: &str, manager: &Manager, peers: &[&Relay]) -> PathBuf {
        let store = self.0.path().join("store");
        let mut text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\ntrusted_proxies = [\"{PROXY}\"]\n{settings}[store]\ndir = {store:?}\nmin_free = \"0B\"\n\
             [log]\nformat = \"json\"\naccess = false\n[refresh]\nschedule = \"off\"\n[prefetch]\nlearned = false\n\
             [[upstream]]\nurl = {:?}\n",
            manager.url()
        );
        for peer in peers {
            text += &format!("[[peer]]\nurl = \"http://{}\"\n", peer.address);
        }
        let file = self.0.path().join("gupd.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    fn start(&self, manager: &Manager) -> Relay {
        let file = self.configure(manager, &[]);
        Relay::start(gupd(["serve", "--config"]).arg(file))
    }
}

fn object(number: usize) -> (String, Vec<u8>) {
    let path = PAYLOAD.replace("full.zip", &format!("{number}.dax"));
    (path, bytes(number as u64, 150_000 + number * 10_000))
}

/// Downloads the objects in an order that depends on the client, with one retry each. Returns the number of retries.
async fn client(number: usize, front: std::net::SocketAddr, objects: std::ops::Range<usize>) -> usize {
    let mut retried = 0;
    for at in 0..objects.len() {
        let (path, body) = object(objects.start + (at * 7 + number * 3) % objects.len());
        for attempt in 0..2 {
            let answer = async {
                let mut client = WireClient::connect(front).await;
                client.send(&Request::get(&path)).await
            };
            match answer.await {
                Ok(response) if response.status == 200 && response.ending == Ending::Complete => {
                    assert!(response.body == body, "{path} differs from the manager's content");
                    break;
                }
                failed if attempt > 0 => panic!("{path}: {failed:?}"),
                _ => retried += 1,
            }
        }
    }
    retried
}

#[tokio::test(flavor = "multi_thread")]
async fn pair_crosses_the_line_once_and_survives_either() {
    let manager = Manager::start();
    let unique: u64 = (0..2 * OBJECTS)
        .map(|number| {
            let (path, body) = object(number);
            manager.put(&path, Resource::new(body.clone()).rate(4 << 20));
            body.len() as u64
        })
        .sum();
    let places = [RelayFolder::new(), RelayFolder::new()];
    let [mut one, mut two] = places.each_ref().map(|place| place.start(&manager));
    places[0].configure(&manager, &[&two]);
    places[1].configure(&manager, &[&one]);
    for relay in [&mut one, &mut two] {
        relay.process.signal("HUP");
        relay.process.wait_for_log("configuration reloaded");
    }
    let front = HaProxy::start([&one, &two], "send-proxy-v2");
    front.wait_until_serving().await;

    let address = front.address;
    let mut clients: JoinSet<usize> =
        (0..CLIENTS).map(|number| client(number, address, 0..OBJECTS)).collect();
    while let Some(retried) = clients.join_next().await {
        assert_eq!(retried.unwrap(), 0);
    }
    for number in 0..OBJECTS {
        assert_eq!(manager.request_count(&object(number).0), 1, "each object crosses the line once");
    }
    let shares = [one.metrics().await, two.metrics().await].map(|metrics| {
        let line = metrics.lines().find(|line| line.starts_with("gupd_upstream_received_bytes_total"));
        line.unwrap().rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    });
    assert!(shares.iter().all(|share| *share > 0.0), "both have a share: {shares:?}");

    let mut clients: JoinSet<usize> =
        (0..CLIENTS).map(|number| client(number, address, OBJECTS..2 * OBJECTS)).collect();
    // The first relay is in the middle of its downloads.
    manager.wait_for_requests(&object(OBJECTS + OBJECTS / 2).0, 1).await;
    one.process.kill();
    while let Some(retried) = clients.join_next().await {
        retried.unwrap();
    }
    let crossed = manager.body_bytes();
    println!("{crossed} bytes crossed the line for {unique}: {:.3}", crossed as f64 / unique as f64);
    assert!(crossed <= unique * 3 / 2);
}

/// Response to a client of HAProxy with this address.
async fn get_as(client: [u8; 4], front: &HaProxy, path: &str) -> Response {
    let mut client = WireClient::connect_from(client.into(), front.address).await;
    client.send(&Request::get(path)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_haproxy_keep_groups_limits_and_identity() {
    let settings = "[lan]\nclient_downloads = 1\nclient_queue = 0\n\
         [[group]]\nname = \"branch\"\nsubnets = [\"127.0.7.0/24\"]\ndeny = [\"virus-definitions-32\"]\n\
         [[group]]\nname = \"later\"\nsubnets = [\"127.0.8.0/24\"]\nspread = \"7d\"\n";
    for (header, source) in [
        ("send-proxy-v2", ""),
        ("send-proxy", ""),
        ("\n    option forwardfor", "client_address = \"x-forwarded-for\"\n"),
    ] {
        let (manager, places) = (Manager::start(), [RelayFolder::new(), RelayFolder::new()]);
        let gate = Gate::default();
        manager.put(PAYLOAD, Resource::new(bytes(1, 4 << 20)).stalled(100_000, &gate));
        manager.put("/secars/x", Resource::new("report"));
        let [one, two] = places.each_ref().map(|place| {
            let file = place.configure_with(&format!("{source}{settings}"), &manager, &[]);
            Relay::start(gupd(["serve", "--config"]).arg(file))
        });
        let front = HaProxy::start([&one, &two], header);
        front.wait_until_serving().await;
        assert_eq!(get_as([127, 0, 6, 1], &front, "/secars/x").await.status, 200, "{header}");
        let seen = manager.requests_for("/secars/x").pop().unwrap();
        assert!(seen.header("x-forwarded-for").unwrap().starts_with("127.0.6.1"), "{header}: {seen:?}");
        assert_eq!(get_as([127, 0, 7, 1], &front, PAYLOAD).await.status, 404, "{header}: the group's denial");
        assert_eq!(get_as([127, 0, 8, 1], &front, PAYLOAD).await.status, 503, "{header}: the group's spread");
        let mut running = Vec::new();
        for last in [1, 2] {
            let address = [127, 0, 6, last];
            let mut first = WireClient::connect_from(address.into(), front.address).await;
            first.write_request(&Request::get(PAYLOAD)).await.unwrap();
            assert_eq!(first.read_head().await.unwrap().status, 200, "{header} {last}");
            running.push(first);
            assert_eq!(
                get_as(address, &front, PAYLOAD).await.status,
                503,
                "{header} {last}: one slot a client"
            );
        }
        gate.open();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_haproxy_keep_rings_and_the_client_table() {
    let (manager, place) = (Manager::start(), RelayFolder::new());
    let token = place.0.path().join("token");
    crate::support::write_secret(&token, "s3cret-of-the-site\n");
    let settings = format!(
        "admin_token_file = {token:?}\n[site]\ntime_zone = \"UTC\"\n\
         [[group]]\nname = \"pilot\"\nsubnets = \"127.0.7.0/24\"\n\
         [[ring]]\nname = \"first\"\ngroups = \"pilot\"\n\
         [[ring]]\nname = \"rest\"\ngroups = \"default\"\ngate = \"manual\"\n"
    );
    let file = place.configure_with(&settings, &manager, &[]);
    let relay = Relay::start(gupd(["serve", "--config"]).arg(file));
    let front = HaProxy::start([&relay, &relay], "send-proxy-v2");
    front.wait_until_serving().await;
    let (pilot, other) = ([127, 0, 7, 1], [127, 0, 8, 1]);
    let deadline = Instant::now() + PATIENCE;
    for version in ["1", "2"] {
        manager.put(CATALOG, Resource::new(version));
        if version == "2" {
            assert_eq!(post("/api/v1/refresh", "").send(relay.admin).await.status, 200);
        }
        while get_as(pilot, &front, CATALOG).await.expect_body() != version.as_bytes() {
            assert!(Instant::now() < deadline, "the pilot never sees {version}");
        }
    }
    assert_eq!(get_as(other, &front, CATALOG).await.expect_body(), b"1", "the gate of its ring is shut");
    let request =
        Request::get("/api/v1/rollout/clients").header("Authorization", "Bearer s3cret-of-the-site");
    loop {
        let listed = String::from_utf8(request.send(relay.admin).await.expect_body()).unwrap();
        assert!(!listed.contains(PROXY), "{listed}");
        if listed.contains("127.0.7.1") && listed.contains("127.0.8.1") {
            break;
        }
        assert!(Instant::now() < deadline, "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_that_passes_tls_on_names_the_client() {
    let (manager, place, authority) = (Manager::start(), RelayFolder::new(), Authority::new());
    manager.put("/secars/x", Resource::new("report"));
    let (cert, key) = authority.issue("localhost").write_files(place.0.path());
    let settings = format!("tls_cert = {cert:?}\ntls_key = {key:?}\ndeny = [\"127.0.9.0/24\"]\n");
    let file = place.configure_with(&settings, &manager, &[]);
    let relay = Relay::start(gupd(["serve", "--config"]).arg(file));
    let front = HaProxy::start_passing(relay.address);
    let tls = TlsClient::new(authority.certificate());
    let connect = async |client: [u8; 4]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((client, 0).into()).unwrap();
        tls.connect_over(socket.connect(front.address).await.unwrap()).await
    };
    let client = Http2Client::over(connect([127, 0, 6, 1]).await.unwrap(), front.address).await.unwrap();
    assert_eq!(client.get("/secars/x").await.unwrap().status(), 200);
    let seen = manager.requests_for("/secars/x").pop().unwrap();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.6.1"));
    assert!(connect([127, 0, 9, 1]).await.is_err(), "the client is denied, not the proxy");
}

#[test]
fn shipped_pair_files_are_valid() {
    let taken = |program: &str, arguments: &[&str], file: &str| {
        let mut command = Command::new(program);
        let output = command.args(arguments).arg(deployed(file)).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs it"));
        assert!(output.status.success(), "{output:?}");
    };
    taken("haproxy", &["-c", "-f"], "haproxy/gupd-pair.cfg");
}
