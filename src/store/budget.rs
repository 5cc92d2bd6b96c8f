//! Disk budget of the store: committed bytes, bytes reserved by fills and by files being removed, and the limits
//! quota and min_free. It holds no file and evicts nothing; it reports what is missing. The lock covers three
//! additions, never I/O.
//!
//! Files are charged by their size rounded up to whole file-system blocks, so that a million small objects count
//! fully.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Age from which the free space is read anew.
const FREE_RECENT: Duration = Duration::from_millis(20);

/// Age up to which it is used while it is read anew. The store itself writes some 20 MiB in this time.
const FREE_USABLE: Duration = Duration::from_millis(100);

/// Allocation unit of a file system: 4 KiB on ext4, xfs and btrfs.
const ALLOCATION: u64 = 4 << 10;

/// Returns the bytes on disk of a file of `size` bytes.
pub(super) const fn allocated_size(size: u64) -> u64 {
    match size.checked_next_multiple_of(ALLOCATION) {
        Some(rounded) => rounded,
        None => u64::MAX,
    }
}

/// The disk budget.
#[derive(Debug)]
pub(super) struct DiskBudget {
    quota: AtomicU64,
    min_free: AtomicU64,
    account: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    /// Bytes of blobs in the index.
    committed: u64,
    /// Bytes of fills and of files being removed.
    reserved: u64,
    /// Part of `reserved` that the file system does not count as used yet.
    unwritten: u64,
}

/// Reason why a reservation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// It can never fit.
    TooLarge {
        /// The quota.
        quota: u64,
    },
    /// It fits after `over` committed bytes are evicted.
    Quota {
        /// Bytes over the quota.
        over: u64,
    },
    /// Running fills have reserved the budget.
    QuotaReserved,
    /// The file system lacks `under` bytes.
    MinFree {
        /// Bytes under the minimum.
        under: u64,
    },
}

impl DiskBudget {
    pub(super) fn new(quota: u64, min_free: u64) -> Arc<Self> {
        Arc::new(Self {
            quota: AtomicU64::new(quota),
            min_free: AtomicU64::new(min_free),
            account: Mutex::default(),
        })
    }

    /// Returns the quota in bytes.
    pub(super) fn quota(&self) -> u64 {
        self.quota.load(Ordering::Relaxed)
    }

    /// Sets the limits. Granted reservations stay; [`DiskBudget::excess`] reports what is over a lowered limit.
    pub(super) fn set_limits(&self, quota: u64, min_free: u64) {
        self.quota.store(quota, Ordering::Relaxed);
        self.min_free.store(min_free, Ordering::Relaxed);
    }

    fn min_free(&self) -> u64 {
        self.min_free.load(Ordering::Relaxed)
    }

    /// Sets the committed bytes. The index writer calls it after each transaction.
    pub(super) fn set_committed(&self, bytes: u64) {
        self.lock().committed = bytes;
    }

    /// Reserves `bytes`; the file system has `free` bytes free.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64, free: u64) -> Result<Reservation, Shortage> {
        // Read once: a reload may change it between two reads.
        let quota = self.quota();
        if bytes > quota {
            return Err(Shortage::TooLarge { quota });
        }
        let mut account = self.lock();
        let after = account.committed.saturating_add(account.reserved).saturating_add(bytes);
        if let Some(over) = after.checked_sub(quota).filter(|over| *over > 0) {
            let evictable = over <= account.committed;
            return Err(if evictable { Shortage::Quota { over } } else { Shortage::QuotaReserved });
        }
        let required = self.min_free().saturating_add(account.unwritten).saturating_add(bytes);
        if let Some(under) = required.checked_sub(free).filter(|under| *under > 0) {
            return Err(Shortage::MinFree { under });
        }
        account.reserved += bytes;
        account.unwritten += bytes;
        drop(account);
        Ok(Reservation { budget: Arc::clone(self), bytes, unwritten: bytes })
    }

    /// Charges a file that exists already, until it is removed.
    pub(super) fn reserve_existing(self: &Arc<Self>, bytes: u64) -> Reservation {
        let mut account = self.lock();
        account.reserved = account.reserved.saturating_add(bytes);
        drop(account);
        Reservation { budget: Arc::clone(self), bytes, unwritten: 0 }
    }

    /// Returns the excess over a limit with `free` bytes free, after a lowered quota or on a disk filled by
    /// others.
    pub(super) fn excess(&self, free: u64) -> Option<Shortage> {
        let account = self.lock();
        let used = account.committed.saturating_add(account.reserved);
        let required = self.min_free().saturating_add(account.unwritten);
        if let Some(over) = used.checked_sub(self.quota()).filter(|over| *over > 0) {
            Some(Shortage::Quota { over })
        } else if required > free {
            Some(Shortage::MinFree { under: required - free })
        } else {
            None
        }
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Free bytes of the file system at a recent moment, so that thousands of small fills do not each ask for them.
#[derive(Debug, Default)]
pub(super) struct RecentFreeSpace(Mutex<Option<KnownFreeSpace>>);

#[derive(Clone, Copy, Debug)]
struct KnownFreeSpace {
    bytes: u64,
    read: Instant,
    /// A caller was told that it is due.
    is_being_read: bool,
}

/// What is known of the free bytes.
#[derive(Debug, PartialEq)]
pub(super) enum FreeSpace {
    /// Nothing recent.
    Unknown,
    /// The bytes of a moment ago.
    Known(u64),
    /// The same, to be read anew by this caller.
    Due(u64),
}

impl RecentFreeSpace {
    /// Returns what is known. Of several callers one is told that it is due: reading takes a thread of its own, for which
    /// fills should not wait.
    pub(super) fn look(&self) -> FreeSpace {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.as_mut() else { return FreeSpace::Unknown };
        match known.read.elapsed() {
            age if age >= FREE_USABLE => FreeSpace::Unknown,
            age if age >= FREE_RECENT && !known.is_being_read => {
                known.is_being_read = true;
                FreeSpace::Due(known.bytes)
            }
            _ => FreeSpace::Known(known.bytes),
        }
    }

    /// Records the free bytes of this moment.
    pub(super) fn set(&self, bytes: u64) {
        self.set_at(bytes, Instant::now());
    }

    fn set_at(&self, bytes: u64, read: Instant) {
        let known = KnownFreeSpace { bytes, read, is_being_read: false };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }
}

/// Reserved bytes, released on drop.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<DiskBudget>,
    bytes: u64,
    unwritten: u64,
}

impl Reservation {
    /// Returns the reserved bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Merges another reservation of the same budget.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
        self.unwritten += std::mem::take(&mut other.unwritten);
    }

    /// Releases a part.
    pub(super) fn release(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.lock().reserved -= bytes;
    }

    /// Records that the file now has `bytes` bytes, which the file system accounts for itself.
    pub(super) fn set_written(&mut self, bytes: u64) {
        let remaining = self.bytes.saturating_sub(bytes);
        let written = self.unwritten.saturating_sub(remaining);
        self.unwritten -= written;
        self.budget.lock().unwritten -= written;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut account = self.budget.lock();
        account.reserved -= self.bytes;
        account.unwritten -= self.unwritten;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_reads_the_free_space_anew_and_none_waits() {
        let space = RecentFreeSpace::default();
        assert_eq!(space.look(), FreeSpace::Unknown);
        let ago = |age: Duration| Instant::now().checked_sub(age).unwrap();
        // A time to come is as good as now, and no pause of the test makes it old.
        space.set_at(1, Instant::now() + Duration::from_secs(3600));
        assert_eq!(space.look(), FreeSpace::Known(1));
        space.set_at(2, ago(FREE_USABLE));
        assert_eq!(space.look(), FreeSpace::Unknown);
        // The test may pause here.
        while {
            space.set_at(3, ago(FREE_RECENT));
            space.look() == FreeSpace::Unknown
        } {}
        assert_ne!(space.look(), FreeSpace::Due(3), "another caller reads it");
        space.set(4);
        assert_ne!(space.look(), FreeSpace::Known(3));
    }

    #[test]
    fn refused_reservation_reports_the_shortage() {
        let budget = DiskBudget::new(100, 10);
        budget.set_committed(50);
        assert_eq!(budget.reserve(101, 1000).unwrap_err(), Shortage::TooLarge { quota: 100 });
        assert_eq!(budget.reserve(60, 1000).unwrap_err(), Shortage::Quota { over: 10 });
        let first = budget.reserve(50, 1000).unwrap();
        assert_eq!(budget.reserve(60, 1000).unwrap_err(), Shortage::QuotaReserved);
        drop(first);
        assert!(budget.reserve(50, 1000).is_ok());
    }

    #[test]
    fn changed_limits_apply_to_the_next_reservation() {
        let budget = DiskBudget::new(100, 10);
        budget.set_committed(50);
        let granted = budget.reserve(50, 1000).unwrap();
        budget.set_limits(80, 10);
        assert_eq!(budget.excess(1000), Some(Shortage::Quota { over: 20 }), "what was granted stays");
        assert_eq!(budget.reserve(81, 1000).unwrap_err(), Shortage::TooLarge { quota: 80 });
        drop(granted);
        assert_eq!(budget.excess(1000), None);
        budget.set_limits(200, 950);
        assert_eq!(budget.reserve(100, 1000).unwrap_err(), Shortage::MinFree { under: 50 });
        budget.set_limits(200, 900);
        assert!(budget.reserve(100, 1000).is_ok());
    }

    #[test]
    fn only_unwritten_bytes_count_against_min_free() {
        let budget = DiskBudget::new(1000, 10);
        let mut first = budget.reserve(100, 200).unwrap();
        assert_eq!(budget.reserve(100, 200).unwrap_err(), Shortage::MinFree { under: 10 });
        first.set_written(60);
        assert!(budget.reserve(90, 140).is_ok());
        drop(first);
        assert!(budget.reserve(130, 140).is_ok());
    }
}
