//! A check of one stored payload: a conditional request upstream, whatever the freshness. It must cost the relay nothing:
//! an upstream that no longer has the payload, or fails, takes nothing from the store.

use std::sync::Arc;

use super::{Background, OriginError};
use gupd_cache::CacheLookup;
use gupd_cache::fill::{BackgroundFetch, FillResult, Joined};
use gupd_net::shape::Purpose;
use gupd_store::Object;

/// Outcome of a check, in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The upstream confirmed the stored bytes.
    Unchanged,
    /// The upstream sent the stored bytes again, with other validators.
    Same,
    /// The upstream has other bytes.
    Changed,
    /// The upstream has no such payload, or does not give it.
    Absent,
    /// The payload was replaced or fetched meanwhile.
    Skipped,
    /// No upstream answered.
    Failed,
}

impl CheckOutcome {
    /// Every outcome, for the label set of a metric.
    pub const ALL: [Self; 6] =
        [Self::Unchanged, Self::Same, Self::Changed, Self::Absent, Self::Skipped, Self::Failed];

    /// Label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Same => "same",
            Self::Changed => "changed",
            Self::Absent => "absent",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }

    /// Returns true if the whole payload has crossed the line.
    pub const fn has_content(self) -> bool {
        matches!(self, Self::Same | Self::Changed)
    }
}

impl Background {
    /// Asks the upstreams whether they still have these bytes. A change is treated as the policy of the route says.
    ///
    /// # Errors
    /// When the configuration has no upstream for the payload, or none answers.
    pub async fn check_payload(&self, object: &Object) -> Result<CheckOutcome, OriginError> {
        let generation = self.generations.load_full();
        let mut request = generation.refetch_request(object)?;
        // A negative response to it is not stored.
        request.background = Some(BackgroundFetch::Prefetch);
        request.bandwidth.set_purpose(Purpose::Revalidation);
        let found = self.cache.find(&request.key, request.selecting(), &request.classification).await?;
        let CacheLookup::Hit(entry) = found else { return Ok(CheckOutcome::Skipped) };
        if entry.object.blob != object.blob || !self.fills.digests().prove_stored(&entry).await {
            return Ok(CheckOutcome::Skipped);
        }
        request.stale = Some(Arc::clone(&entry));
        let Joined::Started(fill, _) = self.fills.join(request, &generation.upstreams) else {
            return Ok(CheckOutcome::Skipped);
        };
        Ok(match fill.fetch_all().await {
            FillResult::NotModified(kept) if self.fills.digests().is_refused(&kept.object.key) => {
                CheckOutcome::Changed
            }
            FillResult::NotModified(_) => CheckOutcome::Unchanged,
            FillResult::Stored(new) => {
                // A check is no use by a client.
                new.touch(entry.object.last_used());
                if new.object.blob == object.blob { CheckOutcome::Same } else { CheckOutcome::Changed }
            }
            FillResult::NotKept => CheckOutcome::Absent,
            FillResult::Failed(error) => return Err(error.into()),
        })
    }
}
