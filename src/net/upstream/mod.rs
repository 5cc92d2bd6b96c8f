//! The managers, and how each is asked: who they are, what a request and an answer are. Relies on `pool` for the
//! connections to each; `ask` asks, `choice` says whom first, `breaker` whom not, `health` finds out who is back. Nothing
//! here caches or resumes: what a broken transfer means is the fill's to say.

mod body_stream;
mod breaker;
mod connect;
mod dial;
mod error;
pub mod health;
mod limited_stream;
mod peers;
mod pool;
mod proxy;
mod request;
mod request_body;
mod response_body;
mod selection;
mod send;
mod state;
mod tcp;
mod tls;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use prometheus::{IntCounter, IntGauge};
use tokio::time::timeout;

pub use self::body_stream::{BodyStreamError, stream_body};
use self::breaker::Limits;
pub use self::connect::ConnectError;
use self::dial::Dialer;
pub use self::dial::{Connecting, Duplex, Network};
use self::error::root_cause;
pub use self::error::{UpstreamError, UpstreamFailure};
use self::peers::Peering;
use self::pool::{Pool, Pools};
pub use self::proxy::CredentialsError;
pub use self::request::CurrentUpstream;
pub use self::request_body::RequestBody;
pub use self::response_body::UpstreamBody;
use self::state::Standing;
pub use self::tls::TrustError;
use crate::metrics::NetMetrics;
use crate::shape::{BandwidthClass, WanLimiter};
use gupd_config as config;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::{Config, UpstreamId};
use gupd_http::instance;
use gupd_http::instance::RelayInstance;

/// The least time to connect where the relay's own limits hold bytes up: a TLS handshake of some KiB, beside others, on
/// the thinnest line that can be set.
const LIMITED_CONNECT: Duration = Duration::from_secs(60);

/// One manager or LiveUpdate server.
#[derive(Debug)]
pub struct Upstream {
    /// Its identity over reloads.
    pub id: UpstreamId,
    /// Its name in logs, metrics and the index.
    pub name: Arc<str>,
    scheme: Scheme,
    authority: Authority,
    /// How clients reach it, where that is not the same.
    public: Option<(Scheme, Authority)>,
    host: HeaderValue,
    pool: Pool,
    priority: Option<u32>,
    check: Option<PathAndQuery>,
    limits: Limits,
    /// The metric of how it stands, once it is in force: a configuration that is refused leaves none behind.
    healthy: OnceLock<IntGauge>,
    standing: Arc<Standing>,
    /// It is another relay of the site, not a manager.
    peering: Option<Peering>,
    /// Bytes of bodies that came from it.
    received: IntCounter,
    /// What it sent has not come through a relay.
    is_origin: AtomicBool,
    /// It has.
    is_relay: AtomicBool,
}

/// All configured managers.
#[derive(Debug)]
pub struct Upstreams {
    list: Vec<Arc<Upstream>>,
    /// The other relays of the site.
    peers: Vec<Arc<Upstream>>,
    settings: config::FillSettings,
    health: config::HealthSettings,
    /// A task finds out which are back, and clients' requests need not.
    is_checked: AtomicBool,
    /// Requests so far.
    turns: Arc<AtomicU64>,
    wan: Arc<WanLimiter>,
    clock: Clock,
    metrics: Arc<NetMetrics>,
    instance: Arc<RelayInstance>,
}

/// A request as the client spelled it, ready for whichever manager answers.
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    /// The method.
    pub method: Method,
    /// Path and query in the client's own spelling.
    pub target: PathAndQuery,
    /// End-to-end fields; `Host` is set for the upstream asked.
    pub headers: HeaderMap,
    /// Empty, or the client's, streamed.
    pub body: RequestBody,
    /// Which limits the response's bytes pass.
    pub bandwidth: BandwidthClass,
    /// Shows who is asked.
    pub current_upstream: CurrentUpstream,
}

/// A manager's response head, with its body still to come.
#[derive(Debug)]
pub struct UpstreamResponse {
    /// Who answered.
    pub upstream: Arc<Upstream>,
    /// When the request was sent.
    pub request_time: UnixMillis,
    /// When the head arrived.
    pub response_time: UnixMillis,
    /// The response.
    pub response: Response<UpstreamBody>,
}

impl UpstreamRequest {
    /// A `GET` without a body, whose bytes pass the limits of `bandwidth`.
    pub fn get(target: PathAndQuery, headers: HeaderMap, bandwidth: BandwidthClass) -> Self {
        let (body, current_upstream) = (RequestBody::Empty, CurrentUpstream::default());
        Self { method: Method::GET, target, headers, body, bandwidth, current_upstream }
    }

    /// Whether a manager that got it and failed does not keep it from another: it does the same however often it is
    /// done, and nobody has read from its body.
    fn is_repeatable(&self) -> bool {
        self.method.is_idempotent() && self.body.is_whole()
    }
}

impl Upstreams {
    /// Prepares to ask the configured upstreams; connects to none yet.
    ///
    /// # Errors
    /// When an upstream speaks TLS and the system has no certificates to trust.
    pub fn new(
        config: &Config,
        clock: Clock,
        wan: Arc<WanLimiter>,
        metrics: Arc<NetMetrics>,
    ) -> Result<Self, ConnectError> {
        let dialer = Dialer::tcp(config.fill.connect_timeout);
        Self::by(dialer, config, clock, wan, metrics)
    }

    /// The same over another network than the system's.
    ///
    /// # Errors
    /// As of [`new`](Self::new).
    pub fn with_network(
        network: Arc<dyn Network>,
        config: &Config,
        clock: Clock,
        wan: Arc<WanLimiter>,
        metrics: Arc<NetMetrics>,
    ) -> Result<Self, ConnectError> {
        Self::by(Dialer::given(network, config.fill.connect_timeout), config, clock, wan, metrics)
    }

    fn by(
        dialer: Dialer,
        config: &Config,
        clock: Clock,
        wan: Arc<WanLimiter>,
        metrics: Arc<NetMetrics>,
    ) -> Result<Self, ConnectError> {
        let mut pools = Pools::new(config, dialer.clone(), wan.clone())?;
        let limits = Limits::new(&config.health);
        let mut list = Vec::with_capacity(config.upstreams.len());
        for upstream in &config.upstreams {
            let pool = pools.toward(upstream)?;
            let received = metrics.upstream_bytes.with_label_values(&[&upstream.name]);
            list.extend(Upstream::new(upstream, limits, pool, received).map(Arc::new));
            metrics.create_upstream_series(&upstream.name);
        }
        let peers = peers::of(config, dialer, &clock, &metrics)?;
        let (settings, instance) = (config.fill.clone(), Arc::default());
        Ok(Self {
            list,
            peers,
            settings,
            health: config.health.clone(),
            is_checked: AtomicBool::new(false),
            turns: Arc::default(),
            wan,
            clock,
            metrics,
            instance,
        })
    }

    /// Asks as this relay.
    pub fn with_instance(self, instance: Arc<RelayInstance>) -> Self {
        Self { instance, ..self }
    }

    /// Keeps what is known of upstreams that were there before, by name and URL.
    pub fn inherit_state(mut self, before: &Self) -> Self {
        self.turns = before.turns.clone();
        for upstream in &mut self.list {
            let standing = before.get(&upstream.id).map(|old| old.standing.clone());
            // Nobody else has it yet.
            if let (Some(standing), Some(upstream)) = (standing, Arc::get_mut(upstream)) {
                upstream.standing = standing;
            }
        }
        self
    }

    /// Reads no more than so many bytes of a head, or of a body, at once: 8 KiB and more. For who has little memory.
    #[must_use]
    pub fn with_max_read(self, bytes: usize) -> Self {
        self.list.iter().for_each(|upstream| upstream.pool.read_at_most(bytes));
        self
    }

    /// The upstreams in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.list.iter()
    }

    /// Returns true if an upstream has this scheme and authority.
    pub fn has_authority(&self, scheme: &str, authority: &Authority) -> bool {
        self.list.iter().any(|upstream| upstream.is_at(scheme, authority))
    }

    /// The upstream of this identity.
    pub fn get(&self, id: &UpstreamId) -> Option<&Arc<Upstream>> {
        self.list.iter().find(|upstream| upstream.id == *id)
    }

    /// The one of this name, if it is among those of `order` or a peer.
    pub fn find_by_name(&self, order: &[UpstreamId], name: &str) -> Option<&Arc<Upstream>> {
        self.of(order).chain(&self.peers).find(|upstream| *upstream.name == *name)
    }

    /// Whether none of `order` comes after this one.
    pub fn is_last(&self, order: &[UpstreamId], upstream: &Arc<Upstream>) -> bool {
        order.last() == Some(&upstream.id)
    }

    /// The limits on what they send.
    pub fn wan(&self) -> &WanLimiter {
        &self.wan
    }

    /// Who asks them.
    pub fn instance(&self) -> &RelayInstance {
        &self.instance
    }

    /// How patient to be with them.
    pub fn settings(&self) -> &config::FillSettings {
        &self.settings
    }

    /// A connection to this upstream, with TLS if it speaks it, and nothing more.
    async fn connect(&self, upstream: &Upstream, patience: Duration) -> Result<(), UpstreamError> {
        let patience = if self.wan.is_limited() { patience.max(LIMITED_CONNECT) } else { patience };
        let no_connection = |_| UpstreamError::Connect {
            upstream: upstream.name.clone(),
            reason: Arc::from(format!("no connection within {patience:?}")),
        };
        timeout(patience, upstream.test_connection()).await.map_err(no_connection)?
    }
}

impl Upstream {
    fn new(
        upstream: &config::UpstreamSettings,
        limits: Limits,
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
            standing: Arc::default(),
            peering: None,
            received,
            is_origin: AtomicBool::new(false),
            is_relay: AtomicBool::new(false),
        })
    }

    /// Whether it is another relay of the site, which is asked only for what it has.
    pub fn is_peer(&self) -> bool {
        self.peering.is_some()
    }

    /// Counts bytes of bodies that come from it.
    pub fn received_bytes(&self) -> &IntCounter {
        &self.received
    }

    /// Whether it is a relay like this one, or has not been heard yet.
    pub fn can_be_relay(&self) -> bool {
        !self.is_origin.load(Ordering::Relaxed)
    }

    /// Whether what it sends comes from somebody else.
    pub fn is_relay(&self) -> bool {
        self.is_peer() || self.is_relay.load(Ordering::Relaxed)
    }

    // What a relay makes up itself bears no mark.
    fn learn<B>(&self, response: &Response<B>) {
        if response.status().is_success() {
            let by_relay = instance::has_passed_relay(response.headers());
            self.is_origin.store(!by_relay, Ordering::Relaxed);
            self.is_relay.store(by_relay, Ordering::Relaxed);
        }
    }

    /// Whether a target in absolute form names this upstream, as the relay reaches it or as clients do. Ports are compared
    /// with the scheme's default filled in.
    fn is_at(&self, scheme: &str, authority: &Authority) -> bool {
        let port = |scheme: &str, authority: &Authority| {
            let default = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
            authority.port_u16().unwrap_or(default)
        };
        let public = self.public.iter().map(|(scheme, authority)| (scheme, authority));
        [(&self.scheme, &self.authority)].into_iter().chain(public).any(|(own_scheme, own)| {
            authority.host().eq_ignore_ascii_case(own.host())
                && port(scheme, authority) == port(own_scheme.as_str(), own)
        })
    }

    /// Makes a connection, with TLS if it speaks that, and asks for nothing.
    ///
    /// # Errors
    /// When there is none to be had.
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
        request.headers_mut().insert(header::HOST, self.host.clone());
        if let Some(authorization) = self.pool.asked_in_its_place().and_then(|proxy| proxy.authorization()) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}
