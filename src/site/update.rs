//! The update of a site's clients. Each client runs its session over a kept connection and verifies status, length and
//! SHA-256 of each response. It reconnects if the server closed the connection, and repeats no request that had a
//! wrong response.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::sessions::{Session, Step};
use crate::{Request, Response, WireClient};

/// Time without a byte or a response head after which a client gives up. On the slowest line a fill that shares it
/// with all others still gets a segment every few hundred milliseconds.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Progress of all clients.
#[derive(Debug, Default)]
pub struct Received {
    /// Body bytes.
    pub bytes: AtomicU64,
    /// Clients that ended, with or without an error.
    pub done: AtomicUsize,
}

/// The result of one client's update.
#[derive(Debug)]
pub struct UpdateOutcome {
    /// [`Session::name`].
    pub name: String,
    /// Time from the first connection to the last byte.
    pub took: Duration,
    /// Body bytes received.
    pub bytes: u64,
    /// Responses by their `Cache-Status`.
    pub answers: Answers,
    /// The first error, after which the client stopped.
    pub result: Result<(), UpdateFailure>,
}

/// Numbers of responses by their `Cache-Status` (RFC 9211).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Served from the cache.
    pub hit: usize,
    /// Joined a request that was already under way upstream.
    pub collapsed: usize,
    /// Forwarded upstream.
    pub forwarded: usize,
    /// Without a `Cache-Status`.
    pub silent: usize,
}

/// The response that ended a client's update.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {fault}")]
pub struct UpdateFailure {
    /// The requested path.
    pub path: String,
    /// The difference from the manager's response.
    pub fault: ResponseFault,
}

/// A difference from the manager's response.
#[derive(Debug, thiserror::Error)]
pub enum ResponseFault {
    /// No connection, a broken one, or no byte for too long.
    #[error("the transfer broke off: {0}")]
    Broken(#[from] io::Error),
    /// The received and the right status.
    #[error("status {0}, the manager's is {1}")]
    Status(StatusCode, StatusCode),
    /// The received and the right length.
    #[error("{0} bytes came, the manager has {1}")]
    Length(u64, u64),
    /// Another SHA-256.
    #[error("wrong bytes, the SHA-256 differs from the manager's")]
    Digest,
}

/// Runs all sessions against `server`, each from its own start, and returns when the last client has ended.
pub async fn run(server: SocketAddr, sessions: Vec<Session>, received: Arc<Received>) -> Vec<UpdateOutcome> {
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

/// Runs one session against `server` at once.
pub async fn update(server: SocketAddr, session: &Session, received: &Received) -> UpdateOutcome {
    let begun = Instant::now();
    let mut updating = Updating { server, client: None, bytes: 0, answers: Answers::default(), received };
    let mut result = Ok(());
    for step in &session.steps {
        let path = || step.path().to_owned();
        result = updating.run(step).await.map_err(|fault| UpdateFailure { path: path(), fault });
        if result.is_err() {
            break;
        }
    }
    received.done.fetch_add(1, Ordering::Relaxed);
    let Updating { bytes, answers, .. } = updating;
    UpdateOutcome { name: session.name.clone(), took: begun.elapsed(), bytes, answers, result }
}

struct Updating<'a> {
    server: SocketAddr,
    client: Option<WireClient>,
    bytes: u64,
    answers: Answers,
    received: &'a Received,
}

impl Updating<'_> {
    /// Sends one request, reads its response to the end, and checks it.
    async fn run(&mut self, step: &Step) -> Result<(), ResponseFault> {
        let mut client = self.connect().await?;
        let response = within(async {
            client.write_request(&Request::get(step.path())).await?;
            client.read_head().await
        });
        let response = response.await?;
        self.answers.count(response.cache_status());
        let (right, object) = match step {
            Step::Get(object) => (StatusCode::OK, Some(object)),
            Step::Missing(_) => (StatusCode::NOT_FOUND, None),
        };
        if response.status != right {
            let received = StatusCode::from_u16(response.status).unwrap_or_default();
            return Err(ResponseFault::Status(received, right));
        }
        let (length, sha256) = self.read_body(&mut client, &response).await?;
        self.client = Some(client);
        match object {
            Some(object) if length != object.content.length() => {
                Err(ResponseFault::Length(length, object.content.length()))
            }
            Some(object) if sha256.finalize()[..] != object.sha256 => Err(ResponseFault::Digest),
            _ => Ok(()),
        }
    }

    /// Returns the kept connection, or another one if the server has closed it.
    async fn connect(&mut self) -> io::Result<WireClient> {
        match self.client.take().filter(WireClient::is_idle) {
            Some(client) => Ok(client),
            None => WireClient::try_connect(self.server).await,
        }
    }

    async fn read_body(&mut self, client: &mut WireClient, response: &Response) -> io::Result<(u64, Sha256)> {
        // The manager and the relay know the length of each object, and say it.
        let total = response.length().unwrap_or(0);
        let (mut length, mut sha256) = (0, Sha256::new());
        while length < total {
            let piece = client.read_piece(total - length, |piece| {
                sha256.update(piece);
                piece.len() as u64
            });
            let read = within(piece).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            length += read;
            self.bytes += read;
            self.received.bytes.fetch_add(read, Ordering::Relaxed);
        }
        Ok((length, sha256))
    }
}

impl Answers {
    /// Returns the sums.
    pub fn plus(self, other: Self) -> Self {
        Self {
            hit: self.hit + other.hit,
            collapsed: self.collapsed + other.collapsed,
            forwarded: self.forwarded + other.forwarded,
            silent: self.silent + other.silent,
        }
    }

    /// Number of all responses.
    pub fn total(self) -> usize {
        self.hit + self.collapsed + self.forwarded + self.silent
    }

    fn count(&mut self, cache_status: &str) {
        let mut parameters = cache_status.split(';').skip(1).map(str::trim);
        let counter = match parameters.next() {
            Some("hit") => &mut self.hit,
            Some(_) if parameters.any(|parameter| parameter == "collapsed") => &mut self.collapsed,
            Some(_) => &mut self.forwarded,
            None => &mut self.silent,
        };
        *counter += 1;
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(STALLED_AFTER, work).await.unwrap_or_else(|_| {
        let message = format!("nothing came for {} s", STALLED_AFTER.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sep::SepContent;
    use crate::sessions::{bytes_of, sessions};
    use crate::{Line, Manager, Resource, Wan};

    /// A line so fast that the processor limits the test.
    const FAST: Line =
        Line { bits_per_second: 10_000_000_000, one_way: Duration::from_millis(1), buffer: 1 << 20 };

    #[tokio::test]
    async fn clients_of_all_kinds_update_over_a_metered_line() {
        let (content, manager) = (SepContent::new(1), Manager::start());
        content.publish_on(&manager);
        let wan = Wan::start(manager.address(), FAST).unwrap();
        let mut sessions = sessions(&content, 12, 1);
        sessions.iter_mut().for_each(|session| session.starts_after = Duration::ZERO);
        let (expected, received) = (bytes_of(&sessions), Arc::new(Received::default()));

        let outcomes = run(wan.address(), sessions, Arc::clone(&received)).await;

        for outcome in &outcomes {
            assert!(outcome.result.is_ok(), "{}: {:?}", outcome.name, outcome.result);
        }
        assert_eq!(outcomes.iter().map(|outcome| outcome.bytes).sum::<u64>(), expected);
        assert_eq!(received.bytes.load(Ordering::Relaxed), expected);
        assert_eq!(received.done.load(Ordering::Relaxed), 12);
        let heads = 1024 * outcomes.iter().map(|outcome| outcome.answers.total()).sum::<usize>() as u64;
        assert!((expected..expected + heads).contains(&wan.sent_down()), "{} sent", wan.sent_down());
        assert!((1..heads).contains(&wan.sent_up()), "{} sent up", wan.sent_up());
    }

    /// Returns the fault that a client finds in a delta of a changed resource.
    async fn failure(fault: impl FnOnce(Resource, Vec<u8>) -> Resource) -> String {
        let (delta, manager) = (SepContent::new(1).definitions[0].deltas[0].clone(), Manager::start());
        let body = delta.content.read(0..u64::MAX).to_vec();
        manager.put(&delta.path, fault(Resource::new(delta.content.clone()), body));
        let (name, starts_after) = ("client".to_owned(), Duration::ZERO);
        let session = Session { name, starts_after, steps: vec![Step::Get(delta)] };
        let outcome = update(manager.address(), &session, &Received::default()).await;
        let variant =
            outcome.result.map_or_else(|failure| format!("{:?}", failure.fault), |()| "none".to_owned());
        variant.split('(').next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn client_detects_each_fault_of_a_response() {
        assert_eq!(failure(|whole, _| whole).await, "none");
        assert_eq!(failure(|whole, _| whole.flipped(12_345)).await, "Digest");
        assert_eq!(failure(|_, body| Resource::new(&body[1..])).await, "Length");
        assert_eq!(failure(|whole, body| whole.cut(body.len() / 2, 1)).await, "Broken");
        assert_eq!(failure(|_, _| Resource::empty(504)).await, "Status");
    }

    #[test]
    fn answers_are_counted_by_cache_status() {
        let mut answers = Answers::default();
        let all = ["a; hit", "a; fwd=uri-miss; stored", "a; fwd=uri-miss; collapsed", "a;hit;ttl=30", ""];
        all.iter().for_each(|cache_status| answers.count(cache_status));
        assert_eq!(answers, Answers { hit: 2, collapsed: 1, forwarded: 1, silent: 1 });
        assert_eq!(answers.plus(answers).total(), 10);
    }
}
