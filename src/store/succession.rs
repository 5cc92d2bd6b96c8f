//! A store that comes in the place of the one that was opened: a disk that went away for good, or came back as another
//! device, mounted again where the first one was. Owns the change from one to the other, of the folder, its lock, the
//! index and open files; what callers know of the old one's objects they have to forget, see [`Store::generation`].
//! A folder without an index is never taken for a store: it is what a mount leaves bare.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tokio::task::spawn_blocking;

use super::Store;
use super::error::StoreError;

impl Store {
    /// Counts stores that came in the place of the first: an object of an earlier one is none of this one's.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Goes on with the store that is now where this one was, if there is one.
    pub(super) async fn succeed(&self) -> Result<(), StoreError> {
        let folder = Arc::clone(&self.folder);
        let Some((identity, lock)) = spawn_blocking(move || folder.find_store()).await?? else {
            return Ok(());
        };
        self.index.reopen().await?;
        self.folder.adopt(identity);
        self.open.forget_all();
        self.unfinished.leave();
        self.ahead.forget_all();
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
        self.generation.fetch_add(1, Ordering::AcqRel);
        tracing::warn!("another store is where the one that was opened was; it is used from now on");
        Ok(())
    }
}
