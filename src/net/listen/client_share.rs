//! Open connections of each client. While connections are plentiful a client may open any number: proxies and NAT bring
//! many from one address. Once three quarters of the maximum are open, the rest is for clients that hold few.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gupd_config::client_network;

/// Counts of open connections.
#[derive(Debug)]
pub struct ClientShares {
    /// Number of open connections from which on shares matter.
    scarce_from: usize,
    /// Maximum of one client from then on.
    share: usize,
    // Locked for a lookup when a connection opens or closes.
    open: Mutex<OpenConnections>,
}

/// Has an entry for each client with an open connection.
#[derive(Debug, Default)]
struct OpenConnections {
    total: usize,
    clients: HashMap<IpAddr, usize>,
}

/// An open connection in its client's count, which ends with it.
#[derive(Debug)]
pub struct CountedConnection {
    shares: Arc<ClientShares>,
    client: IpAddr,
}

impl ClientShares {
    /// Shares of at most `most` connections: `share` for each client once they are scarce.
    pub fn new(most: usize, share: usize) -> Arc<Self> {
        Arc::new(Self { scarce_from: most.saturating_sub(most / 4), share, open: Mutex::default() })
    }

    /// Counts a new connection; `None` if the client has its share and few are left for others.
    pub fn admit(self: &Arc<Self>, client: IpAddr) -> Option<CountedConnection> {
        let client = client_network(client);
        let mut open = self.lock();
        let own = open.clients.get(&client).copied().unwrap_or(0);
        if open.total >= self.scarce_from && own >= self.share {
            return None;
        }
        open.total = open.total.saturating_add(1);
        open.clients.insert(client, own.saturating_add(1));
        Some(CountedConnection { shares: self.clone(), client })
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut open = self.shares.lock();
        open.total = open.total.saturating_sub(1);
        if let Some(own) = open.clients.get_mut(&self.client) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                open.clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn one_client_leaves_a_quarter_to_others() {
        for (most, share, expected) in [(100, 25, 75), (100, 80, 80), (8, 2, 6), (2, 1, 2), (1, 1, 1)] {
            let shares = ClientShares::new(most, share);
            let held: Vec<_> = (0..most).map_while(|_| shares.admit(client(1))).collect();
            assert_eq!(held.len(), expected, "{most} {share}");
            let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
            assert!(shares.admit(mapped).is_none() || expected == most, "the same client");
            let others: Vec<_> = (2..=4).filter_map(|number| shares.admit(client(number))).collect();
            assert_eq!(others.len(), 3, "clients without a connection always have their share");
        }
    }

    #[test]
    fn closed_connections_count_no_more() {
        let shares = ClientShares::new(4, 1);
        let held: Vec<_> = (0..3).map_while(|_| shares.admit(client(1))).collect();
        assert_eq!(held.len(), 3);
        assert!(shares.admit(client(1)).is_none());
        drop(held);
        assert!(shares.admit(client(1)).is_some());
        assert!(shares.lock().clients.is_empty() && shares.lock().total == 0);
    }
}
