//! The content of a fill, from its first bytes to the committed object. The steps are fetch, verify, publish the end,
//! commit. The end of content with an announced digest is not published before verification, so no client gets a clean
//! end of wrong content.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header;
use http_body::Body;
use tokio::task::yield_now;

use super::proof::AcceptedContent;
use super::{FillTask, StepOutcome};
use crate::digest::{DigestVerdict, Unproven};
use crate::fill::accept::AcceptedResponse;
use crate::fill::admission::FillPermit;
use crate::fill::delivered::ContentIdentity;
use crate::fill::fetch::{ContentFetch, ContentFetchResult, Followers};
use crate::fill::origin::ContentOrigin;
use crate::fill::resumption::MAX_CHANGES;
use crate::fill::run::RunSource;
use crate::fill::transfer::Transfer;
use crate::fill::{BackgroundFetch, FillContent, FillError, FillOutcome, Phase, UnsharedReason};
use crate::negative;
use gupd_config::{Class, FinishPolicy, UpstreamId};
use gupd_http::UnstorableReason;
use gupd_http::range::RequestedPart;
use gupd_http::refusal::BudgetKind;
use gupd_http::storable::check_length;
use gupd_net::shape::Purpose;
use gupd_net::upstream::UpstreamResponse;
use gupd_store::{BLOCK, BlobWriter, CHUNK, StoreError};

/// Maximum number of restarts with changed content before the fill fails. A middlebox may break off each transfer while
/// the managers differ; without a limit, the content would cross the WAN for ever and for no client.
const MAX_RESTARTS: u32 = 8;

impl FillTask {
    /// Stores the content of an accepted response.
    pub(super) async fn store_response(&mut self, accepted: Box<AcceptedResponse>) -> StepOutcome {
        let writer = self.context.store.begin_blob(accepted.length).await;
        self.context.cache.forget_evicted();
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => {
                self.note_refused(&error);
                if self.is_withheld(&accepted.answer) {
                    return StepOutcome::Done(self.refuse_unseen(&accepted.answer));
                }
                self.hand_over(*accepted.answer);
                return StepOutcome::Done(self.end_unshared(UnsharedReason::NoRoom));
            }
        };
        if accepted.head.is_resumable(accepted.length)
            && let Err(error) = writer.start_journal(accepted.head.to_object(&self.request)).await
        {
            tracing::warn!(%error, key = &*self.request.key, "cannot start a journal; an interrupted fill will start over");
        }
        let (content, range, transfer) = self.begin_content(*accepted, &writer);
        self.fetch(content, writer, Some((range, transfer))).await
    }

    /// Returns the content of an accepted response, with the range that the response brings and its transfer.
    fn begin_content(
        &mut self,
        accepted: AcceptedResponse,
        writer: &BlobWriter,
    ) -> (Arc<FillContent>, Range<u64>, Transfer) {
        let AcceptedResponse { answer, mut head, length, range, skip, end, accepts_ranges, cookies } =
            accepted;
        self.hand_over_cookies(cookies);
        head.replaced = self.replaced.clone();
        head.is_hidden = head.expected.is_hidden() || self.may_refuse_change(&head);
        let upstream = answer.upstream.clone();
        let accepts_ranges = accepts_ranges && !self.context.disagreeing.contains(&upstream.name);
        let origin = ContentOrigin::new(&self.request, &self.upstreams, upstream, &self.context.metrics);
        let partial = writer.partial().clone();
        let attention = self.attention.clone();
        let content = Arc::new(FillContent::new(head, length, origin, partial, accepts_ranges, attention));
        (content, range, Transfer::new(answer.response.into_body(), skip, end))
    }

    /// Fetches every byte of `content`, beginning with the range that a transfer already brings, and turns them into an
    /// object.
    pub(super) async fn fetch(
        &mut self,
        content: Arc<FillContent>,
        mut writer: BlobWriter,
        first: Option<(Range<u64>, Transfer)>,
    ) -> StepOutcome {
        if self.changes >= MAX_CHANGES {
            // No other content may replace it, as if a client had seen it.
            content.visibility.settle();
        }
        let arrived = writer.partial().written_bytes();
        // Nothing can be withheld of an empty response.
        if content.length == Some(0) && content.head.kept.is_ok() && !content.head.is_hidden {
            content.head.mark_replaced();
        }
        let fetch = self.content_fetch(&content, arrived);
        let check_limit = |bytes| self.check_open_ended(bytes);
        let run = fetch.run(&mut writer, first, check_limit, &*self);
        let ((), fetched) = tokio::join!(biased; self.announce(&content, arrived), run);
        // Also those of a fill that ends early: a client may ask for a byte of each chunk.
        let received = fetch.source.arrived.load(Ordering::Relaxed).saturating_sub(arrived);
        if let Some(client) = self.request.client {
            self.context.budgets.spend(BudgetKind::NewBytes, client, received);
        }
        #[cfg(feature = "otlp")]
        self.count_received(received);
        match fetched {
            ContentFetchResult::All { length } => self.finish_content(content, writer, length).await,
            ContentFetchResult::Changed(answer) => {
                writer.discard();
                self.note_disagreement(&content, &answer);
                self.changes = self.changes.saturating_add(1);
                let error = FillError::Changed { upstream: answer.upstream.name.clone() };
                if self.changes > MAX_RESTARTS {
                    return StepOutcome::Done(self.fail(error));
                }
                self.restart(error);
                StepOutcome::Changed(Box::new(answer))
            }
            ContentFetchResult::Failed(error) => {
                // Before followers see the failure: the next fill continues from the suspended bytes.
                match error {
                    FillError::Store(_) => writer.discard(),
                    _ if self.flags.is_detached() => writer.discard(),
                    _ => writer.suspend().await,
                }
                StepOutcome::Done(self.fail(error))
            }
        }
    }

    /// Publishes the head. A small body often arrives with it: its followers are woken once, for both.
    async fn announce(&self, content: &Arc<FillContent>, arrived: u64) {
        if content.head.is_hidden {
            return;
        }
        let head = Phase::Receiving { content: content.clone(), arrived };
        if content.length.is_none_or(|length| length >= BLOCK) {
            return self.set_phase(head);
        }
        self.phase.send_if_modified(|phase| {
            *phase = head;
            false
        });
        // The connection's task passes the body on.
        yield_now().await;
        yield_now().await;
        self.phase.send_if_modified(
            |phase| matches!(phase, Phase::Receiving { arrived: now, .. } if *now == arrived),
        );
    }

    /// Remembers an upstream with backends that have different validators for the same content.
    fn note_disagreement(&self, content: &FillContent, answer: &UpstreamResponse) {
        let response = &answer.response;
        let length = response.body().size_hint().exact();
        let theirs = ContentIdentity { status: response.status(), headers: response.headers(), length };
        let name = &answer.upstream.name;
        if content.origin.sent_head(&answer.upstream) && content.identity().disagrees_with(&theirs) {
            tracing::warn!(
                upstream = &**name,
                "validators of the same content differ; fetching it from one connection"
            );
            self.context.disagreeing.insert(name.clone(), ());
        }
    }

    fn content_fetch<'a>(&'a self, content: &'a Arc<FillContent>, arrived: u64) -> ContentFetch<'a> {
        ContentFetch {
            content,
            source: RunSource {
                origin: content.origin.clone(),
                metrics: self.context.metrics.clone(),
                changes: self.changes,
                arrived: AtomicU64::new(arrived),
            },
            store: &self.context.store,
            phase: &self.phase,
            finish: match self.request.background {
                // A background follower demands every byte for as long as it exists.
                Some(_) => FinishPolicy::Never,
                None => self.upstreams.settings().finish,
            },
            is_background: self.request.background.is_some(),
            unread_purpose: match self.request.background {
                Some(BackgroundFetch::Revalidation | BackgroundFetch::Collect) => Purpose::Revalidation,
                Some(BackgroundFetch::Prefetch) | None => Purpose::Prefetch,
            },
            stopping: &self.context.stopping,
            admission: &self.context.admission,
        }
    }

    /// Verifies complete content, publishes its end, and commits it.
    async fn finish_content(
        &mut self,
        content: Arc<FillContent>,
        writer: BlobWriter,
        length: u64,
    ) -> StepOutcome {
        if content.head.expected.must_verify_first() {
            let verdict = Box::pin(self.verify(&content, length, &writer)).await;
            if !matches!(verdict, Ok(DigestVerdict::Keep)) {
                writer.discard();
                return self.reject(content, length, verdict);
            }
        }
        let proof = match self.prove(&content, length, &writer).await {
            Ok(Ok(proof)) => proof,
            Ok(Err(unproven)) if content.head.expected.is_held() => {
                return self.hold_content(&content, writer, &unproven).await;
            }
            Ok(Err(unproven)) => return self.pass_on_unproven(content, length, writer, &unproven),
            Err(error) => {
                writer.discard();
                return StepOutcome::Done(self.fail(error.into()));
            }
        };
        // An overloaded manager answers with an empty payload for a delta it could not build (KB152365). The length of
        // a response that did not declare it is known only now.
        if check_length(content.head.status, length, self.request.classification.class).is_err() {
            return self.pass_on(content, length, FillOutcome::Unstorable);
        }
        match self.is_page(&content, length).await {
            Ok(false) => {}
            Ok(true) => {
                writer.discard();
                return self.pass_on_page(content, length);
            }
            Err(error) => {
                writer.discard();
                return StepOutcome::Done(self.fail(error.into()));
            }
        }
        let accepted = match self.judge_change(&content, &writer, proof) {
            Ok(accepted) => accepted,
            Err(unproven) => return self.hold_content(&content, writer, &unproven).await,
        };
        content.head.mark_replaced();
        if self.flags.is_detached() {
            writer.discard();
            return self.pass_on(content, length, FillOutcome::Outdated);
        }
        self.set_phase(Phase::Complete { content: content.clone(), length });
        if self.context.store.is_released() {
            self.unregister();
            return StepOutcome::Done(FillOutcome::HandedOver);
        }
        if negative::is_negative(content.head.status) && length < negative::MAX_BODY {
            return StepOutcome::Done(self.keep_negative(&content, writer).await);
        }
        let permit = self.permit.take();
        StepOutcome::Done(self.commit_in_turn(&content, writer, accepted, permit, length).await)
    }

    /// Commits content. A fill that finds the backlog of commits full keeps its permit only until others were
    /// committed. If it kept it to the end, new fills would wait for the whole backlog before it: 70 ms under load, in
    /// which no client got a byte.
    async fn commit_in_turn(
        &self,
        content: &FillContent,
        writer: BlobWriter,
        accepted: AcceptedContent,
        permit: Option<FillPermit>,
        length: u64,
    ) -> FillOutcome {
        let mut commit = pin!(self.commit(content, writer, accepted));
        let Some(permit) = permit else { return commit.await };
        tokio::select! {
            biased;
            outcome = &mut commit => outcome,
            _place = self.context.commits.exchange(permit, length) => commit.await,
        }
    }

    async fn hold_content(
        &mut self,
        content: &FillContent,
        writer: BlobWriter,
        unproven: &Unproven,
    ) -> StepOutcome {
        StepOutcome::Done(Box::pin(self.hold(content, writer, unproven)).await)
    }

    /// Ends a fill that received a page, as of a captive portal, in place of a file.
    fn pass_on_page(&mut self, content: Arc<FillContent>, length: u64) -> StepOutcome {
        tracing::warn!(
            key = &*self.request.key,
            upstream = &*content.head.upstream,
            media_type = ?content.head.headers.get(header::CONTENT_TYPE),
            "content is a page in place of a file; passed on and not stored"
        );
        self.pass_on(content, length, FillOutcome::UnexpectedType)
    }

    /// Ends or repeats a fill with content that does not match its digests. Unverifiable content gets no clean end.
    fn reject(
        &mut self,
        content: Arc<FillContent>,
        length: u64,
        verdict: Result<DigestVerdict, StoreError>,
    ) -> StepOutcome {
        let upstream = content.head.upstream.clone();
        match verdict {
            Ok(DigestVerdict::Keep | DigestVerdict::PassOn) => {
                self.pass_on(content, length, FillOutcome::DigestMismatch)
            }
            Ok(DigestVerdict::FetchAgain) => {
                self.distrust(content.origin.current().id.clone());
                self.restart(FillError::Mismatch { upstream });
                StepOutcome::RetryUnconditionally
            }
            Ok(DigestVerdict::GiveUp) => StepOutcome::Done(self.fail(FillError::Corrupt { upstream })),
            Err(error) => StepOutcome::Done(self.fail(error.into())),
        }
    }

    /// Keeps a response without content in memory. It takes the place of stored content, but none of its room.
    async fn keep_negative(&self, content: &FillContent, writer: BlobWriter) -> FillOutcome {
        let committed = match writer.keep_in_memory(content.head.to_object(&self.request)) {
            Ok(committed) => committed,
            Err(error) => return self.end_uncommitted(&error),
        };
        let outcome = self.finish_stored(content, committed).await;
        // A background fetch may not know the stored content.
        let has_content =
            self.replaced.as_ref().map_or(self.request.background.is_some(), |old| !old.is_negative());
        if has_content
            && let Err(error) = Box::pin(self.context.cache.remove_content(&self.request.key)).await
        {
            tracing::debug!(%error, key = &*self.request.key, "cannot remove content that its manager lacks");
        }
        outcome
    }

    /// Logs that the store takes no content. A degraded store logs once, when it degrades.
    fn note_refused(&self, error: &StoreError) {
        let key = &self.request.key;
        let is_known = match error {
            StoreError::Degraded { .. } => true,
            StoreError::TooLarge { .. } => {
                self.context.metrics.oversized.inc();
                !self.context.oversized.insert(key.clone(), ())
            }
            _ => false,
        };
        if !is_known {
            tracing::warn!(%error, key = &**key, "passing through uncached");
        }
    }

    /// Records that an upstream brought unusable content. When all have, all are asked again.
    pub(super) fn distrust(&mut self, upstream: UpstreamId) {
        self.distrusted.push(upstream);
        if self.request.upstream_order.iter().all(|id| self.distrusted.contains(id)) {
            self.distrusted.drain(..self.distrusted.len().saturating_sub(1));
        }
    }

    /// Ends the fill with content that its followers may read, but that is not kept.
    pub(super) fn pass_on(
        &self,
        content: Arc<FillContent>,
        length: u64,
        outcome: FillOutcome,
    ) -> StepOutcome {
        self.unregister();
        self.set_phase(Phase::Complete { content, length });
        StepOutcome::Done(outcome)
    }

    async fn commit(
        &self,
        content: &FillContent,
        writer: BlobWriter,
        accepted: AcceptedContent,
    ) -> FillOutcome {
        let mut object = content.head.to_object(&self.request);
        accepted.mark(&mut object.headers);
        match writer.commit(object).await {
            Ok(committed) => self.finish_stored(content, committed).await,
            Err(error) => self.end_uncommitted(&error),
        }
    }

    /// Ends the fill of complete content that the store refused. Followers have, or can still read, the right bytes;
    /// only later clients must fetch them again.
    fn end_uncommitted(&self, error: &StoreError) -> FillOutcome {
        let key = &*self.request.key;
        // A degraded store is logged once, not by each fill that ends while it lasts.
        let is_logged = matches!(error, StoreError::IndexDamaged { .. } | StoreError::Released);
        if is_logged || self.context.store.degradation().is_some() {
            tracing::debug!(%error, key, "content was served but could not be stored");
        } else {
            tracing::error!(%error, key, "content was served but could not be stored");
        }
        self.unregister();
        FillOutcome::Store
    }

    /// Returns the range to ask for first; `None` for the complete content.
    pub(super) fn part(&self) -> Option<RequestedPart> {
        let all = self.upstreams.settings().finish == FinishPolicy::Always;
        let part = self.request.part.filter(|part| !(all && part.is_front(CHUNK)));
        part.filter(|_| self.request.stale.is_none())
    }

    /// Returns true if validators of an upstream disagree: parts from several connections would not fit together.
    pub(super) fn requires_whole(&self) -> bool {
        self.request.upstream_order.iter().any(|id| self.context.disagreeing.contains(id.name()))
    }

    /// Checks content without a declared length before each piece. It may never end, so it must neither empty the store
    /// nor continue without followers. A request that came after this decision would get a part of it: the register is
    /// closed by the same step.
    fn check_open_ended(&self, bytes: u64) -> Result<(), FillError> {
        if bytes > self.context.open_ended_max() {
            self.context.cache.remember_unstorable(&self.request, UnstorableReason::OpenEnded);
            return Err(FillError::OpenEnded);
        }
        if self.request.classification.class == Class::Generic && self.close_if_unfollowed() {
            return Err(FillError::Abandoned);
        }
        Ok(())
    }
}
