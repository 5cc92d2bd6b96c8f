//! How the store's disk is, as far as the store has seen: what keeps it from its work, since when it is told, and how
//! it finds out that this is over. Errors are noted where the store meets them; only the probe takes a note back, so
//! that one good read does not hide a disk that takes no writes. Decides nothing about responses: while the disk ails,
//! [`Store::begin`] refuses at once, and callers pass through as they do for every [`StoreError`]. A few blocks that a
//! disk without any other fault never gives back are given up with their blobs.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::budget::Shortage;
use super::error::{ReadError, StoreError, StoreLimit};
use super::id::BlobId;
use super::{BLOCK, BodySource, CHUNK, Store};

/// Probes in a row that find everything well but a few blocks, until the blobs of those are given up. Half a minute at
/// one a second: Linux gives a command 30 s before it resets the disk's link, and what such a reset mends is back by
/// then; a bad sector is not, and every miss is passed through uncached meanwhile.
const GIVE_UP_AFTER: u32 = 30;

/// Blobs with blocks that could not be read, remembered at once. Each costs a probe a read, which on a bad sector takes
/// the disk seconds; of more, those that are asked for again are found in their turn.
const UNREADABLE_MAX: usize = 8;

/// What the store's disk does not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreHealth {
    /// Nothing is known to be wrong.
    #[default]
    Healthy,
    /// Not even a chunk fits within `store.min_free`. Fills still try, since they evict; one that begins ends this.
    NoRoom,
    /// The file system takes no more bytes or files.
    Full,
    /// The file system takes no writes.
    ReadOnly,
    /// The process, or the machine, may open no more files.
    NoDescriptors,
    /// Another folder, or none, is where the store's was: its file system was taken away.
    Gone,
    /// Reads, writes or the index fail.
    Failing,
}

/// What is wrong with the store's disk.
#[derive(Clone, Debug)]
pub struct Degradation {
    /// In a word.
    pub health: StoreHealth,
    /// The error that was met: what, where, what to do.
    pub detail: Arc<str>,
}

/// What is known of the disk.
#[derive(Debug)]
pub(super) struct HealthMonitor {
    ailment: watch::Sender<Option<Degradation>>,
    /// Blocks that could not be read, one of each blob: the disk is not well before they can be, or their blobs are gone.
    // Held to copy or change, never across I/O.
    unreadable: Mutex<Vec<UnreadableBlock>>,
}

/// One block of a blob that could not be read.
#[derive(Clone, Copy, Debug)]
struct UnreadableBlock {
    id: BlobId,
    len: u64,
    start: u64,
    /// Probes in a row since then that found nothing wrong but such blocks.
    probes: u32,
}

impl StoreHealth {
    /// Every condition.
    pub const ALL: [Self; 7] = [
        Self::Healthy,
        Self::NoRoom,
        Self::Full,
        Self::ReadOnly,
        Self::NoDescriptors,
        Self::Gone,
        Self::Failing,
    ];

    /// The spelling in metrics, logs and `/readyz`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "well",
            Self::NoRoom => "no-room",
            Self::Full => "full",
            Self::ReadOnly => "read-only",
            Self::NoDescriptors => "no-descriptors",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }

    fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Self::Full,
            Some(Errno::ROFS) => Self::ReadOnly,
            Some(Errno::MFILE | Errno::NFILE) => Self::NoDescriptors,
            Some(Errno::NOTCONN | Errno::NODEV | Errno::NXIO | Errno::STALE) => Self::Gone,
            _ => Self::Failing,
        }
    }
}

impl HealthMonitor {
    pub(super) fn new() -> Self {
        Self { ailment: watch::Sender::new(None), unreadable: Mutex::default() }
    }

    /// Looks at what the store was asked to do and could not.
    pub(super) fn seen<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result {
            let condition = match error {
                StoreError::Io { source, .. } | StoreError::Folder { source, .. } => StoreHealth::of(source),
                StoreError::Read(ReadError::Io { source, .. }) => StoreHealth::of(source),
                StoreError::FolderGone { .. } => StoreHealth::Gone,
                // SQLite says less than the file system does: the probe asks that.
                StoreError::Index { .. } => StoreHealth::Failing,
                _ => return result,
            };
            self.note(condition, error);
        }
        result
    }

    /// Looks at a read that failed.
    pub(super) fn unread(&self, error: &ReadError, source: &BodySource, start: u64) {
        let ReadError::Io { source: cause, .. } = error else { return };
        let condition = StoreHealth::of(cause);
        if let (StoreHealth::Failing, BodySource::Blob { id, len }) = (condition, source) {
            let mut blocks = self.unreadable();
            if blocks.len() < UNREADABLE_MAX && !blocks.iter().any(|block| block.id == *id) {
                blocks.push(UnreadableBlock { id: *id, len: *len, start, probes: 0 });
            }
        }
        self.note(condition, error);
    }

    fn is(&self, condition: StoreHealth) -> bool {
        self.ailment.borrow().as_ref().is_some_and(|ailment| ailment.health == condition)
    }

    /// Refuses what would write while that is known to fail.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match &*self.ailment.borrow() {
            None | Some(Degradation { health: StoreHealth::NoRoom, .. }) => Ok(()),
            Some(Degradation { health, .. }) => Err(StoreError::Degraded { health: *health }),
        }
    }

    /// Notes what is wrong, if nothing was: of all that follows from it, the first is told.
    fn note(&self, health: StoreHealth, error: &dyn std::error::Error) {
        if self.ailment.borrow().is_none() {
            self.set(Some(Degradation { health, detail: Arc::from(error.to_string()) }));
        }
    }

    /// Takes what the probe found, and tells if that is news.
    fn set(&self, found: Option<Degradation>) {
        let is_news = self.ailment.send_if_modified(|known| {
            let of = |ailment: &Option<Degradation>| ailment.as_ref().map(|ailment| ailment.health);
            let is_news = of(known) != of(&found);
            known.clone_from(&found);
            is_news
        });
        match found {
            Some(Degradation { health, detail }) if is_news => {
                tracing::error!(condition = health.as_str(), %detail,
                    "the store's disk fails; what it does not give or take is passed through");
            }
            None if is_news => tracing::info!("the store's disk is well again"),
            _ => {}
        }
    }

    fn unreadable(&self) -> MutexGuard<'_, Vec<UnreadableBlock>> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// What is wrong with the store's disk, if anything is known to be.
    pub fn degradation(&self) -> Option<Degradation> {
        self.health.ailment.borrow().clone()
    }

    /// Waits until something is wrong. [`Store::probe`] is to be called every second or so then: it finds out when that
    /// is over.
    pub async fn wait_until_degraded(&self) {
        // The guard that `wait_for` returns must not live across an await. The sender lives as long as `self`.
        drop(self.health.ailment.subscribe().wait_for(Option::is_some).await);
    }

    /// Tries what the store needs of its disk; whether upkeep makes sense now. A disk of which nothing bad is known is
    /// not written to.
    pub async fn probe(&self) -> bool {
        let known = self.health.ailment.borrow().as_ref().map(|ailment| ailment.health);
        let tried = match known {
            None => self.free().await.map(drop),
            Some(known) => match self.try_all(known).await {
                Ok(()) => self.try_unreadable().await,
                Err(error) => {
                    self.health.unreadable().iter_mut().for_each(|block| block.probes = 0);
                    Err(error)
                }
            },
        };
        if let Err(StoreError::FolderGone { .. }) = tried
            && let Err(error) = self.succeed().await
        {
            tracing::debug!(%error, "what is where the store was cannot be used");
        }
        // Also if there is a store again: until the next look callers forget what they know of the old one.
        let found = tried.err().map(|error| match &error {
            StoreError::NoRoom { .. } => StoreHealth::NoRoom.because(&error),
            StoreError::FolderGone { .. } => StoreHealth::Gone.because(&error),
            StoreError::Io { source, .. } => StoreHealth::of(source).because(&error),
            StoreError::Read(ReadError::Io { source, .. }) => StoreHealth::of(source).because(&error),
            _ => StoreHealth::Failing.because(&error),
        });
        let is_well = found.as_ref().is_none_or(|found| found.health == StoreHealth::NoRoom);
        self.health.set(found);
        is_well
    }

    async fn try_all(&self, known: StoreHealth) -> Result<(), StoreError> {
        let free = self.free().await?;
        // Before the write: where it is room that is wanting, a fill can make it. A store that has the disk to itself
        // may lack room at any other time: it has been used up.
        if matches!(known, StoreHealth::Full | StoreHealth::NoRoom) && self.lacks_room(free) {
            return Err(StoreError::NoRoom { need: CHUNK, limit: StoreLimit::MinFree });
        }
        let folder = Arc::clone(&self.folder);
        spawn_blocking(move || folder.try_write(CHUNK)).await??;
        let failed = self.index.failure();
        self.index.change(move |change| change.try_write().map_err(failed)).await?;
        self.index.find("").await.map(drop)
    }

    /// Reads the blocks that could not be read; on a disk that does all else, not for ever.
    async fn try_unreadable(&self) -> Result<(), StoreError> {
        let blocks = self.health.unreadable().clone();
        let mut failed = Ok(());
        for UnreadableBlock { id, len, start, probes } in blocks {
            let block = usize::try_from(len.saturating_sub(start).min(BLOCK)).unwrap_or(0);
            match self.load(&BodySource::Blob { id, len }, start, vec![0; block]).await {
                Err(error @ ReadError::Io { .. }) if probes + 1 < GIVE_UP_AFTER => {
                    let mut unreadable = self.health.unreadable();
                    unreadable.iter_mut().filter(|block| block.id == id).for_each(|block| block.probes += 1);
                    failed = Err(error.into());
                    continue;
                }
                Err(error @ ReadError::Io { .. }) => {
                    let keys = self.discard_blob(id).await?;
                    self.forget(keys);
                    tracing::error!(blob = %id, at = start, %error,
                        "removed a blob of which the disk does not give a block; it is fetched when it is asked for");
                }
                // What is damaged or evicted is for its readers to find.
                _ => {}
            }
            self.health.unreadable().retain(|block| block.id != id);
        }
        failed
    }

    /// Looks at the begin of a fill.
    pub(super) async fn seen_to_begin<T>(&self, begun: Result<T, StoreError>) -> Result<T, StoreError> {
        // Large content may not fit where other content does.
        if let Err(error @ StoreError::NoRoom { limit: StoreLimit::MinFree, .. }) = &begun
            && self.lacks_room(self.free().await?)
        {
            self.health.note(StoreHealth::NoRoom, error);
        }
        if begun.is_ok() && self.health.is(StoreHealth::NoRoom) {
            self.health.set(None);
        }
        self.health.seen(begun)
    }

    fn lacks_room(&self, free: u64) -> bool {
        matches!(self.room.reserve(CHUNK, free), Err(Shortage::MinFree { .. }))
    }
}

impl StoreHealth {
    fn because(self, error: &StoreError) -> Degradation {
        Degradation { health: self, detail: Arc::from(error.to_string()) }
    }
}
