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
use gupd_config::policy::{Client, Policy};
use gupd_config::{Config, Fallback};
use gupd_http::instance::Instance;
use gupd_net::forward::{self, Bounds, PublicUrls, Refusal, Target, fields};
use gupd_net::listen::{self, Peer};
use gupd_net::metrics::NetMetrics;
use gupd_net::shape::{Purpose, Wan};
use gupd_net::upstream::health::{self, Checks};
use gupd_net::upstream::{Answer, Asking, Outgoing, RequestBody, UpstreamError, Upstreams};

/// Bytes of a response's head, or of a piece of its body, in memory for each client: of the little that the guard may
/// have.
const MAX_READ: usize = 8 << 10;

/// Answers requests in a worker's place.
#[derive(Debug)]
pub(super) struct Answers {
    live: ArcSwap<Live>,
    checks: Checks,
    wan: Arc<Wan>,
    instance: Arc<Instance>,
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
    ) -> Result<(Self, health::Task), GuardError> {
        let wan = Arc::new(Wan::new(config, Clock::system()));
        let instance = Arc::<Instance>::default();
        let upstreams = Arc::new(upstreams(config, &wan, &instance, &metrics)?);
        let (checks, checking) = Checks::new(upstreams.clone());
        let live = ArcSwap::from_pointee(Live::new(config, upstreams)?);
        Ok((Self { live, checks, wan, instance, metrics, figures: Mutex::new(figures) }, checking))
    }

    /// As another one says, for requests to come.
    ///
    /// # Errors
    /// When it cannot be used; the old one stays.
    pub(super) fn reconfigure(&self, config: &Config) -> Result<(), GuardError> {
        let upstreams = upstreams(config, &self.wan, &self.instance, &self.metrics)?;
        let upstreams = Arc::new(upstreams.succeeding(&self.checks.upstreams()));
        let live = Live::new(config, upstreams.clone())?;
        self.live.store(Arc::new(live));
        self.checks.reconfigure(upstreams);
        self.wan.reconfigure(config);
        Ok(())
    }

    /// Keeps the limits of a configuration together with others, so many processes in all.
    pub(super) fn share(&self, config: &Config, processes: u32) {
        self.wan.reconfigure(&config.part_of_limits(processes));
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
        peer: &Peer,
    ) -> (Response<ResponseBody>, Answered) {
        let live = self.live.load_full();
        let (head, body) = request.into_parts();
        if forward::ends_here(&head.method, &head.uri, &head.headers) {
            return (allowed(StatusCode::NO_CONTENT, ""), Answered::Refused);
        }
        let bounds = Bounds {
            policy: &live.policy,
            upstreams: &live.upstreams,
            max_uri_bytes: live.max_uri_bytes,
            local: peer.local,
        };
        if live.upstreams.instance().has_passed(&head.headers) {
            return (refused(Refusal::Loop), Answered::Refused);
        }
        let mut target = match Target::of(&head.method, &head.uri, head.version, &head.headers, &bounds) {
            Ok(target) => target,
            Err(refusal) => return (refused(refusal), Answered::Refused),
        };
        let client = Client::new(peer.address.ip(), target.normal.path()).with_names(peer.names());
        let group = live.policy.group(&client);
        target.bind(group, &live.policy);
        if let Some(denied) = live.policy.denied(group, &target.route, target.normal.path()) {
            let sentence = "gupd: the policy of this site does not give this content to this client\n";
            return (text(denied.status, sentence), Answered::Refused);
        }
        match target.route.fallback.unwrap_or(live.answer) {
            Fallback::Redirect if !target.proxied => live.redirect(&target),
            Fallback::Redirect | Fallback::Relay => {
                let mut headers = fields::for_upstream(
                    &head.headers,
                    head.version,
                    peer.address,
                    live.upstreams.instance(),
                );
                forward::count_down(&head.method, &mut headers);
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
        let classified = live.policy.classify(&target.route, target.normal.path());
        let lane = self.wan.lane(target.normal.path(), &classified, Some(group), Purpose::Waited);
        let outgoing = Outgoing {
            method,
            target: target.spelled.clone(),
            headers,
            body,
            lane,
            asking: Asking::default(),
        };
        match live.upstreams.ask(target.upstreams(), &outgoing).await {
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

    fn pass_on(&self, answer: Answer, idle_timeout: Duration) -> Response<ResponseBody> {
        let received = self.metrics.upstream_bytes.with_label_values(&[&*answer.upstream.name]);
        let (mut head, body) = answer.response.into_parts();
        fields::for_client(&mut head.headers, head.version);
        let body = if body.is_end_stream() {
            empty()
        } else {
            let pieces = forward::pieces(body, idle_timeout, received);
            StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response
    }
}

impl listen::Answers for Answers {
    type Body = ResponseBody;

    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<ResponseBody> {
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
        let place = self.public.location(&self.upstreams, target);
        let Some(place) = place else { return (unavailable(), Answered::Unavailable) };
        let mut response = text(StatusCode::TEMPORARY_REDIRECT, "");
        response.headers_mut().insert(header::LOCATION, place);
        (response, Answered::Redirect)
    }
}

fn upstreams(
    config: &Config,
    wan: &Arc<Wan>,
    instance: &Arc<Instance>,
    metrics: &Arc<NetMetrics>,
) -> Result<Upstreams, GuardError> {
    let upstreams = Upstreams::new(config, Clock::system(), wan.clone(), metrics.clone())?;
    Ok(upstreams.on_behalf_of(instance.clone()).reading_at_most(MAX_READ))
}
