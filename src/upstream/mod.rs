//! The managers, and how each is asked: who they are, what a request and an answer are. Relies on hyper-util's pooled
//! client for connections and on `connect` for TLS; `ask` asks, `choice` says whom first, `breaker` whom not, `health`
//! finds out who is back. Nothing here caches or resumes: what a broken transfer means is the fill's to say.

mod ask;
mod body;
mod breaker;
mod choice;
mod connect;
mod error;
pub mod health;
mod line;
mod received;
mod standing;
mod tcp;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use prometheus::IntGauge;
use tokio::time::timeout;
use tower_service::Service;

pub use self::body::RequestBody;
use self::breaker::Limits;
pub use self::connect::ConnectError;
pub use self::error::UpstreamError;
pub use self::received::Received;
use self::standing::Standing;
use crate::clock::{Clock, UnixMillis};
use crate::config::{self, Config};
use crate::shape::{Lane, Wan};
use crate::telemetry::Metrics;

/// The least time to connect where the relay's own limits hold bytes up: a TLS handshake of some KiB, beside others, on
/// the thinnest line that can be set.
const LIMITED_CONNECT: Duration = Duration::from_secs(60);

/// One manager or LiveUpdate server.
#[derive(Debug)]
pub struct Upstream {
    /// Its name in logs, metrics and the index.
    pub name: Arc<str>,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    priority: Option<u32>,
    check: Option<PathAndQuery>,
    limits: Limits,
    healthy: IntGauge,
    standing: Arc<Standing>,
}

/// All configured managers, and the connections to them.
#[derive(Debug)]
pub struct Upstreams {
    list: Vec<Arc<Upstream>>,
    client: connect::Client,
    connector: connect::Connecting,
    settings: config::Fill,
    health: config::Health,
    /// A task finds out which are back, and clients' requests need not.
    is_checked: AtomicBool,
    /// Requests so far.
    turns: Arc<AtomicU64>,
    wan: Arc<Wan>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// A request as the client spelled it, ready for whichever manager answers.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// Path and query in the client's own spelling.
    pub target: PathAndQuery,
    /// End-to-end fields; `Host` is set for the upstream asked.
    pub headers: HeaderMap,
    /// Empty, or the client's, streamed.
    pub body: RequestBody,
    /// Which limits the response's bytes pass.
    pub lane: Lane,
}

/// A manager's response head, with its body still to come.
#[derive(Debug)]
pub struct Answer {
    /// Who answered.
    pub upstream: Arc<Upstream>,
    /// When the request was sent.
    pub request_time: UnixMillis,
    /// When the head arrived.
    pub response_time: UnixMillis,
    /// The response.
    pub response: Response<Received>,
}

impl Outgoing {
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
        wan: Arc<Wan>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ConnectError> {
        let tls = config.upstreams.iter().any(|upstream| upstream.url.scheme() == Some(&Scheme::HTTPS));
        let limits = Limits::new(&config.health);
        let new = |upstream| Upstream::new(upstream, limits, &metrics);
        let list: Vec<_> = config.upstreams.iter().filter_map(new).map(Arc::new).collect();
        for upstream in &list {
            metrics.expect_upstream(&upstream.name, &UpstreamError::WORDS);
        }
        let connector = connect::connector(config, tls, wan.clone())?;
        Ok(Self {
            list,
            client: connect::client(connector.clone()),
            connector,
            settings: config.fill.clone(),
            health: config.health.clone(),
            is_checked: AtomicBool::new(false),
            turns: Arc::default(),
            wan,
            clock,
            metrics,
        })
    }

    /// Keeps what is known of upstreams that were there before, by name and URL.
    pub fn succeeding(mut self, before: &Self) -> Self {
        self.turns = before.turns.clone();
        for upstream in &mut self.list {
            let is_same = |old: &&Arc<Upstream>| {
                (&old.name, &old.scheme, &old.authority)
                    == (&upstream.name, &upstream.scheme, &upstream.authority)
            };
            let standing = before.list.iter().find(is_same).map(|old| old.standing.clone());
            // Nobody else has it yet.
            if let (Some(standing), Some(upstream)) = (standing, Arc::get_mut(upstream)) {
                upstream.standing = standing;
            }
        }
        self
    }

    /// The upstreams in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.list.iter()
    }

    /// The one of this name, if it is among those of `order`.
    pub fn named(&self, order: &[usize], name: &str) -> Option<&Arc<Upstream>> {
        order.iter().filter_map(|&index| self.list.get(index)).find(|upstream| *upstream.name == *name)
    }

    /// The limits on what they send.
    pub fn wan(&self) -> &Wan {
        &self.wan
    }

    /// How patient to be with them.
    pub fn settings(&self) -> &config::Fill {
        &self.settings
    }

    /// A connection to this upstream, with TLS if it speaks it, and nothing more.
    async fn connect(&self, upstream: &Upstream, patience: Duration) -> Result<(), UpstreamError> {
        let uri = upstream.uri(PathAndQuery::from_static("/"))?;
        let mut connector = self.connector.clone();
        let connecting = async {
            poll_fn(|cx| connector.poll_ready(cx)).await?;
            connector.call(uri).await
        };
        let patience = if self.wan.is_limited() { patience.max(LIMITED_CONNECT) } else { patience };
        let reason = match timeout(patience, connecting).await {
            Ok(Ok(_closed)) => return Ok(()),
            Ok(Err(error)) => error::root_cause(&*error),
            Err(_) => Arc::from(format!("no connection within {patience:?}")),
        };
        Err(UpstreamError::Connect { upstream: upstream.name.clone(), reason })
    }
}

impl Upstream {
    fn new(upstream: &config::Upstream, limits: Limits, metrics: &Metrics) -> Option<Self> {
        let (name, url) = (&upstream.name, &upstream.url);
        let authority = url.authority()?.clone();
        Some(Self {
            name: Arc::from(name.as_str()),
            scheme: url.scheme()?.clone(),
            host: HeaderValue::from_str(authority.as_str()).ok()?,
            authority,
            priority: upstream.priority,
            check: upstream.check.clone(),
            limits,
            healthy: metrics.health.healthy.with_label_values(&[name]),
            standing: Arc::default(),
        })
    }

    /// Whether a target in absolute form names this upstream. Ports are compared with the scheme's default filled in.
    pub fn is_at(&self, scheme: &str, authority: &Authority) -> bool {
        let default_port = |scheme: &str| if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
        authority.host().eq_ignore_ascii_case(self.authority.host())
            && authority.port_u16().unwrap_or_else(|| default_port(scheme))
                == self.authority.port_u16().unwrap_or_else(|| default_port(self.scheme.as_str()))
    }

    fn request(&self, outgoing: &Outgoing) -> Result<Request<RequestBody>, UpstreamError> {
        let mut request = Request::new(outgoing.body.clone());
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = self.uri(outgoing.target.clone())?;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = outgoing.headers.clone();
        request.headers_mut().insert(header::HOST, self.host.clone());
        Ok(request)
    }

    fn uri(&self, target: PathAndQuery) -> Result<Uri, UpstreamError> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(target)
            .build()
            .map_err(|error| UpstreamError::Request { reason: Arc::from(error.to_string()) })
    }
}
