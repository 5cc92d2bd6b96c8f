//! What is known of clients, by name, from one start to the next: rows of the index whose meaning is their owner's. They
//! are in no journal: an index that is made anew knows of no client, and each is known again when it comes.

use super::Store;
use super::error::StoreError;
use super::index::{BATCH, IndexChange};

impl Store {
    /// Writes rows down, `None` removes one. In batches, between which other changes have their turn: of a call that
    /// fails, some rows may be in.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn save_clients(&self, rows: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        self.health.check()?;
        let mut rows = rows.into_iter();
        loop {
            let batch: Vec<_> = rows.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            let _until_it_is_in = self.tenure.commit()?;
            let failed = self.index.failure();
            let save = move |change: &mut IndexChange<'_>| {
                let mut save = batch.iter();
                save.try_for_each(|(name, value)| change.set_client(name, value.as_deref())).map_err(failed)
            };
            self.health.seen(self.index.change(save).await)?;
        }
    }

    /// A page of rows, in the order of their names, behind the name `after`; empty at the end.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn load_clients(&self, after: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.health.seen(self.index.clients(after).await)
    }
}
