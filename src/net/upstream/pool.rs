//! Connection pools, for each upstream one per worker thread and one for all other threads. A connection's task runs on
//! the thread that opened it, so a request that finds its connection in its own pool waits for no other thread. The
//! module bounds the number and age of connections; hyper-util pools them and `connect` opens new ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use crate::thread::worker_number;
use gupd_config::{self as config, Config};

/// Maximum size of a response head, and of a piece of a body. hyper's default is 400 KiB. Each connection of a stalled
/// fill keeps two such buffers: at 64 KiB, 250 of them took 28 MiB. A head above 32 KiB is an upstream failure.
const MAX_READ: usize = 32 << 10;

/// Maximum of fields in a response head.
const MAX_FIELDS: usize = 256;

/// Maximum of idle connections in one pool: enough for a burst of small deltas.
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
    workers: usize,
}

/// The connections to one upstream.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    /// The proxy that gets absolute targets for this upstream (RFC 9112 §3.2.2).
    proxy: Option<Arc<HttpProxyClient>>,
    /// Of tasks on no worker thread.
    shared: Mutex<ClientGeneration>,
    /// Of each worker thread, by its number.
    // Locked to clone or replace the client, by their thread alone.
    workers: Box<[Mutex<ClientGeneration>]>,
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
            workers: config.server.workers,
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
        let pool = || Mutex::new(ClientGeneration::new(&connector, MAX_READ));
        let (shared, workers) = (pool(), std::iter::repeat_with(pool).take(self.workers).collect());
        Ok(Pool { connector, proxy: proxy.filter(|_| !is_tls), shared, workers })
    }
}

impl Pool {
    /// Returns the client for one request.
    pub(super) fn client(&self) -> PooledClient {
        let mut current = self.current();
        if current.since.elapsed() >= MAX_AGE {
            *current = ClientGeneration::new(&self.connector, current.max_read);
        }
        current.client.clone()
    }

    /// Limits the bytes read at once, on new connections.
    pub(super) fn read_at_most(&self, bytes: usize) {
        for pool in self.workers.iter().chain([&self.shared]) {
            *lock(pool) = ClientGeneration::new(&self.connector, bytes);
        }
    }

    /// Returns the pool of this thread.
    fn current(&self) -> MutexGuard<'_, ClientGeneration> {
        let own = worker_number().and_then(|number| self.workers.get(number));
        lock(own.unwrap_or(&self.shared))
    }

    /// Opens a connection that the pool does not know. It ends when the sender is dropped.
    pub(super) async fn open(&self, uri: Uri) -> Result<(SendRequest<RequestBody>, LineHandle), BoxError> {
        let max_read = self.current().max_read;
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

fn lock(pool: &Mutex<ClientGeneration>) -> MutexGuard<'_, ClientGeneration> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use http::HeaderMap;
    use http_body_util::BodyExt;
    use prometheus::Registry;
    use tokio::runtime::Runtime;
    use tokio::task::yield_now;

    use super::*;
    use crate::shape::BandwidthClass;
    use crate::thread::enter_worker;
    use crate::upstream::{UpstreamRequest, Upstreams};
    use gupd_config::clock::Clock;

    /// Answers each request with an empty response, and counts connections.
    fn serve_empty(listener: TcpListener, connections: Arc<AtomicUsize>) {
        for stream in listener.incoming() {
            connections.fetch_add(1, Ordering::SeqCst);
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                for _end in lines.map_while(Result::ok).filter(String::is_empty) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                }
            });
        }
    }

    #[test]
    fn each_worker_keeps_its_own_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::<AtomicUsize>::default();
        let counted = connections.clone();
        thread::spawn(move || serve_empty(listener, counted));
        let mut config = Config::for_upstreams(&[&url]).unwrap();
        config.server.workers = 2;
        let (clock, metrics) = (Clock::manual(0), NetMetrics::register(&Registry::new()).unwrap());
        let wan = Arc::new(WanLimiter::unlimited(&config, clock.clone()));
        let upstreams = Upstreams::new(&config, clock, wan, Arc::new(metrics)).unwrap();
        let order: Vec<_> = upstreams.iter().map(|upstream| upstream.id.clone()).collect();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (first, second, control) = (runtime(), runtime(), runtime());
        let ask = |worker: Option<usize>, runtime: &Runtime| {
            let request = async {
                let get =
                    UpstreamRequest::get("/".parse().unwrap(), HeaderMap::new(), BandwidthClass::default());
                let answer = upstreams.send(&order, &get).await.unwrap();
                answer.response.into_body().collect().await.unwrap();
                // The connection returns to its pool in tasks of its own.
                for _ in 0..32 {
                    yield_now().await;
                }
            };
            let on_thread = || {
                worker.into_iter().for_each(enter_worker);
                runtime.block_on(request);
            };
            thread::scope(|scope| scope.spawn(on_thread).join().unwrap());
            connections.load(Ordering::SeqCst)
        };
        assert_eq!(ask(Some(0), &first), 1);
        assert_eq!(ask(Some(1), &second), 2);
        assert_eq!(ask(None, &control), 3);
        let again = [ask(Some(0), &first), ask(Some(1), &second), ask(None, &control)];
        assert_eq!(again, [3, 3, 3], "each has a connection of its own");
        drop(first);
        assert_eq!(ask(Some(1), &second), 3, "the end of a worker concerns no other");
    }
}
