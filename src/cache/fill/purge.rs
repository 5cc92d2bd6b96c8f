//! Purge: removes what an administrator selected from the index, the hot entries, the unfinished files and the running
//! fills. A running fill goes on for its followers and is not stored. Objects are removed one key at a time, in pages of
//! the index, so a purge of any size takes little memory, and one that is interrupted leaves a consistent store.

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::Fills;
use crate::selection::{ObjectFacts, ObjectSelection};
use gupd_config::clock::UnixMillis;
use gupd_store::{Object, StoreError};

/// Number of removed objects and of running fills that will not be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PurgeReport {
    /// Objects.
    pub objects: u64,
    /// Bytes on disk that were freed.
    pub bytes: u64,
    /// Running fills.
    pub fills: u64,
}

impl Fills {
    /// Removes every stored object that matches, and keeps the result of running fills that match from being stored.
    /// Copies stay: they belong to revisions. A fill that starts later is not affected.
    ///
    /// # Errors
    /// When the index cannot be read or written. Some objects may be removed then.
    pub async fn purge(&self, selection: &ObjectSelection) -> Result<PurgeReport, StoreError> {
        let context = &self.context;
        context.store.check_writable()?;
        let now = context.clock.now();
        // Before the index is read: a fill that ends meanwhile has its row there.
        let mut report =
            PurgeReport { fills: self.detach_selected(selection, now), ..PurgeReport::default() };
        let (store, unfinished) = (context.store.clone(), selection.clone());
        let discard = move || {
            store.discard_unfinished_if(|object, len| unfinished.matches_unfinished(object, len, now));
        };
        spawn_blocking(discard).await?;
        let negative = context.cache.remove_negative_if(|object| selection.matches(object, now));
        report.objects = report.objects.saturating_add(negative);
        let mut after = 0;
        loop {
            let page = context.store.page(after).await?;
            let Some(last) = page.last() else { return Ok(report) };
            after = last.id;
            for object in page.iter().filter(|object| selection.matches(object, now)) {
                self.purge_key(object, &mut report).await?;
            }
        }
    }

    async fn purge_key(&self, object: &Object, report: &mut PurgeReport) -> Result<(), StoreError> {
        // A revalidation would confirm the purged object.
        report.fills = report.fills.saturating_add(self.detach(&object.key));
        let removed = self.context.cache.invalidate(&object.key).await?;
        report.objects = report.objects.saturating_add(removed.objects);
        report.bytes = report.bytes.saturating_add(removed.bytes);
        Ok(())
    }

    /// Removes matching fills from the register and returns their number.
    fn detach_selected(&self, selection: &ObjectSelection, now: UnixMillis) -> u64 {
        self.detach_if(|key, fill| {
            let (content_type, len) = (fill.content_type(), fill.length());
            selection.matches_facts(ObjectFacts { key, content_type, response_time: now, len }, now)
        })
    }
}
