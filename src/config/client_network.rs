//! The address by which a client counts: in shares, limits, slots, offsets and the list of clients. Groups and access
//! lists see the whole address.

use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that a host does not choose itself. It takes any number of addresses below them (RFC 8981).
const NETWORK_BITS: u32 = 64;

/// Returns the address itself for IPv4, and the `/64` of an IPv6 address: 20 addresses of one host are one client. Also
/// maps an IPv4-mapped address to its IPv4 form.
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = u128::from(address) >> (u128::BITS - NETWORK_BITS) << (u128::BITS - NETWORK_BITS);
            Ipv6Addr::from(bits).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Identity of a client that shows no certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientIdentity {
    /// Its address.
    #[default]
    Address,
    /// The hardware address behind its address, if the client is on a link of the relay.
    Mac,
}

/// Maximum bytes of a name (RFC 1035 §2.3.4).
const MAX_NAME: usize = 255;

/// Returns the name that a client with these names in its certificate counts as: the first one. `None` if that could be
/// taken for another client's identity: it reads like an address, or has characters that no name has.
pub fn certificate_identity(names: &[Box<str>]) -> Option<&str> {
    let name = names.first()?;
    let is_printable = name.chars().all(|char| !char.is_control() && !char.is_whitespace());
    let is_name = (1..=MAX_NAME).contains(&name.len()) && is_printable && name.parse::<IpAddr>().is_err();
    is_name.then_some(name)
}

/// Returns the address by which a client with this hash of its certificate's name counts. It lies in `0100::/8`, which
/// is assigned to nobody, so it is no other client's.
pub fn certificate_network(name_hash: u64) -> IpAddr {
    let bits = (0x0100_0000_0000_0000 | name_hash >> 8) & 0x01ff_ffff_ffff_ffff;
    Ipv6Addr::from(u128::from(bits) << (u128::BITS - NETWORK_BITS)).into()
}

/// Returns the address by which a client with this hardware address counts. It lies in `0200::/16`, which is assigned
/// to nobody (RFC 4048), so it is no other client's.
pub fn hardware_network(hardware: [u8; 6]) -> IpAddr {
    let [a, b, c, d, e, f] = hardware;
    let [ab, cd, ef] = [[a, b], [c, d], [e, f]].map(u16::from_be_bytes);
    Ipv6Addr::new(0x0200, ab, cd, ef, 0, 0, 0, 0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_host_are_one_client() {
        for (address, expected) in [
            ("2001:db8:0:1::1", "2001:db8:0:1::"),
            ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::"),
            ("2001:db8:0:2::1", "2001:db8:0:2::"),
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::1", "::"),
        ] {
            assert_eq!(client_network(address.parse().unwrap()).to_string(), expected, "{address}");
        }
    }

    #[test]
    fn name_that_is_no_name_is_no_identity() {
        let long = "a".repeat(MAX_NAME + 1);
        for (names, expected) in [
            (&["pc-1.example", "other"][..], Some("pc-1.example")),
            (&[], None),
            (&["10.0.0.2", "pc-1.example"], None),
            (&["2001:db8::1"], None),
            (&[""], None),
            (&["a\nb"], None),
            (&[&long], None),
        ] {
            let names: Vec<Box<str>> = names.iter().map(|&name| name.into()).collect();
            assert_eq!(certificate_identity(&names), expected, "{names:?}");
        }
    }

    #[test]
    fn certificates_count_apart_from_addresses_and_each_other() {
        let [one, two] = [0xffff_0000_0000_1234, 0xffff_0000_0001_1234].map(certificate_network);
        assert!(one != two && one == client_network(one) && two == client_network(two));
        assert!([one, two].iter().all(|network| matches!(network, IpAddr::V6(own) if own.octets()[0] == 1)));
    }
}
