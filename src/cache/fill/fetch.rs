//! Brings every byte of one content into the store. It starts runs as the plan says, until no byte is missing or no
//! follower wants the rest. The task publishes the end; this module only reports it. A fetch without followers ends
//! early, but not within a chunk that is arriving, because the next range of a paused client begins there. All running
//! writes must finish first, because the next fill continues from the stored bytes.

use std::ops::ControlFlow::{self, Break, Continue};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::admission::FillAdmission;
use super::run::{RunOutcome, RunSource};
use super::run_buffer::RunBuffer;
use super::run_permits::{RunPermit, RunPermits};
use super::transfer::Transfer;
use super::{FillContent, FillError, Phase};
use gupd_config::FinishPolicy;
use gupd_net::shape::Purpose;
use gupd_net::upstream::UpstreamResponse;
use gupd_store::{BlobWriter, CHUNK, Store, StoreError};

/// Content that is finished whatever share has arrived. Its rest costs little more than the request for it, and less
/// than a chunk is not kept by half.
const SMALL_CONTENT: u64 = 4 * CHUNK;

/// Interval at which the owner of a transfer is selected anew among its readers.
const OWNER_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum time for the rest of a chunk after the last follower left: a line of 1 Mbit/s brings a chunk in 8 s. A
/// client that pauses between ranges finds the chunk stored, and asks for no part of it again.
const LINGER: Duration = Duration::from_secs(10);

/// Fetch of one content.
pub(super) struct ContentFetch<'a> {
    pub(super) content: &'a Arc<FillContent>,
    pub(super) source: RunSource,
    pub(super) store: &'a Arc<Store>,
    pub(super) phase: &'a watch::Sender<Phase>,
    pub(super) finish: FinishPolicy,
    /// The fill was started for no client. It ends without followers even if its content has no length and its bytes
    /// are then lost.
    pub(super) is_background: bool,
    /// Bandwidth purpose while no client reads.
    pub(super) unread_purpose: Purpose,
    pub(super) stopping: &'a CancellationToken,
    pub(super) admission: &'a FillAdmission,
}

/// Result of a [`ContentFetch`].
pub(super) enum ContentFetchResult {
    /// Every byte is in the store.
    All {
        /// Number of bytes.
        length: u64,
    },
    /// The upstream has other content now.
    Changed(UpstreamResponse),
    /// The content cannot be completed.
    Failed(FillError),
}

/// Followers of a fill.
pub(super) trait Followers {
    fn has_followers(&self) -> bool;

    /// Closes the fill to new followers if it has none. Returns true if it did.
    fn close_if_unfollowed(&self) -> bool;

    /// Returns true if the chunk that is arriving may be completed without followers.
    fn can_linger(&self) -> bool;
}

impl ContentFetch<'_> {
    /// Returns true if every byte is here: its client may have it all, and storing it takes only a moment.
    fn has_arrived(&self) -> bool {
        self.content.length == Some(self.source.arrived.load(Ordering::Relaxed))
    }

    /// Fetches all bytes. A transfer brings the range `first` already. `check_limit` is called with the new total
    /// before each piece of content without a length.
    pub(super) async fn run(
        &self,
        writer: &mut BlobWriter,
        first: Option<(Range<u64>, Transfer)>,
        check_limit: impl Fn(u64) -> Result<(), FillError>,
        followers: &impl Followers,
    ) -> ContentFetchResult {
        let is_wanted = || self.fetches_unread() || followers.has_followers();
        let mut permits = RunPermits::new(self.admission);
        let start_run = |writer: &mut BlobWriter, range: Range<u64>, transfer, permit: RunPermit| {
            let run = self.source.run(self.begin_run(writer, range), transfer, self.phase, &check_limit);
            async move { (run.await, permit) }
        };
        let first = first.map(|(range, transfer)| start_run(writer, range, Some(transfer), permits.take()));
        let mut runs: FuturesUnordered<_> = first.into_iter().collect();
        // The reason to end early, once the runs have written their bytes, and the end of the wait for followers.
        let (mut ending, mut lingers_until) = (None, None);
        loop {
            self.set_purpose();
            lingers_until = lingers_until.filter(|_| !is_wanted());
            self.start_planned(&mut permits, ending.is_some(), |range, permit| {
                runs.push(start_run(writer, range, None, permit));
            });
            if runs.is_empty()
                && let Some(error) = ending.take().or_else(|| (!is_wanted()).then_some(FillError::Abandoned))
            {
                let Some(result) = self.end_early(error, writer, followers).await else { continue };
                return result;
            }
            tokio::select! {
                Some((outcome, permit)) = runs.next() => {
                    permits.give_back(&permit);
                    match end_run(outcome, writer) {
                        Continue(()) => {}
                        Break(ContentFetchResult::Failed(error)) => ending = ending.or(Some(error)),
                        Break(result) => return result,
                    }
                }
                () = permits.wait_for_grant() => {}
                // The condition is as old as the wait: the last byte may have come since.
                () = self.stopping.cancelled(), if ending.is_none() && !self.has_arrived() =>
                    ending = (!self.has_arrived()).then_some(FillError::Stopped),
                // Its owner may have started other fills, and the other readers would then have a part of its share.
                () = sleep(OWNER_INTERVAL), if self.source.origin.bandwidth().is_limited() => {}
                () = sleep_until(lingers_until.unwrap_or_else(Instant::now)), if lingers_until.is_some() => {
                    ending = ending.or((!is_wanted()).then_some(FillError::Abandoned));
                }
                () = self.content.wait_for_attention() => if self.is_left(followers) {
                    lingers_until = self.linger(lingers_until, followers);
                    ending = ending.or(lingers_until.is_none().then_some(FillError::Abandoned));
                }
            }
            if ending.is_some() {
                self.content.stop();
            } else if runs.is_empty()
                && let Some(result) = self.finish(writer).await
            {
                return result;
            }
        }
    }

    /// Starts a run for each range that readers want and that has a permit; none while the fetch ends.
    fn start_planned(
        &self,
        permits: &mut RunPermits<'_>,
        is_ending: bool,
        mut start: impl FnMut(Range<u64>, RunPermit),
    ) {
        permits.begin_plan();
        while !is_ending
            && let Some(range) = self.content.plan(self.fetches_unread(), |client| permits.admits(client))
        {
            start(range, permits.take());
        }
        permits.end_plan();
    }

    /// Returns true if nobody wants the rest. Content without a length cannot go on for a follower that joins while it
    /// ends, so it is closed to new ones by the same step.
    fn is_left(&self, followers: &impl Followers) -> bool {
        match self.content.length {
            Some(_) => !self.fetches_unread() && !followers.has_followers(),
            None => self.is_background && !self.fetches_unread() && followers.close_if_unfollowed(),
        }
    }

    fn begin_run(&self, writer: &mut BlobWriter, range: Range<u64>) -> RunBuffer {
        let segment = writer.begin_segment(range.start);
        RunBuffer::new(self.content.clone(), range, segment, self.store.clone())
    }

    /// Returns the time at which a fetch that has lost its followers ends, and lets its runs end with their chunks.
    /// `None` if it ends at once.
    fn linger(&self, until: Option<Instant>, followers: &impl Followers) -> Option<Instant> {
        if self.content.length.is_none() || !followers.can_linger() {
            return None;
        }
        self.content.stop_at_chunks();
        let idle_timeout = self.source.origin.upstreams.settings().idle_timeout;
        until.or_else(|| Instant::now().checked_add(LINGER.min(idle_timeout)))
    }

    /// Sets the priority of the bytes, and the client that they count against.
    fn set_purpose(&self) {
        let purpose = if self.content.reader_count() > 0 { Purpose::Client } else { self.unread_purpose };
        let bandwidth = self.source.origin.bandwidth();
        bandwidth.set_purpose(purpose);
        if bandwidth.is_limited() {
            bandwidth.set_clients(self.content.reading_clients());
        }
    }

    /// Ends the fetch with `error` after its last run. If a follower joined an abandoned fill in the meantime, the
    /// fetch continues (`None`) unless the last run brought the last byte: then nothing is left to wait for. Content
    /// without a length cannot; its new follower looks the object up once more.
    async fn end_early(
        &self,
        error: FillError,
        writer: &mut BlobWriter,
        followers: &impl Followers,
    ) -> Option<ContentFetchResult> {
        if matches!(error, FillError::Abandoned) {
            writer.wait_for_writes().await;
            if !followers.close_if_unfollowed() && self.content.length.is_some() {
                return self.finish(writer).await;
            }
        }
        Some(ContentFetchResult::Failed(error))
    }

    /// Finishes the blob if no byte is missing; called while no run is active.
    async fn finish(&self, writer: &mut BlobWriter) -> Option<ContentFetchResult> {
        let length = writer.partial().length()?;
        if writer.partial().first_gap(0..length).is_some() {
            return None;
        }
        match writer.finish().await {
            Ok(Ok(length)) => Some(ContentFetchResult::All { length }),
            // The disk lost bytes. They can be fetched again only if the content has a length.
            Ok(Err(_)) if self.content.length.is_some() => None,
            Ok(Err(_)) => Some(ContentFetchResult::Failed(StoreError::Broken.into())),
            Err(error) => Some(ContentFetchResult::Failed(error.into())),
        }
    }

    /// Returns true if bytes that no reader wants are fetched too.
    fn fetches_unread(&self) -> bool {
        match (self.finish, self.content.length) {
            // The released store could not keep them.
            _ if self.store.is_released() => false,
            // Its followers cannot say what they want: they see nothing of it.
            _ if self.content.head.is_hidden => true,
            _ if self.content.background_followers.load(Ordering::Acquire) > 0 => true,
            (FinishPolicy::Always, _) => true,
            (FinishPolicy::Never, _) | (FinishPolicy::Above(_), None) => false,
            (FinishPolicy::Above(_), Some(length)) if length <= SMALL_CONTENT => true,
            (FinishPolicy::Above(percent), Some(length)) => {
                let arrived = self.source.arrived.load(Ordering::Relaxed);
                u128::from(arrived) * 100 >= u128::from(length).saturating_mul(u128::from(percent))
            }
        }
    }
}

/// Takes the outcome of a run. Breaks with the result that it gives the fetch, if any.
fn end_run(outcome: RunOutcome, writer: &mut BlobWriter) -> ControlFlow<ContentFetchResult> {
    match outcome {
        RunOutcome::Complete(segment) => writer.return_segment(segment),
        RunOutcome::Redundant => {}
        RunOutcome::Changed(answer) => return Break(ContentFetchResult::Changed(answer)),
        RunOutcome::Failed(error) => return Break(ContentFetchResult::Failed(error)),
    }
    Continue(())
}
