//! `server.public_names`: names and addresses by which clients reach the relay, besides those that it listens on. A
//! relay behind address translation, or with a name in the site's DNS, cannot know them by itself.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A name or address of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicName {
    /// Host in lower case, without a trailing dot; an IPv6 address in brackets.
    host: String,
    /// Port; `None` for every port.
    port: Option<u16>,
}

impl PublicName {
    /// Returns the host in lower case, without a trailing dot.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Returns true if it is this host, in lower case and without a trailing dot, and this port.
    pub fn is_at(&self, host: &str, port: u16) -> bool {
        self.host == host && self.port.is_none_or(|own| own == port)
    }

    /// Returns true if a request with this `Host` may use the admin address: it names an address, a host without a
    /// domain, or one of the public names, with any port.
    ///
    /// A page of an attacker can make a browser send requests to a private address, under a name of the attacker's own
    /// domain (DNS rebinding), and read the responses.
    pub fn is_admin_host(names: &[Self], host: &str) -> bool {
        let host = match host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => host,
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        !host.contains('.') && address.is_none()
            || host.parse::<Ipv4Addr>().is_ok()
            || address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
            || names.iter().any(|name| name.host == host)
    }
}

impl FromStr for PublicName {
    type Err = String;

    /// Parses a host or an address with an optional port.
    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "{text:?} is not a host or address: write it like relay.example, relay.example:8080 or 198.51.100.7"
            )
        };
        if text.parse::<Ipv6Addr>().is_ok() {
            return format!("[{text}]").parse();
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => {
                let port = port.parse::<u16>().ok().filter(|port| *port > 0);
                (host, Some(port.ok_or_else(refused)?))
            }
            _ => (text, None),
        };
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            // In the one form that addresses compare in.
            Some(address) => format!("[{}]", address.parse::<Ipv6Addr>().map_err(|_| refused())?),
            None => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
        };
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if host.is_empty() || !host.starts_with('[') && !host.bytes().all(is_allowed) {
            return Err(refused());
        }
        Ok(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_without_port_is_at_every_port() {
        for (text, host, port, expected) in [
            ("Relay.example", "relay.example", 2967, true),
            ("relay.example.", "relay.example", 80, true),
            ("relay.example:8080", "relay.example", 8080, true),
            ("relay.example:8080", "relay.example", 80, false),
            ("198.51.100.7", "198.51.100.7", 2967, true),
            ("198.51.100.7", "198.51.100.70", 2967, false),
            ("2001:DB8:0::1", "[2001:db8::1]", 1, true),
            ("[2001:db8::1]:2967", "[2001:db8::1]", 2967, true),
            ("[2001:db8::1]:2967", "[2001:db8::1]", 80, false),
        ] {
            assert_eq!(
                text.parse::<PublicName>().unwrap().is_at(host, port),
                expected,
                "{text} {host}:{port}"
            );
        }
    }

    #[test]
    fn admin_address_is_not_reached_by_foreign_names() {
        let names = ["gupd.branch-a.example:2967".parse().unwrap()];
        for (host, expected) in [
            ("127.0.0.1:9467", true),
            ("10.1.2.3", true),
            ("[::1]:9467", true),
            ("localhost:9467", true),
            ("relay-1", true),
            ("GUPD.branch-a.example.:9467", true),
            ("evil.example:9467", false),
            ("127.0.0.1.evil.example", false),
            ("gupd.branch-a.example.evil.example", false),
            ("[evil.example]", false),
            ("evil.example:9467:1", false),
        ] {
            assert_eq!(PublicName::is_admin_host(&names, host), expected, "{host}");
        }
    }

    #[test]
    fn text_that_is_no_host_is_refused() {
        for text in
            ["", ":80", "http://relay.example", "relay example", "relay:0", "relay:x", "[relay]", "a/b"]
        {
            assert!(text.parse::<PublicName>().unwrap_err().contains("write it like"), "{text}");
        }
    }
}
