//! Handover between two processes on the same sockets and store: downloads continue, no byte is lost, and no client is
//! refused. Both relays run in this process, with descriptors of their own.

use std::net::SocketAddr;
use std::path::Path;

use gupd_cli::relay::Relay;
use gupd_config::Recurrence;
use gupd_config::{Clock, Config};
use gupd_net::listen::Sockets;
use tempfile::TempDir;
use tokio::task::block_in_place;

use crate::support::{Gate, Manager, PAYLOAD, Request, Resource, WireClient, bytes, get};

const OTHER: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121002/full.zip";

/// A running relay and the state that its successor inherits.
struct RunningRelay {
    manager: Manager,
    folder: TempDir,
    config: Config,
    sockets: Sockets,
    address: SocketAddr,
}

impl RunningRelay {
    fn new() -> (Self, Relay) {
        let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
        let mut config = Config::for_upstreams(&[&manager.url()]).unwrap();
        config.server.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        config.server.admin = SocketAddr::from(([127, 0, 0, 1], 0));
        config.server.workers = 2;
        folder.path().clone_into(&mut config.store.dir);
        config.store.min_free = 0;
        config.refresh.schedule = Recurrence::Off;
        config.prefetch.learned = false;
        let sockets = Sockets::open(&config.server).unwrap();
        let address = sockets.addresses()[0];
        let running = Self { manager, folder, config, sockets, address };
        let relay = running.relay();
        (running, relay)
    }

    fn relay(&self) -> Relay {
        let sockets = self.sockets.try_clone().unwrap();
        Relay::prepare(self.config.clone(), Clock::system(), sockets).unwrap().serve().unwrap()
    }

    fn half_written(&self) -> usize {
        let partial: &Path = &self.folder.path().join("partial");
        std::fs::read_dir(partial).unwrap().count()
    }

    async fn wait_until_stored(&self, target: &str) {
        while !get(self.address, target).await.cache_status().starts_with("gupd; hit") {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_process_owns_store_while_old_downloads_finish() {
    let (running, mut before) = RunningRelay::new();
    let (stored, arriving) = (bytes(1, 9 << 20), bytes(2, 7 << 20));
    running.manager.put(PAYLOAD, Resource::new(stored.clone()));
    let gate = Gate::default();
    running.manager.put(OTHER, Resource::new(arriving.clone()).stalled(3 << 20, &gate));
    running.wait_until_stored(PAYLOAD).await;
    // One client is in the middle of a stored object, two are in the middle of a fill.
    let mut reading = WireClient::connect(running.address).await;
    reading.write_request(&Request::get(PAYLOAD)).await.unwrap();
    let mut read = reading.read_head().await.unwrap();
    read.body = reading.read_bytes(100_000).await.unwrap();
    let mut following = Vec::new();
    for _ in 0..2 {
        let mut client = WireClient::connect(running.address).await;
        client.write_request(&Request::get(OTHER)).await.unwrap();
        let mut response = client.read_head().await.unwrap();
        response.body = client.read_bytes(2 << 20).await.unwrap();
        following.push((client, response));
    }
    block_in_place(|| before.hand_over());
    // The partial file and its journal are left for the next process.
    assert_eq!(running.half_written(), 2);
    let after = block_in_place(|| running.relay());
    let hit = get(running.address, PAYLOAD).await;
    assert_eq!(hit.cache_status(), "gupd; hit");
    assert!(hit.expect_body() == stored);
    gate.open();
    reading.read_rest("GET", &mut read).await;
    assert!(read.expect_body() == stored);
    for (mut client, mut response) in following {
        client.read_rest("GET", &mut response).await;
        assert!(response.expect_body() == arriving);
    }
    // Both clients share one upstream request. Bytes that arrived after the store was handed over are fetched again,
    // and only those.
    assert_eq!(running.manager.request_count(OTHER), 1);
    let again = get(running.address, OTHER).await;
    assert_eq!(again.cache_status(), "gupd; fwd=partial; stored");
    assert!(again.expect_body() == arriving);
    let rest = running.manager.requests_for(OTHER)[1].header("range").unwrap().to_owned();
    let from: usize = rest.trim_start_matches("bytes=").split('-').next().unwrap().parse().unwrap();
    assert!((1 << 20..=3 << 20).contains(&from), "{rest}");
    block_in_place(|| before.stop());
    running.wait_until_stored(OTHER).await;
    drop(after);
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_files_pass_to_next_process() {
    let (mut running, _) = RunningRelay::new();
    running.config.fill.finish = gupd_config::FinishPolicy::Never;
    let (sockets, body) = (Sockets::open(&running.config.server).unwrap(), bytes(3, 8 << 20));
    running.address = sockets.addresses()[0];
    running.sockets = sockets;
    running.config.store.dir = running.folder.path().join("other");
    let mut before = running.relay();
    let gate = Gate::default();
    running.manager.put(PAYLOAD, Resource::new(body.clone()).stalled(5 << 20, &gate));
    let mut leaver = WireClient::connect(running.address).await;
    leaver.write_request(&Request::get(PAYLOAD)).await.unwrap();
    leaver.read_head().await.unwrap();
    leaver.read_bytes(4 << 20).await.unwrap();
    drop(leaver);
    while !String::from_utf8(get(before.admin(), "/metrics").await.expect_body())
        .unwrap()
        .contains("gupd_fills_running 0\n")
    {}
    gate.open();
    block_in_place(|| before.hand_over());
    let _after = block_in_place(|| running.relay());
    running.manager.put(PAYLOAD, Resource::new(body.clone()));
    assert!(get(running.address, PAYLOAD).await.expect_body() == body);
    let seen = running.manager.requests_for(PAYLOAD);
    assert!(seen.last().unwrap().header("range").is_some(), "{seen:?}");
    block_in_place(|| before.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn handover_answers_kept_connection_and_closes_it() {
    let (running, mut before) = RunningRelay::new();
    running.manager.put(PAYLOAD, Resource::new(bytes(4, 100_000)));
    running.manager.put(OTHER, Resource::new(bytes(5, 100_000)));
    running.wait_until_stored(PAYLOAD).await;
    let (mut stored, mut new) =
        (WireClient::connect(running.address).await, WireClient::connect(running.address).await);
    for client in [&mut stored, &mut new] {
        assert_eq!(client.send(&Request::head(PAYLOAD)).await.unwrap().header("connection"), None);
    }
    block_in_place(|| before.hand_over());
    let _after = block_in_place(|| running.relay());
    let stopping = std::thread::spawn(move || before.stop());
    for (client, target, seed) in [(&mut stored, PAYLOAD, 4), (&mut new, OTHER, 5)] {
        let response = client.send(&Request::get(target)).await.unwrap();
        assert_eq!(response.header("connection"), Some("close"), "{target}");
        assert!(response.expect_body() == bytes(seed, 100_000));
        assert!(client.is_closed().await);
    }
    block_in_place(|| stopping.join().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_handover_refuses_no_client() {
    let (running, mut serving) = RunningRelay::new();
    running.manager.put(PAYLOAD, Resource::new(bytes(6, 200_000)));
    // Objects that are half filled at a handover may be requested again.
    running.wait_until_stored(PAYLOAD).await;
    let asked = running.manager.request_count(PAYLOAD);
    let address = running.address;
    let (end, ended) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let ended = ended.clone();
            tokio::spawn(async move {
                let mut had = 0_usize;
                while !*ended.borrow() {
                    assert!(get(address, PAYLOAD).await.expect_body() == bytes(6, 200_000));
                    had += 1;
                }
                had
            })
        })
        .collect();
    for _ in 0..5 {
        block_in_place(|| serving.hand_over());
        let next = block_in_place(|| running.relay());
        let before = std::mem::replace(&mut serving, next);
        block_in_place(|| before.stop());
    }
    end.send_replace(true);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    assert_eq!((asked, running.manager.request_count(PAYLOAD)), (1, 1));
}
