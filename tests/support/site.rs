//! A test site: a manager, a relay in front of it with its own store, and a clock that only the test moves.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gupd_cli::relay::Relay;
use gupd_config::{Clock, Config};
use gupd_config::{PassRules, PeerSettings, PeerVerification, Recurrence, TierLocation, TierSettings, Trust};
use tempfile::TempDir;

use super::{Manager, PATIENCE, Request, Resource, Response, WireClient, get};

/// Unrelated paths.
const FAILING: [&str; 3] = ["/secars/fails", "/reporting/fails", "/fails"];

pub struct Site {
    pub manager: Manager,
    pub clock: Clock,
    pub config: Config,
    relay: Option<Relay>,
    folder: TempDir,
}

impl Site {
    pub fn new() -> Self {
        Self::with_config(|_| {})
    }

    /// A site with a changed configuration of its relay.
    pub fn with_config(change: impl FnOnce(&mut Config)) -> Self {
        Self::for_manager(Manager::start(), change)
    }

    /// A site with this manager.
    pub fn for_manager(manager: Manager, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::for_upstreams(&[&manager.url()]).unwrap();
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        config.server.listen = vec![any_port];
        config.server.admin = any_port;
        config.server.workers = 2;
        config.server.drain_timeout = Duration::from_secs(10);
        config.store.dir = folder.path().to_owned();
        config.store.min_free = 0;
        // No request goes upstream except those that a test causes.
        config.refresh.schedule = Recurrence::Off;
        config.prefetch.learned = false;
        config.verify.checks_per_day = 0;
        config.health.interval = None;
        pass_everything(&mut config);
        // A peer on a busy machine is late, not silent.
        config.fill.peer_timeout = Duration::from_secs(30);
        change(&mut config);
        let clock = Clock::manual(Clock::system().now());
        manager.set_clock(read_clock(&clock));
        let relay = Some(Relay::start(config.clone(), clock.clone()).unwrap());
        Self { manager, clock, config, relay, folder }
    }

    /// A site with these upstreams of its relay, in this order. Its own manager gets no requests.
    pub fn with_upstreams(upstreams: &[SocketAddr]) -> Self {
        Self::with_config(|config| use_upstreams(config, upstreams))
    }

    /// A site with this upstream of its relay, and a tier in `folder`. Its own manager gets no requests.
    pub fn with_tier(upstream: SocketAddr, folder: &Path, change: impl FnOnce(&mut TierSettings)) -> Self {
        let mut settings = TierSettings {
            url: format!("file://{}", folder.display()),
            location: TierLocation::Folder(folder.to_owned()),
            // On a busy machine a read takes long.
            hedge: PATIENCE,
            timeout: PATIENCE,
            publish: true,
            wan: false,
            max_object: 1 << 30,
        };
        change(&mut settings);
        Self::with_config(|config| {
            use_upstreams(config, &[upstream]);
            config.tier = Some(settings);
        })
    }

    /// Reloads the relay with these upstreams.
    pub fn set_upstreams(&mut self, upstreams: &[SocketAddr]) {
        use_upstreams(&mut self.config, upstreams);
        let config = self.config.clone();
        self.relay_mut().reload(config).unwrap();
    }

    /// Reloads the relay with these peers.
    pub fn set_peers(&mut self, peers: &[SocketAddr]) {
        let peer = |address: &SocketAddr| PeerSettings {
            name: address.to_string(),
            url: format!("http://{address}").parse().unwrap(),
            trust: Trust::default(),
            verify: PeerVerification::Off,
        };
        self.config.peers = peers.iter().map(peer).collect();
        let config = self.config.clone();
        self.relay_mut().reload(config).unwrap();
    }

    pub fn relay(&self) -> &Relay {
        self.relay.as_ref().unwrap()
    }

    pub fn relay_mut(&mut self) -> &mut Relay {
        self.relay.as_mut().unwrap()
    }

    pub fn address(&self) -> SocketAddr {
        self.relay().addresses()[0]
    }

    pub fn store(&self) -> &Path {
        self.folder.path()
    }

    /// Stops the relay as SIGTERM does, and blocks until it has ended.
    pub fn stop(&mut self) {
        if let Some(relay) = self.relay.take() {
            tokio::task::block_in_place(|| relay.stop());
        }
    }

    pub fn restart(&mut self) {
        self.stop();
        self.relay = Some(Relay::start(self.config.clone(), self.clock.clone()).unwrap());
    }

    pub async fn get(&self, target: &str) -> Response {
        get(self.address(), target).await
    }

    pub async fn send(&self, request: Request) -> Response {
        request.send(self.address()).await
    }

    /// Statuses of requests to unrelated paths from clients with different addresses. If the upstream fails with all
    /// of them, its circuit opens. No fill takes part, and a kept connection that is closed costs a second attempt.
    pub async fn delete_independently(&self) -> [u16; 3] {
        let delete = async |last: u8, path: &str| {
            let mut client = WireClient::connect_from([127, 0, 0, last].into(), self.address()).await;
            client.send(&Request::new("DELETE", path)).await.unwrap().status
        };
        [delete(2, FAILING[0]).await, delete(3, FAILING[1]).await, delete(4, FAILING[2]).await]
    }

    /// Publishes a resource at the paths of [`delete_independently`](Self::delete_independently).
    pub fn put_independently(&self, resource: &Resource) {
        FAILING.iter().for_each(|path| self.manager.put(path, resource.clone()));
    }

    /// Starts a download and reads its head and `some` bytes of its body.
    pub async fn start_download(&self, target: &str, some: usize) -> (WireClient, Response) {
        let mut client = WireClient::connect(self.address()).await;
        client.write_request(&Request::get(target)).await.unwrap();
        let mut response = client.read_head().await.unwrap();
        response.body = client.read_bytes(some).await.unwrap();
        (client, response)
    }

    /// Value of a metric by its name with labels, as in the exposition; 0 if it does not exist.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = String::from_utf8(get(self.relay().admin(), "/metrics").await.expect_body()).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Body bytes received from the manager.
    pub async fn upstream_bytes(&self) -> f64 {
        self.metric(&format!("gupd_upstream_received_bytes_total{{upstream=\"{}\"}}", self.manager.address()))
            .await
    }

    /// Body bytes received from this manager.
    pub async fn upstream_bytes_of(&self, manager: &Manager) -> f64 {
        self.metric(&format!("gupd_upstream_received_bytes_total{{upstream=\"{}\"}}", manager.address()))
            .await
    }

    /// Waits until a metric has this value. Events at the end of a connection are counted after its last byte.
    pub async fn wait_for_metric(&self, name: &str, value: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is = self.metric(name).await;
            if is == value {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {is}, expected {value}");
        }
    }

    /// Waits until a counter has reached this value.
    pub async fn wait_for_metric_at_least(&self, name: &str, value: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is = self.metric(name).await;
            if is >= value {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {is}, expected at least {value}");
        }
    }

    /// Waits until no fill runs: responses that clients received are then stored.
    pub async fn wait_for_fills(&self) {
        self.wait_for_metric("gupd_fills_running", 0.0).await;
    }

    /// Sends requests until a new version is stored.
    pub async fn wait_until_stored_as(&self, target: &str, body: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        while self.get(target).await.expect_body() != body {
            assert!(Instant::now() < deadline, "the new version of {target} was never stored");
        }
        self.wait_for_fills().await;
    }

    /// Sends requests until the response is a hit: an object is committed after the last byte of its fill.
    pub async fn wait_until_stored(&self, target: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.get(target).await.cache_status().starts_with("gupd; hit") {
            assert!(Instant::now() < deadline, "{target} was never stored");
        }
        self.wait_for_fills().await;
    }
}

fn use_upstreams(config: &mut Config, upstreams: &[SocketAddr]) {
    let urls: Vec<String> = upstreams.iter().map(|address| format!("http://{address}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let asked = Config::for_upstreams(&urls).unwrap();
    (config.upstreams, config.routes) = (asked.upstreams, asked.routes);
    pass_everything(config);
}

/// Lets every method pass, so that tests can send any. `passing` tests the defaults.
fn pass_everything(config: &mut Config) {
    config.routes.iter_mut().for_each(|route| route.pass = Some(PassRules::all()));
}

/// Returns a function that reads a relay's clock, for the `Date` of a manager.
pub fn read_clock(clock: &Clock) -> impl Fn() -> SystemTime + Send + 'static {
    let clock = clock.clone();
    move || UNIX_EPOCH + Duration::from_millis(clock.now().cast_unsigned())
}
