//! Rules about the addresses of clients: the subnets that are served, and the proxies whose word about addresses is
//! taken. A reload replaces all of them at once, for further connections and requests.

use std::collections::HashMap;
use std::net::IpAddr;

use http::HeaderMap;

use gupd_config::{AccessList, ClientAddressSource, Networks, ServerSettings};
use gupd_http::client_address::{AddressField, InvalidAddressField, forwarded_client};

/// The rules of one configuration.
#[derive(Debug)]
pub(super) struct ClientRules {
    access: AccessList,
    /// Further restrictions, by listener.
    of_listeners: HashMap<String, AccessList>,
    proxies: Networks<()>,
    source: ClientAddressSource,
}

impl ClientRules {
    /// The rules of a configuration.
    pub(super) fn new(server: &ServerSettings) -> Self {
        let listeners = server.listeners.iter();
        Self {
            access: AccessList::new(&server.access),
            of_listeners: listeners
                .map(|listener| (listener.name.clone(), AccessList::new(&listener.access)))
                .collect(),
            proxies: server.proxies.subnets.iter().map(|subnet| (*subnet, ())).collect(),
            source: server.proxies.source,
        }
    }

    /// Returns true if this client is served on this listener.
    pub(super) fn permits(&self, listener: &str, client: IpAddr) -> bool {
        self.access.permits(client) && self.of_listeners.get(listener).is_none_or(|own| own.permits(client))
    }

    /// Returns true if connections from this address may carry requests of any client.
    pub(super) fn is_proxy(&self, peer: IpAddr) -> bool {
        !self.proxies.is_empty() && self.proxies.contains(peer.to_canonical())
    }

    /// Returns true if connections from this address begin with a PROXY header.
    pub(super) fn expects_header(&self, peer: IpAddr) -> bool {
        self.source == ClientAddressSource::ProxyProtocol && self.is_proxy(peer)
    }

    /// Returns the address of the client that a request of a proxy is for; `None` if the proxy does not say.
    pub(super) fn forwarded_client(
        &self,
        request: &HeaderMap,
    ) -> Result<Option<IpAddr>, InvalidAddressField> {
        let field = match self.source {
            ClientAddressSource::ProxyProtocol => return Ok(None),
            ClientAddressSource::Forwarded => AddressField::Forwarded,
            ClientAddressSource::XForwardedFor => AddressField::XForwardedFor,
        };
        forwarded_client(request, field, |address| self.is_proxy(address))
    }
}
