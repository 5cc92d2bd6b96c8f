//! Files with writes that are not on disk yet. They are synced together, half a second after the first of them was
//! written, so that no commit waits for the disk and a power loss costs at most the last second. Checksums make a torn
//! write harmless.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// Delay of a sync after the first write. A second, the promised loss, less the time that a busy disk takes.
const SYNC_AFTER: Duration = Duration::from_millis(500);

/// Unsynced files.
#[derive(Debug, Default)]
pub(super) struct PendingSync {
    // Locked to add or take, never across I/O.
    files: Mutex<Vec<Arc<File>>>,
    is_scheduled: AtomicBool,
}

impl PendingSync {
    /// Adds a file that was written to.
    pub(super) fn add(&self, file: &Arc<File>) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if !files.iter().any(|known| Arc::ptr_eq(known, file)) {
            files.push(Arc::clone(file));
        }
    }

    /// Syncs the files. Blocks.
    pub(super) fn sync(&self) {
        let files = std::mem::take(&mut *self.files.lock().unwrap_or_else(PoisonError::into_inner));
        for file in files {
            if let Err(error) = file.sync_data() {
                tracing::warn!(%error, "cannot sync stored objects; a power loss may cost them");
            }
        }
    }

    /// Has the files synced soon, if a runtime is there to do it.
    pub(super) fn schedule(self: &Arc<Self>) {
        if self.is_scheduled.swap(true, Ordering::AcqRel) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let pending = Arc::clone(self);
        runtime.spawn(async move {
            sleep(SYNC_AFTER).await;
            pending.is_scheduled.store(false, Ordering::Release);
            let _stopped = spawn_blocking(move || pending.sync()).await;
        });
    }
}
