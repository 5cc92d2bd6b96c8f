//! A relay's fills and store, used as its requests use them, with upstreams in a simulated network.

use std::sync::Arc;
use std::time::Duration;

use gupd_cache::Cache;
use gupd_cache::fill::{ContentReader, FillOutcome, FillRequest, FillResponse, Fills, Joined};
use gupd_cli::relay::RelayMetrics;
use gupd_config::policy::Policy;
use gupd_config::{Clock, Config};
use gupd_net::client_budgets::ClientBudgets;
use gupd_net::shape::{Purpose, WanLimiter};
use gupd_net::upstream::Upstreams;
use gupd_store::Store;
use http::HeaderMap;
use http::uri::PathAndQuery;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::network::Net;

/// Bytes that a fill must have before a response starts, as for clients.
const HOLD_BACK: u64 = 64 << 10;

/// Interval of the wall clock's steps. Between two steps time waits for the index, see [`run_clock`].
const TICK: Duration = Duration::from_secs(2);

/// Interval for tests that measure tenths of a second: no more passes while a fill waits for the index.
pub(crate) const SHORT_TICK: Duration = Duration::from_millis(10);

pub(crate) struct Site {
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) fills: Fills,
    pub(crate) metrics: Arc<RelayMetrics>,
    pub(crate) clock: Clock,
    store: Arc<Store>,
    policy: Policy,
    _folder: TempDir,
}

/// The result of a request for a whole object.
#[derive(Debug)]
pub(crate) enum End {
    Whole(Vec<u8>),
    /// The first bytes, and a broken transfer.
    Broken(Vec<u8>),
    /// No byte, and an error.
    Refused(#[expect(dead_code, reason = "shown when a test fails")] String),
}

impl Site {
    pub(crate) fn new(net: &Net, names: &[&str]) -> Self {
        Self::with_config(net, names, |_| {})
    }

    pub(crate) fn with_config(net: &Net, names: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        Self::with_tick(net, names, TICK, change)
    }

    /// A site with this interval of the wall clock's steps.
    pub(crate) fn with_tick(
        net: &Net,
        names: &[&str],
        tick: Duration,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let urls: Vec<_> = names.iter().map(|name| format!("http://{name}")).collect();
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        let mut config = Config::for_upstreams(&urls).unwrap();
        config.store.dir = folder.path().to_owned();
        config.store.min_free = 0;
        config.fill.head_timeout = Duration::from_secs(10);
        config.fill.idle_timeout = Duration::from_secs(5);
        change(&mut config);
        let clock = Clock::manual(Clock::system().now());
        let metrics = Arc::new(RelayMetrics::new().unwrap());
        let wan = Arc::new(WanLimiter::new(&config, clock.clone()));
        tokio::spawn({
            let wan = wan.clone();
            async move { wan.run().await }
        });
        let network = Arc::new(net.clone());
        let upstreams =
            Upstreams::with_network(network, &config, clock.clone(), wan, metrics.net.clone()).unwrap();
        let store = Store::open(&config.store, clock.clone()).unwrap();
        let cache = Arc::new(Cache::new(config.cache.clone(), store.clone(), clock.clone()));
        let budgets = Arc::new(ClientBudgets::new(&config));
        let fills = Fills::new(&config, cache, budgets, metrics.fills.clone(), clock.clone());
        tokio::spawn(run_clock(clock.clone(), store.clone(), tick));
        let policy = Policy::new(&config).unwrap();
        let upstreams = Arc::new(upstreams);
        Self { upstreams, fills, metrics, clock, store, policy, _folder: folder }
    }

    /// Requests an object as a client does, and reads it to its end.
    pub(crate) async fn get(&self, path: &str) -> End {
        match self.open(path).await {
            Ok(reader) => read(reader).await,
            Err(end) => end,
        }
    }

    /// Requests an object as a client does. Returns a reader of all of it, or `End::Refused`.
    pub(crate) async fn open(&self, path: &str) -> Result<ContentReader, End> {
        let stored = |entry: &gupd_cache::CacheEntry| {
            let (store, body) = (self.store.clone(), entry.body_source());
            ContentReader::from_store(store, body, 0..entry.object.len)
        };
        // A request looks up its object again as many times.
        for _ in 0..4 {
            let fill = match self.fills.join(self.fill_request(path), &self.upstreams) {
                Joined::Started(fill, _) | Joined::Following(fill) | Joined::Completed(fill) => fill,
                Joined::Stored(entry) => return Ok(stored(&entry)),
            };
            match fill.response().await {
                FillResponse::Content(flow) => {
                    let mut reader = ContentReader::from_fill(self.store.clone(), &fill, flow, 0, None);
                    match reader.wait_for(HOLD_BACK).await {
                        Ok(()) => return Ok(reader),
                        Err(error) if error.outcome() == FillOutcome::Changed => {}
                        Err(error) => return Err(End::Refused(error.to_string())),
                    }
                }
                FillResponse::Stored(entry) | FillResponse::NotModified(entry) => return Ok(stored(&entry)),
                FillResponse::Failed(error) if error.outcome() == FillOutcome::Changed => {}
                FillResponse::Failed(error) => return Err(End::Refused(error.to_string())),
                FillResponse::Unshared(why) => return Err(End::Refused(why.as_str().to_owned())),
            }
        }
        Err(End::Refused("the object changed on each attempt".to_owned()))
    }

    /// The fill that a client's request for `path` starts.
    pub(crate) fn fill_request(&self, path: &str) -> FillRequest {
        let route = self.policy.route(None, path).unwrap();
        let classification = self.policy.classify(route, path);
        let wan = self.upstreams.wan();
        let bandwidth = wan.bandwidth_class(path, &classification, None, Purpose::Client);
        FillRequest {
            key: path.into(),
            variant: String::new(),
            upstream_order: route.upstreams.clone(),
            target: PathAndQuery::try_from(path).unwrap(),
            client_headers: HeaderMap::new(),
            headers: HeaderMap::new(),
            field_names: gupd_net::field_names::FieldNames::default(),
            classification,
            stale: None,
            part: None,
            background: None,
            bandwidth,
            client: None,
            group: None,
        }
    }
}

/// Advances the wall clock. The store's index has a thread of its own, for which the paused runtime does not wait: hours
/// would pass while a row is written. So each step waits for a change of the index in a blocking task, during which the
/// runtime's time stands still.
async fn run_clock(clock: Clock, store: Arc<Store>, tick: Duration) {
    loop {
        sleep(tick).await;
        let (store, runtime) = (store.clone(), Handle::current());
        // A store that rejects the change has nothing queued before it.
        let _changed = spawn_blocking(move || runtime.block_on(store.remove("/nothing"))).await.unwrap();
        clock.advance(tick);
    }
}

async fn read(mut reader: ContentReader) -> End {
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(_) => return End::Broken(bytes),
        }
    }
    End::Whole(bytes)
}
