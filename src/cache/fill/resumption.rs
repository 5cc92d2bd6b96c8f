//! Requests for more bytes of content that has begun to arrive: the rest after a broken transfer, or a range that
//! readers need first. Bytes of two versions are never mixed: only a strong validator, sent as `If-Range` and repeated
//! in the answer, joins two transfers (RFC 9110 §13.1.5, RFC 9111 §3.4). Between two upstreams, only a strong `ETag`
//! with the same complete length does: files of two managers may share a date and differ in bytes. `failover` chooses
//! the next upstream.

use std::ops::Range;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body;
use tokio::time::{Instant, sleep};

use super::FillError;
use super::content_range::ContentRange;
use super::delivered::ContentIdentity;
use super::failover::{AttemptFailure, FailoverOrder};
use super::origin::ContentOrigin;
use super::transfer::{Transfer, TransferFailure};
use gupd_config as config;
use gupd_http::validator::strong_validator;
use gupd_net::upstream::{Upstream, UpstreamError, UpstreamRequest, UpstreamResponse};

/// Maximum number of times that other content replaces the arriving content before clients see a byte. Two upstreams
/// that break off alternately, or one that never brings a body, must not keep clients waiting for ever.
pub(super) const MAX_CHANGES: u32 = 2;

/// Requests the bytes of one run, again after each break, while the run makes progress.
pub(super) struct Resumption {
    origin: ContentOrigin,
    validator: Option<HeaderValue>,
    headers: HeaderMap,
    length: Option<u64>,
    /// Number of times that other content replaced the arriving content before.
    changes: u32,
    /// Attempts since the byte at `reached`.
    failover_state: Option<(Vec<Arc<Upstream>>, FailoverOrder)>,
    reached: u64,
}

pub(super) enum ResumeOutcome {
    /// The same content continues at the requested position.
    Continues {
        /// Transfer that brings it.
        transfer: Transfer,
        /// The response is the complete content; the transfer skips the bytes before that position.
        is_whole: bool,
    },
    /// The response is other content.
    Changed(UpstreamResponse),
}

/// Result of one request to one upstream.
pub(super) enum ResumeAttempt {
    Answered(ResumeOutcome),
    /// No usable answer, with the reason.
    Failed(AttemptFailure, Arc<str>),
}

/// Decides whether other content may replace the content that has arrived so far.
pub(super) trait Replacement {
    /// Returns true if a replacement is still possible.
    fn is_possible(&self) -> bool;

    /// Claims the replacement. Returns true on success; no reader sees the replaced content after that.
    fn commit(&self) -> bool;
}

/// Never replaces: a reader has bytes of the content.
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
        Self { origin, validator, headers, length, changes: 0, failover_state: None, reached: 0 }
    }

    /// Continues content that replaced other content `changes` times: further replacements are delayed and bounded.
    pub(super) fn after_changes(self, changes: u32) -> Self {
        Self { changes, ..self }
    }

    /// Fill settings of the upstreams.
    pub(super) fn settings(&self) -> &config::FillSettings {
        self.origin.upstreams.settings()
    }

    /// Requests `range`, open-ended if it reaches the end of the content. `last_failure` is the failure of the transfer
    /// before.
    pub(super) async fn resume(
        &mut self,
        range: Range<u64>,
        last_failure: Option<TransferFailure>,
        replacement: &impl Replacement,
    ) -> Result<ResumeOutcome, FillError> {
        let failure = last_failure.as_ref().map(|last_failure| last_failure.kind);
        let mut reason = last_failure.map_or_else(
            || Arc::from("a reader needed another range first"),
            |last_failure| last_failure.reason,
        );
        let (candidates, mut failover) = self.failover(range.start, failure);
        while let Some((index, wait)) = failover.next(Instant::now()) {
            let Some(upstream) = candidates.get(index) else { break };
            let sent_head = self.origin.sent_head(upstream);
            if !self.can_continue(upstream, &range) && !replacement.is_possible() {
                if sent_head {
                    reason = Arc::from(format!("{reason}; the response has no strong validator"));
                }
                failover.record_failure(AttemptFailure::Unsuitable, Instant::now());
                continue;
            }
            sleep(wait).await;
            if self.origin.are_all_unavailable() {
                // Readers have bytes already. They wait for the circuit's probe time rather than break.
                self.origin.upstreams.wait_for_probe(upstream).await;
            }
            tracing::info!(upstream = &*upstream.name, from = range.start, %reason, "resuming transfer");
            // Other content at another upstream does not prove a change. At the current upstream that sent the head, it
            // does, if it named the content.
            let has_changed = sent_head && self.validator.is_some() && self.origin.is_current(upstream);
            match self.try_upstream(upstream, &range).await? {
                ResumeAttempt::Answered(ResumeOutcome::Changed(_))
                    if !has_changed && !replacement.commit() =>
                {
                    failover.record_failure(AttemptFailure::Unsuitable, Instant::now());
                    tracing::info!(upstream = &*upstream.name, "upstream has other content");
                }
                // No byte of the content before it arrived either.
                ResumeAttempt::Answered(ResumeOutcome::Changed(_))
                    if range.start == 0 && self.changes >= MAX_CHANGES =>
                {
                    break;
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

    /// Returns the candidates and their order of attempts: continued while no new byte has arrived, else a new one.
    fn failover(
        &mut self,
        position: u64,
        failure: Option<AttemptFailure>,
    ) -> (Vec<Arc<Upstream>>, FailoverOrder) {
        if position > self.reached {
            self.reached = position;
            self.failover_state = None;
        }
        if let Some((candidates, mut failover)) = self.failover_state.take() {
            failover.record_failure(failure.unwrap_or(AttemptFailure::Interrupted), Instant::now());
            return (candidates, failover);
        }
        let candidates = self.origin.candidates();
        let failover = FailoverOrder::new(candidates.len(), self.settings().attempts, failure);
        // Content without a validator starts over after each break, so each attempt is one more replacement.
        let restarts = self.changes.saturating_add(u32::from(self.validator.is_none()));
        (candidates, failover.after_restarts(restarts, Instant::now()))
    }

    /// Returns true if a conditional request can name the content to this upstream.
    pub(super) fn can_continue(&self, upstream: &Upstream, range: &Range<u64>) -> bool {
        match self.origin.sent_head(upstream) {
            true if range.start == 0 => self.validator.is_some(),
            // A relay may have taken the content from another manager by now, and managers copy files with their dates.
            true if upstream.is_relay() => self.entity_tag().is_some(),
            true => self.validator.is_some(),
            false => self.entity_tag().is_some() && self.length.is_some(),
        }
    }

    /// Sends one request for `range` to one upstream.
    pub(super) async fn try_upstream(
        &self,
        upstream: &Arc<Upstream>,
        range: &Range<u64>,
    ) -> Result<ResumeAttempt, FillError> {
        let answer = self.origin.upstreams.send_to(upstream, &self.request(upstream, range)).await;
        let answer = match answer {
            // A backend with another validator for the same content ignored `If-Range`. Ask it for the complete content.
            Ok(answer) if self.is_part_under_another_validator(&answer) => {
                self.origin.upstreams.send_to(upstream, &self.origin.outgoing()).await
            }
            answer => answer,
        };
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

    /// Requests `range` once from each candidate, until one answers.
    pub(super) async fn try_each(&self, range: &Range<u64>) -> Result<ResumeAttempt, FillError> {
        let mut last = ResumeAttempt::Failed(
            AttemptFailure::Unsuitable,
            Arc::from("no upstream has it with a matching validator"),
        );
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
        let mut outgoing = self.origin.outgoing();
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
        let sent_head = self.origin.sent_head(&answer.upstream);
        let theirs = answer.response.headers();
        match (answer.response.status(), sent_head) {
            (StatusCode::PARTIAL_CONTENT, true) if !self.is_same(theirs) => {
                nothing(AttemptFailure::Interrupted, "its partial response belongs to other content")
            }
            (StatusCode::PARTIAL_CONTENT, false) if !self.is_equal(theirs) => {
                nothing(AttemptFailure::Unsuitable, "its partial response belongs to other content")
            }
            (StatusCode::PARTIAL_CONTENT, _) => match ContentRange::parse(theirs) {
                Some(part) if part.continues(range, self.length) => {
                    let end = part.complete.or(self.length).map(|_| part.bytes.end);
                    self.continues(answer, 0, end)
                }
                _ => nothing(AttemptFailure::Interrupted, "its partial response is not the requested range"),
            },
            (StatusCode::OK, _) => {
                let length = answer.response.body().size_hint().exact();
                let same = match sent_head {
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
            // The upstream has not received the content yet; that is no reason to drop what has arrived.
            (StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::RANGE_NOT_SATISFIABLE, false) => {
                nothing(AttemptFailure::Unsuitable, "it does not have this content")
            }
            (status, _) => nothing(AttemptFailure::Interrupted, &format!("it answered {status}")),
        }
    }

    fn is_part_under_another_validator(&self, answer: &UpstreamResponse) -> bool {
        let theirs = answer.response.headers();
        let length = ContentRange::parse(theirs).and_then(|part| part.complete);
        let identity = |headers, length| ContentIdentity { status: StatusCode::OK, headers, length };
        answer.response.status() == StatusCode::PARTIAL_CONTENT
            && self.origin.sent_head(&answer.upstream)
            && identity(&self.headers, self.length).disagrees_with(&identity(theirs, length))
    }

    fn continues(&self, answer: UpstreamResponse, skip: u64, end: Option<u64>) -> ResumeAttempt {
        let transfer = Transfer::new(answer.response.into_body(), skip, end);
        ResumeAttempt::Answered(ResumeOutcome::Continues { transfer, is_whole: skip > 0 })
    }

    /// Returns true if a `206` continues the content of its own upstream. It must repeat the `ETag` (RFC 9110 §15.3.7):
    /// an upstream that ignores `If-Range` could send anything. It need not repeat `Last-Modified`, but must not
    /// contradict it.
    fn is_same(&self, theirs: &HeaderMap) -> bool {
        let ours = |name| self.headers.get(name);
        let modified = theirs.get(header::LAST_MODIFIED);
        theirs.get(header::ETAG) == ours(header::ETAG)
            && modified.is_none_or(|modified| ours(header::LAST_MODIFIED) == Some(modified))
    }

    /// Returns true if another upstream has identical bytes: the same strong `ETag` and the same declared length. Dates
    /// may differ, because files are copied from manager to manager.
    fn is_equal(&self, theirs: &HeaderMap) -> bool {
        let complete = match ContentRange::parse(theirs) {
            Some(part) => part.complete == self.length,
            None => !theirs.contains_key(header::CONTENT_RANGE),
        };
        complete && self.entity_tag().is_some_and(|tag| theirs.get(header::ETAG) == Some(tag))
    }
}
