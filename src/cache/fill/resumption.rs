//! Asking the upstreams for other bytes of the content that one of them has begun to send: the rest after it broke off, or a
//! part that readers need first. Owns the rule that bytes of two versions are never mixed: only a strong validator, sent
//! as `If-Range` and found again in the answer, joins two transfers (RFC 9110 §13.1.5, RFC 9111 §3.4). Between two
//! upstreams only a strong `ETag` with the same complete length does: two managers' files may have the same date and not
//! the same bytes. Relies on `failover` for index is asked next.

use std::ops::Range;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body;
use tokio::time::{Instant, sleep};

use super::FillError;
use super::content_range::ContentRange;
use super::failover::{AttemptFailure, FailoverOrder};
use super::origin::ContentOrigin;
use super::transfer::{Transfer, TransferFailure};
use gupd_config as config;
use gupd_http::validator::strong_validator;
use gupd_net::upstream::{Upstream, UpstreamError, UpstreamRequest, UpstreamResponse};

/// Asks for the bytes of one run as often as it breaks, as long as it gets on.
pub(super) struct Resumption {
    origin: ContentOrigin,
    validator: Option<HeaderValue>,
    headers: HeaderMap,
    length: Option<u64>,
    /// Since the byte at `reached`, if anything has been tried since.
    failover_state: Option<(Vec<Arc<Upstream>>, FailoverOrder)>,
    reached: u64,
}

pub(super) enum ResumeOutcome {
    /// The same content, from the position asked for.
    Continues {
        /// Where.
        transfer: Transfer,
        /// It is all of the content: what comes before that position is skipped.
        is_whole: bool,
    },
    /// There is other content in its place now: this is it.
    Changed(UpstreamResponse),
}

/// What came of asking one upstream once.
pub(super) enum ResumeAttempt {
    Answered(ResumeOutcome),
    /// Nothing, and why.
    Failed(AttemptFailure, Arc<str>),
}

/// Whether other content may take the place of what has come so far.
pub(super) trait Replacement {
    /// Whether it may as things are.
    fn is_possible(&self) -> bool;

    /// Whether it does; then nobody is shown any of what has come.
    fn commit(&self) -> bool;
}

/// Never: somebody has bytes of it.
pub(super) struct NoReplacement;

impl Replacement for NoReplacement {
    fn is_possible(&self) -> bool {
        false
    }

    fn commit(&self) -> bool {
        false
    }
}

impl Resumption {
    pub(super) fn new(origin: ContentOrigin, headers: &HeaderMap, length: Option<u64>) -> Self {
        let (validator, headers) = (strong_validator(headers), headers.clone());
        Self { origin, validator, headers, length, failover_state: None, reached: 0 }
    }

    /// How upstreams are asked.
    pub(super) fn settings(&self) -> &config::FillSettings {
        self.origin.upstreams.settings()
    }

    /// Asks for `range`, to the content's end if it ends there. `broke` says what broke the transfer, if that is why.
    pub(super) async fn resume(
        &mut self,
        range: Range<u64>,
        broke: Option<TransferFailure>,
        replacement: &impl Replacement,
    ) -> Result<ResumeOutcome, FillError> {
        if range.start > self.reached {
            self.reached = range.start;
            self.failover_state = None;
        }
        let failure = broke.as_ref().map(|broke| broke.kind);
        let mut reason = broke.map_or_else(|| Arc::from("a part was needed first"), |broke| broke.reason);
        let (candidates, mut failover) = match (self.failover_state.take(), failure) {
            (Some((candidates, mut failover)), failure) => {
                failover.record_failure(failure.unwrap_or(AttemptFailure::Interrupted), Instant::now());
                (candidates, failover)
            }
            (None, failure) => {
                let candidates = self.origin.candidates();
                let failover = FailoverOrder::new(candidates.len(), self.settings().attempts, failure);
                (candidates, failover)
            }
        };
        while let Some((index, wait)) = failover.next(Instant::now()) {
            let Some(upstream) = candidates.get(index) else { break };
            let author = self.origin.sent_head(upstream);
            if !self.can_continue(upstream, &range) && (author || !replacement.is_possible()) {
                if author {
                    reason = Arc::from(format!("{reason}; it has no strong validator"));
                }
                failover.record_failure(AttemptFailure::Unsuitable, Instant::now());
                continue;
            }
            sleep(wait).await;
            if self.origin.are_all_unavailable() {
                // Readers have bytes already: rather than break, they wait as long for it as others do to ask it.
                self.origin.upstreams.wait_for_probe(upstream).await;
            }
            tracing::info!(upstream = &*upstream.name, from = range.start, %reason, "resuming");
            // Elsewhere other content says nothing of what was coming; at the one that began it and gave it, it changed.
            let has_changed = author && self.origin.is_current(upstream);
            match self.try_upstream(upstream, &range).await? {
                ResumeAttempt::Answered(ResumeOutcome::Changed(_))
                    if !has_changed && !replacement.commit() =>
                {
                    failover.record_failure(AttemptFailure::Unsuitable, Instant::now());
                    tracing::info!(upstream = &*upstream.name, "it has other content");
                }
                ResumeAttempt::Answered(ResumeOutcome::Changed(answer)) => {
                    return Ok(ResumeOutcome::Changed(answer));
                }
                ResumeAttempt::Answered(continues) => {
                    self.origin.switch_to(upstream);
                    self.failover_state = Some((candidates, failover));
                    return Ok(continues);
                }
                ResumeAttempt::Failed(failure, why) => {
                    failover.record_failure(failure, Instant::now());
                    reason = why;
                }
            }
        }
        Err(FillError::BrokenOff { upstream: self.origin.current().name.clone(), at: range.start, reason })
    }

    /// Whether an upstream can be told which content is meant.
    pub(super) fn can_continue(&self, upstream: &Upstream, range: &Range<u64>) -> bool {
        match self.origin.sent_head(upstream) {
            true if range.start == 0 => true,
            // A relay may have it from another manager by now, and managers copy files with their dates.
            true if upstream.is_relay() => self.entity_tag().is_some(),
            true => self.validator.is_some(),
            false => self.entity_tag().is_some() && self.length.is_some(),
        }
    }

    /// Asks one upstream for `range`, once.
    pub(super) async fn try_upstream(
        &self,
        upstream: &Arc<Upstream>,
        range: &Range<u64>,
    ) -> Result<ResumeAttempt, FillError> {
        let answer = self.origin.upstreams.send_to(upstream, &self.request(upstream, range)).await;
        let error = match answer {
            Ok(answer) => return Ok(self.judge(answer, range)),
            Err(error) => error,
        };
        let failure = match error {
            UpstreamError::Request { .. } => return Err(error.into()),
            UpstreamError::Connect { .. }
            | UpstreamError::HeadTimeout { .. }
            | UpstreamError::Unavailable { .. } => AttemptFailure::Silent,
            UpstreamError::Closed { .. } | UpstreamError::Response { .. } | UpstreamError::Client { .. } => {
                AttemptFailure::Interrupted
            }
        };
        Ok(ResumeAttempt::Failed(failure, Arc::from(error.to_string())))
    }

    /// Asks each upstream that may have the content for `range`, once, until one gives an answer.
    pub(super) async fn try_each(&self, range: &Range<u64>) -> Result<ResumeAttempt, FillError> {
        let mut last =
            ResumeAttempt::Failed(AttemptFailure::Unsuitable, Arc::from("no upstream could be asked for it"));
        for upstream in self.origin.candidates() {
            if !self.can_continue(&upstream, range) {
                continue;
            }
            match self.try_upstream(&upstream, range).await? {
                ResumeAttempt::Answered(resumed) => {
                    self.origin.switch_to(&upstream);
                    return Ok(ResumeAttempt::Answered(resumed));
                }
                nothing @ ResumeAttempt::Failed(..) => last = nothing,
            }
        }
        Ok(last)
    }

    fn entity_tag(&self) -> Option<&HeaderValue> {
        self.validator.as_ref().filter(|_| self.headers.contains_key(header::ETAG))
    }

    fn request(&self, upstream: &Upstream, range: &Range<u64>) -> UpstreamRequest {
        let mut outgoing = self.origin.outgoing.clone();
        let part = if self.length.is_none_or(|length| range.end >= length) {
            (range.start > 0).then(|| format!("bytes={}-", range.start))
        } else {
            Some(format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))
        };
        if self.can_continue(upstream, range)
            && let (Some(part), Some(validator)) = (part, &self.validator)
            && let Ok(part) = HeaderValue::from_str(&part)
        {
            outgoing.headers.insert(header::RANGE, part);
            outgoing.headers.insert(header::IF_RANGE, validator.clone());
        }
        outgoing
    }

    fn judge(&self, answer: UpstreamResponse, range: &Range<u64>) -> ResumeAttempt {
        let nothing = |failure, why: &str| ResumeAttempt::Failed(failure, Arc::from(why));
        let author = self.origin.sent_head(&answer.upstream);
        let theirs = answer.response.headers();
        match (answer.response.status(), author) {
            (StatusCode::PARTIAL_CONTENT, true) if !self.is_same(theirs) => {
                nothing(AttemptFailure::Interrupted, "its partial response is of other content")
            }
            (StatusCode::PARTIAL_CONTENT, false) if !self.is_equal(theirs) => {
                nothing(AttemptFailure::Unsuitable, "its partial response is of other content")
            }
            (StatusCode::PARTIAL_CONTENT, _) => match ContentRange::parse(theirs) {
                Some(part) if part.is_from(range, self.length) => {
                    let end = part.complete.or(self.length).map(|_| part.bytes.end);
                    self.continues(answer, 0, end)
                }
                _ => nothing(AttemptFailure::Interrupted, "its partial response is not the range asked for"),
            },
            (StatusCode::OK, _) => {
                let length = answer.response.body().size_hint().exact();
                let same = match author {
                    true => self.validator.is_some() && strong_validator(theirs) == self.validator,
                    false => self.is_equal(theirs),
                };
                if same && length == self.length {
                    self.continues(answer, range.start, length)
                } else {
                    ResumeAttempt::Answered(ResumeOutcome::Changed(answer))
                }
            }
            (StatusCode::NOT_FOUND | StatusCode::GONE, true) => {
                ResumeAttempt::Answered(ResumeOutcome::Changed(answer))
            }
            // One that has not been given it yet is no reason to take it away.
            (StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::RANGE_NOT_SATISFIABLE, false) => {
                nothing(AttemptFailure::Unsuitable, "it does not have this content")
            }
            (status, _) => nothing(AttemptFailure::Interrupted, &format!("it answered {status}")),
        }
    }

    fn continues(&self, answer: UpstreamResponse, skip: u64, end: Option<u64>) -> ResumeAttempt {
        let received = answer.upstream.received_bytes().clone();
        let transfer = Transfer::new(answer.response.into_body(), skip, end, received);
        ResumeAttempt::Answered(ResumeOutcome::Continues { transfer, is_whole: skip > 0 })
    }

    /// A `206` must repeat the `ETag` (RFC 9110 §15.3.7); without it, an upstream that ignores `If-Range` could have
    /// sent anything. It need not repeat `Last-Modified`, but must not contradict it.
    fn is_same(&self, theirs: &HeaderMap) -> bool {
        let ours = |name| self.headers.get(name);
        let modified = theirs.get(header::LAST_MODIFIED);
        theirs.get(header::ETAG) == ours(header::ETAG)
            && modified.is_none_or(|modified| ours(header::LAST_MODIFIED) == Some(modified))
    }

    /// Whether what another upstream has is byte for byte the same: its strong `ETag` and its complete length, which
    /// it must say. Its date may be another: files are copied from manager to manager.
    fn is_equal(&self, theirs: &HeaderMap) -> bool {
        let complete = match ContentRange::parse(theirs) {
            Some(part) => part.complete == self.length,
            None => !theirs.contains_key(header::CONTENT_RANGE),
        };
        complete && self.entity_tag().is_some_and(|tag| theirs.get(header::ETAG) == Some(tag))
    }
}
