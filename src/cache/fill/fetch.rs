//! Brings every byte of one content into the store: begins runs as the plan says, until nothing is missing or nobody
//! wants the rest. Relies on `plan` for what comes first and on `run` for bytes; when followers learn of an end, the
//! task says.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::intake::Intake;
use super::run::{Ran, Source};
use super::transfer::Transfer;
use super::{FillContent, FillError, Phase};
use gupd_config::FinishPolicy;
use gupd_net::shape::Purpose;
use gupd_net::upstream::UpstreamResponse;
use gupd_store::{BlobWriter, Store, StoreError};

/// The fetching of one content.
pub(super) struct Fetch<'a> {
    pub(super) flow: &'a Arc<FillContent>,
    pub(super) source: Source,
    pub(super) store: &'a Arc<Store>,
    pub(super) phase: &'a watch::Sender<Phase>,
    pub(super) finish: FinishPolicy,
    /// It was begun for no client: it ends when nobody wants it, also without a length, when what came is lost.
    pub(super) is_errand: bool,
    /// What it is for while no client reads.
    pub(super) unread: Purpose,
    pub(super) stopping: &'a CancellationToken,
}

/// How it ended.
pub(super) enum Fetched {
    /// Every byte is in the store.
    All {
        /// How many.
        length: u64,
    },
    /// The upstream has other content now.
    Changed(UpstreamResponse),
    /// It will not come to an end.
    Failed(FillError),
}

/// Who follows the fill.
pub(super) trait Followers {
    /// Whether anybody does.
    fn are_there(&self) -> bool;

    /// Whether nobody does; then nobody will any more.
    fn gone_for_good(&self) -> bool;
}

impl Fetch<'_> {
    /// Fetches all, beginning with `transfer`, which brings `first`. `go_on` is asked before each byte of content
    /// without a length, `followers` when one of them went.
    pub(super) async fn all(
        &self,
        writer: &mut BlobWriter,
        first: Range<u64>,
        transfer: Transfer,
        go_on: impl Fn(u64) -> Result<(), FillError>,
        followers: &impl Followers,
    ) -> Fetched {
        let for_somebody = || self.in_background() || followers.are_there();
        let begin = |writer: &mut BlobWriter, range: Range<u64>, transfer| {
            let segment = writer.begin_segment(range.start);
            let intake = Intake::new(self.flow.clone(), range, segment, self.store.clone());
            self.source.run(intake, transfer, self.phase, &go_on)
        };
        let mut runs = FuturesUnordered::new();
        runs.push(begin(writer, first, Some(transfer)));
        // Why it ends early. What has arrived by then is written first: it is for the next fill.
        let mut ending = None;
        loop {
            let purpose = if self.flow.is_read() { Purpose::Client } else { self.unread };
            self.source.origin.outgoing.bandwidth.set_purpose(purpose);
            while ending.is_none()
                && let Some(range) = self.flow.plan(self.in_background())
            {
                runs.push(begin(writer, range, None));
            }
            if runs.is_empty() && ending.is_none() && !for_somebody() {
                ending = Some(FillError::Abandoned);
            }
            match ending {
                Some(FillError::Abandoned) if runs.is_empty() => {
                    writer.wait_for_writes().await;
                    // Somebody may have come meanwhile, and be given what is there.
                    if followers.gone_for_good() {
                        return Fetched::Failed(FillError::Abandoned);
                    }
                    ending = None;
                    continue;
                }
                Some(error) if runs.is_empty() => return Fetched::Failed(error),
                other => ending = other,
            }
            tokio::select! {
                Some(ran) = runs.next() => match ran {
                    Ran::Through(segment) => writer.return_segment(segment),
                    Ran::Whole => {}
                    Ran::Changed(answer) => return Fetched::Changed(answer),
                    Ran::Failed(error) => ending = ending.or(Some(error)),
                },
                () = self.stopping.cancelled(), if ending.is_none() => ending = Some(FillError::Stopped),
                () = self.flow.attention() => {
                    if (self.flow.length.is_some() || self.is_errand) && !for_somebody() {
                        ending = ending.or(Some(FillError::Abandoned));
                    }
                }
            }
            if ending.is_some() {
                self.flow.stop();
            } else if runs.is_empty()
                && let Some(fetched) = self.finished(writer).await
            {
                return fetched;
            }
        }
    }

    /// What is there when no run is.
    async fn finished(&self, writer: &mut BlobWriter) -> Option<Fetched> {
        let length = writer.partial().length()?;
        if writer.partial().first_gap(0..length).is_some() {
            return None;
        }
        match writer.finish().await {
            Ok(Ok(length)) => Some(Fetched::All { length }),
            // The disk did not keep it; without a length nobody could say which bytes to ask for.
            Ok(Err(_)) if self.flow.length.is_some() => None,
            Ok(Err(_)) => Some(Fetched::Failed(StoreError::Broken.into())),
            Err(error) => Some(Fetched::Failed(error.into())),
        }
    }

    /// Whether to fetch what no reader wants.
    fn in_background(&self) -> bool {
        match (self.finish, self.flow.length) {
            // It would be stored for nobody.
            _ if self.store.is_released() => false,
            _ if self.flow.errands.load(Ordering::Acquire) > 0 => true,
            (FinishPolicy::Always, _) => true,
            (FinishPolicy::Never, _) | (FinishPolicy::Above(_), None) => false,
            (FinishPolicy::Above(percent), Some(length)) => {
                let arrived = self.source.arrived.load(Ordering::Relaxed);
                u128::from(arrived) * 100 >= u128::from(length) * u128::from(percent)
            }
        }
    }
}
