//! How many bytes on disk the store may take. Owns the account: what is committed, what is spoken for by fills and by
//! files on their way out, and the two limits, quota and min_free. It holds no file and evicts nothing; it says what
//! is missing. The lock covers three additions, never I/O.
//!
//! Files are charged as their size rounded up to whole file-system blocks, so that a million small objects count for
//! what they take.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes a file system allocates at once; 4 KiB on ext4, xfs and btrfs alike.
const ALLOCATION: u64 = 4 << 10;

/// What a file of `size` bytes takes on disk.
pub(super) const fn on_disk(size: u64) -> u64 {
    match size.checked_next_multiple_of(ALLOCATION) {
        Some(rounded) => rounded,
        None => u64::MAX,
    }
}

/// The account.
#[derive(Debug)]
pub(super) struct DiskBudget {
    quota: u64,
    min_free: u64,
    account: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    /// Bytes of blobs in the index.
    committed: u64,
    /// Bytes of fills and of files being removed.
    reserved: u64,
    /// The part of `reserved` that the file system does not count as used yet.
    unwritten: u64,
}

/// Why a reservation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// It can never fit.
    TooLarge {
        /// The quota.
        quota: u64,
    },
    /// It fits once this many committed bytes go.
    Quota {
        /// Bytes over the quota.
        over: u64,
    },
    /// Running fills have what it would need.
    QuotaReserved,
    /// The file system is short of this many bytes.
    MinFree {
        /// Bytes under the minimum.
        under: u64,
    },
}

impl DiskBudget {
    pub(super) fn new(quota: u64, min_free: u64) -> Arc<Self> {
        Arc::new(Self { quota, min_free, account: Mutex::default() })
    }

    /// Sets what the index holds. Called after each of its transactions, by its one writer.
    pub(super) fn set_committed(&self, bytes: u64) {
        self.lock().committed = bytes;
    }

    /// Speaks for `bytes`, with `free` bytes free on the file system.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64, free: u64) -> Result<Reservation, Shortage> {
        if bytes > self.quota {
            return Err(Shortage::TooLarge { quota: self.quota });
        }
        let mut account = self.lock();
        let after = account.committed.saturating_add(account.reserved).saturating_add(bytes);
        if let Some(over) = after.checked_sub(self.quota).filter(|over| *over > 0) {
            let evictable = over <= account.committed;
            return Err(if evictable { Shortage::Quota { over } } else { Shortage::QuotaReserved });
        }
        let wanted = self.min_free.saturating_add(account.unwritten).saturating_add(bytes);
        if let Some(under) = wanted.checked_sub(free).filter(|under| *under > 0) {
            return Err(Shortage::MinFree { under });
        }
        account.reserved += bytes;
        account.unwritten += bytes;
        drop(account);
        Ok(Reservation { room: Arc::clone(self), bytes, unwritten: bytes })
    }

    /// Accounts for a file that is there already, until it is removed.
    pub(super) fn hold(self: &Arc<Self>, bytes: u64) -> Reservation {
        let mut account = self.lock();
        account.reserved = account.reserved.saturating_add(bytes);
        drop(account);
        Reservation { room: Arc::clone(self), bytes, unwritten: 0 }
    }

    /// What is over a limit now, with `free` bytes free: a quota that was lowered, a disk that others filled.
    pub(super) fn excess(&self, free: u64) -> Option<Shortage> {
        let account = self.lock();
        let used = account.committed.saturating_add(account.reserved);
        let wanted = self.min_free.saturating_add(account.unwritten);
        if used > self.quota {
            Some(Shortage::Quota { over: used - self.quota })
        } else if wanted > free {
            Some(Shortage::MinFree { under: wanted - free })
        } else {
            None
        }
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes spoken for; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    room: Arc<DiskBudget>,
    bytes: u64,
    unwritten: u64,
}

impl Reservation {
    /// All bytes spoken for.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes over another reservation of the same room.
    pub(super) fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
        self.unwritten += std::mem::take(&mut other.unwritten);
    }

    /// Gives back a part.
    pub(super) fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.room.lock().reserved -= bytes;
    }

    /// Notes that the file now has `bytes` bytes, which the file system counts itself.
    pub(super) fn written(&mut self, bytes: u64) {
        let left = self.bytes.saturating_sub(bytes);
        let gone = self.unwritten.saturating_sub(left);
        self.unwritten -= gone;
        self.room.lock().unwritten -= gone;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut account = self.room.lock();
        account.reserved -= self.bytes;
        account.unwritten -= self.unwritten;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_refused_with_what_is_missing() {
        let room = DiskBudget::new(100, 10);
        room.set_committed(50);
        assert_eq!(room.reserve(101, 1000).unwrap_err(), Shortage::TooLarge { quota: 100 });
        assert_eq!(room.reserve(60, 1000).unwrap_err(), Shortage::Quota { over: 10 });
        let first = room.reserve(50, 1000).unwrap();
        assert_eq!(room.reserve(60, 1000).unwrap_err(), Shortage::QuotaReserved);
        drop(first);
        assert!(room.reserve(50, 1000).is_ok());
    }

    #[test]
    fn unwritten_bytes_count_against_min_free_and_written_ones_do_not() {
        let room = DiskBudget::new(1000, 10);
        let mut first = room.reserve(100, 200).unwrap();
        assert_eq!(room.reserve(100, 200).unwrap_err(), Shortage::MinFree { under: 10 });
        first.written(60);
        assert!(room.reserve(90, 140).is_ok());
        drop(first);
        assert!(room.reserve(130, 140).is_ok());
    }
}
