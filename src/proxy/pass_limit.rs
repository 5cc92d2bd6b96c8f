//! Limit on the requests of a route that pass through uncached at once: each holds a connection to an upstream. Above
//! the limit requests wait in order of arrival. Once three quarters are taken, a client that holds or awaits a quarter
//! gets no more. A reload counts anew.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use gupd_config::policy::{Policy, Route};
use gupd_net::listen::{ClientShares, CountedConnection};

/// The limits of all routes, by name.
#[derive(Debug)]
pub(crate) struct PassThroughLimits(HashMap<Arc<str>, RouteLimit>);

#[derive(Debug)]
struct RouteLimit {
    slots: Arc<Semaphore>,
    shares: Arc<ClientShares>,
}

/// The right to pass one request through, released on drop.
pub(crate) struct PassThroughSlot {
    _permit: OwnedSemaphorePermit,
    _counted: CountedConnection,
}

impl PassThroughLimits {
    /// The limits of these routes.
    pub(crate) fn new(policy: &Policy) -> Self {
        let limits =
            policy.routes().map(|route| (route.name.clone(), RouteLimit::new(route.max_pass_through)));
        Self(limits.collect())
    }

    /// Waits for a slot; `None` if the client has its share, or after this time.
    pub(crate) async fn acquire(
        &self,
        route: &Route,
        client: IpAddr,
        patience: Duration,
    ) -> Option<PassThroughSlot> {
        self.0.get(&route.name)?.acquire(client, patience).await
    }
}

impl RouteLimit {
    fn new(most: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(most)), shares: ClientShares::new(most, (most / 4).max(1)) }
    }

    async fn acquire(&self, client: IpAddr, patience: Duration) -> Option<PassThroughSlot> {
        let counted = self.shares.admit(client)?;
        let permit = timeout(patience, self.slots.clone().acquire_owned()).await.ok()?.ok()?;
        Some(PassThroughSlot { _permit: permit, _counted: counted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn client_with_its_share_leaves_slots_to_others() {
        let limit = RouteLimit::new(8);
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(limit.acquire(greedy, PATIENCE).await.unwrap());
        }
        assert!(limit.acquire(greedy, PATIENCE).await.is_none());
        let others = [limit.acquire(other, PATIENCE).await, limit.acquire(other, PATIENCE).await];
        assert!(others.iter().all(Option::is_some));
        // All are taken: a third client waits, and gets the next one.
        let third = IpAddr::from([10, 0, 0, 3]);
        assert!(limit.acquire(third, PATIENCE).await.is_none());
        let waiting = limit.acquire(third, PATIENCE);
        held.pop();
        assert!(waiting.await.is_some());
    }
}
