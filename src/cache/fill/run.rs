//! One run of a fill: bytes of the content in order, from one upstream, through as many broken connections as it needs,
//! to where the plan says it ends. Relies on `transfer` for what counts as an end, on `resume` for the rest, on `buffer`
//! for where bytes go. Shows followers what has come; decides nothing about the fill.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::origin::ContentOrigin;
use super::resumption::{ResumeOutcome, Resumption};
use super::run_buffer::RunBuffer;
use super::transfer::{Interruption, Transfer};
use super::{FillContent, FillError, Phase};
use crate::fill::metrics::FillMetrics;
use gupd_net::upstream::UpstreamResponse;
use gupd_store::Segment;

/// What all runs of a fill have in common.
pub(super) struct RunSource {
    pub(super) origin: ContentOrigin,
    pub(super) metrics: Arc<FillMetrics>,
    /// Bytes of the content that have arrived, in all runs.
    pub(super) arrived: AtomicU64,
}

/// How a run ended.
pub(super) enum RunOutcome {
    /// All of it is in the store.
    Complete(Segment),
    /// The upstream serves this content only as a whole, which another run brings.
    Redundant,
    /// The upstream has other content now.
    Changed(UpstreamResponse),
    /// Nothing more can be had.
    Failed(FillError),
}

impl RunSource {
    /// Takes in what `buffer` is for, beginning with `transfer` if there is one. `check_limit` is asked before each byte of
    /// content without a length.
    pub(super) async fn run(
        &self,
        mut buffer: RunBuffer,
        mut transfer: Option<Transfer>,
        phase: &watch::Sender<Phase>,
        check_limit: impl Fn(u64) -> Result<(), FillError>,
    ) -> RunOutcome {
        let content = buffer.content().clone();
        let mut resumption = Resumption::new(self.origin.clone(), &content.head.headers, content.length);
        let mut broke = None;
        loop {
            let mut current = match transfer.take() {
                Some(transfer) => transfer,
                None => {
                    let rest = buffer.position()..buffer.limit().until;
                    let mended = broke.is_some();
                    let resumed = tokio::select! {
                        resumed = resumption.resume(rest, broke.take(), &*content) => resumed,
                        () = content.wait_until_stopped(buffer.run()) => break,
                    };
                    match resumed {
                        Ok(ResumeOutcome::Continues { is_whole: true, .. }) if buffer.others() => {
                            content.disable_ranges();
                            return RunOutcome::Redundant;
                        }
                        Ok(ResumeOutcome::Continues { transfer, .. }) => {
                            self.metrics.resumes.inc_by(u64::from(mended));
                            transfer
                        }
                        Ok(ResumeOutcome::Changed(answer)) => return RunOutcome::Changed(answer),
                        Err(error) => return RunOutcome::Failed(error),
                    }
                }
            };
            match self.receive(&content, &mut buffer, &mut current, phase, &check_limit).await {
                Ok(()) => break,
                Err(Interruption::Upstream(why)) => broke = Some(why),
                Err(Interruption::Fatal(error)) => return Self::failed(buffer, error).await,
            }
        }
        match buffer.finish().await {
            Ok(segment) => RunOutcome::Complete(segment),
            Err(error) => RunOutcome::Failed(error.into()),
        }
    }

    /// What has come is for the next fill, and followers may still read it.
    async fn failed(buffer: RunBuffer, error: FillError) -> RunOutcome {
        if !matches!(error, FillError::Store(_))
            && let Err(unwritten) = buffer.finish().await
        {
            tracing::warn!(error = %unwritten, "what had arrived could not be written");
        }
        RunOutcome::Failed(error)
    }

    /// Reads a body to its end, or to the run's.
    async fn receive(
        &self,
        content: &Arc<FillContent>,
        buffer: &mut RunBuffer,
        transfer: &mut Transfer,
        phase: &watch::Sender<Phase>,
        check_limit: &impl Fn(u64) -> Result<(), FillError>,
    ) -> Result<(), Interruption> {
        let idle_timeout = self.origin.upstreams.settings().idle_timeout;
        loop {
            let limit = buffer.limit();
            if buffer.position() >= limit.until {
                return Ok(());
            }
            if limit.held {
                buffer.wait_until_released().await;
                continue;
            }
            let run = buffer.run();
            let piece = tokio::select! {
                piece = buffer.next(transfer, idle_timeout) => piece?,
                () = content.wait_until_stopped(run) => return Ok(()),
            };
            let Some(piece) = piece else { break };
            let Some(mut piece) = transfer.accept(piece, buffer.position())? else { continue };
            let left = buffer.limit().until.saturating_sub(buffer.position());
            if (piece.len() as u64) > left {
                piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            }
            let bytes = piece.len() as u64;
            if content.length.is_none() {
                check_limit(buffer.position() + bytes).map_err(Interruption::Fatal)?;
            }
            buffer.push(piece);
            let arrived = self.arrived.fetch_add(bytes, Ordering::Relaxed) + bytes;
            phase.send_replace(Phase::Receiving { content: content.clone(), arrived });
        }
        transfer.check_end(buffer.position())?;
        // A part may be shorter than what was asked for: the rest is asked for again.
        match content.length {
            Some(_) if buffer.position() < buffer.limit().until => {
                Err(Interruption::upstream("its answer was a part of what was asked for"))
            }
            _ => Ok(()),
        }
    }
}
