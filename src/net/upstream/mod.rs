//! Upstreams: managers and LiveUpdate servers, and the peers of the site.
//!
//! `send` sends a request to one or several of them, in the order of `selection`. `breaker` excludes failing ones,
//! `health` detects their recovery, `pool` keeps connections. Nothing here caches or resumes: a fill decides about
//! broken transfers.

mod body_stream;
mod breaker;
mod cause;
mod connect;
mod dial;
mod error;
pub mod health;
mod http_1_0;
mod limited_stream;
mod path_fault;
mod peers;
mod pin;
mod pool;
mod proxy;
mod request;
mod request_body;
mod response_body;
mod retry;
mod selection;
mod send;
mod state;
mod tcp;
mod tier;
mod tls;
mod transfer_meter;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version, header};
use prometheus::{IntCounter, IntGauge};
use tokio::time::timeout;

pub use self::body_stream::{BodyBegin, BodyStreamError, read_begin, stream_body};
use self::breaker::BreakerSettings;
use self::cause::root_cause;
pub use self::connect::ConnectError;
use self::dial::Dialer;
pub use self::dial::{Connecting, Duplex, Network};
pub use self::error::{RequestBodyFault, UpstreamError, UpstreamFailure};
pub(crate) use self::limited_stream::LineHandle;
pub use self::peers::PeerProof;
use self::peers::PeerState;
pub use self::pin::ConnectionPin;
use self::pool::{Pool, Pools};
pub use self::proxy::CredentialsError;
pub use self::request::{CurrentUpstream, UpstreamRequest, UpstreamResponse};
pub use self::request_body::{RequestBody, UploadSpender};
pub use self::response_body::UpstreamBody;
use self::state::UpstreamState;
use self::tier::{ConfiguredTier, TierState};
pub use self::tier::{TIER, TIER_OBJECT};
pub(crate) use self::tls::connect_tls_to;
pub use self::tls::{TrustError, connect_tls, connect_tls_by_name, load_tls};
use self::transfer_meter::TransferMeter;
use crate::metrics::NetMetrics;
use crate::shape::WanLimiter;
use gupd_config as config;
use gupd_config::clock::Clock;
use gupd_config::{Config, UpstreamId};
use gupd_http::instance;
use gupd_http::instance::RelayInstance;
use gupd_http::target::{default_port, normalize_host};

/// Minimum time to connect under limits of the relay: a TLS handshake of some KiB, beside other traffic, on the
/// slowest line that can be configured.
const LIMITED_CONNECT: Duration = Duration::from_secs(60);

/// A manager or LiveUpdate server, or a peer.
#[derive(Debug)]
pub struct Upstream {
    /// Identity across reloads.
    pub id: UpstreamId,
    /// Name in logs, metrics and the index.
    pub name: Arc<str>,
    scheme: Scheme,
    authority: Authority,
    /// URL by which clients reach it, if different.
    public: Option<(Scheme, Authority)>,
    host: HeaderValue,
    pool: Pool,
    priority: Option<u32>,
    check: Option<PathAndQuery>,
    limits: BreakerSettings,
    /// Health metric, set once the upstream is in force: a rejected configuration leaves no series behind.
    healthy: OnceLock<IntGauge>,
    state: Arc<UpstreamState>,
    /// State of a peer; `None` for a manager.
    peer: Option<PeerState>,
    /// State of the shared tier; `None` for a manager or peer.
    tier: Option<TierState>,
    /// Counter of bytes of response bodies.
    received: IntCounter,
    /// True if its last successful response has passed no relay.
    is_origin: AtomicBool,
    /// True if its last successful response has passed one.
    is_relay: AtomicBool,
}

/// All configured upstreams and peers.
#[derive(Debug)]
pub struct Upstreams {
    list: Vec<Arc<Upstream>>,
    /// The peers of the site.
    peers: Vec<Arc<Upstream>>,
    /// The shared tier.
    tier: Option<ConfiguredTier>,
    settings: config::FillSettings,
    health: config::HealthSettings,
    /// True while a task checks health, so that client requests need not probe.
    is_checked: AtomicBool,
    /// Number of requests so far; orders equal upstreams.
    sequence: Arc<AtomicU64>,
    wan: Arc<WanLimiter>,
    clock: Clock,
    metrics: Arc<NetMetrics>,
    instance: Arc<RelayInstance>,
}

impl Upstreams {
    /// Creates the upstreams of a configuration. Connects to none.
    ///
    /// # Errors
    /// If TLS toward an upstream cannot be set up.
    pub fn new(
        config: &Config,
        clock: Clock,
        wan: Arc<WanLimiter>,
        metrics: Arc<NetMetrics>,
    ) -> Result<Self, ConnectError> {
        let dialer = Dialer::tcp(config.fill.connect_timeout);
        Self::build(dialer, config, clock, wan, metrics)
    }

    /// Creates the upstreams over another network than the system's.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_network(
        network: Arc<dyn Network>,
        config: &Config,
        clock: Clock,
        wan: Arc<WanLimiter>,
        metrics: Arc<NetMetrics>,
    ) -> Result<Self, ConnectError> {
        Self::build(Dialer::given(network, config.fill.connect_timeout), config, clock, wan, metrics)
    }

    fn build(
        dialer: Dialer,
        config: &Config,
        clock: Clock,
        wan: Arc<WanLimiter>,
        metrics: Arc<NetMetrics>,
    ) -> Result<Self, ConnectError> {
        let mut pools = Pools::new(config, dialer.clone(), wan.clone(), &metrics)?;
        let limits = BreakerSettings::new(&config.health);
        let mut list = Vec::with_capacity(config.upstreams.len());
        for upstream in &config.upstreams {
            let pool = pools.create(upstream)?;
            let received = metrics.upstream.received_bytes.with_label_values(&[&upstream.name]);
            list.extend(Upstream::new(upstream, limits, pool, received).map(Arc::new));
            metrics.create_upstream_series(&upstream.name);
        }
        let peers = peers::connect_peers(config, dialer, &clock, &metrics)?;
        let (settings, instance) = (config.fill.clone(), Arc::default());
        Ok(Self {
            list,
            peers,
            tier: None,
            settings,
            health: config.health.clone(),
            is_checked: AtomicBool::new(false),
            sequence: Arc::default(),
            wan,
            clock,
            metrics,
            instance,
        })
    }

    /// Sets the identity with which requests are marked.
    pub fn with_instance(self, instance: Arc<RelayInstance>) -> Self {
        Self { instance, ..self }
    }

    /// Takes over the state of upstreams with the same identity.
    pub fn inherit_state(mut self, before: &Self) -> Self {
        self.sequence = before.sequence.clone();
        self.inherit_tier(before);
        for upstream in &mut self.list {
            let state = before.get(&upstream.id).map(|old| old.state.clone());
            // Not shared yet.
            if let (Some(state), Some(upstream)) = (state, Arc::get_mut(upstream)) {
                upstream.state = state;
            }
        }
        self
    }

    /// Limits the bytes read at once of a head or a body, at least 8 KiB. For a process with little memory.
    #[must_use]
    pub fn with_max_read(self, bytes: usize) -> Self {
        self.list.iter().for_each(|upstream| upstream.pool.read_at_most(bytes));
        self
    }

    /// Iterates over the upstreams in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.list.iter()
    }

    /// Returns the peers in the order of the configuration.
    pub fn peers(&self) -> &[Arc<Upstream>] {
        &self.peers
    }

    /// Returns true if an upstream has this host and port; the scheme gives the default port.
    pub fn has_authority(&self, scheme: &str, authority: &Authority) -> bool {
        self.list.iter().any(|upstream| upstream.is_at(scheme, authority))
    }

    /// Returns true if a peer, or an upstream among `order`, has this host and port.
    pub fn has_authority_among(&self, order: &[UpstreamId], scheme: &str, authority: &Authority) -> bool {
        self.resolve(order).chain(&self.peers).any(|upstream| upstream.is_at(scheme, authority))
    }

    /// Returns the upstream of this identity.
    pub fn get(&self, id: &UpstreamId) -> Option<&Arc<Upstream>> {
        self.list.iter().find(|upstream| upstream.id == *id)
    }

    /// Returns the upstream of this name among `order`, the peers and the tier.
    pub fn find_by_name(&self, order: &[UpstreamId], name: &str) -> Option<&Arc<Upstream>> {
        self.resolve(order).chain(&self.peers).chain(self.tier()).find(|upstream| *upstream.name == *name)
    }

    /// Returns true if TLS proves the bytes of every upstream of `order`.
    pub fn are_authenticated(&self, order: &[UpstreamId]) -> bool {
        self.resolve(order).all(|upstream| upstream.is_authenticated())
    }

    /// Returns true if `upstream` is the last of `order`.
    pub fn is_last(&self, order: &[UpstreamId], upstream: &Arc<Upstream>) -> bool {
        order.last() == Some(&upstream.id)
    }

    /// Returns the limits on transfers.
    pub fn wan(&self) -> &WanLimiter {
        &self.wan
    }

    /// Returns the relay's identity in requests.
    pub fn instance(&self) -> &RelayInstance {
        &self.instance
    }

    /// Returns the settings for fills.
    pub fn settings(&self) -> &config::FillSettings {
        &self.settings
    }

    /// Opens a connection, with TLS if configured, and closes it.
    async fn connect(&self, upstream: &Upstream, limit: Duration) -> Result<(), UpstreamError> {
        let limit = if self.wan.is_limited() { limit.max(LIMITED_CONNECT) } else { limit };
        let no_connection = |_| UpstreamError::Connect {
            upstream: upstream.name.clone(),
            reason: Arc::from(format!("no connection within {limit:?}")),
        };
        timeout(limit, upstream.test_connection()).await.map_err(no_connection)?
    }
}

impl Upstream {
    fn new(
        upstream: &config::UpstreamSettings,
        limits: BreakerSettings,
        pool: Pool,
        received: IntCounter,
    ) -> Option<Self> {
        let (name, url) = (&upstream.name, &upstream.url);
        let authority = url.authority()?.clone();
        let public = upstream.public_url.as_ref();
        Some(Self {
            id: UpstreamId::of(upstream),
            name: Arc::from(name.as_str()),
            scheme: url.scheme()?.clone(),
            host: HeaderValue::from_str(authority.as_str()).ok()?,
            authority,
            public: public.and_then(|url| Some((url.scheme()?.clone(), url.authority()?.clone()))),
            pool,
            priority: upstream.priority,
            check: upstream.check.clone(),
            limits,
            healthy: OnceLock::new(),
            state: Arc::default(),
            peer: None,
            tier: None,
            received,
            is_origin: AtomicBool::new(false),
            is_relay: AtomicBool::new(false),
        })
    }

    /// Returns true for a peer, which gets requests only for content that it has.
    pub fn is_peer(&self) -> bool {
        self.peer.is_some()
    }

    /// Returns true if TLS proves that the bytes are those that it sent.
    pub fn is_authenticated(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Returns true if it can be a relay: its last successful response has passed one, or there was none yet.
    pub fn can_be_relay(&self) -> bool {
        !self.is_origin.load(Ordering::Relaxed)
    }

    /// Returns true if its content comes from another server.
    pub fn is_relay(&self) -> bool {
        self.is_peer() || self.is_relay.load(Ordering::Relaxed)
    }

    // Errors that a relay generates itself have no `Via` field that names it.
    fn note_relay<B>(&self, response: &Response<B>) {
        if response.status().is_success() {
            let by_relay = instance::has_passed_relay(response.headers());
            self.is_origin.store(!by_relay, Ordering::Relaxed);
            self.is_relay.store(by_relay, Ordering::Relaxed);
        }
    }

    /// Returns true if an absolute target names this upstream, by its URL or its public URL. Default ports are filled
    /// in.
    fn is_at(&self, scheme: &str, authority: &Authority) -> bool {
        let port = |scheme: &str, authority: &Authority| {
            authority.port_u16().unwrap_or_else(|| default_port(scheme))
        };
        let host = normalize_host(authority.host());
        let public = self.public.iter().map(|(scheme, authority)| (scheme, authority));
        [(&self.scheme, &self.authority)].into_iter().chain(public).any(|(own_scheme, own)| {
            host == normalize_host(own.host()) && port(scheme, authority) == port(own_scheme.as_str(), own)
        })
    }

    /// Opens a connection, with TLS if configured, without a request.
    ///
    /// # Errors
    /// If it cannot connect.
    pub async fn test_connection(&self) -> Result<(), UpstreamError> {
        let root = self.uri(PathAndQuery::from_static("/"))?;
        let connected = self.pool.try_to_connect(root).await;
        connected.map_err(|reason| UpstreamError::Connect { upstream: self.name.clone(), reason })
    }

    fn uri(&self, target: PathAndQuery) -> Result<Uri, UpstreamError> {
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        let unusable = |error: http::Error| UpstreamError::Request { reason: Arc::from(error.to_string()) };
        uri.path_and_query(target).build().map_err(unusable)
    }

    fn request(&self, outgoing: &UpstreamRequest) -> Result<Request<RequestBody>, UpstreamError> {
        let mut request = Request::new(outgoing.body.clone());
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = self.uri(outgoing.target.clone())?;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = outgoing.headers.clone();
        *request.extensions_mut() = outgoing.field_names.clone().into_extensions();
        request.headers_mut().insert(header::HOST, self.host.clone());
        if let Some(authorization) = self.pool.forward_proxy().and_then(|proxy| proxy.authorization()) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}
