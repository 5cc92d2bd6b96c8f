//! The last step: the store, or a fill that any number of requests share, or the upstream for this request alone. Owns
//! the order of these choices and their `Cache-Status` (RFC 9211). A fill may end without a response for this request;
//! the object is then looked up once more, each time for a named reason. Rare ways box their futures, so that a miss
//! does not pay for their size.

use std::convert::Infallible;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::timeout;

use crate::Proxy;
use crate::budget::{
    admit_variant, check_passed_bytes, spend_absent_name, spend_passed_bytes, spend_upstream_request,
};
use crate::exchange::{Exchange, Lookup, Repeat, fill_sent_other_request};
use crate::hit::{Served, serve_stored};
use crate::outcome::{Followed, after_error, answer_stored, failed, is_for_one_request};
use crate::pipeline::StepResult;
use crate::relays::{follower_outcome, not_stored, offered_fill};
use crate::reply::Reply;
use crate::{passthrough, representation};
use gupd_cache::CacheEntry;
use gupd_cache::fill::{FillError, FillHandle, FillResponse, Joined, PrivateResponse, UnsharedReason};
use gupd_config::Class;
use gupd_http::UnstorableReason;
use gupd_http::control::Directive;
use gupd_http::forwarding;
use gupd_http::freshness::RevalidationReason;
use gupd_http::key;
use gupd_http::refusal::Refusal;
use gupd_http::special::has_special_field;
use gupd_http::status::{CacheStatus, ForwardOutcome, ForwardReason};
use gupd_net::upstream::RequestBody;

/// Lookups of one request in this step. Each repetition is rare; more than this many in a row mean an upstream whose
/// content never settles.
const MAX_LOOKUPS: usize = 4;

/// Time that a request waits until a complete response is stored and can be validated. A disk that takes longer must
/// not hold clients up.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Progress of a request through repeated lookups.
struct Attempt {
    /// Reason to forward the request, as far as known.
    forward: ForwardReason,
    /// The variant of this request, as far as known.
    variant: String,
    /// The stored response that has to be revalidated.
    stale: Option<Arc<CacheEntry>>,
    /// The fill that replaced the followed one, and is followed next. A lookup would lose it if it failed first.
    successor: Option<FillHandle>,
    /// The request has followed a fill that other fields of its first client may have spoilt.
    has_left_other: bool,
    /// The request has left a fill that broke off, for a new one.
    has_left: bool,
}

/// Lookup that does not answer its request.
#[derive(Default)]
struct Unanswered {
    /// The store has nothing for this request.
    is_new: bool,
    /// A stored failure of upstreams that this request does not ask.
    failure_of_others: Option<Arc<CacheEntry>>,
}

/// Answers from the store if the stored response may be used, else from a fill, else from the upstream alone.
pub(crate) async fn serve_or_fill(proxy: &Proxy, exchange: &mut Exchange<'_>) -> StepResult<Infallible> {
    Box::pin(async {
        let mut attempt = Attempt {
            forward: ForwardReason::UriMiss,
            variant: String::new(),
            stale: None,
            successor: None,
            has_left_other: false,
            has_left: false,
        };
        // A fill bounds its own downloads of corrupt content; nothing else would verify the content.
        let mut mismatches_left = exchange.generation.upstreams.settings().attempts;
        let mut lookups_left = MAX_LOOKUPS;
        while lookups_left > 0 {
            match attempt.run(proxy, exchange).await {
                Break(reply) => return Break(reply),
                Continue(repeat) => {
                    match repeat {
                        Repeat::Mismatch if mismatches_left > 0 => {
                            mismatches_left = mismatches_left.saturating_sub(1);
                        }
                        _ => lookups_left = lookups_left.saturating_sub(1),
                    }
                    exchange.repeat_lookup(repeat);
                }
            }
        }
        Break(attempt.forward_after_store_failure(proxy, exchange).await)
    })
    .await
}

impl Attempt {
    /// Looks the object up and answers, or gives the reason to look it up once more.
    async fn run(&mut self, proxy: &Proxy, exchange: &Exchange<'_>) -> ControlFlow<Reply, Repeat> {
        if let Some(fill) = self.successor.take() {
            return self.follow_to_end(proxy, exchange, Joined::Following(fill)).await;
        }
        let unanswered = match self.answer_from_store(proxy, exchange).await {
            Continue(unanswered) => unanswered,
            Break(outcome) => return outcome,
        };
        if exchange.control.has(Directive::OnlyIfCached) {
            return Box::pin(self.follow_offered(proxy, exchange)).await;
        }
        if proxy.fills.find_running(exchange.key(), &self.variant).is_none()
            && let Break(refused) = spend_upstream_request(proxy, exchange, unanswered.is_new)
        {
            // A stale response is better than a refusal.
            return Break(Box::pin(self.serve_stale(proxy, exchange, None)).await.unwrap_or(refused));
        }
        if let Some(why) = self.unshared_reason(proxy, exchange, unanswered.is_new) {
            check_passed_bytes(proxy, exchange, why)?;
            return Break(
                Box::pin(self.forward_alone(proxy, exchange, ForwardOutcome::NotStored(why))).await,
            );
        }
        let before = self.stale.clone().or(unanswered.failure_of_others);
        let joined = proxy
            .fills
            .join(exchange.fill_request(self.variant.clone(), before), &exchange.generation.upstreams);
        self.follow_to_end(proxy, exchange, joined).await
    }

    /// Answers from the lookup if it may. Otherwise sets the reason to forward the request.
    async fn answer_from_store(
        &mut self,
        proxy: &Proxy,
        exchange: &Exchange<'_>,
    ) -> ControlFlow<ControlFlow<Reply, Repeat>, Unanswered> {
        let mut unanswered = Unanswered::default();
        self.stale = None;
        let digests = proxy.fills.digests();
        match exchange.lookup(proxy).await.clone() {
            Lookup::Missing if digests.release_listed(exchange.key(), exchange.classification()).await => {
                return Break(Continue(Repeat::Released));
            }
            Lookup::Missing => unanswered.is_new = true,
            Lookup::Failed => {
                return Break(Break(self.forward_after_store_failure(proxy, exchange).await));
            }
            Lookup::OtherVariant { variant } => {
                // A client makes up as many selecting fields as names.
                unanswered.is_new = true;
                self.variant = variant;
                self.forward = ForwardReason::VaryMiss;
            }
            // Unproven content is not served: the fill replaces it.
            Lookup::Found(entry) if !digests.prove_stored(&entry).await => {
                self.variant.clone_from(&entry.object.selecting);
            }
            Lookup::Found(entry) if exchange.is_failure_of_other_upstreams(&entry) => {
                unanswered.failure_of_others = Some(entry);
            }
            Lookup::Found(entry) if entry.claim_reload(proxy.cache.clock().now(), &exchange.control) => {
                self.variant.clone_from(&entry.object.selecting);
                self.forward = ForwardReason::Request;
                self.stale = Some(entry);
            }
            Lookup::Found(entry) => {
                self.variant.clone_from(&entry.object.selecting);
                match serve_stored(proxy, exchange, &entry).await {
                    Served::Reply(reply) => return Break(Break(reply)),
                    Served::Damaged => return Break(Continue(Repeat::Damaged)),
                    Served::Unreadable => {
                        return Break(Break(self.forward_after_store_failure(proxy, exchange).await));
                    }
                    Served::Stale(why) => self.forward = why.into(),
                }
                self.stale = Some(entry);
            }
        }
        Continue(unanswered)
    }

    async fn forward_after_store_failure(&self, proxy: &Proxy, exchange: &Exchange<'_>) -> Reply {
        Box::pin(self.forward_alone(proxy, exchange, ForwardOutcome::StoreFailed)).await
    }

    /// Follows a fill and answers, also if it failed or its response is for another request alone.
    async fn follow_to_end(
        &mut self,
        proxy: &Proxy,
        exchange: &Exchange<'_>,
        joined: Joined,
    ) -> ControlFlow<Reply, Repeat> {
        match self.follow(proxy, exchange, joined).await {
            Followed::Reply(reply) => Break(reply),
            Followed::Repeat(repeat) => Continue(repeat),
            Followed::Alone(outcome) => Break(Box::pin(self.forward_alone(proxy, exchange, outcome)).await),
            Followed::Failed(error, private) => {
                Break(Box::pin(self.serve_after_failure(proxy, exchange, &error, private)).await)
            }
        }
    }

    /// Answers an `only-if-cached` request: by a running fill if another relay sent it, else by `504`.
    async fn follow_offered(&mut self, proxy: &Proxy, exchange: &Exchange<'_>) -> ControlFlow<Reply, Repeat> {
        let Some(fill) = offered_fill(proxy, exchange, &self.variant).await else {
            return Break(not_stored(exchange));
        };
        match self.follow(proxy, exchange, Joined::Following(fill)).await {
            Followed::Reply(reply) => Break(reply),
            Followed::Repeat(repeat) => Continue(repeat),
            Followed::Alone(_) | Followed::Failed(..) => Break(not_stored(exchange)),
        }
    }

    /// The reason why this request should not wait for a shared response: none will come of it.
    fn unshared_reason(
        &self,
        proxy: &Proxy,
        exchange: &Exchange<'_>,
        is_new: bool,
    ) -> Option<UnstorableReason> {
        if exchange.control.has(Directive::NoStore) {
            // Nothing of its response may be stored, not even the fields of a 304.
            return Some(UnstorableReason::RequestNoStore);
        }
        if exchange.pin().is_some() {
            return Some(UnstorableReason::ConnectionAuth);
        }
        if forwarding::is_large(&exchange.headers, exchange.classification().class) {
            return Some(UnstorableReason::LargeRequest);
        }
        if has_special_field(&exchange.headers, exchange.classification().class) {
            return Some(UnstorableReason::SpecialField);
        }
        if self.stale.is_some() {
            return None;
        }
        let is_running = proxy.fills.find_running(exchange.key(), &self.variant).is_some();
        // A HEAD does not make content worth fetching, but a running fill can answer it.
        if exchange.is_head() && !is_running {
            return Some(UnstorableReason::Method);
        }
        let is_new_variant = is_new && !self.variant.is_empty() && !is_running;
        if is_new_variant && !admit_variant(proxy, exchange, &self.variant) {
            return Some(UnstorableReason::ClientVariants);
        }
        // The last response to such a request was not storable (hit-for-pass).
        proxy.cache.unstorable(exchange.key(), || exchange.hash_sent_fields())
    }

    /// Waits for the outcome of a fill and answers from it.
    async fn follow(&mut self, proxy: &Proxy, exchange: &Exchange<'_>, joined: Joined) -> Followed {
        let (fill, mut private) = match joined {
            Joined::Started(fill, private) => (fill, Some(private)),
            Joined::Following(fill) => (fill, None),
            Joined::Completed(fill) => {
                return match timeout(COMMIT_TIMEOUT, fill.fetch_all()).await {
                    Ok(_) => Followed::Repeat(Repeat::Completed),
                    Err(_) => Followed::Alone(ForwardOutcome::StoreFailed),
                };
            }
            Joined::Stored(entry) => return answer_stored(proxy, exchange, &entry, CacheStatus::Hit).await,
        };
        let collapsed = private.is_none();
        let outcome = if collapsed {
            match follower_outcome(exchange, &fill).await {
                Some(outcome) => outcome,
                None => return Followed::Reply(proxy.refuse(Refusal::Loop)),
            }
        } else {
            fill.response().await
        };
        if collapsed && exchange.can_ask_own_upstreams(&fill, &outcome) {
            fill.fetch_all().await;
            return Followed::Repeat(Repeat::OtherUpstreams);
        }
        if collapsed && !self.has_left_other && is_for_one_request(&outcome) {
            // Its first client decides about no other one: those that follow share a fill of their own.
            self.has_left_other = !fill.sends_fields_of(&exchange.fill_request(String::new(), None));
            if self.has_left_other {
                return Followed::Repeat(Repeat::OtherFields);
            }
        }
        // Only payloads that the manager has announce a revision: a client can make paths up.
        let is_payload = exchange.classification().class == Class::Payload;
        if !collapsed && is_payload && outcome.status() == Some(StatusCode::OK) {
            let file = key::revision_file(&exchange.generation.policy, exchange.key());
            file.into_iter().for_each(|file| proxy.background.new_revisions().notify(file));
        }
        let followed = fill.clone();
        let cookies = match (&outcome, &mut private) {
            (FillResponse::Content(_) | FillResponse::Stored(_), Some(private)) => private.take_cookies(),
            _ => None,
        };
        let mut result = self.answer(proxy, exchange, fill, outcome, private).await;
        if let (Followed::Reply(reply), Some(cookies)) = (&mut result, cookies) {
            reply.headers_mut().extend(*cookies);
        }
        self.successor = followed.successor();
        if let (Followed::Reply(reply), false) = (&result, collapsed) {
            spend_absent_name(proxy, exchange, reply.status());
        }
        result
    }

    async fn answer(
        &mut self,
        proxy: &Proxy,
        exchange: &Exchange<'_>,
        fill: FillHandle,
        outcome: FillResponse,
        private: Option<PrivateResponse>,
    ) -> Followed {
        let collapsed = private.is_none();
        let status = |kept: Result<(), UnstorableReason>| {
            let fetched = kept.map_or_else(ForwardOutcome::NotStored, |()| ForwardOutcome::Stored);
            CacheStatus::Forwarded(self.forward, if collapsed { ForwardOutcome::Collapsed } else { fetched })
        };
        match outcome {
            FillResponse::Content(flow)
                if !flow.head.selecting.selects(exchange.selecting(), &flow.head.headers) =>
            {
                self.variant = flow.head.selecting.for_request(exchange.selecting()).encode();
                Followed::Repeat(Repeat::OtherVariant)
            }
            FillResponse::Content(flow) => {
                match representation::arriving(&proxy.cache, exchange, &fill, &flow, collapsed).await {
                    Ok(reply) => {
                        let status = match reply.bytes_on_hand() {
                            // An unfinished fill had all that this client wants.
                            _ if flow.is_from_disk() && reply.has_all_bytes_on_hand() => CacheStatus::Hit,
                            1.. if !collapsed => {
                                CacheStatus::Forwarded(ForwardReason::Partial, ForwardOutcome::Stored)
                            }
                            _ => status(flow.kept()),
                        };
                        Followed::Reply(reply.annotate(status, exchange.classification(), None))
                    }
                    Err(error) => after_error(exchange, &flow, (error, private), &mut self.has_left).await,
                }
            }
            FillResponse::NotModified(entry) => {
                let is_requested = self.forward == ForwardReason::Request;
                let why = if is_requested { RevalidationReason::Request } else { RevalidationReason::Stale };
                answer_stored(proxy, exchange, &entry, CacheStatus::Revalidated { why, collapsed }).await
            }
            FillResponse::Stored(entry) => answer_stored(proxy, exchange, &entry, status(Ok(()))).await,
            FillResponse::Unshared(UnsharedReason::NotPrefetched(_)) => {
                Followed::Repeat(Repeat::NotPrefetched)
            }
            FillResponse::Unshared(why) => {
                let outcome = why.into();
                let answer = match private {
                    Some(private) if !fill_sent_other_request(exchange, why) => private.response().await,
                    _ => None,
                };
                let Some(answer) = answer else { return Followed::Alone(outcome) };
                let reply = Box::pin(passthrough::pass_on(proxy, exchange, answer)).await;
                let reply = spend_passed_bytes(proxy, exchange, outcome, reply);
                let status = CacheStatus::Forwarded(self.forward, outcome);
                Followed::Reply(reply.annotate(status, exchange.classification(), None))
            }
            FillResponse::Failed(error) => failed(error.into(), private),
        }
    }

    /// Answers when no upstream brought the object: with the stale response if it may be used (RFC 5861 §4), else with
    /// an error.
    async fn serve_after_failure(
        &self,
        proxy: &Proxy,
        exchange: &Exchange<'_>,
        error: &FillError,
        private: Option<PrivateResponse>,
    ) -> Reply {
        let upstream_status = match error {
            FillError::ServerError { status, .. } => Some(*status),
            _ => None,
        };
        if let Some(reply) = self.serve_stale(proxy, exchange, upstream_status).await {
            return reply;
        }
        // The client that started the fill gets the manager's own error.
        let answer = match (upstream_status, private) {
            (Some(_), Some(private)) => private.response().await,
            _ => None,
        };
        let reply = match answer {
            Some(answer) => passthrough::pass_on(proxy, exchange, answer).await,
            None => passthrough::fill_failed(exchange, error),
        };
        reply.annotate(CacheStatus::Failed, exchange.classification(), None)
    }

    /// Answers with the stale response, if it may be used although it was not validated (RFC 5861 §4).
    /// `upstream_status` is the reason, if an upstream answered.
    async fn serve_stale(
        &self,
        proxy: &Proxy,
        exchange: &Exchange<'_>,
        upstream_status: Option<StatusCode>,
    ) -> Option<Reply> {
        let now = proxy.cache.clock().now();
        let entry = self.stale.as_ref()?;
        if !entry.freshness.is_usable_on_error(now, &exchange.control) {
            return None;
        }
        let reply = representation::stored(proxy, exchange, entry).await.ok()?;
        let status = CacheStatus::StaleIfError(upstream_status);
        Some(reply.annotate(status, exchange.classification(), Some(entry.object.blob)))
    }

    /// Asks the upstream for this request alone.
    async fn forward_alone(&self, proxy: &Proxy, exchange: &Exchange<'_>, outcome: ForwardOutcome) -> Reply {
        if exchange.control.has(Directive::OnlyIfCached) {
            return not_stored(exchange);
        }
        if passthrough::is_withheld(proxy, exchange) {
            return passthrough::unproven(exchange).annotate(
                CacheStatus::Failed,
                exchange.classification(),
                None,
            );
        }
        let reply = passthrough::forward(proxy, exchange, RequestBody::Empty).await;
        let reply = spend_passed_bytes(proxy, exchange, outcome, reply);
        reply.annotate(CacheStatus::Forwarded(self.forward, outcome), exchange.classification(), None)
    }
}
