//! A relay with its guard, and clients with the retry behaviour of update clients: they follow a redirect and retry
//! once.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::process::{PATIENCE, Relay, serve};
use crate::support::{Ending, Manager, PAYLOAD, Request, Resource, Response, WireClient, bytes};

/// `gupd serve --guard` with quick worker restarts, however often they die.
pub(crate) fn guarded(manager: &Manager, store: &Path) -> Command {
    let mut command = serve(manager, store);
    command.arg("--guard").env("GUPD_GUARD_RESTART_MAX", "100ms");
    command
}

/// Sends a request on a connection of its own, which must succeed.
pub(crate) async fn exchange(address: SocketAddr, request: &Request) -> io::Result<Response> {
    WireClient::connect(address).await.send(request).await
}

/// Address of one of 250 clients. A guard gives few of its places to one client.
pub(crate) fn client_address(number: usize) -> IpAddr {
    Ipv4Addr::new(127, 0, 2, u8::try_from(number % 250).unwrap() + 1).into()
}

/// Running child processes of a guard.
pub(crate) fn workers(relay: &Relay) -> Vec<u32> {
    let guard = relay.process.id();
    let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).unwrap_or_default();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Returns true if a process runs.
pub(crate) fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status
        .rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

/// Sends a signal to a process that is no child of the test.
pub(crate) fn signal(pid: u32, name: &str) {
    let kill = format!("kill -{name} {pid}");
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Stops a process and waits until it has stopped or died: until one of its threads takes the signal, the others run on.
pub(crate) async fn suspend(pid: u32) {
    signal(pid, "STOP");
    let deadline = Instant::now() + PATIENCE;
    let is_stopped = |task: io::Result<fs::DirEntry>| {
        let status = task.and_then(|task| fs::read_to_string(task.path().join("stat"))).unwrap_or_default();
        status.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['T', 'Z', 'X']))
    };
    while fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|mut tasks| !tasks.all(is_stopped)) {
        assert!(Instant::now() < deadline, "the process does not stop");
        tokio::task::yield_now().await;
    }
}

/// Waits until `/readyz` is 200 and one worker runs; returns its process id.
pub(crate) async fn wait_for_worker(relay: &Relay) -> u32 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ready = exchange(relay.admin, &Request::get("/readyz")).await;
        if ready.is_ok_and(|ready| ready.status == 200)
            && let [worker] = workers(relay)[..]
        {
            return worker;
        }
        assert!(Instant::now() < deadline, "no worker serves");
        tokio::task::yield_now().await;
    }
}

/// Kills the worker and waits until its process has ended: the guard answers clients then.
pub(crate) async fn kill(relay: &Relay) {
    let worker = wait_for_worker(relay).await;
    signal(worker, "KILL");
    let deadline = Instant::now() + PATIENCE;
    while is_running(worker) {
        assert!(Instant::now() < deadline, "the worker does not die");
        tokio::task::yield_now().await;
    }
}

/// Objects of many sizes at a manager, with their paths.
pub(crate) struct Catalog(Vec<(String, Arc<Vec<u8>>)>);

impl Catalog {
    pub(crate) fn publish(manager: &Manager, sizes: &[usize]) -> Self {
        let publish = |(number, &size): (usize, &usize)| {
            let path = PAYLOAD.replace("261121001", &format!("{}", 261_121_001 + number));
            let body = Arc::new(bytes(number as u64, size));
            manager.put(&path, Resource::new(body.to_vec()));
            (path, body)
        };
        Self(sizes.iter().enumerate().map(publish).collect())
    }
}

/// Clients that download one object after another until they are stopped.
pub(crate) struct Load {
    clients: JoinSet<()>,
    shared: Arc<LoadState>,
}

#[derive(Default)]
struct LoadState {
    ended: AtomicUsize,
    /// Disturbances so far.
    disturbed: AtomicUsize,
    /// Number of disturbances before each client's current download began.
    began: Vec<AtomicUsize>,
    downloads: AtomicUsize,
    broken: AtomicUsize,
    redirected: AtomicUsize,
}

/// The clients' observations.
#[derive(Debug)]
pub(crate) struct Experience {
    pub(crate) downloads: usize,
    /// Downloads that broke off and succeeded on the retry.
    pub(crate) broken: usize,
    pub(crate) redirected: usize,
}

impl Load {
    pub(crate) fn begin(relay: &Relay, catalog: Catalog, clients: usize) -> Self {
        let began = (0..clients).map(|_| AtomicUsize::new(0)).collect();
        let shared = Arc::new(LoadState { began, ..LoadState::default() });
        let catalog = Arc::new(catalog);
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let (shared, catalog) = (shared.clone(), catalog.clone());
            let route = (client_address(number), relay.address);
            tasks.spawn(async move {
                let (path, body) = &catalog.0[number % catalog.0.len()];
                while shared.ended.load(Ordering::SeqCst) == 0 {
                    let disturbed = shared.disturbed.load(Ordering::SeqCst);
                    shared.began[number].store(disturbed, Ordering::SeqCst);
                    if !shared.download(route, path, body).await {
                        shared.broken.fetch_add(1, Ordering::SeqCst);
                        let again = shared.download(route, path, body).await;
                        assert!(again, "client {number}: the retry of {path} broke off");
                    }
                    shared.downloads.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { clients: tasks, shared }
    }

    /// Waits until each client has begun a download after the last disturbance.
    pub(crate) async fn settle(&mut self) {
        let (disturbed, deadline) = (self.shared.disturbed.load(Ordering::SeqCst), Instant::now() + PATIENCE);
        while !self.shared.began.iter().all(|began| began.load(Ordering::SeqCst) >= disturbed) {
            if let Some(Err(failed)) = self.clients.try_join_next() {
                std::panic::resume_unwind(failed.into_panic());
            }
            assert!(Instant::now() < deadline, "a client does not recover");
            tokio::task::yield_now().await;
        }
    }

    /// Marks that the next step may break downloads.
    pub(crate) fn begin_disturbance(&self) {
        self.shared.disturbed.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) async fn end(mut self) -> Experience {
        self.shared.ended.store(1, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let of = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        Experience {
            downloads: of(&self.shared.downloads),
            broken: of(&self.shared.broken),
            redirected: of(&self.shared.redirected),
        }
    }
}

impl LoadState {
    /// Returns true if a download is complete. Received bytes are right in any case.
    async fn download(&self, (client, relay): (IpAddr, SocketAddr), path: &str, body: &[u8]) -> bool {
        let mut connection = WireClient::connect_from(client, relay).await;
        let Ok(mut response) = connection.send(&Request::get(path)).await else { return false };
        if response.status == 307 {
            self.redirected.fetch_add(1, Ordering::SeqCst);
            let place = response.header("location").unwrap().strip_prefix("http://").unwrap().to_owned();
            let (manager, path) = place.split_at(place.find('/').unwrap());
            response = exchange(manager.parse().unwrap(), &Request::get(path)).await.unwrap();
        }
        assert_eq!(response.status, 200, "{response:?}");
        assert!(body.starts_with(&response.body), "wrong bytes of {path}");
        response.ending == Ending::Complete && response.body.len() == body.len()
    }
}
