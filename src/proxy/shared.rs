//! A request whose response may be for everyone: looked up, used if it may be, else brought by a fill that others may
//! follow; asked for alone only when nothing of it can be shared. Owns the order of these choices and what the client
//! is told of them (RFC 9211); relies on `cache` to judge, on `fill` to fetch and on `respond` for content.

use std::sync::Arc;

use http::{Method, StatusCode, header};

use super::repair::Repair;
use super::reply::Reply;
use super::{Asked, Proxy, passthrough, respond};
use gupd_cache::digest::{Subject, Whole};
use gupd_cache::fill::{self, FillError, Handover, Joined, TransferError, Wanted};
use gupd_cache::{Entry, Found};
use gupd_config::Class;
use gupd_config::policy::Classification;
use gupd_http::control::Directive;
use gupd_http::forwarding;
use gupd_http::freshness::RevalidationReason;
use gupd_http::range::Ranges;
use gupd_http::refusal::Refusal;
use gupd_http::status::{CacheStatus, ForwardOutcome, ForwardReason};
use gupd_http::{UnstorableReason, Verdict};
use gupd_net::shape::{BandwidthClass, Purpose};
use gupd_net::upstream::RequestBody;

/// How often one request is looked up again: after its variant became known, a damaged blob was discarded, or content
/// changed while it waited. Each of these is rare; more than this many in a row is an upstream that never settles.
const MAX_LOOKUPS: usize = 4;

impl Proxy {
    /// A request whose response may come from the store, or be for everyone.
    pub(super) async fn shared(&self, asked: &Asked<'_>, classified: &Classification) -> Reply {
        let key: Arc<str> = Arc::from(asked.target.key());
        let mut variant = String::new();
        let mut forward = ForwardReason::UriMiss;
        for _ in 0..MAX_LOOKUPS {
            let found = match self.cache.find(&key, asked.headers, classified).await {
                Ok(found) => found,
                Err(error) => {
                    // The store has told it, once; this is once a request.
                    tracing::debug!(%error, "the index cannot be read; passing through");
                    return self.alone(asked, classified, forward, ForwardOutcome::StoreFailed).await;
                }
            };
            let mut said_to_others = None;
            let stale = match found {
                Found::Nothing => None,
                Found::OtherVariant { variant: known } => {
                    variant = known;
                    forward = ForwardReason::VaryMiss;
                    None
                }
                Found::Entry(entry) if asked.is_said_to_others(&entry) => {
                    said_to_others = Some(entry);
                    None
                }
                Found::Entry(entry) => {
                    if entry.is_new() && self.is_disowned(&entry).await {
                        continue;
                    }
                    variant.clone_from(&entry.object.selecting);
                    match self.use_stored(asked, &entry).await {
                        Use::Reply(reply) => return reply,
                        Use::Damaged => continue,
                        Use::Unreadable => {
                            let why = ForwardOutcome::StoreFailed;
                            return self.alone(asked, classified, forward, why).await;
                        }
                        Use::Revalidate(why) => forward = why.into(),
                    }
                    Some(entry)
                }
            };
            if asked.control.has(Directive::OnlyIfCached) {
                let Some(fill) = self.offered(asked, &key, &variant).await else {
                    return only_if_cached(classified);
                };
                match self.follow(asked, Joined::Following(fill), forward, classified).await {
                    Followed::Reply(reply) => return reply,
                    Followed::Again { variant: known } => {
                        variant = known.unwrap_or(variant);
                        continue;
                    }
                    Followed::Alone(_) | Followed::Failed(..) => return only_if_cached(classified),
                }
            }
            if asked.control.has(Directive::NoStore) {
                // Nothing of its response may be stored, not even what a 304 says.
                let why = ForwardOutcome::NotStored(UnstorableReason::RequestNoStore);
                return self.alone(asked, classified, forward, why).await;
            }
            if let (Some(why), None) = (self.why_alone(asked, &key, &variant), &stale) {
                return self.alone(asked, classified, forward, ForwardOutcome::NotStored(why)).await;
            }
            let before = stale.clone().or(said_to_others);
            let mut wanted = self.wanted(asked, key.clone(), variant.clone(), classified, before);
            wanted.bandwidth = asked.bandwidth_class(classified, Purpose::Client);
            let joined = self.fills.join(wanted, &asked.generation.upstreams);
            match self.follow(asked, joined, forward, classified).await {
                Followed::Reply(reply) => return reply,
                Followed::Again { variant: known } => variant = known.unwrap_or(variant),
                Followed::Alone(why) => {
                    return self.alone(asked, classified, forward, why).await;
                }
                Followed::Failed(error, handover) => {
                    return self.without_upstream(asked, stale, &error, handover, classified).await;
                }
            }
        }
        self.alone(asked, classified, forward, ForwardOutcome::StoreFailed).await
    }

    /// Why this request should not wait for a shared response: none will come of it.
    fn why_alone(&self, asked: &Asked<'_>, key: &Arc<str>, variant: &str) -> Option<UnstorableReason> {
        // A HEAD does not make content worth fetching, but it can be answered from a fill that runs.
        let head = asked.is_head() && self.fills.running(key, variant).is_none();
        if head { Some(UnstorableReason::Method) } else { self.cache.unstorable(key) }
    }

    /// Answers from a stored response if it may be used as it is.
    pub(super) async fn use_stored(&self, asked: &Asked<'_>, entry: &Arc<Entry>) -> Use {
        let classified = &entry.classified;
        let status = match entry.freshness.evaluate(self.cache.clock().now(), &asked.control) {
            Verdict::Revalidate(why) => return Use::Revalidate(why),
            Verdict::Fresh => CacheStatus::Hit,
            Verdict::StaleWhileRevalidate => {
                let (key, variant) = (entry.object.key.clone(), entry.object.selecting.clone());
                let mut wanted = self.wanted(asked, key, variant, classified, Some(entry.clone()));
                wanted.bandwidth = asked.bandwidth_class(classified, Purpose::Revalidation);
                // Its outcome is for later requests.
                let _background = self.fills.join(wanted, &asked.generation.upstreams);
                CacheStatus::StaleWhileRevalidate
            }
        };
        match respond::stored(self, asked, entry).await {
            Ok(reply) => Use::Reply(reply.told(status, classified, Some(entry.object.blob))),
            // The keeper has said what is wrong, and discarded it.
            Err(error) if error.is_about_the_bytes() => Use::Damaged,
            Err(error) => {
                tracing::debug!(%error, key = &*entry.object.key, "a stored response cannot be read; passing through");
                Use::Unreadable
            }
        }
    }

    /// Whether what was stored before the relay started is not what its catalog lists. A catalog is read before its
    /// payloads can be asked for.
    pub(super) async fn is_disowned(&self, entry: &Entry) -> bool {
        let (object, class) = (&entry.object, entry.classified.class);
        let subject = Subject { key: &object.key, class, status: object.status };
        let whole = Whole { source: entry.source(), length: object.len, blob: object.blob };
        let digests = self.fills.digests();
        digests.learn(subject, &whole).await;
        digests.forget_disowned(entry).await
    }

    /// Waits for a fill's outcome and answers from it.
    async fn follow(
        &self,
        asked: &Asked<'_>,
        joined: Joined,
        forward: ForwardReason,
        classified: &Classification,
    ) -> Followed {
        let (fill, handover) = match joined {
            Joined::Started(fill, handover) => (fill, Some(handover)),
            Joined::Following(fill) => (fill, None),
            Joined::Stored(entry) => return self.answer_stored(asked, &entry, CacheStatus::Hit).await,
        };
        let collapsed = handover.is_none();
        let forwarded = |kept: Result<(), UnstorableReason>| {
            let fetched = kept.map_or_else(ForwardOutcome::NotStored, |()| ForwardOutcome::Stored);
            CacheStatus::Forwarded(forward, if collapsed { ForwardOutcome::Collapsed } else { fetched })
        };
        let outcome = if collapsed {
            self.outcome_for(asked, &fill, classified).await
        } else {
            Some(fill.outcome().await)
        };
        let Some(outcome) = outcome else { return Followed::Reply(self.refuse(Refusal::Loop)) };
        if collapsed && asked.is_let_down(&fill, &outcome) {
            fill.ended().await;
            return Followed::Again { variant: None };
        }
        // Only what the manager has is news: who makes paths up teaches nothing.
        if !collapsed && classified.class == Class::Payload && outcome.status() == Some(StatusCode::OK) {
            self.news.hear(&asked.target.key());
        }
        match outcome {
            fill::Outcome::Content(flow) if !flow.head.selecting.matches(asked.headers) => {
                let known = flow.head.selecting.for_request(asked.headers).encode();
                Followed::Again { variant: Some(known) }
            }
            fill::Outcome::Content(flow) => {
                match respond::following(&self.cache, asked, &fill, &flow, collapsed).await {
                    Ok(reply) if !collapsed && reply.present() > 0 => {
                        let status = CacheStatus::Forwarded(ForwardReason::Partial, ForwardOutcome::Stored);
                        Followed::Reply(reply.told(status, classified, None))
                    }
                    Ok(reply) => Followed::Reply(reply.told(forwarded(flow.head.kept), classified, None)),
                    Err(error) => failed(error, handover),
                }
            }
            fill::Outcome::NotModified(entry) => {
                let why = if forward == ForwardReason::Request {
                    RevalidationReason::Request
                } else {
                    RevalidationReason::Stale
                };
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
                        let reply = passthrough::pass_on(asked.method, answer, asked.generation);
                        let status = CacheStatus::Forwarded(forward, outcome);
                        Followed::Reply(reply.told(status, classified, None))
                    }
                    None => Followed::Alone(outcome),
                }
            }
            fill::Outcome::Failed(error) => failed(error.into(), handover),
        }
    }

    async fn answer_stored(&self, asked: &Asked<'_>, entry: &Arc<Entry>, status: CacheStatus) -> Followed {
        if !entry.selecting.matches(asked.headers) || asked.is_said_to_others(entry) {
            return Followed::Again { variant: None };
        }
        match respond::stored(self, asked, entry).await {
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
        classified: &Classification,
    ) -> Reply {
        let their_status = match error {
            FillError::ServerError { status, .. } => Some(*status),
            _ => None,
        };
        let now = self.cache.clock().now();
        let usable = stale.filter(|entry| entry.freshness.is_usable_on_error(now, &asked.control));
        if let Some(entry) = usable
            && let Ok(reply) = respond::stored(self, asked, &entry).await
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
            Some(answer) => passthrough::pass_on(asked.method, answer, asked.generation),
            None => passthrough::failed(asked, error),
        };
        reply.told(CacheStatus::Failed, classified, None)
    }

    /// Asks the manager for this client alone.
    async fn alone(
        &self,
        asked: &Asked<'_>,
        classified: &Classification,
        forward: ForwardReason,
        why: ForwardOutcome,
    ) -> Reply {
        if asked.control.has(Directive::OnlyIfCached) {
            return only_if_cached(classified);
        }
        let reply = passthrough::pass(asked, RequestBody::Empty).await;
        reply.told(CacheStatus::Forwarded(forward, why), classified, None)
    }

    /// What a stored response can be had from again.
    pub(super) fn repair(&self, asked: &Asked<'_>, entry: &Arc<Entry>) -> Repair {
        let (key, variant) = (entry.object.key.clone(), entry.object.selecting.clone());
        let mut wanted = self.wanted(asked, key, variant, &entry.classified, None);
        asked.generation.ask_author_first(&mut wanted, &entry.object);
        Repair {
            cache: self.cache.clone(),
            fills: self.fills.clone(),
            generation: asked.generation.clone(),
            wanted,
            entry: entry.clone(),
            repairs: 0,
            begun: false,
        }
    }

    /// How content that may be shared is asked for.
    pub(super) fn wanted(
        &self,
        asked: &Asked<'_>,
        key: Arc<str>,
        variant: String,
        classified: &Classification,
        stale: Option<Arc<Entry>>,
    ) -> Wanted {
        let instance = asked.generation.upstreams.instance();
        Wanted {
            key,
            variant,
            order: asked.target.upstreams().clone(),
            target: asked.target.original.clone(),
            asked: asked.headers.clone(),
            headers: forwarding::prepare_fill(asked.headers, asked.version, classified.class, instance),
            classified: classified.clone(),
            stale,
            part: if *asked.method == Method::GET { Ranges::first_part(asked.headers) } else { None },
            errand: None,
            bandwidth: BandwidthClass::default(),
        }
    }
}

/// What came of answering from the store.
#[expect(clippy::large_enum_variant, reason = "returned once a request, never kept")]
pub(super) enum Use {
    Reply(Reply),
    Revalidate(RevalidationReason),
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
    Alone(ForwardOutcome),
    Failed(FillError, Option<Handover>),
}

/// The answer to a request that must not be sent on.
pub(super) fn only_if_cached(classified: &Classification) -> Reply {
    let reply = Reply::text(StatusCode::GATEWAY_TIMEOUT, "gupd: not in the store\n");
    reply.told(CacheStatus::OnlyIfCached, classified, None)
}

fn failed(error: TransferError, handover: Option<Handover>) -> Followed {
    match error {
        // The disk failed under a fill: the manager still has it.
        TransferError::Read(_) | TransferError::Fill(FillError::Store(_)) => {
            Followed::Alone(ForwardOutcome::StoreFailed)
        }
        TransferError::Fill(
            FillError::Changed { .. } | FillError::Mismatch { .. } | FillError::Abandoned,
        ) => Followed::Again { variant: None },
        // It came round for whoever began the fill. Who followed has not been there, and asks for itself.
        TransferError::Fill(FillError::ServerError { status: StatusCode::LOOP_DETECTED, .. })
            if handover.is_none() =>
        {
            Followed::Again { variant: None }
        }
        TransferError::Fill(error) => Followed::Failed(error, handover),
    }
}
