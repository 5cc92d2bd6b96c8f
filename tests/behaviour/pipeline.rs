//! Work of the pipeline for one request: its path is classified at most once, and its object looked up at most once,
//! with every step that may do either configured. Counted in debug builds.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gupd_config::{Binding, Config, ListenerSettings, Overrides};
use gupd_net::listen::{ClientListeners, HttpServer, LifecycleStage};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::support::collector::Collector;
use crate::support::site::read_clock;
use crate::support::{Manager, PAYLOAD, Request, Resource, Response, WireClient, bytes};

const CATALOG: &str = "/minitri.flg";
const MONDAY_NOON: i64 = 4 * DAY + DAY / 2;
const DAY: i64 = 24 * 3_600_000;

/// Numbers of classifications and of lookups.
type Work = (u64, u64);

/// A proxy on a socket without background tasks.
struct Bench {
    collector: Collector,
    manager: Manager,
    address: SocketAddr,
    _stage: watch::Sender<LifecycleStage>,
}

impl Bench {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let manager = Manager::start();
        // The first request for a new revision starts a fill to learn whether it exists, and follows that. A fill that is
        // complete by then would be a reason to look up once more.
        manager.put(PAYLOAD, Resource::new(bytes(1, 100_000)).rate(200_000));
        manager.put(CATALOG, Resource::new("catalog"));
        let collector = Collector::start(&[&manager.url()], change).await;
        // Content of a week ago would not be reusable.
        manager.set_clock(read_clock(&collector.clock));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stage, serving) = watch::channel(LifecycleStage::Serving);
        let settings = Config::for_upstreams(&[&manager.url()]).unwrap().server;
        let listeners = Arc::new(ClientListeners::load(&settings).unwrap());
        let plain = listeners.find(ListenerSettings::DEFAULT).unwrap().clone();
        let http = HttpServer::new(collector.proxy.clone(), collector.metrics.net.clone(), listeners);
        let http = Arc::new(http);
        tokio::spawn(async move {
            while let Ok((stream, client)) = listener.accept().await {
                tokio::spawn(http.clone().serve(stream, client, plain.clone(), (), serving.clone()));
            }
        });
        Self { collector, manager, address, _stage: stage }
    }

    fn work_so_far(&self) -> Work {
        let generation = self.collector.proxy.generations().load();
        (generation.policy.classifications(), self.collector.cache.lookups())
    }

    /// Sends a request, reads its response to the end, and returns the work that it caused.
    async fn send(&self, request: &Request) -> (Response, Work) {
        let before = self.work_so_far();
        let mut client = WireClient::connect(self.address).await;
        let response = client.send(request).await.unwrap();
        let after = self.work_so_far();
        (response, (after.0 - before.0, after.1 - before.1))
    }

    async fn get(&self, path: &str) -> (String, Work) {
        let (response, work) = self.send(&Request::get(path)).await;
        assert_eq!(response.status, 200, "{path}: {:?}", response.headers);
        (response.cache_status().to_owned(), work)
    }

    /// Waits until a path's object is stored, and returns the work for one more request.
    async fn stored(&self, path: &str) -> Work {
        while self.get(path).await.0 != "gupd; hit" {}
        let (status, work) = self.get(path).await;
        assert_eq!(status, "gupd; hit");
        work
    }
}

/// A group of all clients with an open window, a binding and a denied content type; rings; and a limit on downloads.
fn configure_everything(config: &mut Config) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    let text = "[[upstream]]\nurl = \"http://manager\"\n\
        [[group]]\nname = \"default\"\nwindows = \"mon-fri 06:00-20:00\"\ndeny = \"client-patches\"\n";
    std::fs::write(&file, text).unwrap();
    let written = Config::load(&Overrides::default(), Some(&file), std::iter::empty()).unwrap();
    config.groups = written.groups;
    config.groups[0].binding = Binding::new(&config.upstreams, vec![0]).map(Arc::new);
    config.site.time_zone = jiff::tz::TimeZone::UTC;
    config.lan.max_downloads = Some(100);
    config.refresh.catalogs = vec![CATALOG.parse().unwrap()];
}

async fn bench_with_everything() -> Bench {
    let bench = Bench::new(configure_everything).await;
    let clock = &bench.collector.clock;
    let to_monday_noon = (MONDAY_NOON - clock.now()).rem_euclid(7 * DAY);
    clock.advance(Duration::from_millis(to_monday_noon.unsigned_abs()));
    assert_eq!(bench.collector.refresh().await.failed, 0);
    bench.collector.stop_refresh();
    bench
}

#[tokio::test]
async fn hit_without_policy_needs_no_classification() {
    let bench = Bench::new(|config| config.rings.clear()).await;
    assert_eq!(bench.stored(PAYLOAD).await, (0, 0));
    let range = Request::get(PAYLOAD).range("5-9");
    assert_eq!(bench.send(&range).await.1, (0, 0));
}

#[tokio::test]
async fn miss_is_classified_and_looked_up_once() {
    let bench = Bench::new(|config| config.rings.clear()).await;
    let (status, work) = bench.get(PAYLOAD).await;
    assert_eq!((&*status, work), ("gupd; fwd=uri-miss; stored", (1, 1)));
    let absent = bench.send(&Request::get("/content/absent.dax")).await;
    assert_eq!((absent.0.status, absent.1), (404, (1, 1)));
}

#[tokio::test]
async fn passed_request_is_classified_once_and_not_looked_up() {
    let bench = Bench::new(|config| config.rings.clear()).await;
    bench.manager.put("/secars/secars.dll", Resource::new("private"));
    assert_eq!(bench.get("/secars/secars.dll").await.1, (1, 0));
    let post = Request::new("POST", "/secars/secars.dll").body("up");
    assert_eq!(bench.send(&post).await.1, (1, 0));
}

#[tokio::test]
async fn cold_payload_with_everything_on_is_looked_up_once() {
    let bench = bench_with_everything().await;
    let (_, work) = bench.get(PAYLOAD).await;
    assert_eq!(work, (1, 1), "rings, windows, slots, denials and bindings");
    assert_eq!(bench.stored(PAYLOAD).await, (1, 0), "hot");
    let delta = PAYLOAD.replace("full.zip", "xdelta261120001.dax");
    bench.manager.put(&delta, Resource::new(bytes(2, 1_000)));
    assert_eq!(bench.get(&delta).await.1, (1, 1));
}

#[tokio::test]
async fn catalog_of_a_revision_is_looked_up_once() {
    let bench = bench_with_everything().await;
    assert_eq!(bench.get(CATALOG).await, ("gupd; hit".to_owned(), (1, 1)));
}
