//! The connections to one upstream, kept alive and used again. Owns their bounds and their age; relies on hyper-util's
//! pooled client and on `connect` for new ones. Knows nothing of what is asked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use super::RequestBody;
use super::connect::{ConnectError, Connector, Tls, Way, offered};
use super::dial::Dialer;
use super::proxy::Proxy;
use super::tls::Roots;
use crate::shape::WanLimiter;
use gupd_config::{self as config, Config};

/// Bytes a response head may have, and the largest piece of a body read at once. hyper's own bound is 400 KiB, and each
/// of hundreds of connections may keep a buffer of that size; a head past 64 KiB is an upstream gone wrong.
const MAX_READ: usize = 64 << 10;

/// Fields a response head may have.
const MAX_FIELDS: usize = 256;

/// Idle connections kept to one upstream: as many as may be useful to a burst of small deltas.
const MAX_IDLE: usize = 32;

/// An idle connection is closed after this time; Apache and IIS close theirs after 5 to 120 s, and a request that
/// meets a closing connection is sent again by the pool.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// No connection is used for another request after this time, so that a manager that moved in DNS is met at its new
/// address even under steady load. As long as names that are meant to move are usually believed (their TTL); a new
/// connection every five minutes costs nothing beside what it carries.
const MAX_AGE: Duration = Duration::from_secs(300);

type Client = legacy::Client<Connector, RequestBody>;

/// Makes the pools of all upstreams, which have the network and the line in common.
pub(super) struct Pools {
    dialer: Dialer,
    wan: Arc<WanLimiter>,
    congestion: Option<Arc<str>>,
    roots: Roots,
    timeout: Duration,
}

/// The connections to one upstream.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    /// Who is asked in its place, in absolute form (RFC 9112 §3.2.2).
    proxy: Option<Arc<Proxy>>,
    // Held to clone or to replace what is in it.
    current: Mutex<Generation>,
}

/// Connections that were made within [`MAX_AGE`] of each other. One that is replaced ends with its last response.
#[derive(Debug)]
struct Generation {
    client: Client,
    since: Instant,
    max_read: usize,
}

impl Pools {
    pub(super) fn new(config: &Config, dialer: Dialer, wan: Arc<WanLimiter>) -> Result<Self, ConnectError> {
        let congestion = config.wan.congestion.as_deref().map(offered).transpose()?;
        let timeout = config.fill.connect_timeout;
        Ok(Self { dialer, wan, congestion, roots: Roots::default(), timeout })
    }

    /// Reads the files that `upstream` names, and connects to nobody yet.
    pub(super) fn toward(&mut self, upstream: &config::UpstreamSettings) -> Result<Pool, ConnectError> {
        let name: Arc<str> = Arc::from(&*upstream.name);
        let is_tls = upstream.url.scheme() == Some(&Scheme::HTTPS);
        let tls = is_tls.then(|| Tls::new(&name, &upstream.url, &upstream.trust, &mut self.roots));
        let proxy = upstream.proxy.as_ref().map(Proxy::new).transpose();
        let unusable = |reason| ConnectError::Credentials { upstream: name.clone(), reason };
        let proxy = proxy.map_err(unusable)?.map(Arc::new);
        let connector = Connector::new(Way {
            upstream: name,
            dialer: self.dialer.clone(),
            wan: self.wan.clone(),
            congestion: self.congestion.clone(),
            proxy: proxy.clone(),
            tls: tls.transpose()?,
            timeout: self.timeout,
        });
        let current = Mutex::new(Generation::new(&connector, MAX_READ));
        Ok(Pool { connector, proxy: proxy.filter(|_| !is_tls), current })
    }
}

impl Pool {
    /// To ask by now; not to be kept.
    pub(super) fn client(&self) -> Client {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.since.elapsed() >= MAX_AGE {
            *current = Generation::new(&self.connector, current.max_read);
        }
        current.client.clone()
    }

    /// Reads no more than so many bytes at once, on connections to come.
    pub(super) fn read_at_most(&self, bytes: usize) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Generation::new(&self.connector, bytes);
    }

    /// The proxy that is asked in the upstream's place. One that gives a tunnel is not: it is only told when it is made.
    pub(super) fn asked_in_its_place(&self) -> Option<&Proxy> {
        self.proxy.as_deref()
    }

    /// Makes a connection that nobody will use.
    pub(super) async fn try_to_connect(&self, uri: Uri) -> Result<(), Arc<str>> {
        let connected = self.connector.connect(uri).await;
        connected.map(drop).map_err(|error| super::root_cause(&*error))
    }
}

impl Generation {
    fn new(connector: &Connector, max_read: usize) -> Self {
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(max_read)
            .http1_max_headers(MAX_FIELDS)
            .build(connector.clone());
        Self { client, since: Instant::now(), max_read }
    }
}
