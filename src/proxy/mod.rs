//! Leads a request through its stages: target, route, look-up, then a hit, a fill to follow, or the manager itself.
//! Owns the order of these steps and nothing else; each stage has its file. Nothing here knows sockets or threads.

pub mod body;
pub mod conditional;
pub mod fields;
pub mod multipart;
mod passthrough;
pub mod range;
mod reach;
mod refusal;
mod reply;
mod respond;
mod target;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;

pub use self::body::ResponseBody;
pub use self::refusal::Refusal;
use self::reply::Reply;
use self::target::{Bounds, Target};
use crate::cache::control::Directive;
use crate::cache::freshness::Why;
use crate::cache::status::{CacheStatus, Forward, Outcome};
use crate::cache::{Cache, CacheControl, Entry, Found, Unstorable, Verdict};
use crate::config::{Class, Config};
use crate::fill::{self, FillError, Fills, Handover, Joined, TransferError, Unshared, Wanted};
use crate::policy::{Classified, Policy};
use crate::telemetry::Metrics;
use crate::telemetry::access::Access;
use crate::upstream::{RequestBody, Upstreams};

/// How often one request is looked up again: after its variant became known, a damaged blob was discarded, or content
/// changed while it waited. Each of these is rare; more than this many in a row is an upstream that never settles.
const MAX_LOOKUPS: usize = 4;

/// What a reload may change.
#[derive(Debug)]
pub struct Live {
    policy: Policy,
    upstreams: Arc<Upstreams>,
    max_uri_bytes: usize,
    stall_timeout: Duration,
    idle_timeout: Duration,
    access_log: bool,
}

/// A client's end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client.
    pub address: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
}

/// Answers requests. One for the whole relay.
#[derive(Debug)]
pub struct Proxy {
    live: ArcSwap<Live>,
    cache: Arc<Cache>,
    fills: Fills,
    metrics: Arc<Metrics>,
}

/// What was asked, as every stage needs it.
struct Asked<'a> {
    method: &'a Method,
    headers: &'a HeaderMap,
    version: Version,
    peer: Peer,
    control: CacheControl,
}

impl Live {
    /// The reloadable part of a configuration.
    pub fn new(config: &Config, policy: Policy, upstreams: Arc<Upstreams>) -> Self {
        Self {
            policy,
            upstreams,
            max_uri_bytes: config.server.max_uri_bytes,
            stall_timeout: config.server.stall_timeout,
            idle_timeout: config.fill.idle_timeout,
            access_log: config.log.access,
        }
    }
}

impl Proxy {
    /// A proxy over this cache and these fills.
    pub fn new(live: Live, cache: Arc<Cache>, fills: Fills, metrics: Arc<Metrics>) -> Self {
        for refusal in Refusal::ALL {
            metrics.refused.with_label_values(&[refusal.as_str()]);
        }
        Self { live: ArcSwap::from_pointee(live), cache, fills, metrics }
    }

    /// Takes new routes, rules and upstreams; requests under way keep the old ones.
    pub fn reconfigure(&self, live: Live) {
        self.live.store(Arc::new(live));
    }

    /// The running fills.
    pub fn fills(&self) -> &Fills {
        &self.fills
    }

    /// Answers one request. Never fails: what goes wrong becomes a status, or a broken body.
    pub async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<ResponseBody> {
        let live = self.live.load();
        let (head, body) = request.into_parts();
        let access =
            Access::new(peer.address, &head.method, &head.uri, self.metrics.clone(), live.access_log);
        let asked = Asked {
            method: &head.method,
            headers: &head.headers,
            version: head.version,
            peer,
            control: CacheControl::of_request(&head.headers),
        };
        let bounds = Bounds {
            policy: &live.policy,
            upstreams: &live.upstreams,
            max_uri_bytes: live.max_uri_bytes,
            local: peer.local,
        };
        if let Some(reply) = reach::ends_here(&head.method, &head.uri, &head.headers) {
            return reply.into_response(&head.method, access);
        }
        let reply = match Target::of(&head.method, &head.uri, head.version, &head.headers, &bounds) {
            Err(refusal) => {
                self.metrics.refused.with_label_values(&[refusal.as_str()]).inc();
                refusal.into()
            }
            Ok(target) => match self.hit(&asked, &target).await {
                Some(reply) => reply,
                // Off the hit path; boxed, so that a hit's future stays small.
                None => Box::pin(self.look_further(&asked, &target, body, &live)).await,
            },
        };
        reply.into_response(&head.method, access)
    }

    /// The hit path: a fresh response whose head is in memory.
    async fn hit(&self, asked: &Asked<'_>, target: &Target) -> Option<Reply> {
        if !asked.is_cacheable() {
            return None;
        }
        let entry = self.cache.find_hot(&target.key(), asked.headers)?;
        let verdict = entry.freshness.judge(self.cache.clock().now(), &asked.control);
        if verdict != Verdict::Fresh {
            return None;
        }
        let reply = respond::stored(asked, &self.cache, &entry).await.ok()?;
        Some(reply.told(CacheStatus::Hit, &entry.classified, Some(entry.object.blob)))
    }

    async fn look_further(
        &self,
        asked: &Asked<'_>,
        target: &Target,
        body: Incoming,
        live: &Arc<Live>,
    ) -> Reply {
        let classified = live.policy.classify(&target.route, target.normal.path());
        let body = RequestBody::streamed(body, live.stall_timeout);
        if !asked.is_cacheable() {
            let mut reply = passthrough::pass(asked, target, body, live, &self.metrics).await;
            if !asked.method.is_safe()
                && !reply.status().is_client_error()
                && !reply.status().is_server_error()
            {
                passthrough::invalidate(&self.cache, &self.fills, target, reply.headers_mut()).await;
            }
            return reply.told(CacheStatus::Method, &classified, None);
        }
        if classified.class == Class::Private || !matches!(body, RequestBody::Empty) {
            let reply = passthrough::pass(asked, target, body, live, &self.metrics).await;
            return reply.told(CacheStatus::Bypass, &classified, None);
        }
        self.shared(asked, target, &classified, live).await
    }

    /// A request whose response may come from the store, or be for everyone.
    async fn shared(
        &self,
        asked: &Asked<'_>,
        target: &Target,
        classified: &Classified,
        live: &Arc<Live>,
    ) -> Reply {
        let key: Arc<str> = Arc::from(target.key());
        let mut variant = String::new();
        let mut forward = Forward::UriMiss;
        for _ in 0..MAX_LOOKUPS {
            let found = match self.cache.find(&key, asked.headers, classified).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::error!(%error, "the index cannot be read; passing through");
                    return self.alone(asked, target, classified, live, forward, Outcome::StoreFailed).await;
                }
            };
            let stale = match found {
                Found::Nothing => None,
                Found::OtherVariant { variant: known } => {
                    variant = known;
                    forward = Forward::VaryMiss;
                    None
                }
                Found::Entry(entry) => {
                    variant.clone_from(&entry.object.selecting);
                    match self.use_stored(asked, target, &entry, live).await {
                        Use::Reply(reply) => return reply,
                        Use::Damaged => continue,
                        Use::Unreadable => {
                            let why = Outcome::StoreFailed;
                            return self.alone(asked, target, classified, live, forward, why).await;
                        }
                        Use::Revalidate(why) => forward = why.into(),
                    }
                    Some(entry)
                }
            };
            if asked.control.has(Directive::OnlyIfCached) {
                let reply = Reply::text(StatusCode::GATEWAY_TIMEOUT, "gupd: not in the store\n");
                return reply.told(CacheStatus::OnlyIfCached, classified, None);
            }
            if asked.control.has(Directive::NoStore) {
                // Nothing of its response may be stored, not even what a 304 says.
                let why = Outcome::NotStored(Unstorable::RequestNoStore);
                return self.alone(asked, target, classified, live, forward, why).await;
            }
            if let (Some(why), None) = (self.why_alone(asked, &key, &variant), &stale) {
                return self.alone(asked, target, classified, live, forward, Outcome::NotStored(why)).await;
            }
            let wanted = self.wanted(asked, target, key.clone(), variant.clone(), classified, stale.clone());
            let joined = self.fills.join(wanted, &live.upstreams);
            match self.follow(asked, joined, forward, classified, live).await {
                Followed::Reply(reply) => return reply,
                Followed::Again { variant: known } => variant = known.unwrap_or(variant),
                Followed::Alone(why) => {
                    return self.alone(asked, target, classified, live, forward, why).await;
                }
                Followed::Failed(error, handover) => {
                    return self.without_upstream(asked, stale, &error, handover, classified, live).await;
                }
            }
        }
        self.alone(asked, target, classified, live, forward, Outcome::StoreFailed).await
    }

    /// Why this request should not wait for a shared response: none will come of it.
    fn why_alone(&self, asked: &Asked<'_>, key: &Arc<str>, variant: &str) -> Option<Unstorable> {
        // A HEAD does not make content worth fetching, but it can be answered from a fill that runs.
        let head = asked.is_head() && self.fills.running(key, variant).is_none();
        if head { Some(Unstorable::Method) } else { self.cache.unstorable(key) }
    }

    /// Answers from a stored response if it may be used as it is.
    async fn use_stored(
        &self,
        asked: &Asked<'_>,
        target: &Target,
        entry: &Arc<Entry>,
        live: &Arc<Live>,
    ) -> Use {
        let classified = &entry.classified;
        let status = match entry.freshness.judge(self.cache.clock().now(), &asked.control) {
            Verdict::Revalidate(why) => return Use::Revalidate(why),
            Verdict::Fresh => CacheStatus::Hit,
            Verdict::StaleWhileRevalidate => {
                let (key, variant) = (entry.object.key.clone(), entry.object.selecting.clone());
                let wanted = self.wanted(asked, target, key, variant, classified, Some(entry.clone()));
                // Its outcome is for later requests.
                let _background = self.fills.join(wanted, &live.upstreams);
                CacheStatus::StaleWhileRevalidate
            }
        };
        match respond::stored(asked, &self.cache, entry).await {
            Ok(reply) => Use::Reply(reply.told(status, classified, Some(entry.object.blob))),
            // The keeper has said what is wrong, and discarded it.
            Err(error) if error.is_about_the_bytes() => Use::Damaged,
            Err(error) => {
                tracing::error!(%error, key = &*entry.object.key, "a stored response cannot be read; passing through");
                Use::Unreadable
            }
        }
    }

    /// Waits for a fill's outcome and answers from it.
    async fn follow(
        &self,
        asked: &Asked<'_>,
        joined: Joined,
        forward: Forward,
        classified: &Classified,
        live: &Live,
    ) -> Followed {
        let (fill, handover) = match joined {
            Joined::Started(fill, handover) => (fill, Some(handover)),
            Joined::Following(fill) => (fill, None),
            Joined::Stored(entry) => return self.answer_stored(asked, &entry, CacheStatus::Hit).await,
        };
        let collapsed = handover.is_none();
        let forwarded = |kept: Result<(), Unstorable>| {
            let fetched = kept.map_or_else(Outcome::NotStored, |()| Outcome::Stored);
            CacheStatus::Forwarded(forward, if collapsed { Outcome::Collapsed } else { fetched })
        };
        match fill.outcome().await {
            fill::Outcome::Content(flow) if !flow.head.selecting.matches(asked.headers) => {
                let known = flow.head.selecting.for_request(asked.headers).encode();
                Followed::Again { variant: Some(known) }
            }
            fill::Outcome::Content(flow) => {
                match respond::following(asked, &self.cache, &fill, &flow).await {
                    Ok(reply) => Followed::Reply(reply.told(forwarded(flow.head.kept), classified, None)),
                    Err(error) => failed(error, handover),
                }
            }
            fill::Outcome::NotModified(entry) => {
                let why = if forward == Forward::Request { Why::Request } else { Why::Stale };
                self.answer_stored(asked, &entry, CacheStatus::Revalidated { why, collapsed }).await
            }
            fill::Outcome::Stored(entry) => self.answer_stored(asked, &entry, forwarded(Ok(()))).await,
            fill::Outcome::Unshared(why) => {
                let outcome = why.into();
                let answer = match handover {
                    // It was asked for whole, as everyone might have had it; a client that wants a part does not.
                    Some(handover) if !asked.headers.contains_key(header::RANGE) => handover.await.ok(),
                    _ => None,
                };
                match answer {
                    Some(answer) => {
                        let reply = passthrough::pass_on(asked.method, answer, live, &self.metrics);
                        let status = CacheStatus::Forwarded(forward, outcome);
                        Followed::Reply(reply.told(status, classified, None))
                    }
                    None => Followed::Alone(outcome),
                }
            }
            fill::Outcome::Failed(error) => failed(error.into(), handover),
        }
    }

    async fn answer_stored(&self, asked: &Asked<'_>, entry: &Entry, status: CacheStatus) -> Followed {
        if !entry.selecting.matches(asked.headers) {
            return Followed::Again { variant: None };
        }
        match respond::stored(asked, &self.cache, entry).await {
            Ok(reply) => Followed::Reply(reply.told(status, &entry.classified, Some(entry.object.blob))),
            Err(_) => Followed::Again { variant: None },
        }
    }

    /// No upstream brought it: what is stored may still do (RFC 5861 §4), else the client is told.
    async fn without_upstream(
        &self,
        asked: &Asked<'_>,
        stale: Option<Arc<Entry>>,
        error: &FillError,
        handover: Option<Handover>,
        classified: &Classified,
        live: &Live,
    ) -> Reply {
        let their_status = match error {
            FillError::ServerError { status, .. } => Some(*status),
            _ => None,
        };
        let now = self.cache.clock().now();
        let usable = stale.filter(|entry| entry.freshness.usable_on_error(now, &asked.control));
        if let Some(entry) = usable
            && let Ok(reply) = respond::stored(asked, &self.cache, &entry).await
        {
            let status = CacheStatus::StaleIfError(their_status);
            return reply.told(status, classified, Some(entry.object.blob));
        }
        // The client that started the fill gets the manager's own error.
        let answer = match (their_status, handover) {
            (Some(_), Some(handover)) => handover.await.ok(),
            _ => None,
        };
        let reply = match answer {
            Some(answer) => passthrough::pass_on(asked.method, answer, live, &self.metrics),
            None => passthrough::failed(error),
        };
        reply.told(CacheStatus::Failed, classified, None)
    }

    /// Asks the manager for this client alone.
    async fn alone(
        &self,
        asked: &Asked<'_>,
        target: &Target,
        classified: &Classified,
        live: &Live,
        forward: Forward,
        why: Outcome,
    ) -> Reply {
        let reply = passthrough::pass(asked, target, RequestBody::Empty, live, &self.metrics).await;
        reply.told(CacheStatus::Forwarded(forward, why), classified, None)
    }

    fn wanted(
        &self,
        asked: &Asked<'_>,
        target: &Target,
        key: Arc<str>,
        variant: String,
        classified: &Classified,
        stale: Option<Arc<Entry>>,
    ) -> Wanted {
        Wanted {
            key,
            variant,
            order: Arc::from(&*target.route.upstreams),
            target: target.spelled.clone(),
            asked: asked.headers.clone(),
            headers: fields::for_fill(asked.headers, asked.version, classified.class),
            classified: classified.clone(),
            stale,
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "returned once a request, never kept")]
enum Use {
    Reply(Reply),
    Revalidate(Why),
    /// It is gone now; look again.
    Damaged,
    /// It may be good, but the disk does not give it.
    Unreadable,
}

enum Followed {
    Reply(Reply),
    /// Look again, now that the variant is known, or what was there is gone.
    Again {
        variant: Option<String>,
    },
    /// The response is for somebody else; ask for oneself.
    Alone(Outcome),
    Failed(FillError, Option<Handover>),
}

impl From<Unshared> for Outcome {
    fn from(why: Unshared) -> Self {
        match why {
            Unshared::Unstorable(why) => Self::NotStored(why),
            Unshared::NoRoom => Self::StoreFailed,
        }
    }
}

fn failed(error: TransferError, handover: Option<Handover>) -> Followed {
    match error {
        // The disk failed under a fill: the manager still has it.
        TransferError::Read(_) | TransferError::Fill(FillError::Store(_)) => {
            Followed::Alone(Outcome::StoreFailed)
        }
        TransferError::Fill(FillError::Changed { .. }) => Followed::Again { variant: None },
        TransferError::Fill(error) => Followed::Failed(error, handover),
    }
}

impl Asked<'_> {
    fn is_cacheable(&self) -> bool {
        matches!(*self.method, Method::GET | Method::HEAD)
    }

    fn is_head(&self) -> bool {
        *self.method == Method::HEAD
    }

    /// Ranges are defined for GET alone (RFC 9110 §14.2), and only for the content that `If-Range` names.
    fn wants_range(&self, content: &HeaderMap) -> bool {
        *self.method == Method::GET
            && self.headers.contains_key(header::RANGE)
            && conditional::if_range(self.headers, content)
    }
}
