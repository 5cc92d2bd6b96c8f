//! The scrub verifies the whole store once a period, in the background of a running relay. Blob names are
//! uniformly distributed, so a blob is due at the share of the period that its name has of all names. The load is
//! therefore even for any number of blobs, and the last name is the only progress to save, in the folder's file
//! `scrub`. A scrub that was interrupted continues after that name, at full rate until it has caught up.
//!
//! It yields to clients: it reads a chunk at a time, no faster than its rate, and not while clients wait for the
//! disk. It only reports damage; the caller repairs or discards the blob.

use std::collections::VecDeque;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::Store;
use super::error::StoreError;
use super::extent::BlobExtent;
use super::id::BlobId;
use super::inspect::{Inspection, InspectionFault};
use super::inventory::Inventory;
use super::read::DISK_READS;
use gupd_config::clock::UnixMillis;

/// First word of the file `scrub`; another format gets another number.
const FORMAT: &str = "gupd-scrub-1";

/// Interval between saves of the progress; a crash repeats this much.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// Interval of checks for clients that wait for the disk.
const YIELD: Duration = Duration::from_millis(5);

/// Maximum wait for clients before one chunk: a disk that is never idle is still scrubbed, at 5 MiB/s.
const YIELD_MAX: Duration = Duration::from_millis(200);

/// Pause after the index or a file could not be read: a missing disk logs one line a minute.
const RETRY: Duration = Duration::from_secs(60);

/// A scrub of one store.
#[derive(Debug)]
pub struct Scrub {
    store: Arc<Store>,
    period: Duration,
    rate: u64,
    progress: ScrubProgress,
    /// Start of the pass in monotonic time.
    begun: Instant,
    saved: Instant,
    /// Earliest time of the next read.
    next_read: Instant,
    pending: VecDeque<(BlobId, u64)>,
    /// Blobs of this pass that could not be read.
    unreadable: u64,
}

/// Progress that survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ScrubProgress {
    begun: UnixMillis,
    /// End of the last complete pass; 0 if there was none.
    completed: UnixMillis,
    last: Option<BlobId>,
}

impl Store {
    /// Creates a scrub that continues the last one: the whole store in `period`, at most `rate` bytes a second.
    /// Blocks to read one line.
    pub fn scrub(self: &Arc<Self>, period: Duration, rate: u64) -> Scrub {
        let saved = fs::read_to_string(self.folder.root().join("scrub")).ok();
        let fresh = ScrubProgress { begun: self.clock.now(), completed: 0, last: None };
        let progress = saved.and_then(|line| ScrubProgress::decode(&line)).unwrap_or(fresh);
        self.counters.scrub_completed.store(progress.completed, Ordering::Relaxed);
        let now = Instant::now();
        let elapsed = match u64::try_from(self.clock.now().saturating_sub(progress.begun)) {
            Ok(millis) => Duration::from_millis(millis).min(period),
            // The clock was set back: assume that the scrub is on time.
            Err(_) => progress.last.map_or(Duration::ZERO, |last| due_time(last, period)),
        };
        Scrub {
            store: Arc::clone(self),
            period,
            rate,
            progress,
            // The machine may have booted after the pass began.
            begun: now.checked_sub(elapsed).unwrap_or(now),
            saved: now,
            next_read: now,
            pending: VecDeque::new(),
            unreadable: 0,
        }
    }
}

impl Scrub {
    /// Scrubs, pass after pass, until it finds a damaged blob. Dropping the future loses at most the current
    /// blob.
    pub async fn next_damaged(&mut self) -> BlobId {
        loop {
            match self.step().await {
                Ok(None) => {}
                Ok(Some(damaged)) => return damaged,
                Err(error) => {
                    tracing::error!(%error, "scrub paused after an error; it continues in a minute");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Verifies the next blob when it is due, and returns it if it is damaged.
    async fn step(&mut self) -> Result<Option<BlobId>, StoreError> {
        let Some((id, len)) = self.next_blob().await? else {
            self.complete_pass().await?;
            return Ok(None);
        };
        let due = self.begun.checked_add(due_time(id, self.period)).unwrap_or(self.begun);
        if self.saved.elapsed() >= SAVE_EVERY || due > Instant::now() {
            self.save().await?;
        }
        sleep_until(due).await;
        // Advance even if the blob cannot be read: one bad file must not end the pass.
        self.progress.last = Some(id);
        let fault = match self.inspect(id, len).await? {
            // Read again: a cable or a memory bit may have caused the fault.
            Some(_) => self.inspect(id, len).await?,
            None => None,
        };
        let Some(fault) = fault else { return Ok(None) };
        // A blob missing from a replaced folder is not gone.
        self.store.free_bytes().await?;
        if !self.store.index.missing_blobs(vec![id]).await?.is_empty() {
            return Ok(None); // evicted meanwhile
        }
        self.store.counters.scrub_damaged.fetch_add(1, Ordering::Relaxed);
        self.store.counters.verification_failures.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(blob = %id, bytes = len, fault, "scrub found a damaged blob");
        Ok(Some(id))
    }

    /// Returns the blob after the last one, and its length.
    async fn next_blob(&mut self) -> Result<Option<(BlobId, u64)>, StoreError> {
        if self.pending.is_empty() {
            // Captures the folder, not the store: nobody could open the store again until the page was read.
            let (folder, last) = (Arc::clone(&self.store.folder), self.progress.last);
            let page = move || {
                folder.check()?;
                Inventory::open(folder.root())?.blobs_after(last)
            };
            self.pending = spawn_blocking(page).await??.into();
        }
        Ok(self.pending.pop_front())
    }

    /// Returns the fault of a blob, if any.
    async fn inspect(&mut self, id: BlobId, len: u64) -> Result<Option<&'static str>, StoreError> {
        let store = &self.store;
        let (place, mut file) = (store.index.place(id).await?, None);
        let extent = BlobExtent::new(&store.folder, id, place);
        loop {
            self.wait_for_turn().await;
            let permit = self.store.disk_reads.acquire().await;
            let from = extent.clone();
            let read = move || {
                let mut inspection = match file {
                    Some(inspection) => inspection,
                    None => Inspection::open(&from, id, len)?,
                };
                let read = inspection.next()?.len() as u64;
                Ok((inspection, read))
            };
            let done = spawn_blocking(read).await?;
            drop(permit);
            match done {
                Ok((_, 0)) => return Ok(None),
                Ok((inspection, read)) => {
                    file = Some(inspection);
                    self.store.counters.scrubbed_bytes.fetch_add(read, Ordering::Relaxed);
                    self.next_read = Instant::now().max(self.next_read) + self.duration_at_rate(read);
                }
                Err(InspectionFault::Damaged(fault)) => return Ok(Some(fault)),
                Err(InspectionFault::Gone) => return Ok(Some("the file is missing")),
                Err(InspectionFault::Unreadable(source)) => {
                    self.unreadable += 1;
                    return Err(StoreError::Io { doing: "read", path: extent.path, source });
                }
            }
        }
    }

    /// Waits for the rate limit, and for clients that wait for the disk.
    async fn wait_for_turn(&self) {
        sleep_until(self.next_read).await;
        let deadline = Instant::now() + YIELD_MAX;
        while self.store.disk_reads.available_permits() < DISK_READS && Instant::now() < deadline {
            sleep(YIELD).await;
        }
    }

    fn duration_at_rate(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.rate.max(1) as f64)
    }

    /// Ends the pass and waits for the next one.
    async fn complete_pass(&mut self) -> Result<(), StoreError> {
        if self.unreadable == 0 {
            self.progress.completed = self.store.clock.now();
            self.store.counters.scrub_completed.store(self.progress.completed, Ordering::Relaxed);
            tracing::info!(took = ?self.begun.elapsed(), "scrub completed");
        } else {
            let blobs = self.unreadable;
            tracing::error!(blobs, "scrub could not read all blobs; the pass does not count as complete");
        }
        self.save().await?;
        sleep_until(self.begun.checked_add(self.period).unwrap_or(self.begun)).await;
        self.begun = Instant::now();
        self.progress.begun = self.store.clock.now();
        self.progress.last = None;
        self.unreadable = 0;
        Ok(())
    }

    async fn save(&mut self) -> Result<(), StoreError> {
        let (line, folder) = (self.progress.encode(), Arc::clone(&self.store.folder));
        // Not synced: a line lost in a power failure costs reading again.
        spawn_blocking(move || folder.replace_file("scrub", &line)).await??;
        self.saved = Instant::now();
        Ok(())
    }
}

impl ScrubProgress {
    fn encode(&self) -> String {
        let last = self.last.map_or_else(|| "-".to_owned(), |id| id.to_string());
        format!("{FORMAT} {} {} {last}\n", self.begun, self.completed)
    }

    /// Decodes a line; `None` if it is malformed.
    fn decode(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        if words.next()? != FORMAT {
            return None;
        }
        let (begun, completed) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let last = match words.next()? {
            "-" => None,
            id => Some(id.parse().ok()?),
        };
        Some(Self { begun, completed, last })
    }
}

/// Returns the time within the period at which a blob is due.
fn due_time(id: BlobId, period: Duration) -> Duration {
    let head = id.as_bytes().first_chunk().map_or(0, |head| u32::from_be_bytes(*head));
    period.mul_f64(f64::from(head) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_round_trips_and_malformed_line_is_rejected() {
        for last in [None, Some(BlobId::from([0xab; 32]))] {
            let progress = ScrubProgress { begun: -5, completed: 0, last };
            let line = progress.encode();
            assert_eq!(ScrubProgress::decode(&line), Some(progress));
            for cut in 0..line.len() - 1 {
                assert_eq!(ScrubProgress::decode(&line[..cut]), None, "{cut} bytes");
            }
        }
    }

    #[test]
    fn due_times_follow_names_within_the_period() {
        let period = Duration::from_secs(7 * 24 * 3600);
        let due_times = [0, 1, 0x7f, 0x80, 0xff].map(|byte| due_time(BlobId::from([byte; 32]), period));
        assert!(due_times.is_sorted());
        assert_eq!((due_times[0], due_times[4]), (Duration::ZERO, period));
    }
}
