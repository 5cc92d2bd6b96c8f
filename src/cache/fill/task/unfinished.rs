//! Continuation of an unfinished fill. Stored bytes never cross the line again: a request for stored and fresh bytes asks
//! no upstream, any other asks for what is missing. The complication: only an upstream can tell whether content that is
//! no longer fresh is still the same, and it is then asked for one more chunk.

use std::ops::Range;
use std::sync::Arc;

use super::{FillTask, StepOutcome};
use crate::fill::head::ContentHead;
use crate::fill::origin::ContentOrigin;
use crate::fill::resumption::{ResumeAttempt, ResumeOutcome, Resumption};
use crate::fill::transfer::Transfer;
use crate::fill::{FillContent, FillError};
use gupd_http::{CacheControl, VaryFields, Verdict, internal};
use gupd_store::{CHUNK, UnfinishedFill};

/// First range that an upstream sends for an unfinished fill.
struct Continuation {
    range: Range<u64>,
    transfer: Transfer,
    /// The upstream sends the complete content again.
    is_whole: bool,
}

impl FillTask {
    /// Takes the unfinished fill of the requested object, if there is one.
    pub(super) fn find_unfinished(&self) -> Option<Box<UnfinishedFill>> {
        if self.request.stale.is_some() {
            return None;
        }
        let unfinished = self.context.store.take_unfinished(&self.request.key, |selecting| {
            let selecting = VaryFields::decode(selecting);
            selecting.is_some_and(|selecting| selecting.matches(self.request.selecting()))
        });
        unfinished.map(Box::new)
    }

    /// Continues an unfinished fill if the request needs no upstream, or an upstream still has its content. `None` if no
    /// upstream can tell now.
    pub(super) async fn resume_unfinished(&mut self, mut unfinished: UnfinishedFill) -> Option<StepOutcome> {
        let metrics = &self.context.metrics;
        let origin =
            ContentOrigin::from_record(&self.request, &self.upstreams, &unfinished.object.upstream, metrics)?;
        if !self.upstreams.are_authenticated(&self.request.upstream_order) {
            unfinished.object.headers.remove(internal::PROOF);
        }
        let expected = self.expect(unfinished.object.status, &unfinished.object.headers);
        let is_hidden = expected.is_hidden();
        let head = ContentHead::from_unfinished(&unfinished, &self.request, &self.context.cache, expected);
        let head = ContentHead { is_hidden, ..head };
        let requested = self.part().map_or(0..unfinished.len, |part| part.resolve(unfinished.len));
        if unfinished.has(requested.clone()) && self.is_usable(&head) {
            return self.follow_unfinished(unfinished, (head, origin), None).await;
        }
        let missing = unfinished.first_gap(requested.start);
        let enough = match missing.end > requested.start {
            true => requested.end.next_multiple_of(CHUNK),
            // Every requested byte is stored; one more chunk shows whether the content is still the same.
            false => missing.start.saturating_add(CHUNK),
        };
        let range = missing.start..missing.end.min(enough);
        let resumption = Resumption::new(origin.clone(), &unfinished.object.headers, Some(unfinished.len));
        let attempt = tokio::select! {
            attempt = resumption.try_each(&range) => attempt,
            () = self.context.stopping.cancelled() => Err(FillError::Stopped),
        };
        match attempt {
            Ok(ResumeAttempt::Answered(ResumeOutcome::Continues { transfer, is_whole })) => {
                let first = Continuation { range, transfer, is_whole };
                self.follow_unfinished(unfinished, (head, origin), Some(first)).await
            }
            Ok(ResumeAttempt::Answered(ResumeOutcome::Changed(answer))) => {
                Some(StepOutcome::Changed(Box::new(answer)))
            }
            Ok(ResumeAttempt::Failed(_, reason)) => {
                tracing::info!(key = &*self.request.key, %reason, "cannot resume an unfinished fill");
                self.context.store.return_unfinished(unfinished);
                None
            }
            Err(error) => {
                self.context.store.return_unfinished(unfinished);
                Some(StepOutcome::Done(self.fail(error)))
            }
        }
    }

    /// Returns true if the request may have stored bytes under `head` without a question to an upstream.
    fn is_usable(&self, head: &ContentHead) -> bool {
        let control = CacheControl::from_request(&self.request.client_headers);
        let now = self.context.clock.now();
        !head.is_hidden
            && !head.expected.is_strict()
            && head.kept.is_ok()
            && head.freshness.evaluate(now, &control) == Verdict::Fresh
    }

    /// Fills the rest of an unfinished fill, beginning with `first` if an upstream was asked.
    async fn follow_unfinished(
        &mut self,
        unfinished: UnfinishedFill,
        (head, origin): (ContentHead, ContentOrigin),
        first: Option<Continuation>,
    ) -> Option<StepOutcome> {
        let (length, written) = (unfinished.len, unfinished.written_bytes());
        let writer = match self.context.store.resume_blob(unfinished).await {
            Ok(writer) => writer,
            Err(error) => {
                tracing::warn!(%error, key = &*self.request.key, "cannot resume an unfinished fill");
                return None;
            }
        };
        if first.is_some() {
            tracing::info!(key = &*self.request.key, written, length, "resuming an unfinished fill");
            self.context.metrics.resumes.inc();
        }
        let accepts_ranges = first.as_ref().is_none_or(|first| !first.is_whole);
        let (partial, attention) = (writer.partial().clone(), self.attention.clone());
        let content = FillContent::new(head, Some(length), origin, partial, accepts_ranges, attention);
        let content = Arc::new(if first.is_none() { content.served_from_disk() } else { content });
        let first = first.map(|first| (first.range, first.transfer));
        Some(self.fetch(content, writer, first).await)
    }
}
