//! Values by network: which is said of an address by the narrowest network that holds it. A prefix trie for each family,
//! so that a look-up costs the same among ten networks and among a hundred thousand. IPv4 written as IPv6 is IPv4 to
//! whoever asks: see `IpAddr::to_canonical`.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// A value for each of some networks.
#[derive(Clone, Debug)]
pub struct Networks<T> {
    v4: PrefixMap<Ipv4Net, T>,
    v6: PrefixMap<Ipv6Net, T>,
}

impl<T> Networks<T> {
    /// Sets the value of a network; what it had before.
    pub fn insert(&mut self, network: IpNet, value: T) -> Option<T> {
        match network {
            IpNet::V4(network) => self.v4.insert(network, value),
            IpNet::V6(network) => self.v6.insert(network, value),
        }
    }

    /// The narrowest network that holds all of this one, and its value.
    pub fn longest_match(&self, network: IpNet) -> Option<(IpNet, &T)> {
        match network {
            IpNet::V4(network) => self.v4.get_lpm(&network).map(|(found, value)| (found.into(), value)),
            IpNet::V6(network) => self.v6.get_lpm(&network).map(|(found, value)| (found.into(), value)),
        }
    }
}

impl<T> Default for Networks<T> {
    fn default() -> Self {
        Self { v4: PrefixMap::new(), v6: PrefixMap::new() }
    }
}
