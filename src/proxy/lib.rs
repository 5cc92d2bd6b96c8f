//! Leads a request through its stages: target, route, group, what it is denied, its windows, a place, look-up, then a
//! hit, a fill to follow, or the manager itself. Owns the order of these steps and nothing else; each stage has its file.
//! Nothing here knows sockets or threads.

mod absent;
pub mod access;
mod arrivals;
pub mod body;
mod bound;
mod catalog;
mod circle;
mod denied;
mod errand;
mod generation;
pub mod metrics;
mod news;
mod origin;
mod passthrough;
mod peers;
mod place;
mod repair;
mod reply;
mod respond;
mod shaped;
mod shared;
mod turn;
mod view;

use std::sync::Arc;

use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;

pub use self::absent::Absentees;
pub use self::arrivals::{Arrivals, Arrived};
pub use self::body::ResponseBody;
pub use self::catalog::{Candidate, Unanswered};
pub use self::errand::Fetched;
pub use self::generation::{Generation, Generations};
pub use self::news::News;
pub use self::origin::Irretrievable;
use self::reply::Reply;
use self::shaped::Shaped;
use crate::access::Access;
use crate::metrics::RequestMetrics;
use gupd_cache::Cache;
use gupd_cache::fill::Fills;
use gupd_config::Class;
use gupd_config::policy::{Classification, ClientAttributes, FirstSeen, Group};
use gupd_http::conditional;
use gupd_http::control::Directive;
use gupd_http::forwarding;
pub use gupd_http::refusal::Refusal;
use gupd_http::status::CacheStatus;
use gupd_http::target::{Target, TargetRules};
use gupd_http::{CacheControl, Verdict};
use gupd_net::listen::{ClientConnection, RequestHandler};
use gupd_net::redirect::{DrainMode, DrainState};
use gupd_net::shape::{BandwidthClass, LanLimiter, Purpose, SlotLimiter};
use gupd_net::upstream::RequestBody;
use gupd_rollout::engine::Rollouts;

/// Answers requests. One for the whole relay.
#[derive(Debug)]
pub struct Proxy {
    generations: Arc<Generations>,
    cache: Arc<Cache>,
    fills: Fills,
    news: News,
    arrivals: Arrivals,
    absentees: Absentees,
    first_seen: FirstSeen,
    rollouts: Rollouts,
    lan: Arc<LanLimiter>,
    places: Arc<SlotLimiter>,
    metrics: Arc<RequestMetrics>,
    drain: Arc<DrainState>,
}

/// What was asked, as every stage needs it.
struct Asked<'a> {
    method: &'a Method,
    headers: &'a HeaderMap,
    version: Version,
    peer: &'a ClientConnection,
    control: CacheControl,
    target: &'a Target,
    group: &'a Arc<Group>,
    generation: &'a Arc<Generation>,
}

impl Proxy {
    /// A proxy over this cache and these fills.
    pub fn new(
        generations: Arc<Generations>,
        cache: Arc<Cache>,
        fills: Fills,
        rollouts: Rollouts,
        lan: Arc<LanLimiter>,
        places: Arc<SlotLimiter>,
        metrics: Arc<RequestMetrics>,
    ) -> Self {
        for refusal in Refusal::ALL {
            metrics.refused.with_label_values(&[refusal.as_str()]);
        }
        expect_groups(&generations.load(), &metrics);
        let expecting = metrics.clone();
        generations.follow(move |generation| expect_groups(generation, &expecting));
        Self {
            generations,
            cache,
            fills,
            news: News::default(),
            arrivals: Arrivals::default(),
            absentees: Absentees::default(),
            first_seen: FirstSeen::new(),
            rollouts,
            lan,
            places,
            metrics,
            drain: Arc::default(),
        }
    }

    /// The configuration that requests are answered by.
    pub fn generations(&self) -> &Arc<Generations> {
        &self.generations
    }

    /// Whether clients are to go elsewhere.
    pub fn drain(&self) -> &Arc<DrainState> {
        &self.drain
    }

    /// The running fills.
    pub fn fills(&self) -> &Fills {
        &self.fills
    }

    /// Answers one request. Never fails: what goes wrong becomes a status, or a broken body.
    pub async fn handle(&self, request: Request<Incoming>, peer: ClientConnection) -> Response<ResponseBody> {
        let generation = self.generations.load();
        let (head, body) = request.into_parts();
        let mut access = Access::new(
            peer.address,
            &head.method,
            &head.uri,
            self.metrics.clone(),
            generation.config.log.access,
        );
        let bounds = TargetRules {
            policy: &generation.policy,
            is_upstream: &|scheme, authority| generation.upstreams.has_authority(scheme, authority),
            max_uri_bytes: generation.config.server.max_uri_bytes,
            local: peer.local,
        };
        if forwarding::is_final_recipient(&head.method, &head.uri, &head.headers) {
            return self.respond(Reply::options(), &head.method, access, &generation, &peer, None);
        }
        // Before anything that it could wait for, or that waits for it.
        let target = if generation.upstreams.instance().has_passed(&head.headers) {
            Err(Refusal::Loop)
        } else {
            Target::parse(&head.method, &head.uri, head.version, &head.headers, &bounds)
        };
        let mut known = None;
        let reply = match target {
            Err(refusal) => self.refuse(refusal),
            Ok(mut target) => {
                let client = ClientAttributes::new(peer.address.ip(), target.normalized.path())
                    .with_names(peer.certificate_names());
                let group = *known.insert(generation.policy.group(&client));
                target.bind(group, &generation.policy);
                let asked = Asked {
                    method: &head.method,
                    headers: &head.headers,
                    version: head.version,
                    peer: &peer,
                    control: CacheControl::from_request(&head.headers),
                    target: &target,
                    group,
                    generation: &generation,
                };
                if let Some(reply) = self.denied(&asked) {
                    access.observer = self.observer_of_denial(&asked);
                    return self.respond(reply, &head.method, access, &generation, &peer, known);
                }
                if self.drain.get() == DrainMode::Redirecting
                    && !target.is_proxied
                    && let Some(reply) = self.away(&asked)
                {
                    return self.respond(reply, &head.method, access, &generation, &peer, known);
                }
                // What is off the hit path is boxed, so that a hit's future stays small.
                if generation.rollout.have_rings() {
                    let (reply, observer) = Box::pin(self.in_view(&asked, body)).await;
                    access.observer = observer;
                    reply
                } else if self.may_wait(&asked) {
                    Box::pin(self.in_turn(&asked, body)).await
                } else if let Some(reply) = self.hit(&asked).await {
                    reply
                } else {
                    Box::pin(self.look_further(&asked, body)).await
                }
            }
        };
        self.respond(reply, &head.method, access, &generation, &peer, known)
    }

    fn refuse(&self, refusal: Refusal) -> Reply {
        self.metrics.refused.with_label_values(&[refusal.as_str()]).inc();
        refusal.into()
    }

    /// The way to the manager; `None` if none is well, and the relay may still help.
    fn away(&self, asked: &Asked<'_>) -> Option<Reply> {
        let place = asked.generation.public.redirect_location(&asked.generation.upstreams, asked.target)?;
        let mut reply = Reply::text(StatusCode::TEMPORARY_REDIRECT, "");
        reply.headers_mut().insert(header::LOCATION, place);
        let classified =
            asked.generation.policy.classify(&asked.target.route, asked.target.normalized.path());
        Some(reply.told(CacheStatus::Redirected, &classified, None))
    }

    fn respond(
        &self,
        reply: Reply,
        method: &Method,
        access: Access,
        generation: &Generation,
        peer: &ClientConnection,
        group: Option<&Arc<Group>>,
    ) -> Response<ResponseBody> {
        let client = peer.address.ip();
        // What has no target has no path either.
        let group = || {
            group.unwrap_or_else(|| {
                generation
                    .policy
                    .group(&ClientAttributes::new(client, "").with_names(peer.certificate_names()))
            })
        };
        let shaped = || Shaped::new(self.lan.clone(), client, group().clone());
        reply.into_response(method, access, shaped, self.lan.is_limited())
    }

    /// Whether windows or counts may hold this request up: without any, one look at two flags.
    fn may_wait(&self, asked: &Asked<'_>) -> bool {
        asked.group.has_schedule() || self.may_be_counted(asked)
    }

    /// Answers a request in its client's turn, and in its place among downloads.
    async fn in_turn(&self, asked: &Asked<'_>, body: Incoming) -> Reply {
        match self.before_its_turn(asked).await {
            Some(reply) if self.may_be_counted(asked) => self.with_place(asked, reply, None).await,
            Some(reply) => reply,
            None => self.in_place(asked, body).await,
        }
    }

    /// Answers a request in its place among downloads, where these are counted.
    async fn in_place(&self, asked: &Asked<'_>, body: Incoming) -> Reply {
        if !self.may_be_counted(asked) {
            return self.look_up(asked, body).await;
        }
        match self.before_its_download(asked).await {
            Ok(place) => {
                let reply = self.look_up(asked, body).await;
                self.with_place(asked, reply, place).await
            }
            Err(refused) => refused,
        }
    }

    async fn look_up(&self, asked: &Asked<'_>, body: Incoming) -> Reply {
        match self.hit(asked).await {
            Some(reply) => reply,
            None => self.look_further(asked, body).await,
        }
    }

    /// The hit path: a fresh response whose head is in memory.
    async fn hit(&self, asked: &Asked<'_>) -> Option<Reply> {
        if !asked.is_cacheable() {
            return None;
        }
        let entry = self.cache.find_hot(&asked.target.key(), asked.headers)?;
        if asked.is_said_to_others(&entry) {
            return None;
        }
        let verdict = entry.freshness.evaluate(self.cache.clock().now(), &asked.control);
        if verdict != Verdict::Fresh {
            return None;
        }
        let reply = respond::stored(self, asked, &entry).await.ok()?;
        Some(reply.told(CacheStatus::Hit, &entry.classified, Some(entry.object.blob)))
    }

    async fn look_further(&self, asked: &Asked<'_>, body: Incoming) -> Reply {
        let Asked { target, generation, .. } = asked;
        let classified = generation.policy.classify(&target.route, target.normalized.path());
        let body = RequestBody::streamed(body, generation.config.server.stall_timeout);
        if !asked.is_cacheable() {
            let mut reply = passthrough::pass(asked, body).await;
            if !asked.method.is_safe()
                && !reply.status().is_client_error()
                && !reply.status().is_server_error()
            {
                passthrough::invalidate(&self.cache, &self.fills, asked, reply.headers_mut()).await;
            }
            return reply.told(CacheStatus::Method, &classified, None);
        }
        if classified.class == Class::Private || !matches!(body, RequestBody::Empty) {
            if asked.control.has(Directive::OnlyIfCached) {
                return shared::only_if_cached(&classified);
            }
            let reply = passthrough::pass(asked, body).await;
            return reply.told(CacheStatus::Bypass, &classified, None);
        }
        self.shared(asked, &classified).await
    }
}

/// Has the series of what groups may be denied or deferred exist before they count.
fn expect_groups(generation: &Generation, metrics: &RequestMetrics) {
    for group in generation.policy.groups().filter(|group| group.has_schedule()) {
        metrics.deferred.with_label_values(&[&group.name]);
    }
    for (group, content_type) in generation.policy.denial_labels() {
        metrics.denied.with_label_values(&[&*group.name, content_type]);
    }
}

impl RequestHandler for Proxy {
    type Body = ResponseBody;

    fn handle_request(
        &self,
        request: Request<Incoming>,
        peer: ClientConnection,
    ) -> impl Future<Output = Response<ResponseBody>> + Send {
        self.handle(request, peer)
    }
}

impl Asked<'_> {
    fn is_cacheable(&self) -> bool {
        matches!(*self.method, Method::GET | Method::HEAD)
    }

    /// Which limits bytes from upstreams pass that are fetched for this request.
    fn bandwidth_class(&self, classified: &Classification, purpose: Purpose) -> BandwidthClass {
        let wan = self.generation.upstreams.wan();
        wan.bandwidth_class(self.target.normalized.path(), classified, Some(&self.group.name), purpose)
    }

    fn is_head(&self) -> bool {
        *self.method == Method::HEAD
    }

    /// Ranges are defined for GET alone (RFC 9110 §14.2), and only for the content that `If-Range` names.
    fn wants_range(&self, content: &HeaderMap) -> bool {
        *self.method == Method::GET
            && self.headers.contains_key(header::RANGE)
            && conditional::is_range_applicable(self.headers, content)
    }
}
