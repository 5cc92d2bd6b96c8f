//! One run of a fill: bytes of the content in order, from one upstream, through as many broken connections as it needs,
//! to where the plan says it ends. Relies on `transfer` for what counts as an end, on `resume` for the rest, on `intake`
//! for where bytes go. Shows followers what has come; decides nothing about the fill.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::intake::Intake;
use super::origin::Origin;
use super::resume::{Resumed, Resumption};
use super::transfer::{Interruption, Transfer};
use super::{FillContent, FillError, Phase};
use crate::fill::metrics::FillMetrics;
use gupd_net::upstream::UpstreamResponse;
use gupd_store::Segment;

/// What all runs of a fill have in common.
pub(super) struct Source {
    pub(super) origin: Origin,
    pub(super) metrics: Arc<FillMetrics>,
    /// Bytes of the content that have arrived, in all runs.
    pub(super) arrived: AtomicU64,
}

/// How a run ended.
pub(super) enum Ran {
    /// All of it is in the store.
    Through(Segment),
    /// The upstream serves this content only as a whole, which another run brings.
    Whole,
    /// The upstream has other content now.
    Changed(UpstreamResponse),
    /// Nothing more can be had.
    Failed(FillError),
}

impl Source {
    /// Takes in what `intake` is for, beginning with `transfer` if there is one. `go_on` is asked before each byte of
    /// content without a length.
    pub(super) async fn run(
        &self,
        mut intake: Intake,
        mut transfer: Option<Transfer>,
        phase: &watch::Sender<Phase>,
        go_on: impl Fn(u64) -> Result<(), FillError>,
    ) -> Ran {
        let flow = intake.flow().clone();
        let mut resumption = Resumption::new(self.origin.clone(), &flow.head.headers, flow.length);
        let mut broke = None;
        loop {
            let mut current = match transfer.take() {
                Some(transfer) => transfer,
                None => {
                    let rest = intake.position()..intake.course().until;
                    let mended = broke.is_some();
                    let resumed = tokio::select! {
                        resumed = resumption.resume(rest, broke.take(), &*flow) => resumed,
                        () = flow.stopped(intake.run()) => break,
                    };
                    match resumed {
                        Ok(Resumed::Continues { whole: true, .. }) if intake.others() => {
                            flow.not_in_parts();
                            return Ran::Whole;
                        }
                        Ok(Resumed::Continues { transfer, .. }) => {
                            self.metrics.resumes.inc_by(u64::from(mended));
                            transfer
                        }
                        Ok(Resumed::Changed(answer)) => return Ran::Changed(answer),
                        Err(error) => return Ran::Failed(error),
                    }
                }
            };
            match self.receive(&flow, &mut intake, &mut current, phase, &go_on).await {
                Ok(()) => break,
                Err(Interruption::Upstream(why)) => broke = Some(why),
                Err(Interruption::Fatal(error)) => return Self::failed(intake, error).await,
            }
        }
        match intake.finish().await {
            Ok(segment) => Ran::Through(segment),
            Err(error) => Ran::Failed(error.into()),
        }
    }

    /// What has come is for the next fill, and followers may still read it.
    async fn failed(intake: Intake, error: FillError) -> Ran {
        if !matches!(error, FillError::Store(_))
            && let Err(unwritten) = intake.finish().await
        {
            tracing::warn!(error = %unwritten, "what had arrived could not be written");
        }
        Ran::Failed(error)
    }

    /// Reads a body to its end, or to the run's.
    async fn receive(
        &self,
        flow: &Arc<FillContent>,
        intake: &mut Intake,
        transfer: &mut Transfer,
        phase: &watch::Sender<Phase>,
        go_on: &impl Fn(u64) -> Result<(), FillError>,
    ) -> Result<(), Interruption> {
        let idle_timeout = self.origin.upstreams.settings().idle_timeout;
        loop {
            let course = intake.course();
            if intake.position() >= course.until {
                return Ok(());
            }
            if course.held {
                intake.released().await;
                continue;
            }
            let run = intake.run();
            let piece = tokio::select! {
                piece = intake.next(transfer, idle_timeout) => piece?,
                () = flow.stopped(run) => return Ok(()),
            };
            let Some(piece) = piece else { break };
            let Some(mut piece) = transfer.wanted(piece, intake.position())? else { continue };
            let left = intake.course().until.saturating_sub(intake.position());
            if (piece.len() as u64) > left {
                piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            }
            let bytes = piece.len() as u64;
            if flow.length.is_none() {
                go_on(intake.position() + bytes).map_err(Interruption::Fatal)?;
            }
            intake.push(piece);
            let arrived = self.arrived.fetch_add(bytes, Ordering::Relaxed) + bytes;
            phase.send_replace(Phase::Receiving { flow: flow.clone(), arrived });
        }
        transfer.ended(intake.position())?;
        // A part may be shorter than what was asked for: the rest is asked for again.
        match flow.length {
            Some(_) if intake.position() < intake.course().until => {
                Err(Interruption::broke("its answer was a part of what was asked for"))
            }
            _ => Ok(()),
        }
    }
}
