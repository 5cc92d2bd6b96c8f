//! What a client gets while no worker serves: a redirect to its manager, by group or route, or the manager's answer,
//! passed on uncached; always that if the guard is its proxy, which a redirect would lead back to. Takes the same targets
//! as the proxy and refuses the same; a client whose manager does not answer is told when to come back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::TryStreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;

use super::response::{ResponseBody, allowed, empty, refused, text, unavailable};
use super::setup::GuardError;
use crate::metrics::{Answered, Figures};
use gupd_config::Clock;
use gupd_config::policy::{ClientAttributes, Policy};
use gupd_config::{Config, Fallback};
use gupd_http::forwarding;
use gupd_http::instance::RelayInstance;
use gupd_http::refusal::Refusal;
use gupd_http::target::{Target, TargetRules};
use gupd_net::listen::{self, ClientConnection};
use gupd_net::metrics::NetMetrics;
use gupd_net::redirect::PublicUrls;
use gupd_net::shape::{Purpose, WanLimiter};
use gupd_net::upstream::health::{self, HealthChecks};
use gupd_net::upstream::{
    CurrentUpstream, RequestBody, UpstreamError, UpstreamRequest, UpstreamResponse, Upstreams, stream_body,
};

/// Bytes of a response's head, or of a piece of its body, in memory for each client: of the little that the guard may
/// have.
const MAX_READ: usize = 8 << 10;

/// Answers requests in a worker's place.
#[derive(Debug)]
pub(super) struct Answers {
    live: ArcSwap<Live>,
    checks: HealthChecks,
    wan: Arc<WanLimiter>,
    instance: Arc<RelayInstance>,
    metrics: Arc<NetMetrics>,
    // Held to count.
    figures: Mutex<Figures>,
}

/// What a reload may change.
#[derive(Debug)]
struct Live {
    policy: Policy,
    upstreams: Arc<Upstreams>,
    public: PublicUrls,
    answer: Fallback,
    max_uri_bytes: usize,
    stall_timeout: Duration,
    idle_timeout: Duration,
    access_log: bool,
}

impl Answers {
    /// As a configuration says; and what is to run beside, which says which managers are well.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(super) fn new(
        config: &Config,
        metrics: Arc<NetMetrics>,
        figures: Figures,
    ) -> Result<(Self, health::HealthCheckTask), GuardError> {
        let wan = Arc::new(WanLimiter::new(config, Clock::system()));
        let instance = Arc::<RelayInstance>::default();
        let upstreams = Arc::new(upstreams(config, &wan, &instance, &metrics)?);
        let (checks, checking) = HealthChecks::new(upstreams.clone());
        let live = ArcSwap::from_pointee(Live::new(config, upstreams)?);
        Ok((Self { live, checks, wan, instance, metrics, figures: Mutex::new(figures) }, checking))
    }

    /// As another one says, for requests to come.
    ///
    /// # Errors
    /// When it cannot be used; the old one stays.
    pub(super) fn reconfigure(&self, config: &Config) -> Result<(), GuardError> {
        let upstreams = upstreams(config, &self.wan, &self.instance, &self.metrics)?;
        let upstreams = Arc::new(upstreams.inherit_state(&self.checks.upstreams()));
        let live = Live::new(config, upstreams.clone())?;
        self.live.store(Arc::new(live));
        self.checks.reconfigure(upstreams);
        self.wan.reconfigure(config);
        Ok(())
    }

    /// Keeps the limits of a configuration together with others, so many processes in all.
    pub(super) fn share(&self, config: &Config, processes: u32) {
        self.wan.reconfigure(&config.divide_limits(processes));
    }

    /// Keeps the limits of the line. Has no end of its own.
    pub(super) fn keep_limits(&self) -> impl Future<Output = ()> + Send + 'static {
        let wan = self.wan.clone();
        async move { wan.run().await }
    }

    /// The figures, to count in and to read.
    pub(super) fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer_for(
        &self,
        request: Request<Incoming>,
        peer: &ClientConnection,
    ) -> (Response<ResponseBody>, Answered) {
        let live = self.live.load_full();
        let (head, body) = request.into_parts();
        if forwarding::is_final_recipient(&head.method, &head.uri, &head.headers) {
            return (allowed(StatusCode::NO_CONTENT, ""), Answered::Refused);
        }
        let bounds = TargetRules {
            policy: &live.policy,
            is_upstream: &|scheme, authority| live.upstreams.has_authority(scheme, authority),
            max_uri_bytes: live.max_uri_bytes,
            local: peer.local,
        };
        if live.upstreams.instance().has_passed(&head.headers) {
            return (refused(Refusal::Loop), Answered::Refused);
        }
        let mut target = match Target::parse(&head.method, &head.uri, head.version, &head.headers, &bounds) {
            Ok(target) => target,
            Err(refusal) => return (refused(refusal), Answered::Refused),
        };
        let client = ClientAttributes::new(peer.address.ip(), target.normalized.path())
            .with_names(peer.certificate_names());
        let group = live.policy.group(&client);
        let classified = live.policy.classify(&target.route, target.normalized.path());
        if let Some(binding) = &group.binding {
            target.bind(binding, classified.class);
        }
        if let Some(status) = live.policy.denial_status(group, &target.route, &classified) {
            let sentence = "gupd: the policy of this site does not give this content to this client\n";
            return (text(status, sentence), Answered::Refused);
        }
        match target.route.fallback.unwrap_or(live.answer) {
            Fallback::Redirect if !target.is_proxied => live.redirect(&target),
            Fallback::Redirect | Fallback::Relay => {
                let mut headers = forwarding::prepare_passthrough(
                    &head.headers,
                    head.version,
                    peer.address,
                    live.upstreams.instance(),
                );
                forwarding::decrement_max_forwards(&head.method, &mut headers);
                let body = RequestBody::streamed(body, live.stall_timeout);
                self.relay(&live, &target, head.method, headers, body, &group.name).await
            }
        }
    }

    async fn relay(
        &self,
        live: &Live,
        target: &Target,
        method: Method,
        headers: HeaderMap,
        body: RequestBody,
        group: &str,
    ) -> (Response<ResponseBody>, Answered) {
        let classified = live.policy.classify(&target.route, target.normalized.path());
        let bandwidth =
            self.wan.bandwidth_class(target.normalized.path(), &classified, Some(group), Purpose::Client);
        let outgoing = UpstreamRequest {
            method,
            target: target.original.clone(),
            headers,
            body,
            bandwidth,
            current_upstream: CurrentUpstream::default(),
        };
        match live.upstreams.send(target.upstreams(), &outgoing).await {
            Ok(answer) => (self.pass_on(answer, live.idle_timeout), Answered::Relay),
            Err(UpstreamError::Client { .. }) => {
                let sentence = "gupd: the request's body did not arrive\n";
                (text(StatusCode::REQUEST_TIMEOUT, sentence), Answered::Unavailable)
            }
            Err(error) => {
                tracing::warn!(%error, "no upstream answers a client of the guard");
                (unavailable(), Answered::Unavailable)
            }
        }
    }

    fn pass_on(&self, answer: UpstreamResponse, idle_timeout: Duration) -> Response<ResponseBody> {
        let received = self.metrics.upstream_bytes.with_label_values(&[&*answer.upstream.name]);
        let (mut head, body) = answer.response.into_parts();
        forwarding::prepare_response(&mut head.headers, head.version);
        let body = if body.is_end_stream() {
            empty()
        } else {
            let pieces = stream_body(body, idle_timeout, received);
            StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response
    }
}

impl listen::RequestHandler for Answers {
    type Body = ResponseBody;

    async fn handle_request(
        &self,
        request: Request<Incoming>,
        peer: ClientConnection,
    ) -> Response<ResponseBody> {
        let asked = self.live.load().access_log.then(|| (request.method().clone(), request.uri().clone()));
        let (response, answered) = self.answer_for(request, &peer).await;
        self.figures().answered(answered);
        if let Some((method, target)) = asked {
            tracing::info!(
                target: "gupd::access",
                client = %peer.address.ip().to_canonical(),
                method = method.as_str(),
                path = target.path_and_query().map_or("", |target| target.as_str()),
                status = response.status().as_u16(),
                guard = answered.as_str(),
            );
        }
        response
    }
}

impl Live {
    fn new(config: &Config, upstreams: Arc<Upstreams>) -> Result<Self, GuardError> {
        Ok(Self {
            public: PublicUrls::new(config),
            policy: Policy::new(config)?,
            upstreams,
            answer: config.guard.answer,
            max_uri_bytes: config.server.max_uri_bytes,
            stall_timeout: config.server.stall_timeout,
            idle_timeout: config.fill.idle_timeout,
            access_log: config.log.access,
        })
    }

    /// To the manager that goes first of those that are well.
    fn redirect(&self, target: &Target) -> (Response<ResponseBody>, Answered) {
        let place = self.public.redirect_location(&self.upstreams, target);
        let Some(place) = place else { return (unavailable(), Answered::Unavailable) };
        let mut response = text(StatusCode::TEMPORARY_REDIRECT, "");
        response.headers_mut().insert(header::LOCATION, place);
        (response, Answered::Redirect)
    }
}

fn upstreams(
    config: &Config,
    wan: &Arc<WanLimiter>,
    instance: &Arc<RelayInstance>,
    metrics: &Arc<NetMetrics>,
) -> Result<Upstreams, GuardError> {
    let upstreams = Upstreams::new(config, Clock::system(), wan.clone(), metrics.clone())?;
    Ok(upstreams.with_instance(instance.clone()).with_max_read(MAX_READ))
}
