//! The demo's clients: each runs its session over a keep-alive connection of its own and checks every byte it gets.
//! Owns what counts as a right response: status, length and SHA-256. It knows an address and speaks HTTP; whether a
//! relay, the line or a manager answers is not its business, and it never asks a second time for what came wrong.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::content::Object;
use super::sessions::{Session, Step};

/// Time without a byte, or without a response's head, after which a client gives up. On the slowest line a fill that
/// shares it with all others still gets a segment every few hundred milliseconds.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// What all clients have so far; for those who watch.
#[derive(Debug, Default)]
pub struct Received {
    bytes: AtomicU64,
    done: AtomicUsize,
}

impl Received {
    /// Body bytes received.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Clients that ended, rightly or not.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }
}

/// How one client's update went.
#[derive(Debug)]
pub struct Outcome {
    /// [`Session::name`].
    pub name: String,
    /// From its first connection to its last byte.
    pub took: Duration,
    /// Body bytes it received.
    pub bytes: u64,
    /// Responses, by what their `Cache-Status` says.
    pub answers: Answers,
    /// Whether everything was right.
    pub result: Result<(), Failure>,
}

/// Responses by what a cache said of them (RFC 9211).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Served from the cache.
    pub hit: usize,
    /// Joined a request that was already under way upstream.
    pub collapsed: usize,
    /// Forwarded upstream.
    pub forwarded: usize,
    /// No cache said anything.
    pub silent: usize,
}

/// Why a client's update is not right.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("cannot connect to {server}: {source}")]
    Connect {
        /// Where to.
        server: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("{path}: the transfer broke off: {source}")]
    Broken {
        /// What was asked for.
        path: String,
        /// What hyper says.
        source: hyper::Error,
    },
    /// Nothing came for too long.
    #[error("{path}: nothing came for {} s", STALLED_AFTER.as_secs())]
    Stalled {
        /// What was asked for.
        path: String,
    },
    /// Another status than the manager's.
    #[error("{path}: status {got}, the manager's is {expected}")]
    Status {
        /// What was asked for.
        path: String,
        /// The manager's.
        expected: StatusCode,
        /// What came.
        got: StatusCode,
    },
    /// A body of another length.
    #[error("{path}: {got} bytes came, the manager has {expected}")]
    Length {
        /// What was asked for.
        path: String,
        /// The manager's.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// Another SHA-256 than the manager's.
    #[error("{path}: wrong bytes, the SHA-256 differs from the manager's")]
    Digest {
        /// What was asked for.
        path: String,
    },
}

/// Runs all sessions against `server`, each from its own time on; ends when the last client has.
pub async fn run(server: SocketAddr, sessions: Vec<Session>, received: Arc<Received>) -> Vec<Outcome> {
    let mut clients = JoinSet::new();
    for session in sessions {
        let received = Arc::clone(&received);
        clients.spawn(async move {
            sleep(session.starts_after).await;
            update(server, &session, &received).await
        });
    }
    clients.join_all().await
}

/// Runs one session against `server`, at once.
pub async fn update(server: SocketAddr, session: &Session, received: &Received) -> Outcome {
    let begun = Instant::now();
    let mut client = Client { server, connection: None, bytes: 0, answers: Answers::default(), received };
    let mut result = Ok(());
    for step in &session.steps {
        result = client.take(step).await;
        if result.is_err() {
            break;
        }
    }
    received.done.fetch_add(1, Ordering::Relaxed);
    let Client { bytes, answers, .. } = client;
    Outcome { name: session.name.clone(), took: begun.elapsed(), bytes, answers, result }
}

struct Client<'a> {
    server: SocketAddr,
    connection: Option<Connection>,
    bytes: u64,
    answers: Answers,
    received: &'a Received,
}

struct Connection {
    requests: SendRequest<Empty<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Client<'_> {
    /// One request, its response to the end, and the check of it.
    async fn take(&mut self, step: &Step) -> Result<(), Failure> {
        let response = self.ask(step.path()).await?;
        self.answers.count(response.headers());
        let (expected, object) = match step {
            Step::Get(object) => (StatusCode::OK, Some(object)),
            Step::Missing(_) => (StatusCode::NOT_FOUND, None),
        };
        if response.status() != expected {
            let (path, got) = (step.path().to_owned(), response.status());
            return Err(Failure::Status { path, expected, got });
        }
        let mut check = Check::default();
        let mut body = response.into_body();
        while let Some(frame) = within(step.path(), body.frame()).await? {
            if let Ok(data) = frame.map_err(|source| broken(step.path(), source))?.into_data() {
                self.bytes += data.len() as u64;
                self.received.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                check.update(&data);
            }
        }
        object.map_or(Ok(()), |object| check.finish(object))
    }

    async fn ask(&mut self, path: &str) -> Result<Response<Incoming>, Failure> {
        let mut kept = self.connection.take();
        // A server may close a connection it kept alive; the next request opens another.
        if let Some(connection) = &mut kept
            && connection.requests.ready().await.is_err()
        {
            kept = None;
        }
        let connection = match kept {
            Some(connection) => connection,
            None => connect(self.server, path).await?,
        };
        let connection = self.connection.insert(connection);
        let mut request = Request::new(Empty::new());
        // Paths come from the site's own tables; one that is no URI shows as the manager's 404 for "/".
        *request.uri_mut() = path.parse().unwrap_or_default();
        if let Ok(host) = self.server.to_string().parse() {
            request.headers_mut().insert(HOST, host);
        }
        let response = within(path, connection.requests.send_request(request)).await?;
        response.map_err(|source| broken(path, source))
    }
}

impl Answers {
    /// The sum of both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            hit: self.hit + other.hit,
            collapsed: self.collapsed + other.collapsed,
            forwarded: self.forwarded + other.forwarded,
            silent: self.silent + other.silent,
        }
    }

    /// All responses.
    pub fn total(self) -> usize {
        self.hit + self.collapsed + self.forwarded + self.silent
    }

    fn count(&mut self, headers: &HeaderMap) {
        let said = headers.get("cache-status").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut parameters = said.split(';').skip(1).map(str::trim);
        let counter = match parameters.next() {
            Some("hit") => &mut self.hit,
            Some(_) if parameters.any(|parameter| parameter == "collapsed") => &mut self.collapsed,
            Some(_) => &mut self.forwarded,
            None => &mut self.silent,
        };
        *counter += 1;
    }
}

/// Length and digest of a body as it comes.
#[derive(Default)]
struct Check {
    length: u64,
    sha256: Sha256,
}

impl Check {
    fn update(&mut self, data: &[u8]) {
        self.length += data.len() as u64;
        self.sha256.update(data);
    }

    fn finish(self, object: &Object) -> Result<(), Failure> {
        let path = || object.path().to_owned();
        if self.length != object.length() {
            return Err(Failure::Length { path: path(), expected: object.length(), got: self.length });
        }
        if self.sha256.finalize()[..] != object.sha256()[..] {
            return Err(Failure::Digest { path: path() });
        }
        Ok(())
    }
}

async fn connect(server: SocketAddr, path: &str) -> Result<Connection, Failure> {
    let stream = TcpStream::connect(server).await.map_err(|source| Failure::Connect { server, source })?;
    let (requests, driver) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|source| broken(path, source))?;
    // The driver's error is the error of the request that was under way.
    let driver = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = driver.await;
    }));
    Ok(Connection { requests, _driver: driver })
}

async fn within<T>(path: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(STALLED_AFTER, work).await.map_err(|_| Failure::Stalled { path: path.to_owned() })
}

fn broken(path: &str, source: hyper::Error) -> Failure {
    Failure::Broken { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_as_their_cache_status_says() {
        let mut answers = Answers::default();
        for said in
            ["gupd; hit", "gupd; fwd=uri-miss; stored", "gupd; fwd=uri-miss; collapsed", "gupd;hit;ttl=30"]
        {
            answers.count(&HeaderMap::from_iter([("cache-status".parse().unwrap(), said.parse().unwrap())]));
        }
        answers.count(&HeaderMap::new());
        assert_eq!(answers, Answers { hit: 2, collapsed: 1, forwarded: 1, silent: 1 });
        assert_eq!(answers.plus(answers).total(), 10);
    }
}
