//! Admission of fills and of their runs (ranged downloads) beyond the first: at most `fill.max_concurrent` in all, each
//! of which holds a connection to an upstream. No client can hold all of the permits. Most permits go in order of
//! arrival. A quarter is for clients that hold few of it, an eighth for catalogs and revalidations, which are small and
//! which every client waits for. A queued fill may gain followers of other clients, and then no longer counts against
//! the client that started it. A fill gives its permit back before the commit of a small body, or during it, so that a
//! disk that is slow for a moment delays no other fill; [`CommitBacklog`] bounds what waits.

use std::collections::HashMap;
use std::future::pending;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::FillRequest;
use super::handle::FillFlags;
use gupd_config::{Class, client_network};
use gupd_store::CHUNK;

/// Share of the permits for clients that hold few of these.
const FAIR_SHARE: usize = 4;

/// Share of the permits for catalogs and revalidations.
const CATALOG_SHARE: usize = 8;

/// Number of clients that together can hold all permits of the fair share.
const FAIR_CLIENTS: usize = 4;

/// Maximum of memory for complete bodies that wait for their commit, in KiB.
const COMMITS_KIB: u64 = 32 << 10;

/// Memory of a waiting commit besides its body, in KiB.
const COMMIT_OVERHEAD_KIB: u64 = 16;

/// Permits of all fills.
#[derive(Debug)]
pub(super) struct FillAdmission {
    common: Arc<Semaphore>,
    fair: Arc<Semaphore>,
    catalogs: Arc<Semaphore>,
    /// Permits of the fair share that one client may hold.
    client_share: usize,
    // Held for a lookup. Has an entry for each client with a queued or running fill.
    clients: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// Permit of a running fill, or of one of its runs beyond the first.
pub(super) struct FillPermit {
    _permit: OwnedSemaphorePermit,
    _client: Option<OwnedSemaphorePermit>,
}

impl FillAdmission {
    /// Admission of at most `most` fills, at least one.
    pub(super) fn new(most: usize) -> Self {
        let (fair, catalogs) = (most / FAIR_SHARE, most / CATALOG_SHARE);
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            common: semaphore(most.saturating_sub(fair).saturating_sub(catalogs)),
            fair: semaphore(fair),
            catalogs: semaphore(catalogs),
            client_share: fair.div_ceil(FAIR_CLIENTS),
            clients: Mutex::default(),
        }
    }

    /// Waits for a permit. `None` only if the semaphores were closed, which nothing does.
    pub(super) async fn admit(&self, request: &FillRequest, flags: &FillFlags) -> Option<FillPermit> {
        if let Ok(permit) = self.common.clone().try_acquire_owned() {
            return Some(FillPermit { _permit: permit, _client: None });
        }
        let is_small = request.classification.class == Class::Catalog || request.stale.is_some();
        self.queue(request.client, is_small, flags.wait_until_shared()).await
    }

    /// Waits for a permit for one more run of a fill, which this client reads. Queued fills go first.
    pub(super) async fn admit_run(&self, client: Option<IpAddr>) -> Option<FillPermit> {
        if let Ok(permit) = self.common.clone().try_acquire_owned() {
            return Some(FillPermit { _permit: permit, _client: None });
        }
        self.queue(client, false, pending()).await
    }

    /// Waits for a permit of any share that `client` may have; not for its own share once it reads with others.
    async fn queue(
        &self,
        client: Option<IpAddr>,
        is_small: bool,
        shared: impl Future<Output = ()>,
    ) -> Option<FillPermit> {
        let client = client.map(|client| ClientUse::new(self, client));
        let fair = async {
            let share = match &client {
                Some(client) => tokio::select! {
                    share = client.share.clone().acquire_owned() => share.ok(),
                    () = shared => None,
                },
                None => None,
            };
            (self.fair.clone().acquire_owned().await, share)
        };
        let catalog = async {
            match is_small {
                true => self.catalogs.clone().acquire_owned().await,
                false => pending().await,
            }
        };
        let (permit, share) = tokio::select! {
            permit = self.common.clone().acquire_owned() => (permit, None),
            permit = catalog => (permit, None),
            fair = fair => fair,
        };
        Some(FillPermit { _permit: permit.ok()?, _client: share })
    }

    /// Returns true if a permit is free that any fill may have.
    pub(super) fn has_room(&self) -> bool {
        self.common.available_permits() > 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Complete bodies in memory that wait for their commit without a permit.
#[derive(Debug)]
pub(super) struct CommitBacklog(Arc<Semaphore>);

impl Default for CommitBacklog {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(COMMITS_KIB as usize)))
    }
}

impl CommitBacklog {
    /// Exchanges the permit of a fill with a body of `length` bytes for a place in the backlog, as soon as it has room.
    /// The fill drops this when its commit ends. It never returns for a body in a file, which keeps the permit.
    pub(super) async fn exchange(&self, permit: FillPermit, length: u64) -> FillPermit {
        let kib =
            u32::try_from(length.div_ceil(1 << 10).saturating_add(COMMIT_OVERHEAD_KIB)).unwrap_or(u32::MAX);
        if length <= CHUNK
            && let Ok(place) = Arc::clone(&self.0).acquire_many_owned(kib).await
        {
            // Not before: the body is memory that something must bound.
            drop(permit);
            return FillPermit { _permit: place, _client: None };
        }
        std::future::pending().await
    }
}

/// Use of a client's share by a queued fill. Running fills hold the share through their permits.
struct ClientUse<'a> {
    admission: &'a FillAdmission,
    client: IpAddr,
    share: Arc<Semaphore>,
}

impl<'a> ClientUse<'a> {
    fn new(admission: &'a FillAdmission, client: IpAddr) -> Self {
        let client = client_network(client);
        let mut clients = admission.lock();
        // Entries of clients whose fills have ended go when another one queues.
        clients.retain(|other, share| *other == client || Arc::strong_count(share) > 1);
        let share = clients.entry(client).or_insert_with(|| Arc::new(Semaphore::new(admission.client_share)));
        let share = share.clone();
        drop(clients);
        Self { admission, client, share }
    }
}

impl Drop for ClientUse<'_> {
    fn drop(&mut self) {
        let mut clients = self.admission.lock();
        // The register and this use: nothing else queues or runs for the client.
        if Arc::strong_count(&self.share) == 2 {
            clients.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use std::task::Poll;

    #[tokio::test]
    async fn waiting_commit_holds_no_permit_while_there_is_room() {
        let permits = Arc::new(Semaphore::new(1));
        let backlog = CommitBacklog::default();
        let begin = |length| {
            let permit = FillPermit { _permit: permits.clone().try_acquire_owned().unwrap(), _client: None };
            Box::pin(backlog.exchange(permit, length))
        };
        let mut large = begin(CHUNK + 1);
        assert!(poll!(&mut large).is_pending());
        assert_eq!(permits.available_permits(), 0, "a body in a file keeps its permit");
        drop(large);
        let mut places = Vec::new();
        let mut waiting = loop {
            let mut exchange = begin(CHUNK);
            match poll!(&mut exchange) {
                Poll::Ready(place) => places.push(place),
                Poll::Pending => break exchange,
            }
        };
        assert_eq!(permits.available_permits(), 0, "no room is left");
        let bytes = places.len() as u64 * CHUNK;
        assert!((COMMITS_KIB / 2..=COMMITS_KIB).contains(&(bytes >> 10)), "{bytes} bytes wait");
        // The commits before it end one by one, in the order of the index thread; it is the last.
        places.pop();
        assert!(poll!(&mut waiting).is_ready());
        assert_eq!(permits.available_permits(), 1, "it waits without a permit from then on");
    }
}
