//! The managers: asks one, or the next by priority when one does not answer. Relies on `pool` for the connections to
//! each; counts what each is asked. It does not cache, retry bodies or resume: what a
//! broken transfer means is the fill's to say. A second manager gets a request only if the first cannot have acted on
//! it (RFC 9110 §9.2.2).

mod body;
mod connect;
mod dial;
mod line;
mod pool;
mod proxy;
mod received;
mod tcp;
mod tls;

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::capture_connection;
use tokio::time::timeout;

pub use self::body::RequestBody;
use self::body::RequestBodyError;
pub use self::connect::ConnectError;
use self::dial::Dialer;
pub use self::dial::{Connecting, Duplex, Network};
use self::line::Line;
use self::pool::{Pool, Pools};
pub use self::proxy::CredentialsError;
pub use self::received::Received;
pub use self::tls::TrustError;
use crate::clock::{Clock, UnixMillis};
use crate::config::{self, Config};
use crate::shape::{Lane, Wan};
use crate::telemetry::Metrics;

/// An upstream that could not be reached is asked last for this long, in milliseconds: long enough that not every
/// miss pays the connect time-out, short enough that a manager is back in use soon after it is back.
const SHUN: UnixMillis = 5_000;

/// One manager or LiveUpdate server.
#[derive(Debug)]
pub struct Upstream {
    /// Its name in logs, metrics and the index.
    pub name: Arc<str>,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    pool: Pool,
    shunned_until: AtomicI64,
}

/// All configured managers.
#[derive(Debug)]
pub struct Upstreams {
    list: Vec<Arc<Upstream>>,
    settings: config::Fill,
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

/// Why no manager answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection.
    #[error("upstream {upstream}: cannot connect: {reason}")]
    Connect {
        /// Its name.
        upstream: Arc<str>,
        /// What the system says.
        reason: Arc<str>,
    },
    /// No response head in time.
    #[error("upstream {upstream}: no response within {after:?}")]
    HeadTimeout {
        /// Its name.
        upstream: Arc<str>,
        /// The time it had.
        after: Duration,
    },
    /// The connection was closed without an answer.
    #[error("upstream {upstream}: closed the connection without an answer")]
    Closed {
        /// Its name.
        upstream: Arc<str>,
    },
    /// Something that is not HTTP.
    #[error("upstream {upstream}: not a usable response: {reason}")]
    Response {
        /// Its name.
        upstream: Arc<str>,
        /// What is wrong with it.
        reason: Arc<str>,
    },
    /// The client's request broke off before it was sent whole. No upstream is to blame.
    #[error("{reason}")]
    Client {
        /// What the client did.
        reason: Arc<str>,
    },
    /// The request itself could not be sent on.
    #[error("the request cannot be sent to an upstream: {reason}")]
    Request {
        /// Why.
        reason: Arc<str>,
    },
}

impl Outgoing {
    /// Whether a manager that got it and failed does not keep it from another: it does the same however often it is
    /// done, and nobody has read from its body.
    fn is_repeatable(&self) -> bool {
        self.method.is_idempotent() && self.body.is_whole()
    }
}

impl UpstreamError {
    /// What [`as_str`](Self::as_str) says of requests that were sent.
    const WORDS: [&'static str; 4] = ["connect", "head-timeout", "closed", "bad-response"];

    /// Word for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::HeadTimeout { .. } => "head-timeout",
            Self::Closed { .. } => "closed",
            Self::Response { .. } => "bad-response",
            Self::Client { .. } => "client",
            Self::Request { .. } => "bad-request",
        }
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
        let dialer = Dialer::tcp(config.fill.connect_timeout);
        Self::by(dialer, config, clock, wan, metrics)
    }

    /// The same over another network than the system's.
    ///
    /// # Errors
    /// As of [`new`](Self::new).
    pub fn over(
        network: Arc<dyn Network>,
        config: &Config,
        clock: Clock,
        wan: Arc<Wan>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ConnectError> {
        Self::by(Dialer::given(network, config.fill.connect_timeout), config, clock, wan, metrics)
    }

    fn by(
        dialer: Dialer,
        config: &Config,
        clock: Clock,
        wan: Arc<Wan>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ConnectError> {
        let mut pools = Pools::new(config, dialer, wan.clone())?;
        let mut list = Vec::with_capacity(config.upstreams.len());
        for upstream in &config.upstreams {
            let pool = pools.toward(upstream)?;
            list.extend(Upstream::new(&upstream.name, &upstream.url, pool).map(Arc::new));
            metrics.expect_upstream(&upstream.name, &UpstreamError::WORDS);
        }
        Ok(Self { list, settings: config.fill.clone(), wan, clock, metrics })
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

    /// Asks the upstreams of `order`, indices by priority, until one gives a final answer. One that cannot be reached,
    /// does not answer in time or answers `502`, `503` or `504` passes the request to the next.
    ///
    /// # Errors
    /// What went wrong with the last one asked.
    pub async fn ask(&self, order: &[usize], outgoing: &Outgoing) -> Result<Answer, UpstreamError> {
        let candidates = self.by_preference(order);
        let mut last = UpstreamError::Request { reason: Arc::from("its route has no upstream") };
        for (asked, upstream) in candidates.iter().enumerate() {
            let next = asked + 1 < candidates.len();
            let mut answer = self.ask_one(upstream, outgoing).await;
            if matches!(answer, Err(UpstreamError::Closed { .. })) && outgoing.is_repeatable() {
                // Most likely a kept connection, closed by its idle time-out just as the request went out; a new one
                // tells (RFC 9112 §9.3.1).
                answer = self.ask_one(upstream, outgoing).await;
            }
            match answer {
                Ok(answer)
                    if next && outgoing.is_repeatable() && is_unavailable(answer.response.status()) =>
                {
                    tracing::warn!(upstream = &*upstream.name, status = %answer.response.status(), "asking the next upstream");
                }
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    tracing::warn!(%error, next, "upstream did not answer");
                    let unsent = matches!(error, UpstreamError::Connect { .. }) && outgoing.body.is_whole();
                    last = error;
                    if !unsent && !outgoing.is_repeatable() {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// Asks this upstream and no other.
    ///
    /// # Errors
    /// When it cannot be reached, does not answer in time, or answers with something that is not HTTP.
    pub async fn ask_one(
        &self,
        upstream: &Arc<Upstream>,
        outgoing: &Outgoing,
    ) -> Result<Answer, UpstreamError> {
        let request = upstream.request(outgoing)?;
        let request_time = self.clock.now();
        let name = || upstream.name.clone();
        let answer = match self.head(upstream, request, &outgoing.body).await {
            None => Err(UpstreamError::HeadTimeout { upstream: name(), after: self.settings.head_timeout }),
            Some(Err(error)) if error.is_connect() => {
                Err(UpstreamError::Connect { upstream: name(), reason: root_cause(&error) })
            }
            Some(Err(error)) if is_from_client(&error) => {
                Err(UpstreamError::Client { reason: root_cause(&error) })
            }
            Some(Err(error)) if is_closed(&error) => Err(UpstreamError::Closed { upstream: name() }),
            Some(Err(error)) => Err(UpstreamError::Response { upstream: name(), reason: root_cause(&error) }),
            Some(Ok(response))
                if let Some(proxy) = upstream.pool.asked_in_its_place()
                    && response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED =>
            {
                Err(UpstreamError::Connect { upstream: name(), reason: proxy.asks_for_credentials() })
            }
            Some(Ok(response)) => {
                let line = response.extensions().get::<Line>().map(|line| line.hold(outgoing.lane.clone()));
                Ok(response.map(|body| Received::new(body, line)))
            }
        };
        let outcome = answer.as_ref().map(Response::status).map_err(UpstreamError::as_str);
        self.metrics.count_upstream(&upstream.name, outcome);
        let response_time = self.clock.now();
        let shunned =
            matches!(answer, Err(UpstreamError::Connect { .. } | UpstreamError::HeadTimeout { .. }));
        upstream.shunned_until.store(if shunned { response_time + SHUN } else { 0 }, Ordering::Relaxed);
        Ok(Answer { upstream: upstream.clone(), request_time, response_time, response: answer? })
    }

    /// Waits for the response head. The time for it begins anew as long as the request's body is on its way: a large
    /// report on a thin line takes longer to send than a manager has to answer it. So it does when the relay's own
    /// limits held the connection up: what hyper has taken of a body is not on its way yet.
    async fn head(
        &self,
        upstream: &Upstream,
        mut request: Request<RequestBody>,
        body: &RequestBody,
    ) -> Option<Result<Response<Incoming>, legacy::Error>> {
        let connection = self.wan.is_limited().then(|| capture_connection(&mut request));
        let mut answer = std::pin::pin!(upstream.pool.client().request(request));
        let mut progress = body.progress();
        loop {
            if let Ok(answer) = timeout(self.settings.head_timeout, &mut answer).await {
                return Some(answer);
            }
            let now = body.progress();
            let line = connection.as_ref().and_then(Line::of);
            let held_up = line.is_some_and(|line| line.waited_within(self.settings.head_timeout));
            if now == progress && !body.waits_for_client() && !held_up {
                return None;
            }
            progress = now;
        }
    }

    /// The upstreams of `order`, in the order in which they are asked now.
    pub(crate) fn by_preference(&self, order: &[usize]) -> Vec<Arc<Upstream>> {
        let now = self.clock.now();
        let mut candidates: Vec<_> =
            order.iter().filter_map(|&index| self.list.get(index)).cloned().collect();
        // One that is shunned for longer than anyone is was so before the clock was set back.
        candidates.sort_by_key(|upstream| {
            (1..=SHUN).contains(&(upstream.shunned_until.load(Ordering::Relaxed) - now))
        });
        candidates
    }
}

impl Upstream {
    fn new(name: &str, url: &Uri, pool: Pool) -> Option<Self> {
        let authority = url.authority()?.clone();
        Some(Self {
            name: Arc::from(name),
            scheme: url.scheme()?.clone(),
            host: HeaderValue::from_str(authority.as_str()).ok()?,
            authority,
            pool,
            shunned_until: AtomicI64::new(0),
        })
    }

    /// Whether a target in absolute form names this upstream. Ports are compared with the scheme's default filled in.
    pub fn is_at(&self, scheme: &str, authority: &Authority) -> bool {
        let default_port = |scheme: &str| if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
        authority.host().eq_ignore_ascii_case(self.authority.host())
            && authority.port_u16().unwrap_or_else(|| default_port(scheme))
                == self.authority.port_u16().unwrap_or_else(|| default_port(self.scheme.as_str()))
    }

    /// Makes a connection, with TLS if it speaks that, and asks for nothing.
    ///
    /// # Errors
    /// When there is none to be had.
    pub async fn reach(&self) -> Result<(), UpstreamError> {
        let root = self.uri(PathAndQuery::from_static("/"))?;
        let connected = self.pool.try_to_connect(root).await;
        connected.map_err(|reason| UpstreamError::Connect { upstream: self.name.clone(), reason })
    }

    fn uri(&self, target: PathAndQuery) -> Result<Uri, UpstreamError> {
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        let unusable = |error: http::Error| UpstreamError::Request { reason: Arc::from(error.to_string()) };
        uri.path_and_query(target).build().map_err(unusable)
    }

    fn request(&self, outgoing: &Outgoing) -> Result<Request<RequestBody>, UpstreamError> {
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

/// hyper-util itself sends a request again only if none of it had been written.
fn is_closed(error: &legacy::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<hyper::Error>());
    cause.is_some_and(hyper::Error::is_incomplete_message)
}

fn is_unavailable(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

fn is_from_client(error: &(dyn StdError + 'static)) -> bool {
    std::iter::successors(Some(error), |error| (*error).source()).any(|cause| cause.is::<RequestBodyError>())
}

/// The innermost cause is the one that helps: "connection refused", not "client error".
fn root_cause(error: &(dyn StdError + 'static)) -> Arc<str> {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    Arc::from(cause.to_string())
}
