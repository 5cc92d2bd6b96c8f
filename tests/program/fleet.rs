//! Several relays behind the real HAProxy or nginx, as a site has them that outgrew one relay: as one cache, while
//! members are killed, upgraded and added under load, and with the limits of the site divided between them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::guarded::wait_for_worker;
use crate::pair::{HaProxy, PROXY, deployed};
use crate::process::{PATIENCE, Relay, gupd};
use crate::support::{Ending, Manager, PAYLOAD, Request, Resource, WireClient, bytes};

const CLIENTS: usize = 300;
/// Objects of a phase.
const OBJECTS: usize = 20;
/// Downloads of a client in a phase.
const DOWNLOADS: usize = 4;

/// Groups of the load: clients of `branch` are denied the content, those of `later` wait for days.
const GROUPS: &str = "[[group]]\nname = \"branch\"\nsubnets = [\"127.0.7.0/24\"]\ndeny = [\"virus-definitions-32\"]\n\
                      [[group]]\nname = \"later\"\nsubnets = [\"127.0.8.0/24\"]\nspread = \"7d\"\n";

/// A member of the site and its configuration.
struct Member {
    folder: TempDir,
    relay: Relay,
}

/// The members, and the settings that all of them have.
struct Fleet {
    members: Vec<Member>,
    /// Settings of `[server]`, then whole sections.
    settings: String,
    manager_url: String,
}

impl Fleet {
    fn start(manager: &Manager, settings: &str, members: usize) -> Self {
        let mut fleet =
            Self { members: Vec::new(), settings: settings.to_owned(), manager_url: manager.url() };
        (0..members).for_each(|_| fleet.start_member());
        fleet.introduce();
        fleet
    }

    /// Starts one more relay, with a guard.
    fn start_member(&mut self) {
        let folder = tempfile::tempdir().unwrap();
        let file = self.configure(folder.path(), None);
        let relay = Relay::start(gupd(["serve", "--guard", "--config"]).arg(file));
        self.members.push(Member { folder, relay });
    }

    fn configure(&self, folder: &Path, own: Option<SocketAddr>) -> PathBuf {
        let store = folder.join("store");
        let mut text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\ntrusted_proxies = [\"{PROXY}\"]\n{}\
             [store]\ndir = {store:?}\nmin_free = \"0B\"\nmemory = \"32MiB\"\n\
             [log]\nformat = \"json\"\naccess = false\n[refresh]\nschedule = \"off\"\n\
             [prefetch]\nlearned = false\n[[upstream]]\nurl = {:?}\n",
            self.settings, self.manager_url
        );
        for peer in self.members.iter().map(|member| member.relay.address) {
            if Some(peer) != own {
                text += &format!("[[peer]]\nurl = \"http://{peer}\"\nverify = \"off\"\n");
            }
        }
        let file = folder.join("gupd.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Tells all members of each other.
    fn introduce(&mut self) {
        for member in &self.members {
            self.configure(member.folder.path(), Some(member.relay.address));
        }
        for member in &mut self.members {
            member.relay.process.signal("HUP");
            member.relay.process.wait_for_log("configuration reloaded");
        }
    }

    fn relays(&self) -> [&Relay; 3] {
        let [one, two, three] = &self.members[..] else { panic!("{} members", self.members.len()) };
        [&one.relay, &two.relay, &three.relay]
    }

    /// Bytes of managers that all members have received.
    async fn received(&self) -> f64 {
        let mut sum = 0.0;
        for member in &self.members {
            let metrics = member.relay.metrics().await;
            let lines =
                metrics.lines().filter(|line| line.starts_with("gupd_upstream_received_bytes_total{"));
            sum += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        }
        sum
    }
}

/// The shipped configuration for a site, with the addresses of the test.
fn haproxy(relays: [&Relay; 3], socket: &Path) -> HaProxy {
    let mut text = std::fs::read_to_string(deployed("haproxy/gupd-site.cfg")).unwrap();
    let (listener, bind) = HaProxy::listen();
    let servers = relays.map(|relay| format!("{} check port {}", relay.address, relay.admin.port()));
    let mut replace = |shipped: &str, here: &str| {
        assert!(text.contains(shipped), "{shipped}");
        text = text.replace(shipped, here);
    };
    replace("bind :2967", &bind);
    // Within the file descriptors of a test.
    replace("maxconn 12000", "maxconn 2000");
    replace("/run/haproxy/admin.sock", socket.to_str().unwrap());
    replace("default-server check port 9467 inter", "default-server inter");
    replace("    balance uri\n", &format!("    balance uri\n    source {PROXY}\n"));
    for (at, server) in servers.iter().enumerate() {
        replace(
            &format!("server relay-{0} 192.0.2.1{0}:2967", at + 1),
            &format!("server relay-{} {server}", at + 1),
        );
    }
    HaProxy::run(&text, &listener)
}

/// Sends commands of the comment in the shipped file to HAProxy.
fn add_server(socket: &Path, relay: &Relay) {
    let text = std::fs::read_to_string(deployed("haproxy/gupd-site.cfg")).unwrap();
    let commands = text.lines().filter_map(|line| line.strip_prefix("#     "));
    for command in commands {
        let command = command.replace("192.0.2.14:2967", &relay.address.to_string());
        let command = command.replace("port 9467", &format!("port {}", relay.admin.port()));
        let mut stream = UnixStream::connect(socket).unwrap();
        writeln!(stream, "{}", command.replace("check port", &format!("source {PROXY} check port"))).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.trim().is_empty() || answer.contains("registered"), "{command}: {answer}");
    }
}

fn object(number: usize) -> (String, Vec<u8>) {
    let path = PAYLOAD.replace("full.zip", &format!("{number}.dax"));
    (path, bytes(number as u64, 60_000 + number % 7 * 10_000))
}

/// Publishes the objects of a phase, and returns their bytes.
fn publish(manager: &Manager, phase: usize) -> u64 {
    let objects = (phase * OBJECTS..(phase + 1) * OBJECTS).map(object);
    objects
        .map(|(path, body)| {
            let length = body.len() as u64;
            manager.put(&path, Resource::new(body).rate(4 << 20));
            length
        })
        .sum()
}

/// Status that a client of this number gets: 1 of 30 is of the group `branch`, 1 of 30 of `later`.
fn expected(number: usize) -> (std::net::Ipv4Addr, u16) {
    let [low, high] = [number % 250 + 1, number / 250].map(|part| part as u8);
    match number % 30 {
        0 => ([127, 0, 7, low].into(), 404),
        1 => ([127, 0, 8, low].into(), 503),
        _ => ([127, 0, 20 + high, low].into(), 200),
    }
}

/// Downloads some objects of the phase, each with at most one retry. Each response adds a permit to `done`.
async fn client(number: usize, front: SocketAddr, phase: usize, done: Arc<Semaphore>) {
    let (address, status) = expected(number);
    for at in 0..DOWNLOADS {
        let (path, body) = object(phase * OBJECTS + (at * 7 + number * 3) % OBJECTS);
        for attempt in 0..2 {
            let answer = async {
                let mut client = WireClient::connect_from(address.into(), front).await;
                client.send(&Request::get(&path)).await
            };
            match answer.await {
                Ok(response) if response.status == status && response.ending == Ending::Complete => {
                    assert!(status != 200 || response.body == body, "{path} differs");
                    break;
                }
                failed if attempt > 0 => panic!("client {number} ({address}), {path}: {failed:?}"),
                _ => {}
            }
        }
        done.add_permits(1);
    }
}

/// A phase of the load; `disturb` is called once a third of its responses have come.
async fn run_phase(front: SocketAddr, phase: usize, disturb: impl AsyncFnOnce()) {
    let done = Arc::new(Semaphore::new(0));
    let mut clients: JoinSet<()> =
        (0..CLIENTS).map(|number| client(number, front, phase, done.clone())).collect();
    done.acquire_many((CLIENTS * DOWNLOADS / 3) as u32).await.unwrap().forget();
    disturb().await;
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn site_of_relays_survives_kill_upgrade_and_addition() {
    let (manager, tier, folder) =
        (Manager::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = format!("[tier]\nurl = \"file://{}\"\n{GROUPS}", tier.path().display());
    let mut fleet = Fleet::start(&manager, &settings, 3);
    let socket = folder.path().join("haproxy.sock");
    let front = haproxy(fleet.relays(), &socket);
    front.wait_until_serving().await;
    let address = front.address;

    let mut content = publish(&manager, 0);
    run_phase(address, 0, async || {}).await;
    let deadline = Instant::now() + PATIENCE;
    let published = || std::fs::read_dir(tier.path().join("objects")).map_or(0, Iterator::count);
    while published() < OBJECTS {
        assert!(Instant::now() < deadline, "{} objects are published", published());
        fleet.received().await;
    }
    // A relay is lost: the others have its share from the tier.
    let lost = &mut fleet.members[0].relay;
    run_phase(address, 0, async || {
        let worker = wait_for_worker(lost).await;
        lost.process.kill();
        crate::guarded::signal(worker, "KILL");
    })
    .await;
    fleet.members.remove(0);
    // A relay is upgraded while it fills.
    content += publish(&manager, 1);
    let upgraded = &mut fleet.members[0].relay;
    run_phase(address, 1, async || {
        upgraded.process.signal("USR2");
        upgraded.process.wait_for_log("replacing the guard");
    })
    .await;
    // A relay is added, known to the others as their peer.
    content += publish(&manager, 2);
    run_phase(address, 2, async || {
        fleet.start_member();
        fleet.introduce();
        add_server(&socket, &fleet.members[2].relay);
    })
    .await;
    content += publish(&manager, 3);
    run_phase(address, 3, async || {}).await;
    let served = fleet.members[2].relay.metrics().await;
    assert!(!served.contains("gupd_hits_total 0\n"), "the new relay has no share");
    let crossed = manager.body_bytes();
    println!("{crossed} bytes crossed the line for {content}: {:.3}", crossed as f64 / content as f64);
    assert!(crossed as f64 <= content as f64 * 1.05, "{crossed} bytes for {content}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_divided_between_members_is_the_limit_of_the_site() {
    // 24 Mbit/s for the site, a third for each of three members.
    const SITE: f64 = 3e6;
    const BODY: usize = 1_500_000;
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let paths: Vec<String> = (0..30).map(|at| PAYLOAD.replace("full.zip", &format!("{at}.dax"))).collect();
    for (path, seed) in paths.iter().zip(0..) {
        manager.put(path, Resource::new(bytes(seed, BODY)));
    }
    let fleet = Fleet::start(&manager, "[wan]\nlimit = \"8Mbit/s\"\n", 3);
    let front = haproxy(fleet.relays(), &folder.path().join("haproxy.sock"));
    front.wait_until_serving().await;
    let address = front.address;
    let mut clients: JoinSet<()> = paths
        .into_iter()
        .map(|path| async move {
            let mut client = WireClient::connect(address).await;
            client.write_request(&Request::get(&path)).await.unwrap();
            let mut head = client.read_head().await.unwrap();
            client.read_rest("GET", &mut head).await;
        })
        .collect();
    // Each member has three objects or more, so all are busy for four seconds.
    let mut marks = Vec::new();
    for goal in [1e6, 4e6, 7e6, 10e6] {
        loop {
            let received = fleet.received().await;
            if received >= goal {
                marks.push((Instant::now(), received));
                break;
            }
        }
    }
    let rate = |from: (Instant, f64), to: (Instant, f64)| {
        (to.1 - from.1) / to.0.duration_since(from.0).as_secs_f64() / SITE
    };
    let [first, .., last] = marks[..] else { unreachable!() };
    let (mean, best) =
        (rate(first, last), marks.windows(2).map(|pair| rate(pair[0], pair[1])).fold(0.0, f64::max));
    println!("{mean:.3} of the rate of the site, at best {best:.3}");
    assert!(mean <= 1.05, "{mean:.3} of the limit of the site");
    // A machine busy with other work may be slower, but not all the time.
    assert!(best >= 0.95, "{best:.3} of the limit of the site");
    clients.abort_all();
}

/// nginx with the shipped configuration.
struct Nginx {
    process: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Nginx {
    fn start(relays: [&Relay; 3]) -> Self {
        let mut text = std::fs::read_to_string(deployed("nginx/gupd-site.conf")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, folder) = (listener.local_addr().unwrap(), tempfile::tempdir().unwrap());
        for (at, relay) in relays.iter().enumerate() {
            let shipped = format!("192.0.2.1{}:2967", at + 1);
            assert!(text.contains(&shipped), "{shipped}");
            text = text.replace(&shipped, &relay.address.to_string());
        }
        text = text.replace("listen 2967;", &format!("listen {address};"));
        text = text.replace("proxy_pass http", &format!("proxy_bind {PROXY};\n        proxy_pass http"));
        let root = folder.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {root}/{kind};\n"))
            .collect();
        // Each request has one connection on either side.
        let connections = 4 * CLIENTS;
        let whole = format!(
            "daemon off;\nuser root;\npid {root}/nginx.pid;\nerror_log {root}/error.log;\n\
             worker_rlimit_nofile 8192;\nevents {{ worker_connections {connections}; }}\n\
             http {{\naccess_log off;\n{temporary}{text}\n}}\n"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, whole).unwrap();
        // It inherits the socket, as in its own upgrade, so no free port has to be guessed.
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.env("NGINX", format!("{};", listener.as_raw_fd())).arg("-c").arg(file).stderr(Stdio::null());
        let process = nginx.spawn().unwrap_or_else(|error| panic!("nginx: {error}; tests/run installs it"));
        Self { process, address, _folder: folder }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it, unlike after a kill.
        crate::guarded::signal(self.process.id(), "TERM");
        let _reaped = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_behind_nginx_keep_groups_and_survive_a_kill() {
    let manager = Manager::start();
    let settings = format!("client_address = \"x-forwarded-for\"\n{GROUPS}");
    let mut fleet = Fleet::start(&manager, &settings, 3);
    let front = Nginx::start(fleet.relays());
    manager.put("/secars/x", Resource::new("report"));
    let mut reporter = WireClient::connect_from([127, 0, 6, 1].into(), front.address).await;
    let report = Request::get("/secars/x").header("X-Forwarded-For", "203.0.113.9");
    assert_eq!(reporter.send(&report).await.unwrap().status, 200);
    let seen = manager.requests_for("/secars/x").pop().unwrap();
    assert_eq!(
        seen.header("x-forwarded-for"),
        Some(&*format!("127.0.6.1, {PROXY}")),
        "a client names itself"
    );
    let content = publish(&manager, 0);
    run_phase(front.address, 0, async || {}).await;
    assert!(manager.body_bytes() <= content + 100, "each object crosses the line once");
    let lost = &mut fleet.members[0].relay;
    run_phase(front.address, 0, async || {
        let worker = wait_for_worker(lost).await;
        lost.process.kill();
        crate::guarded::signal(worker, "KILL");
    })
    .await;
}

#[test]
fn shipped_site_file_is_valid() {
    let output = Command::new("haproxy").args(["-c", "-f"]).arg(deployed("haproxy/gupd-site.cfg")).output();
    let output = output.unwrap_or_else(|error| panic!("haproxy: {error}; tests/run installs it"));
    assert!(output.status.success(), "{output:?}");
}
