//! A map from networks to values, with longest-prefix lookup. It holds one prefix trie for each address family, so a
//! lookup costs the same among ten networks and a hundred thousand. Callers convert IPv4-mapped IPv6 addresses with
//! `IpAddr::to_canonical` first.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// Values by network.
#[derive(Clone, Debug)]
pub struct Networks<T> {
    v4: PrefixMap<Ipv4Net, T>,
    v6: PrefixMap<Ipv6Net, T>,
}

impl<T> Networks<T> {
    /// Sets the value of a network and returns its previous value.
    pub fn insert(&mut self, network: IpNet, value: T) -> Option<T> {
        match network {
            IpNet::V4(network) => self.v4.insert(network, value),
            IpNet::V6(network) => self.v6.insert(network, value),
        }
    }

    /// Returns the longest prefix that contains this network, with its value.
    pub fn longest_match(&self, network: IpNet) -> Option<(IpNet, &T)> {
        match network {
            IpNet::V4(network) => self.v4.get_lpm(&network).map(|(found, value)| (found.into(), value)),
            IpNet::V6(network) => self.v6.get_lpm(&network).map(|(found, value)| (found.into(), value)),
        }
    }
}

impl<T> Networks<T> {
    /// Returns true if there are no networks.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Returns true if a network contains this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.longest_match(address.into()).is_some()
    }
}

impl<T> FromIterator<(IpNet, T)> for Networks<T> {
    fn from_iter<I: IntoIterator<Item = (IpNet, T)>>(values: I) -> Self {
        let mut networks = Self::default();
        for (network, value) in values {
            networks.insert(network, value);
        }
        networks
    }
}

impl<T> Default for Networks<T> {
    fn default() -> Self {
        Self { v4: PrefixMap::new(), v6: PrefixMap::new() }
    }
}
