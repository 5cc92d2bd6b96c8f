//! Connection pools, one per upstream. The module bounds the number and age of connections; hyper-util pools them and
//! `connect` opens new ones.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prometheus::IntGaugeVec;
use tokio::time::Instant;
use tower_service::Service;

use super::RequestBody;
use super::connect::{BoxError, ConnectError, ConnectSettings, Connector, TlsSettings, check_congestion};
use super::dial::Dialer;
use super::limited_stream::LineHandle;
use super::proxy::HttpProxyClient;
use super::tls::SystemRoots;
use crate::metrics::NetMetrics;
use crate::shape::WanLimiter;
use gupd_config::{self as config, Config};

/// Maximum size of a response head, and of a piece of a body. hyper's default is 400 KiB. Each connection of a stalled
/// fill keeps two such buffers: at 64 KiB, 250 of them took 28 MiB. A head above 32 KiB is an upstream failure.
const MAX_READ: usize = 32 << 10;

/// Maximum of fields in a response head.
const MAX_FIELDS: usize = 256;

/// Maximum of idle connections to one upstream: enough for a burst of small deltas.
const MAX_IDLE: usize = 32;

/// Idle time-out of a connection. Apache and IIS close theirs after 5 to 120 s; the pool retries a request that meets
/// a closing connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum age at which a connection gets another request, so that a manager that moved in DNS is found even under
/// steady load. It matches the usual TTL of names meant to move; a new connection every five minutes costs nothing in
/// comparison.
const MAX_AGE: Duration = Duration::from_secs(300);

type PooledClient = legacy::Client<Connector, RequestBody>;

/// Creates the pools of all upstreams, which share the network and the line.
pub(super) struct Pools {
    dialer: Dialer,
    wan: Arc<WanLimiter>,
    congestion: Option<Arc<str>>,
    roots: SystemRoots,
    timeout: Duration,
    certificate_expiry: IntGaugeVec,
}

/// The connections to one upstream.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    /// The proxy that gets absolute targets for this upstream (RFC 9112 §3.2.2).
    proxy: Option<Arc<HttpProxyClient>>,
    // Locked to clone or replace the client.
    current: Mutex<ClientGeneration>,
}

/// Connections opened within [`MAX_AGE`] of each other. A replaced generation ends with its last response.
#[derive(Debug)]
struct ClientGeneration {
    client: PooledClient,
    since: Instant,
    max_read: usize,
}

impl Pools {
    pub(super) fn new(
        config: &Config,
        dialer: Dialer,
        wan: Arc<WanLimiter>,
        metrics: &NetMetrics,
    ) -> Result<Self, ConnectError> {
        let congestion = config.wan.congestion.as_deref().map(check_congestion).transpose()?;
        let timeout = config.fill.connect_timeout;
        Ok(Self {
            dialer,
            wan,
            congestion,
            roots: SystemRoots::default(),
            timeout,
            certificate_expiry: metrics.certificate_expiry.clone(),
        })
    }

    /// Reads the files named by `upstream`. Connects to none.
    pub(super) fn create(&mut self, upstream: &config::UpstreamSettings) -> Result<Pool, ConnectError> {
        let name: Arc<str> = Arc::from(&*upstream.name);
        let is_tls = upstream.url.scheme() == Some(&Scheme::HTTPS);
        let tls = is_tls.then(|| TlsSettings::new(&name, &upstream.url, &upstream.trust, &mut self.roots));
        let proxy = upstream.proxy.as_ref().map(HttpProxyClient::new).transpose();
        let unusable = |reason| ConnectError::Credentials { upstream: name.clone(), reason };
        let proxy = proxy.map_err(unusable)?.map(Arc::new);
        let connector = Connector::new(ConnectSettings {
            upstream: name,
            dialer: self.dialer.clone(),
            wan: self.wan.clone(),
            congestion: self.congestion.clone(),
            proxy: proxy.clone(),
            tls: tls.transpose()?,
            timeout: self.timeout,
            certificate_expiry: self.certificate_expiry.clone(),
        });
        let current = Mutex::new(ClientGeneration::new(&connector, MAX_READ));
        Ok(Pool { connector, proxy: proxy.filter(|_| !is_tls), current })
    }
}

impl Pool {
    /// Returns the client for one request.
    pub(super) fn client(&self) -> PooledClient {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.since.elapsed() >= MAX_AGE {
            *current = ClientGeneration::new(&self.connector, current.max_read);
        }
        current.client.clone()
    }

    /// Limits the bytes read at once, on new connections.
    pub(super) fn read_at_most(&self, bytes: usize) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = ClientGeneration::new(&self.connector, bytes);
    }

    /// Opens a connection that the pool does not know. It ends when the sender is dropped.
    pub(super) async fn open(&self, uri: Uri) -> Result<(SendRequest<RequestBody>, LineHandle), BoxError> {
        let max_read = self.current.lock().unwrap_or_else(PoisonError::into_inner).max_read;
        let stream = self.connector.clone().call(uri).await?;
        let line = stream.inner().get_ref().line().clone();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(max_read)
            .max_headers(MAX_FIELDS)
            .allow_spaces_after_header_name_in_responses(true)
            .preserve_header_case(true)
            .title_case_headers(true)
            .handshake(stream)
            .await?;
        // A request in flight gets its error.
        tokio::spawn(async { drop(connection.await) });
        Ok((sender, line))
    }

    /// Returns the proxy that gets absolute targets. A proxy with a tunnel is not one: it only learns the host once.
    pub(super) fn forward_proxy(&self) -> Option<&HttpProxyClient> {
        self.proxy.as_deref()
    }

    /// Opens a connection and closes it.
    pub(super) async fn try_to_connect(&self, uri: Uri) -> Result<(), Arc<str>> {
        let connected = self.connector.connect(uri).await;
        connected.map(drop).map_err(|error| super::root_cause(&*error))
    }
}

impl ClientGeneration {
    fn new(connector: &Connector, max_read: usize) -> Self {
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(max_read)
            .http1_max_headers(MAX_FIELDS)
            .http1_preserve_header_case(true)
            .http1_title_case_headers(true)
            // A proxy removes it (RFC 9112 §5.1).
            .http1_allow_spaces_after_header_name_in_responses(true)
            .build(connector.clone());
        Self { client, since: Instant::now(), max_read }
    }
}
