//! A manager with faults: an HTTP/1.1 server that can misbehave on the wire, and remembers what it was asked. A thread
//! a connection, so that it works whatever runtime a test has; everything ends when it is dropped.

mod resource;
mod serve;

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use gupd::Clock;

use super::PATIENCE;
pub use resource::{Gate, Resource};

pub struct Manager {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct Shared {
    resources: Mutex<HashMap<String, Resource>>,
    seen: Mutex<Vec<Seen>>,
    arrived: Condvar,
    body_bytes: AtomicU64,
    connections: AtomicUsize,
    streams: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
    clock: Mutex<Option<Clock>>,
}

impl Manager {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                accepting.connections.fetch_add(1, Ordering::SeqCst);
                accepting.streams.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = accepting.clone();
                // What breaks a connection is part of the test, not of the manager.
                std::thread::spawn(move || drop(serve::connection(&stream, &shared)));
            }
        });
        Self { address, shared }
    }

    /// Dates responses by this clock, instead of the system's.
    pub fn follow(&self, clock: Clock) {
        *self.shared.clock.lock().unwrap() = Some(clock);
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Publishes a resource, or a new version of it.
    pub fn put(&self, path: &str, resource: Resource) {
        self.shared.resources.lock().unwrap().insert(file(path), resource);
    }

    pub fn remove(&self, path: &str) {
        self.shared.resources.lock().unwrap().remove(&file(path));
    }

    /// Requests whose path, without a query, is this one.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().iter().filter(|seen| is_for(seen, path)).cloned().collect()
    }

    pub fn requests(&self, path: &str) -> usize {
        self.seen(path).len()
    }

    /// Bytes of response bodies written so far.
    pub fn body_bytes(&self) -> u64 {
        self.shared.body_bytes.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until there were `count` connections.
    pub async fn connected(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.connections() < count {
            assert!(Instant::now() < deadline, "there were no {count} connections");
            tokio::task::yield_now().await;
        }
    }

    /// Waits until a path was asked for `count` times.
    pub async fn asked(&self, path: &str, count: usize) {
        let (shared, path) = (self.shared.clone(), path.to_owned());
        let waiting = tokio::task::spawn_blocking(move || {
            let deadline = Instant::now() + PATIENCE;
            let mut seen = shared.seen.lock().unwrap();
            while seen.iter().filter(|seen| is_for(seen, &path)).count() < count {
                let left = deadline.saturating_duration_since(Instant::now());
                assert!(!left.is_zero(), "{path} was not asked for {count} times");
                seen = shared.arrived.wait_timeout(seen, left).unwrap().0;
            }
        });
        waiting.await.unwrap();
    }
}

impl Shared {
    fn date(&self) -> String {
        let now = self.clock.lock().unwrap().as_ref().map_or_else(|| Clock::system().now(), Clock::now);
        let since = Duration::from_millis(u64::try_from(now).unwrap());
        httpdate::fmt_http_date(UNIX_EPOCH + since)
    }
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for stream in self.shared.streams.lock().unwrap().iter() {
            let _gone = stream.shutdown(Shutdown::Both);
        }
        let _woken = TcpStream::connect(self.address);
    }
}

fn is_for(seen: &Seen, path: &str) -> bool {
    seen.target.split('?').next().map(file) == Some(file(path))
}

/// What a path names where case does not count, as on the managers' file system, however its braces are spelled.
fn file(path: &str) -> String {
    path.to_ascii_lowercase().replace("%7b", "{").replace("%7d", "}")
}
