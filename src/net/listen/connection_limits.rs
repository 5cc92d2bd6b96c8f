//! Limits on open connections: a maximum for all clients and a share of each. The limits of one listener are within
//! those of the site, so that a flood of one listener leaves connections to the others.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::client_share::{ClientShares, CountedConnection};
use super::refusal::ConnectionRefusal;

/// Limits of a listener, or of the site.
#[derive(Debug)]
pub(super) struct ConnectionLimits {
    slots: Arc<Semaphore>,
    shares: Arc<ClientShares>,
    /// Limits that include these.
    site: Option<Arc<Self>>,
}

/// A connection within its limits, which ends with it.
#[derive(Debug)]
pub(super) struct AdmittedConnection {
    /// `None` for a proxy's connection: its clients are counted themselves.
    _counted: Option<CountedConnection>,
    _slot: OwnedSemaphorePermit,
    _site: Option<Box<Self>>,
}

/// A connection in its client's counts of the listener and the site, which ends with it.
#[derive(Debug)]
pub(super) struct CountedClient {
    _counted: CountedConnection,
    _site: Option<Box<Self>>,
}

impl ConnectionLimits {
    /// Limits of the site: `max` connections, and `max_client` of each client once they are scarce.
    pub(super) fn new(max: usize, max_client: usize) -> Arc<Self> {
        Arc::new(Self::of(max, max_client, None))
    }

    /// Limits of one listener within those of the site.
    pub(super) fn within(site: &Arc<Self>, max: usize, max_client: usize) -> Arc<Self> {
        Arc::new(Self::of(max, max_client, Some(site.clone())))
    }

    fn of(max: usize, max_client: usize, site: Option<Arc<Self>>) -> Self {
        let slots = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        Self { slots, shares: ClientShares::new(max, max_client), site }
    }

    /// Admits a connection of a client, or another concurrent request on its HTTP/2 connection.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn admit(&self, client: IpAddr) -> Result<AdmittedConnection, ConnectionRefusal> {
        let counted = Some(self.shares.admit(client).ok_or(ConnectionRefusal::TooManyOfClient)?);
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| ConnectionRefusal::TooManyOpen)?;
        let site = self.site.as_ref().map(|site| site.admit(client)).transpose()?;
        Ok(AdmittedConnection { _counted: counted, _slot: slot, _site: site.map(Box::new) })
    }

    /// Admits a connection of a proxy, for any client.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn admit_proxy(&self) -> Result<AdmittedConnection, ConnectionRefusal> {
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| ConnectionRefusal::TooManyOpen)?;
        let site = self.site.as_ref().map(|site| site.admit_proxy()).transpose()?;
        Ok(AdmittedConnection { _counted: None, _slot: slot, _site: site.map(Box::new) })
    }

    /// Counts an admitted connection of a proxy for its client.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn count(&self, client: IpAddr) -> Result<CountedClient, ConnectionRefusal> {
        let counted = self.shares.admit(client).ok_or(ConnectionRefusal::TooManyOfClient)?;
        let site = self.site.as_ref().map(|site| site.count(client)).transpose()?;
        Ok(CountedClient { _counted: counted, _site: site.map(Box::new) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends by a panic")]

    use super::*;

    #[test]
    fn listener_limits_are_within_those_of_the_site() {
        let client = |number: u8| IpAddr::from([10, 0, 0, number]);
        let site = ConnectionLimits::new(4, 4);
        let gateway = ConnectionLimits::within(&site, 2, 2);
        let held: Vec<_> = (1..=2).map(|number| gateway.admit(client(number)).unwrap()).collect();
        assert_eq!(gateway.admit(client(3)).unwrap_err(), ConnectionRefusal::TooManyOpen);
        let own: Vec<_> = (3..=4).map(|number| site.admit(client(number)).unwrap()).collect();
        assert_eq!(site.admit(client(5)).unwrap_err(), ConnectionRefusal::TooManyOpen);
        drop(held);
        let again: Vec<_> = (5..=6).map(|number| site.admit(client(number)).unwrap()).collect();
        assert_eq!(gateway.admit(client(7)).unwrap_err(), ConnectionRefusal::TooManyOpen, "of the site");
        drop((own, again));
        assert!(gateway.admit(client(7)).is_ok(), "a refusal by the site returns the slot of the listener");
    }
}
