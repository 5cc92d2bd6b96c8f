//! An origin server: published resources, and a log of requests. It serves any stream; [`Manager`](crate::Manager) is
//! an origin on a port of its own.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::message::{Fields, field};
use crate::{PATIENCE, Resource, lock};

/// An origin server. Clones are the same server.
#[derive(Clone, Debug, Default)]
pub struct OriginServer(Arc<OriginState>);

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct RecordedRequest {
    /// The method.
    pub method: String,
    /// The request target, spelled as the client spells it.
    pub target: String,
    /// Names and values of the fields, in their order.
    pub headers: Vec<(String, String)>,
    /// The body, without the chunks' framing.
    pub body: Vec<u8>,
}

#[derive(Default)]
struct OriginState {
    published: Mutex<HashMap<String, Resource>>,
    /// Called before the lookup in `published`.
    respond: Option<Box<Respond>>,
    log: watch::Sender<Log>,
    body_bytes: AtomicU64,
    now: Mutex<Option<Box<ClockFn>>>,
}

type Respond = dyn Fn(&RecordedRequest) -> Option<Resource> + Send + Sync;
type ClockFn = dyn Fn() -> SystemTime + Send;

#[derive(Debug, Default)]
struct Log {
    requests: Vec<RecordedRequest>,
    connections: usize,
}

impl fmt::Debug for OriginState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("log", &self.log).finish_non_exhaustive()
    }
}

impl OriginServer {
    /// An origin that computes its resources for each request; `None` selects the published resource.
    pub fn computed(respond: impl Fn(&RecordedRequest) -> Option<Resource> + Send + Sync + 'static) -> Self {
        Self(Arc::new(OriginState { respond: Some(Box::new(respond)), ..OriginState::default() }))
    }

    /// Takes the time for `Date` from this clock instead of the system's.
    pub fn set_clock(&self, now: impl Fn() -> SystemTime + Send + 'static) {
        *lock(&self.0.now) = Some(Box::new(now));
    }

    /// Publishes a resource, or a new version of it.
    pub fn put(&self, path: &str, resource: Resource) {
        lock(&self.0.published).insert(file(path), resource);
    }

    /// Removes a resource.
    pub fn remove(&self, path: &str) {
        lock(&self.0.published).remove(&file(path));
    }

    /// Returns the requests so far for this path, with any query.
    pub fn requests_for(&self, path: &str) -> Vec<RecordedRequest> {
        let log = self.0.log.borrow();
        log.requests.iter().filter(|request| request.is_for(path)).cloned().collect()
    }

    /// Number of requests so far for this path.
    pub fn request_count(&self, path: &str) -> usize {
        self.requests_for(path).len()
    }

    /// Number of all requests so far.
    pub fn total_requests(&self) -> usize {
        self.0.log.borrow().requests.len()
    }

    /// Bytes of response bodies written so far.
    pub fn body_bytes(&self) -> u64 {
        self.0.body_bytes.load(Ordering::SeqCst)
    }

    /// Number of connections so far.
    pub fn connections(&self) -> usize {
        self.0.log.borrow().connections
    }

    /// Waits until there have been `count` connections.
    pub async fn wait_for_connections(&self, count: usize) {
        let is_reached = self.wait(|log| log.connections >= count).await;
        assert!(is_reached, "there were no {count} connections but {}", self.connections());
    }

    /// Waits until there have been `count` requests for a path.
    pub async fn wait_for_requests(&self, path: &str, count: usize) {
        let is_for = |request: &&RecordedRequest| request.is_for(path);
        let is_reached = self.wait(|log| log.requests.iter().filter(is_for).count() >= count).await;
        assert!(is_reached, "{path}: {} requests instead of {count}", self.request_count(path));
    }

    async fn wait(&self, is_reached: impl Fn(&Log) -> bool) -> bool {
        timeout(PATIENCE, self.0.log.subscribe().wait_for(is_reached)).await.is_ok()
    }

    /// Returns the response to a request, and records the request.
    pub(crate) fn respond(&self, request: &RecordedRequest) -> Resource {
        let path = file(request.path());
        let computed = self.0.respond.as_ref().and_then(|respond| respond(request));
        let resource = computed.or_else(|| lock(&self.0.published).get(&path).cloned());
        self.0.log.send_modify(|log| log.requests.push(request.clone()));
        resource.unwrap_or_else(|| Resource::new("nothing here\n").without("ETag").status(404))
    }

    pub(crate) fn now(&self) -> SystemTime {
        lock(&self.0.now).as_ref().map_or_else(SystemTime::now, |now| now())
    }

    pub(crate) fn count_connection(&self) {
        self.0.log.send_modify(|log| log.connections += 1);
    }

    pub(crate) fn count_body_bytes(&self) -> &AtomicU64 {
        &self.0.body_bytes
    }
}

impl RecordedRequest {
    /// Value of the first field with this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.headers, name)
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(crate) fn new(first_line: &str, headers: Fields) -> Self {
        let mut words = first_line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Self { method, target, headers, body: Vec::new() }
    }

    fn is_for(&self, path: &str) -> bool {
        file(self.path()) == file(path)
    }
}

/// The file of a path. The managers' file system ignores case, and braces may be spelled `%7B`.
fn file(path: &str) -> String {
    path.to_ascii_lowercase().replace("%7b", "{").replace("%7d", "}")
}
