//! Admission of fills: at most `fill.max_concurrent` run, and no client can hold all of their permits. Most permits go in
//! order of arrival. A quarter is for clients that hold few of it, an eighth for catalogs and revalidations, which are
//! small and which every client waits for. The complication: a queued fill may gain followers of other clients, and
//! then no longer counts against the client that started it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::FillRequest;
use super::handle::FillFlags;
use gupd_config::Class;

/// Share of the permits for clients that hold few of these.
const FAIR_SHARE: usize = 4;

/// Share of the permits for catalogs and revalidations.
const CATALOG_SHARE: usize = 8;

/// Number of clients that together can hold all permits of the fair share.
const FAIR_CLIENTS: usize = 4;

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

/// Permit of a running fill.
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
            common: semaphore(most - fair - catalogs),
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
        let client = request.client.map(|client| ClientUse::new(self, client));
        let fair = async {
            let share = match &client {
                Some(client) => tokio::select! {
                    share = client.share.clone().acquire_owned() => share.ok(),
                    () = flags.wait_until_shared() => None,
                },
                None => None,
            };
            (self.fair.clone().acquire_owned().await, share)
        };
        let catalog = async {
            match is_small {
                true => self.catalogs.clone().acquire_owned().await,
                false => std::future::pending().await,
            }
        };
        let (permit, share) = tokio::select! {
            permit = self.common.clone().acquire_owned() => (permit, None),
            permit = catalog => (permit, None),
            fair = fair => fair,
        };
        Some(FillPermit { _permit: permit.ok()?, _client: share })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
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
        let client = client.to_canonical();
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
