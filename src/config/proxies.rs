//! `server.trusted_proxies`: proxies between clients and the relay, and the way in which they give a client's address.
//! Nobody else's word about an address is taken.

use ipnet::IpNet;

use crate::access::read_subnets;
use crate::document::Section;
use crate::reader::choice;

/// Proxies between clients and the relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// Their addresses; none by default.
    pub subnets: Vec<IpNet>,
    /// The way in which they give the address of a client.
    pub source: ClientAddressSource,
}

/// The way in which a proxy gives the address of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAddressSource {
    /// A PROXY header, version 1 or 2, at the beginning of each connection.
    #[default]
    ProxyProtocol,
    /// The field `Forwarded` of each request (RFC 7239).
    Forwarded,
    /// The field `X-Forwarded-For` of each request.
    XForwardedFor,
}

const SOURCES: [(&str, ClientAddressSource); 3] = [
    ("proxy-protocol", ClientAddressSource::ProxyProtocol),
    ("forwarded", ClientAddressSource::Forwarded),
    ("x-forwarded-for", ClientAddressSource::XForwardedFor),
];

/// Reads `trusted_proxies` and `client_address`.
pub(crate) fn read_proxies(s: &mut Section) -> ProxySettings {
    let subnets = read_subnets(s, "trusted_proxies");
    if let Some(all) = subnets.iter().find(|subnet| subnet.prefix_len() == 0) {
        s.refuse("trusted_proxies", format!("{all} trusts every client: list the addresses of the proxies"));
    }
    let source = s.read("client_address", |text| choice(text, &SOURCES));
    if source.is_some() && !s.is_given("trusted_proxies") {
        s.warn("client_address", "is set without trusted_proxies, and has no effect: list the proxies");
    }
    ProxySettings { subnets, source: source.unwrap_or_default() }
}
