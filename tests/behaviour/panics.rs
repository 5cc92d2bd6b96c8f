//! A panic while a request is answered: the client gets a status, the panic is counted, and nothing else ends. The
//! defect is a substitute for the system's network that panics; the relay contains no test code for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gupd_config::{Config, ListenerSettings};
use gupd_net::listen::{ClientListeners, HttpServer, LifecycleStage};
use gupd_net::upstream::{Connecting, Duplex, Network};
use http::Uri;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::collector::Collector;
use crate::support::{Manager, Request, Resource, WireClient};

#[derive(Debug)]
struct DefectiveNetwork {
    manager: SocketAddr,
    is_defective: AtomicBool,
}

impl Network for DefectiveNetwork {
    fn connect(&self, _to: Uri) -> Connecting {
        assert!(!self.is_defective.load(Ordering::SeqCst), "defect");
        let manager = self.manager;
        Box::pin(async move { Ok(Box::new(TcpStream::connect(manager).await?) as Box<dyn Duplex>) })
    }
}

/// A proxy on a socket, with a network that is defective at first.
struct Bench {
    collector: Collector,
    network: Arc<DefectiveNetwork>,
    address: SocketAddr,
    _manager: Manager,
    _stage: watch::Sender<LifecycleStage>,
}

impl Bench {
    async fn new() -> Self {
        let manager = Manager::start();
        manager.put("/report", Resource::new("received"));
        let url = format!("http://{}", manager.address());
        let network = DefectiveNetwork { manager: manager.address(), is_defective: AtomicBool::new(true) };
        let network = Arc::new(network);
        let collector = Collector::start_on(network.clone(), &[&url]).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stage, serving) = watch::channel(LifecycleStage::Serving);
        let settings = Config::for_upstreams(&[&url]).unwrap().server;
        let listeners = Arc::new(ClientListeners::load(&settings).unwrap());
        let plain = listeners.find(ListenerSettings::DEFAULT).unwrap().clone();
        let http = HttpServer::new(collector.proxy.clone(), collector.metrics.net.clone(), listeners);
        let http = Arc::new(http);
        tokio::spawn(async move {
            while let Ok((stream, client)) = listener.accept().await {
                tokio::spawn(http.clone().serve(stream, client, plain.clone(), (), serving.clone()));
            }
        });
        Self { collector, network, address, _manager: manager, _stage: stage }
    }

    fn panics(&self) -> u64 {
        self.collector.metrics.requests.panics.get()
    }

    fn repair(&self) {
        self.network.is_defective.store(false, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn panic_in_a_request_is_a_500_and_ends_nothing_else() {
    let bench = Bench::new().await;
    let mut client = WireClient::connect(bench.address).await;
    for panics in 1..=3 {
        let response = client.send(&Request::new("POST", "/report").body("r")).await.unwrap();
        assert_eq!(response.status, 500);
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert_eq!(bench.panics(), panics);
    }
    bench.repair();
    // The same connection, hence the same thread.
    let response = client.send(&Request::new("POST", "/report").body("r")).await.unwrap();
    assert_eq!((response.status, bench.panics()), (200, 3));
}

#[tokio::test]
async fn panic_in_a_fill_is_an_error_and_the_next_fill_works() {
    let bench = Bench::new().await;
    let mut client = WireClient::connect(bench.address).await;
    let response = client.send(&Request::get("/report")).await.unwrap();
    assert!(response.status >= 500, "{}", response.status);
    bench.repair();
    let response = client.send(&Request::get("/report")).await.unwrap();
    assert_eq!(response.expect_body(), b"received");
}
