//! The content of a fill, from its first bytes to the object: taken in anew, or gone on with where an earlier fill left
//! it; fetched, judged, committed. Part of the task, which owns the phase; what became of it, `StepOutcome` says.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::{HeaderMap, StatusCode};

use super::{StepOutcome, Task};
use crate::digest::{CompleteContent, Expectation, Judgement, Subject};
use crate::fill::begin::Begun;
use crate::fill::content::Head;
use crate::fill::fetch::{Fetch, Fetched, Followers};
use crate::fill::origin::Origin;
use crate::fill::resume::{Asked, Resumed, Resumption};
use crate::fill::transfer::Transfer;
use crate::fill::{BackgroundFetch, FillContent, FillError, FillOutcome, Phase, UnsharedReason, run};
use gupd_config::{Class, FinishPolicy};
use gupd_http::range::RequestedPart;
use gupd_http::storable::check_length;
use gupd_http::{UnstorableReason, VaryFields};
use gupd_net::shape::Purpose;
use gupd_store::{BlobWriter, BodySource, CHUNK, StoreError, UnfinishedFill};

/// How often another upstream's content may take the place of what was coming, unseen by clients: two that break off in
/// turn must not keep them waiting for ever.
const MAX_CHANGES: u32 = 2;

/// How often content may be other content when it is gone on with, before the fill is given up: something between here
/// and managers that differ may break each transfer off, and what is fetched for nobody would cross the line for ever.
const MAX_RESTARTS: u32 = 8;

impl Task {
    /// Takes content in that has just begun.
    pub(super) async fn take_in(&mut self, begun: Begun) -> StepOutcome {
        let writer = self.shared.store.begin_blob(begun.length).await;
        self.shared.cache.forget_evicted();
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => {
                match error {
                    // Told once, when it began.
                    StoreError::Degraded { .. } => {}
                    error => tracing::warn!(%error, key = &*self.wanted.key, "passing through uncached"),
                }
                self.hand_over(begun.answer);
                return StepOutcome::Finally(self.unshared(UnsharedReason::NoRoom));
            }
        };
        if begun.head.is_resumable(begun.length)
            && let Err(error) = writer.start_journal(begun.head.to_object(&self.wanted)).await
        {
            tracing::warn!(%error, key = &*self.wanted.key, "what arrives will not outlive an interruption");
        }
        let Begun { answer, head, length, brings, skip, end, in_parts } = begun;
        let origin = Origin::of(&self.wanted, &self.upstreams, answer.upstream.clone(), &self.shared.metrics);
        let received = answer.upstream.received_bytes().clone();
        let partial = writer.partial().clone();
        let flow =
            Arc::new(FillContent::new(head, length, origin, partial, in_parts, self.attention.clone()));
        let transfer = Transfer::new(answer.response.into_body(), skip, end, received);
        self.fetch(flow, writer, brings, transfer).await
    }

    /// Goes on with what an earlier fill left, if an upstream still has that content; `None` if that cannot be told now.
    pub(super) async fn go_on_with(&mut self, mut left: UnfinishedFill) -> Option<StepOutcome> {
        let metrics = &self.shared.metrics;
        let origin = Origin::recorded(&self.wanted, &self.upstreams, &left.object.upstream, metrics)?;
        let wanted = self.part().map_or(0..left.len, |part| part.resolve(left.len));
        let missing = left.first_gap(wanted.start);
        let enough = match missing.end > wanted.start {
            true => wanted.end.next_multiple_of(CHUNK),
            // All of what is wanted is there; the answer says whether it still is the content.
            false => missing.start + CHUNK,
        };
        let first = missing.start..missing.end.min(enough);
        let resumption = Resumption::new(origin.clone(), &left.object.headers, Some(left.len));
        let asked = tokio::select! {
            asked = resumption.ask_each(&first) => asked,
            () = self.shared.stopping.cancelled() => Err(FillError::Stopped),
        };
        let (transfer, whole) = match asked {
            Ok(Asked::Resumed(Resumed::Continues { transfer, whole })) => (transfer, whole),
            Ok(Asked::Resumed(Resumed::Changed(answer))) => return Some(StepOutcome::Changed(answer)),
            Ok(Asked::Nothing(_, reason)) => {
                tracing::info!(key = &*self.wanted.key, %reason, "cannot go on with what was left");
                self.shared.store.return_unfinished(left);
                return None;
            }
            Err(error) => {
                self.shared.store.return_unfinished(left);
                return Some(StepOutcome::Finally(self.fail(error)));
            }
        };
        let expected = self.expect(left.object.status, &left.object.headers);
        let head = Head::of_unfinished(&left, &self.wanted, &self.shared.cache, expected);
        let (length, written) = (left.len, left.written_bytes());
        let writer = match self.shared.store.resume_blob(left).await {
            Ok(writer) => writer,
            Err(error) => {
                tracing::warn!(%error, key = &*self.wanted.key, "cannot go on with what was left");
                return None;
            }
        };
        tracing::info!(key = &*self.wanted.key, written, length, "going on with what was left");
        self.shared.metrics.resumes.inc();
        let partial = writer.partial().clone();
        let attention = self.attention.clone();
        let flow = Arc::new(FillContent::new(head, Some(length), origin, partial, !whole, attention));
        Some(self.fetch(flow, writer, first, transfer).await)
    }

    /// Has every byte fetched, and makes an object of them.
    async fn fetch(
        &mut self,
        flow: Arc<FillContent>,
        mut writer: BlobWriter,
        first: Range<u64>,
        transfer: Transfer,
    ) -> StepOutcome {
        if self.changes >= MAX_CHANGES {
            // As if a client had bytes of it.
            flow.show();
        }
        let arrived = writer.partial().written_bytes();
        self.show(Phase::Receiving { flow: flow.clone(), arrived });
        let fetch = Fetch {
            flow: &flow,
            source: run::Source {
                origin: flow.origin.clone(),
                metrics: self.shared.metrics.clone(),
                arrived: AtomicU64::new(arrived),
            },
            store: &self.shared.store,
            phase: &self.phase,
            finish: match self.wanted.background {
                // An errand wants everything for as long as it is there.
                Some(_) => FinishPolicy::Never,
                None => self.upstreams.settings().finish,
            },
            is_errand: self.wanted.background.is_some(),
            unread: match self.wanted.background {
                Some(BackgroundFetch::Revalidation | BackgroundFetch::Collect) => Purpose::Revalidation,
                Some(BackgroundFetch::Prefetch) | None => Purpose::Prefetch,
            },
            stopping: &self.shared.stopping,
        };
        let go_on = |bytes| self.check_open_ended(bytes);
        let length = match fetch.all(&mut writer, first, transfer, go_on, &*self).await {
            Fetched::All { length } => length,
            Fetched::Changed(answer) => {
                writer.discard();
                self.changes += 1;
                let error = FillError::Changed { upstream: answer.upstream.name.clone() };
                if self.changes > MAX_RESTARTS {
                    return StepOutcome::Finally(self.fail(error));
                }
                self.begin_again(error);
                return StepOutcome::Changed(answer);
            }
            Fetched::Failed(error) => {
                // Before followers are told: the next fill goes on with what is left.
                match error {
                    FillError::Store(_) => writer.discard(),
                    _ => writer.suspend().await,
                }
                return StepOutcome::Finally(self.fail(error));
            }
        };
        // An empty payload is what an overloaded manager makes of a delta it could not build (KB152365); only now is
        // the length of a response known that did not say it.
        if check_length(flow.head.status, length, self.wanted.classification.class).is_err() {
            self.leave();
            self.show(Phase::Complete { flow, length });
            return StepOutcome::Finally(FillOutcome::Unstorable);
        }
        if flow.head.expected.is_judged_first() {
            match self.judge(&flow, length, &writer).await {
                Ok(Judgement::Keep) => {}
                Ok(Judgement::FetchAgain) => {
                    writer.discard();
                    self.again = true;
                    self.begin_again(FillError::Mismatch { upstream: flow.head.upstream.clone() });
                    return StepOutcome::Unconditionally;
                }
                Ok(Judgement::PassOn) => {
                    writer.discard();
                    self.leave();
                    self.show(Phase::Complete { flow, length });
                    return StepOutcome::Finally(FillOutcome::DigestMismatch);
                }
                // What cannot be verified has no end.
                Err(error) => {
                    writer.discard();
                    return StepOutcome::Finally(self.fail(error.into()));
                }
            }
        }
        self.show(Phase::Complete { flow: flow.clone(), length });
        if self.shared.store.is_released() {
            self.leave();
            return StepOutcome::Finally(FillOutcome::HandedOver);
        }
        match writer.commit(flow.head.to_object(&self.wanted)).await {
            Ok(committed) => StepOutcome::Finally(self.stored(&flow, committed).await),
            Err(error) => {
                // Every follower has, or can still read, the right bytes; only the next client has to ask again.
                let key = &*self.wanted.key;
                // What ails the store is told once, and not by all fills that it meets at their end.
                let is_told = matches!(error, StoreError::IndexDamaged { .. } | StoreError::Released);
                if is_told || self.shared.store.degradation().is_some() {
                    tracing::debug!(%error, key, "content was served but could not be stored");
                } else {
                    tracing::error!(%error, key, "content was served but could not be stored");
                }
                self.leave();
                StepOutcome::Finally(FillOutcome::Store)
            }
        }
    }

    async fn judge(
        &self,
        flow: &FillContent,
        length: u64,
        writer: &BlobWriter,
    ) -> Result<Judgement, StoreError> {
        let whole = CompleteContent {
            source: BodySource::Partial(flow.partial.clone()),
            length,
            blob: writer.blob_id()?,
        };
        let subject = self.subject(flow.head.status);
        Ok(self.shared.digests.judge(subject, &flow.head.expected, &whole).await?)
    }

    pub(super) fn expect(&self, status: StatusCode, headers: &HeaderMap) -> Expectation {
        self.shared.digests.expect(self.subject(status), headers, self.again)
    }

    pub(super) fn subject(&self, status: StatusCode) -> Subject<'_> {
        Subject { key: &self.wanted.key, class: self.wanted.classification.class, status }
    }

    /// The part to ask for first.
    pub(super) fn part(&self) -> Option<RequestedPart> {
        let all = self.upstreams.settings().finish == FinishPolicy::Always;
        let part = self.wanted.part.filter(|part| !(all && part.is_front(CHUNK)));
        part.filter(|_| self.wanted.stale.is_none())
    }

    pub(super) fn left_unfinished(&self) -> Option<UnfinishedFill> {
        if self.wanted.stale.is_some() {
            return None;
        }
        self.shared.store.take_unfinished(&self.wanted.key, |selecting| {
            VaryFields::decode(selecting)
                .is_some_and(|selecting| selecting.matches(&self.wanted.client_headers))
        })
    }

    /// A response that never says where it ends may never do so: it must neither empty the store nor go on for nobody.
    fn check_open_ended(&self, bytes: u64) -> Result<(), FillError> {
        if bytes > self.shared.open_ended_max {
            self.shared.cache.remember_unstorable(&self.wanted.key, UnstorableReason::OpenEnded);
            return Err(FillError::OpenEnded);
        }
        if !self.are_there() && self.wanted.classification.class == Class::Generic {
            return Err(FillError::Stopped);
        }
        Ok(())
    }
}
