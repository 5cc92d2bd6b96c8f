//! Files with writes that are not on disk yet. They are synced together, half a second after the first of them was
//! written, so that no commit waits for the disk and a power loss costs at most the last second. Checksums make a torn
//! write harmless. Files are synced one by one, not as a file system: that would wait for what others write there.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// Delay of a sync after the first write. A second, the promised loss, less the time that a busy disk takes.
const SYNC_AFTER: Duration = Duration::from_millis(500);

/// Maximum number of new files that wait, each with a descriptor.
const NEW_MAX: usize = 128;

/// Number of threads that sync new files: the file system commits the files of all of them at once.
const THREADS: usize = 8;

/// Unsynced files.
#[derive(Debug, Default)]
pub(super) struct PendingSync {
    // Locked to add or take, never across I/O.
    files: Mutex<UnsyncedFiles>,
    is_scheduled: AtomicBool,
}

#[derive(Debug, Default)]
struct UnsyncedFiles {
    /// Files that are written to again and again.
    growing: Vec<Arc<File>>,
    new: Vec<File>,
}

/// A sync to come. It may end with its runtime; the next write then schedules another.
struct ScheduledSync(Arc<PendingSync>);

impl Drop for ScheduledSync {
    fn drop(&mut self) {
        self.0.is_scheduled.store(false, Ordering::Release);
    }
}

impl PendingSync {
    /// Adds a file that is written to again and again.
    pub(super) fn add(&self, file: &Arc<File>) {
        let mut files = self.files();
        if !files.growing.iter().any(|known| Arc::ptr_eq(known, file)) {
            files.growing.push(Arc::clone(file));
        }
    }

    /// Adds a new file that is complete. Blocks if as many wait as may: then it syncs all of them.
    pub(super) fn add_new(&self, file: File) {
        let mut files = self.files();
        files.new.push(file);
        let is_full = files.new.len() >= NEW_MAX;
        drop(files);
        if is_full {
            self.sync();
        }
    }

    /// Syncs the files. Blocks.
    pub(super) fn sync(&self) {
        let UnsyncedFiles { growing, new } = std::mem::take(&mut *self.files());
        growing.iter().for_each(|file| sync_file(file));
        let parts = new.chunks(new.len().div_ceil(THREADS).max(1));
        thread::scope(|scope| {
            // The first part is this thread's.
            for part in parts.clone().skip(1) {
                let sync_part = || part.iter().for_each(sync_file);
                if thread::Builder::new().spawn_scoped(scope, sync_part).is_err() {
                    sync_part();
                }
            }
            parts.take(1).flatten().for_each(sync_file);
        });
    }

    /// Has the files synced soon, if a runtime is there to do it.
    pub(super) fn schedule(self: &Arc<Self>) {
        if self.is_scheduled.swap(true, Ordering::AcqRel) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let scheduled = ScheduledSync(Arc::clone(self));
        runtime.spawn(async move {
            sleep(SYNC_AFTER).await;
            let pending = Arc::clone(&scheduled.0);
            drop(scheduled);
            let _stopped = spawn_blocking(move || pending.sync()).await;
        });
    }

    fn files(&self) -> MutexGuard<'_, UnsyncedFiles> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sync_file(file: &File) {
    if let Err(error) = file.sync_data() {
        tracing::warn!(%error, "cannot sync stored objects; a power loss may cost them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    #[test]
    fn unsynced_files_take_few_descriptors() {
        let pending = PendingSync::default();
        // In memory: a sync waits for no disk.
        let file = || File::from(memfd_create("file", MemfdFlags::CLOEXEC).unwrap());
        let growing = Arc::new(file());
        for _ in 0..NEW_MAX + 3 {
            pending.add(&growing);
            pending.add_new(file());
            assert!(pending.files().new.len() < NEW_MAX);
        }
        let counts = || {
            let files = pending.files();
            (files.growing.len(), files.new.len())
        };
        assert_eq!(counts(), (1, 3));
        pending.sync();
        assert_eq!(counts(), (0, 0));
    }
}
