//! One run of a fill: consecutive bytes of the content, through as many broken connections as needed, to the end that
//! the plan sets. `transfer` defines the end of a body, `resumption` requests the rest, `run_buffer` stores the bytes.
//! A run publishes progress to followers and decides nothing about the fill.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::origin::ContentOrigin;
use super::resumption::{ResumeOutcome, Resumption};
use super::run_buffer::RunBuffer;
use super::transfer::{Interruption, Transfer};
use super::{FillContent, FillError, Phase};
use crate::fill::metrics::FillMetrics;
use gupd_net::upstream::UpstreamResponse;
use gupd_store::Segment;

/// Maximum time for which a run keeps its connection while no reader wants its bytes. A client that reads one range
/// after the other pauses for less.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// State shared by all runs of a fill.
pub(super) struct RunSource {
    pub(super) origin: ContentOrigin,
    pub(super) metrics: Arc<FillMetrics>,
    /// Number of times that other content replaced the arriving content before.
    pub(super) changes: u32,
    /// Bytes of the content that have arrived, over all runs.
    pub(super) arrived: AtomicU64,
}

/// Result of a run.
pub(super) enum RunOutcome {
    /// Every byte of the run is in the store, or the rest is for another run: no reader wanted it for a while.
    Complete(Segment),
    /// The upstream serves only the complete content, which another run brings.
    Redundant,
    /// The upstream has other content now.
    Changed(UpstreamResponse),
    /// The rest is unavailable.
    Failed(FillError),
}

impl RunSource {
    /// Fills `buffer`, beginning with `transfer` if there is one. `check_limit` is called before each piece of content
    /// without a length.
    pub(super) async fn run(
        &self,
        mut buffer: RunBuffer,
        mut transfer: Option<Transfer>,
        phase: &watch::Sender<Phase>,
        check_limit: impl Fn(u64) -> Result<(), FillError>,
    ) -> RunOutcome {
        let content = buffer.content().clone();
        // Most runs need no second request.
        let mut resumption = None;
        let mut last_failure = None;
        loop {
            let mut current = match transfer.take() {
                Some(transfer) => transfer,
                None => {
                    let rest = buffer.position()..buffer.limit().until;
                    let is_resumed = last_failure.is_some();
                    let resumption = resumption.get_or_insert_with(|| self.resumption(&content));
                    let resumed = tokio::select! {
                        resumed = Box::pin(resumption.resume(rest, last_failure.take(), &content.visibility)) => resumed,
                        () = content.wait_until_stopped(buffer.run()) => break,
                    };
                    match resumed {
                        Ok(ResumeOutcome::Continues { is_whole: true, .. }) if buffer.has_other_runs() => {
                            content.disable_ranges();
                            return RunOutcome::Redundant;
                        }
                        Ok(ResumeOutcome::Continues { transfer, .. }) => {
                            self.metrics.resumes.inc_by(u64::from(is_resumed));
                            transfer
                        }
                        Ok(ResumeOutcome::Changed(answer)) => return RunOutcome::Changed(answer),
                        Err(error) => return RunOutcome::Failed(error),
                    }
                }
            };
            match self.receive(&content, &mut buffer, &mut current, phase, &check_limit).await {
                Ok(()) => break,
                Err(Interruption::Upstream(why)) => last_failure = Some(why),
                Err(Interruption::Fatal(error)) => return Self::failed(buffer, error).await,
            }
        }
        match buffer.finish().await {
            Ok(segment) => RunOutcome::Complete(segment),
            Err(error) => RunOutcome::Failed(error.into()),
        }
    }

    fn resumption(&self, content: &FillContent) -> Box<Resumption> {
        let resumption = Resumption::new(self.origin.clone(), &content.head.headers, content.length);
        Box::new(resumption.after_changes(self.changes))
    }

    /// Writes the bytes that have arrived: followers may read them, and the next fill continues from them.
    async fn failed(buffer: RunBuffer, error: FillError) -> RunOutcome {
        if !matches!(error, FillError::Store(_))
            && let Err(unwritten) = buffer.finish().await
        {
            tracing::warn!(error = %unwritten, "cannot write the bytes that have arrived");
        }
        RunOutcome::Failed(error)
    }

    /// Reads a body to its end, or to the end of the run.
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
            if limit.is_paused {
                // Its readers may have left: the connection is for other ranges and clients then.
                if timeout(MAX_PAUSE.min(idle_timeout), buffer.wait_until_released()).await.is_err() {
                    return Ok(());
                }
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
                check_limit(buffer.position().saturating_add(bytes)).map_err(Interruption::Fatal)?;
            }
            let arrived = self.arrived.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
            if content.length.is_some_and(|length| arrived >= length) && content.head.is_kept_surely() {
                content.head.mark_replaced();
            }
            buffer.push(piece);
            if !content.head.is_hidden {
                phase.send_replace(Phase::Receiving { content: content.clone(), arrived });
            }
        }
        transfer.check_end(buffer.position())?;
        // A response may bring less than requested; the rest is requested again.
        match content.length {
            Some(_) if buffer.position() < buffer.limit().until => {
                Err(Interruption::upstream("its response was shorter than the requested range"))
            }
            _ => Ok(()),
        }
    }
}
