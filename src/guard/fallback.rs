//! The HTTP service of the guard while no worker serves: a redirect to the manager of the client's group or route, or
//! the manager's response passed on uncached. It accepts and refuses the same targets as the proxy.
//!
//! A client that uses the relay as its proxy always gets the response, because a redirect would lead back here. Without
//! a healthy manager the answer is `503` with `Retry-After`.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::TryStreamExt;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;

use super::response::{GuardBody, empty, refused, text, unavailable, with_allow};
use crate::metrics::{GuardResponse, GuardStats};
use gupd_config::Clock;
use gupd_config::policy::{ClientAttributes, Policy};
use gupd_config::{Config, Fallback, PublicName};
use gupd_http::forwarding;
use gupd_http::instance::RelayInstance;
use gupd_http::refusal::Refusal;
use gupd_http::target::{OwnAddresses, Target, TargetRules};
use gupd_net::SetupError;
use gupd_net::field_names::FieldNames;
use gupd_net::listen::{self, ClientConnection};
use gupd_net::metrics::NetMetrics;
use gupd_net::redirect::PublicUrls;
use gupd_net::relocation::Relocation;
use gupd_net::shape::{Purpose, WanLimiter};
use gupd_net::traffic::TransferLabels;
use gupd_net::upstream::health::{self, HealthChecks};
use gupd_net::upstream::{
    ConnectionPin, CurrentUpstream, RequestBody, RequestBodyFault, UpstreamError, UpstreamRequest,
    UpstreamResponse, Upstreams, stream_body,
};

/// Maximum bytes of a response head, or of a piece of a body, in memory for each client. The guard must stay small.
const MAX_READ: usize = 8 << 10;

/// Answers requests in place of a worker.
#[derive(Debug)]
pub(super) struct FallbackService {
    live: ArcSwap<LiveSettings>,
    checks: HealthChecks,
    wan: Arc<WanLimiter>,
    instance: Arc<RelayInstance>,
    metrics: Arc<NetMetrics>,
    stats: Mutex<GuardStats>,
}

/// Settings that a reload replaces.
#[derive(Debug)]
struct LiveSettings {
    policy: Policy,
    upstreams: Arc<Upstreams>,
    public: PublicUrls,
    answer: Fallback,
    max_uri_bytes: usize,
    listen: Vec<SocketAddr>,
    public_names: Vec<PublicName>,
    stall_timeout: Duration,
    idle_timeout: Duration,
    access_log: bool,
}

/// The client of a relayed request.
struct RelayedClient<'a> {
    address: IpAddr,
    /// Name of its group.
    group: &'a str,
    /// Its own upstream connections, if it has authenticated one.
    pin: Option<ConnectionPin>,
}

impl FallbackService {
    /// Creates the service, and the task of its health checks.
    ///
    /// # Errors
    /// When the policy or TLS to upstreams cannot be set up.
    pub(super) fn new(
        config: &Config,
        metrics: Arc<NetMetrics>,
        stats: GuardStats,
    ) -> Result<(Self, health::HealthCheckTask), SetupError> {
        let wan = Arc::new(WanLimiter::new(config, Clock::system()));
        let instance = Arc::<RelayInstance>::default();
        let upstreams = Arc::new(build_upstreams(config, &wan, &instance, &metrics)?);
        let (checks, check_task) = HealthChecks::new(upstreams.clone());
        let live = ArcSwap::from_pointee(LiveSettings::new(config, upstreams)?);
        Ok((Self { live, checks, wan, instance, metrics, stats: Mutex::new(stats) }, check_task))
    }

    /// Applies a configuration to further requests.
    ///
    /// # Errors
    /// As [`Self::new`]; the old settings stay in force then.
    pub(super) fn reconfigure(&self, config: &Config) -> Result<(), SetupError> {
        let upstreams = build_upstreams(config, &self.wan, &self.instance, &self.metrics)?;
        let upstreams = Arc::new(upstreams.inherit_state(&self.checks.upstreams()));
        let live = LiveSettings::new(config, upstreams.clone())?;
        self.live.store(Arc::new(live));
        self.checks.reconfigure(upstreams);
        self.wan.reconfigure(config);
        Ok(())
    }

    /// Keeps an equal part of the configured limits, which `processes` processes share.
    pub(super) fn share_limits(&self, config: &Config, processes: u32) {
        self.wan.reconfigure(&config.divide_limits(processes));
    }

    /// Returns the task of the WAN limiter, which never ends.
    pub(super) fn run_limiter(&self) -> impl Future<Output = ()> + Send + 'static {
        let wan = self.wan.clone();
        async move { wan.run().await }
    }

    /// Locks the counts.
    pub(super) fn stats(&self) -> MutexGuard<'_, GuardStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        connection: &mut ClientConnection,
    ) -> (Response<GuardBody>, GuardResponse) {
        let live = self.live.load_full();
        let (head, body) = request.into_parts();
        if connection.identify_client(&head.headers).is_err() {
            return (refused(Refusal::ClientAddress), GuardResponse::Refused);
        }
        let is_gateway = connection.listener().is_gateway();
        let is_plain = matches!(head.method, Method::GET | Method::HEAD) && body.is_end_stream();
        if is_gateway && !is_plain {
            return (refused(Refusal::NotContent), GuardResponse::Refused);
        }
        if forwarding::is_final_recipient(&head.method, &head.uri, &head.headers) {
            return (with_allow(StatusCode::NO_CONTENT, ""), GuardResponse::Refused);
        }
        let mut target = match live.parse_target(&head, connection) {
            Ok(target) => target,
            Err(refusal) => return (refused(refusal), GuardResponse::Refused),
        };
        let client = ClientAttributes::new(connection.address.ip(), target.normalized.path())
            .with_names(connection.certificate_names())
            .with_listener(connection.listener().name());
        let group = live.policy.group(&client);
        let classification = live.policy.classify(&target.route, target.normalized.path());
        if is_gateway && !classification.class.is_content() {
            return (refused(Refusal::NotContent), GuardResponse::Refused);
        }
        if let Some(binding) = &group.binding {
            target.bind(binding, classification.class);
        }
        if let Some(status) = live.policy.denial_status(group, &target.route, &classification) {
            let message = "gupd: the policy of this site blocks this content type for this client\n";
            return (text(status, message), GuardResponse::Refused);
        }
        if !(connection.is_permitted() && target.route.access.permits(connection.address.ip())) {
            return (refused(Refusal::ClientDenied), GuardResponse::Refused);
        }
        if let Err(closed) = target.route.check_pass(&head.method, &classification) {
            return (refused(closed.into()), GuardResponse::Refused);
        }
        match target.route.fallback.unwrap_or(live.answer) {
            // A client beyond the site cannot reach the manager.
            Fallback::Redirect if !target.is_proxied && !is_gateway => live.redirect(&target),
            Fallback::Redirect | Fallback::Relay => {
                self.pass_through(&live, &target, head, body, (connection, &group.name)).await
            }
        }
    }

    /// Relays a permitted request, and rewrites locations in the response.
    async fn pass_through(
        &self,
        live: &LiveSettings,
        target: &Target,
        mut head: Parts,
        body: Incoming,
        (connection, group): (&ClientConnection, &str),
    ) -> (Response<GuardBody>, GuardResponse) {
        let original = std::mem::take(&mut head.headers);
        head.headers = forwarding::prepare_passthrough(
            &original,
            head.version,
            connection.sender,
            live.upstreams.instance(),
        );
        forwarding::decrement_max_forwards(&head.method, &mut head.headers);
        let max_upload = target.route.max_upload;
        let body = RequestBody::streamed(body, live.stall_timeout, max_upload, None);
        if body.announced_bytes() > max_upload {
            return (refused(Refusal::UploadTooLarge), GuardResponse::Refused);
        }
        let client = RelayedClient {
            address: connection.address.ip(),
            group,
            pin: connection.pin(&original).cloned(),
        };
        let (mut response, kind) = self.relay(live, target, head, body, client).await;
        let relocation = Relocation {
            policy: &live.policy,
            upstreams: &live.upstreams,
            target,
            request: &original,
            connection,
        };
        relocation.rewrite(response.headers_mut());
        (response, kind)
    }

    async fn relay(
        &self,
        live: &LiveSettings,
        target: &Target,
        head: Parts,
        body: RequestBody,
        client: RelayedClient<'_>,
    ) -> (Response<GuardBody>, GuardResponse) {
        let classification = live.policy.classify(&target.route, target.normalized.path());
        let bandwidth = self.wan.bandwidth_class(
            target.normalized.path(),
            &classification,
            Some((client.address, client.group)),
            Purpose::Client,
        );
        let request = UpstreamRequest {
            method: head.method,
            target: target.original.clone(),
            headers: head.headers,
            field_names: FieldNames::taken(head.extensions),
            body,
            bandwidth,
            current_upstream: CurrentUpstream::default(),
            client: None,
            pin: client.pin,
            labels: TransferLabels::default(),
            tier_key: None,
        };
        match live.upstreams.send(target.upstreams(), &request).await {
            Ok(answer) if answer.response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                // The client would give this relay its credentials for a proxy.
                let message = "gupd: no usable response from the upstream\n";
                (text(StatusCode::BAD_GATEWAY, message), GuardResponse::Unavailable)
            }
            Ok(response) => (self.pass_on(response, live.idle_timeout), GuardResponse::Relay),
            Err(UpstreamError::Client { fault: RequestBodyFault::TooLarge, .. }) => {
                (refused(Refusal::UploadTooLarge), GuardResponse::Refused)
            }
            Err(UpstreamError::Client { fault: RequestBodyFault::Broken, .. }) => {
                let message = "gupd: the request body broke off or has invalid chunks\n";
                (text(StatusCode::BAD_REQUEST, message), GuardResponse::Refused)
            }
            Err(UpstreamError::Client { .. }) => {
                let message = "gupd: the request body did not arrive in time\n";
                (text(StatusCode::REQUEST_TIMEOUT, message), GuardResponse::Unavailable)
            }
            Err(error) => {
                tracing::warn!(%error, "guard could not relay a request: no upstream answered");
                (unavailable(), GuardResponse::Unavailable)
            }
        }
    }

    fn pass_on(&self, upstream: UpstreamResponse, idle_timeout: Duration) -> Response<GuardBody> {
        let (mut head, body) = upstream.response.into_parts();
        forwarding::prepare_response(&mut head.headers, head.version);
        let body = if body.is_end_stream() {
            empty()
        } else {
            let pieces = stream_body(body, idle_timeout);
            StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        *response.extensions_mut() = FieldNames::taken(head.extensions).into_extensions();
        response
    }
}

impl listen::RequestHandler for FallbackService {
    type Body = GuardBody;

    async fn handle_request(
        &self,
        request: Request<Incoming>,
        mut connection: ClientConnection,
    ) -> Response<GuardBody> {
        let logged = self.live.load().access_log.then(|| (request.method().clone(), request.uri().clone()));
        let (response, kind) = self.respond(request, &mut connection).await;
        self.stats().count_response(kind);
        if let Some((method, target)) = logged {
            tracing::info!(
                target: "gupd::access",
                client = %connection.address.ip().to_canonical(),
                method = method.as_str(),
                path = target.path_and_query().map_or("", |target| target.as_str()),
                status = response.status().as_u16(),
                guard = kind.as_str(),
            );
        }
        response
    }
}

impl LiveSettings {
    fn parse_target(&self, head: &Parts, connection: &ClientConnection) -> Result<Target, Refusal> {
        if self.upstreams.instance().has_passed(&head.headers) {
            return Err(Refusal::Loop);
        }
        let rules = TargetRules {
            policy: &self.policy,
            is_upstream: &|scheme, authority| self.upstreams.has_authority(scheme, authority),
            max_uri_bytes: self.max_uri_bytes,
            own: OwnAddresses {
                local: connection.local,
                listen: &self.listen,
                public_names: &self.public_names,
            },
        };
        Target::parse(&head.method, &head.uri, head.version, &head.headers, &rules)
    }

    fn new(config: &Config, upstreams: Arc<Upstreams>) -> Result<Self, SetupError> {
        Ok(Self {
            public: PublicUrls::new(config),
            policy: Policy::new(config)?,
            upstreams,
            answer: config.guard.answer,
            max_uri_bytes: config.server.max_uri_bytes,
            listen: config.server.listen.clone(),
            public_names: config.server.public_names.clone(),
            stall_timeout: config.server.stall_timeout,
            idle_timeout: config.fill.idle_timeout,
            access_log: config.log.access,
        })
    }

    /// Redirects to the healthy manager of the highest priority.
    fn redirect(&self, target: &Target) -> (Response<GuardBody>, GuardResponse) {
        let location = self.public.redirect_location(&self.upstreams, target);
        let Some(location) = location else { return (unavailable(), GuardResponse::Unavailable) };
        let mut response = text(StatusCode::TEMPORARY_REDIRECT, "");
        response.headers_mut().insert(header::LOCATION, location);
        (response, GuardResponse::Redirect)
    }
}

fn build_upstreams(
    config: &Config,
    wan: &Arc<WanLimiter>,
    instance: &Arc<RelayInstance>,
    metrics: &Arc<NetMetrics>,
) -> Result<Upstreams, SetupError> {
    let upstreams = Upstreams::new(config, Clock::system(), wan.clone(), metrics.clone())?;
    Ok(upstreams.with_instance(instance.clone()).with_max_read(MAX_READ))
}
