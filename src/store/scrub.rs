//! The scrub: verifies the whole store once a period, in the background of a running relay. Names of blobs are evenly
//! spread, so a blob's turn is the share of the period that its name is of all names: the load is even, whatever the
//! number of blobs, and the last name is the whole progress. That stands in the folder's file `scrub`; a scrub that
//! was away goes on behind it and, being late, reads at full rate until it has caught up.
//!
//! It yields: a chunk at a time, no faster than its rate, and not while clients wait for the disk. What it finds it
//! tells; who knows the upstreams repairs it, and the cache removes what cannot be.

use std::collections::VecDeque;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::Store;
use super::error::StoreError;
use super::id::BlobId;
use super::inspect::{Inspection, InspectionFault};
use super::inventory::Inventory;
use super::read::DISK_READS;
use gupd_config::clock::UnixMillis;

/// First word of the file `scrub`; another form gets another number.
const FORMAT: &str = "gupd-scrub-1";

/// How often progress is written down: what a crash repeats.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// Pause between two looks at whether clients still wait for the disk.
const YIELD: Duration = Duration::from_millis(5);

/// Longest wait for clients before one chunk, so that a disk that is never idle is scrubbed too, at 5 MiB/s.
const YIELD_MAX: Duration = Duration::from_millis(200);

/// Pause after the index or a file could not be read: a disk that is gone is one line a minute in the log.
const RETRY: Duration = Duration::from_secs(60);

/// A scrub of one store.
#[derive(Debug)]
pub struct Scrub {
    store: Arc<Store>,
    period: Duration,
    rate: u64,
    progress: ScrubProgress,
    /// When the pass began, in the time that no clock's change moves.
    begun: Instant,
    saved: Instant,
    /// When the next chunk may be read.
    next_read: Instant,
    ahead: VecDeque<(BlobId, u64)>,
    /// Blobs of this pass that could not be read.
    passed_over: u64,
}

/// What outlives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ScrubProgress {
    begun: UnixMillis,
    /// When the last whole pass ended; 0 if there was none.
    completed: UnixMillis,
    last: Option<BlobId>,
}

impl Store {
    /// A scrub that takes up where the last one was: the whole store in `period`, at `rate` bytes a second at most.
    /// Blocks for reading a line.
    pub fn scrub(self: &Arc<Self>, period: Duration, rate: u64) -> Scrub {
        let saved = fs::read_to_string(self.folder.root().join("scrub")).ok();
        let fresh = ScrubProgress { begun: self.clock.now(), completed: 0, last: None };
        let progress = saved.and_then(|line| ScrubProgress::decode(&line)).unwrap_or(fresh);
        self.counters.scrub_completed.store(progress.completed, Ordering::Relaxed);
        let now = Instant::now();
        let into_pass = match u64::try_from(self.clock.now().saturating_sub(progress.begun)) {
            Ok(millis) => Duration::from_millis(millis).min(period),
            // The clock was set back: as if the scrub were in time.
            Err(_) => progress.last.map_or(Duration::ZERO, |last| turn(last, period)),
        };
        Scrub {
            store: Arc::clone(self),
            period,
            rate,
            progress,
            // A machine may be younger than the pass.
            begun: now.checked_sub(into_pass).unwrap_or(now),
            saved: now,
            next_read: now,
            ahead: VecDeque::new(),
            passed_over: 0,
        }
    }
}

impl Scrub {
    /// Verifies until it finds a blob that is not what was stored, pass after pass. Dropping the future loses at most
    /// the blob it was at.
    pub async fn next_damaged(&mut self) -> BlobId {
        loop {
            match self.step().await {
                Ok(None) => {}
                Ok(Some(damaged)) => return damaged,
                Err(error) => {
                    tracing::error!(%error, "the scrub cannot go on; it does in a minute");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Verifies the next blob when its turn has come; gives it if it is damaged.
    async fn step(&mut self) -> Result<Option<BlobId>, StoreError> {
        let Some((id, len)) = self.upcoming().await? else {
            self.complete().await?;
            return Ok(None);
        };
        let turn = self.begun.checked_add(turn(id, self.period)).unwrap_or(self.begun);
        if self.saved.elapsed() >= SAVE_EVERY || turn > Instant::now() {
            self.save().await?;
        }
        sleep_until(turn).await;
        // Also if it cannot be read just now: one bad file must not be the last that is looked at.
        self.progress.last = Some(id);
        let fault = match self.inspect(id, len).await? {
            // Once more: it may be what a cable or a bit of memory did.
            Some(_) => self.inspect(id, len).await?,
            None => None,
        };
        let Some(fault) = fault else { return Ok(None) };
        // What is not in another folder is not gone.
        self.store.free().await?;
        if !self.store.index.absent(vec![id]).await?.is_empty() {
            return Ok(None); // evicted meanwhile
        }
        self.store.counters.scrub_damaged.fetch_add(1, Ordering::Relaxed);
        self.store.counters.verification_failures.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(blob = %id, bytes = len, fault, "the scrub found a damaged blob");
        Ok(Some(id))
    }

    /// The blob after the last one, and its length.
    async fn upcoming(&mut self) -> Result<Option<(BlobId, u64)>, StoreError> {
        if self.ahead.is_empty() {
            // Not the store, which nobody could open again until the page is read.
            let (folder, last) = (Arc::clone(&self.store.folder), self.progress.last);
            let page = move || {
                folder.check()?;
                Inventory::open(folder.root())?.blobs_after(last)
            };
            self.ahead = spawn_blocking(page).await??.into();
        }
        Ok(self.ahead.pop_front())
    }

    /// What is wrong with a blob, if anything is.
    async fn inspect(&mut self, id: BlobId, len: u64) -> Result<Option<&'static str>, StoreError> {
        let path = self.store.folder.blob(id);
        let mut file = None;
        loop {
            self.wait().await;
            let permit = self.store.disk_reads.acquire().await;
            let from = path.clone();
            let read = move || {
                let mut inspection = match file {
                    Some(inspection) => inspection,
                    None => Inspection::begin(&from, id, len)?,
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
                    self.next_read = Instant::now().max(self.next_read) + self.time_of(read);
                }
                Err(InspectionFault::Damaged(fault)) => return Ok(Some(fault)),
                Err(InspectionFault::Gone) => return Ok(Some("its file is missing")),
                Err(InspectionFault::Unreadable(source)) => {
                    self.passed_over += 1;
                    return Err(StoreError::Io { doing: "read", path, source });
                }
            }
        }
    }

    /// Waits for the rate, and for clients that wait for the disk.
    async fn wait(&self) {
        sleep_until(self.next_read).await;
        let patience = Instant::now() + YIELD_MAX;
        while self.store.disk_reads.available_permits() < DISK_READS && Instant::now() < patience {
            sleep(YIELD).await;
        }
    }

    fn time_of(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.rate.max(1) as f64)
    }

    /// Ends the pass, and waits until the next may begin.
    async fn complete(&mut self) -> Result<(), StoreError> {
        if self.passed_over == 0 {
            self.progress.completed = self.store.clock.now();
            self.store.counters.scrub_completed.store(self.progress.completed, Ordering::Relaxed);
            tracing::info!(took = ?self.begun.elapsed(), "the scrub has verified the whole store");
        } else {
            let blobs = self.passed_over;
            tracing::error!(blobs, "the scrub could not read these; the pass does not count as complete");
        }
        self.save().await?;
        sleep_until(self.begun.checked_add(self.period).unwrap_or(self.begun)).await;
        self.begun = Instant::now();
        self.progress.begun = self.store.clock.now();
        self.progress.last = None;
        self.passed_over = 0;
        Ok(())
    }

    async fn save(&mut self) -> Result<(), StoreError> {
        let (line, folder) = (self.progress.encode(), Arc::clone(&self.store.folder));
        // A line lost in a power cut costs reading again.
        spawn_blocking(move || folder.replace("scrub", &line)).await??;
        self.saved = Instant::now();
        Ok(())
    }
}

impl ScrubProgress {
    fn encode(&self) -> String {
        let last = self.last.map_or_else(|| "-".to_owned(), |id| id.to_string());
        format!("{FORMAT} {} {} {last}\n", self.begun, self.completed)
    }

    /// Whatever is not a line of this form is no progress.
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

/// When in the period a blob has its turn.
fn turn(id: BlobId, period: Duration) -> Duration {
    let head = id.as_bytes().first_chunk().map_or(0, |head| u32::from_be_bytes(*head));
    period.mul_f64(f64::from(head) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_back_and_anything_else_is_none() {
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
    fn turns_are_in_the_order_of_names_and_within_the_period() {
        let period = Duration::from_secs(7 * 24 * 3600);
        let turns = [0, 1, 0x7f, 0x80, 0xff].map(|byte| turn(BlobId::from([byte; 32]), period));
        assert!(turns.is_sorted());
        assert_eq!((turns[0], turns[4]), (Duration::ZERO, period));
    }
}
