//! Doubts about the URL of another server: a host that documents use as an example, a placeholder, a port of the other
//! scheme, an address of the relay itself. Each is valid as text, and none can be what an administrator wants.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Uri;
use http::uri::Scheme;

use crate::document::Section;
use crate::server::ServerSettings;

/// Top-level names that no server has (RFC 2606, RFC 6761).
const RESERVED_TOP_LEVEL: [&str; 2] = ["example", "invalid"];

/// Second-level names that are reserved for documents (RFC 2606).
const RESERVED_DOMAINS: [&str; 3] = ["example.com", "example.net", "example.org"];

/// Words that stand for a name to be filled in: a label of the host is one of them, or begins with one and a hyphen.
const PLACEHOLDERS: [&str; 11] = [
    "change-me",
    "change_me",
    "changeme",
    "placeholder",
    "replace-me",
    "replace_me",
    "replaceme",
    "todo",
    "xxx",
    "xxxx",
    "your",
];

/// Ports that managers and web servers use for one scheme.
const PORTS: [(u16, &str); 4] = [(80, "http"), (8014, "http"), (443, "https"), (8443, "https")];

/// Warns of a host that is an example of the documents, and of a port of the other scheme.
pub(crate) fn warn_doubtful(s: &mut Section, key: &str, url: &Uri) {
    warn_reserved(s, key, url.host().unwrap_or_default());
    let scheme = url.scheme_str().unwrap_or_default();
    let usual = url.port_u16().and_then(|port| PORTS.iter().find(|(known, _)| *known == port));
    if let Some((port, of)) = usual.filter(|(_, of)| *of != scheme) {
        s.warn(key, format!("port {port} is usually for {of}, not {scheme}: check scheme and port"));
    }
}

/// Warns of a host that is an example of the documents, or a placeholder.
pub(crate) fn warn_reserved(s: &mut Section, key: &str, host: &str) {
    if let Some(rfc) = reservation(host) {
        s.warn(key, format!("{host} is reserved for examples ({rfc}): write the name of your own server"));
    } else if is_placeholder(host) {
        s.warn(key, format!("{host} looks like a placeholder: write the name of your own server"));
    }
}

/// Refuses a URL at which the relay itself listens: its requests would come back.
pub(crate) fn refuse_own_address(s: &mut Section, key: &str, url: &Uri, server: &ServerSettings) {
    let mut addresses = server.client_addresses().chain([("server.admin", &server.admin)]);
    if let Some((setting, own)) = addresses.find(|(_, own)| is_at(own, url)) {
        s.refuse(
            key,
            format!("{url} is the relay itself ({setting} is {own}): write the URL of the manager"),
        );
    }
}

/// Returns the document that reserves a host for examples.
fn reservation(host: &str) -> Option<&'static str> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    match address(&host) {
        Some(IpAddr::V4(address)) => is_documentation_v4(address).then_some("RFC 5737"),
        Some(IpAddr::V6(address)) => is_documentation_v6(address).then_some("RFC 3849"),
        None => {
            let is_below = |name: &&str| {
                host.strip_suffix(*name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            RESERVED_TOP_LEVEL.iter().chain(&RESERVED_DOMAINS).any(is_below).then_some("RFC 2606")
        }
    }
}

/// Returns true if a label of a host name is one to be filled in, such as `CHANGEME` or `your-manager`.
fn is_placeholder(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let is_one = |label: &str| {
        let rest = PLACEHOLDERS.iter().filter_map(|word| label.strip_prefix(word));
        rest.into_iter().any(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
    };
    host.split('.').any(is_one)
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_documentation_v4(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _])
}

fn is_documentation_v6(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [0x2001, 0xdb8, ..])
}

fn is_at(own: &SocketAddr, url: &Uri) -> bool {
    let default = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let host = url.host().unwrap_or_default();
    let is_own_host = match address(host) {
        Some(ip) => ip == own.ip() || (ip.is_loopback() && own.ip().is_unspecified()),
        None => {
            host.eq_ignore_ascii_case("localhost") && (own.ip().is_loopback() || own.ip().is_unspecified())
        }
    };
    own.port() != 0 && own.port() == url.port_u16().unwrap_or(default) && is_own_host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reserved_hosts_are_examples() {
        for host in [
            "manager.example",
            "example",
            "sepm.EXAMPLE.com",
            "example.org.",
            "host.invalid",
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.9",
            "[2001:db8::1]",
        ] {
            assert!(reservation(host).is_some(), "{host}");
        }
        for host in
            ["manager", "notexample.com", "example.company.com", "sepm.test", "192.0.3.1", "[fd00::1]", ""]
        {
            assert_eq!(reservation(host), None, "{host}");
        }
    }

    #[test]
    fn only_names_to_fill_in_are_placeholders() {
        for host in [
            "CHANGEME",
            "change-me.lan",
            "sepm.your-company.com",
            "Your_Manager",
            "REPLACE-ME",
            "xxx.lan",
            "TODO",
        ] {
            assert!(is_placeholder(host), "{host}");
        }
        for host in ["manager", "yourtown.gov", "sepm-changeme", "my.lan", "xx1", "10.1.2.3", "[fd00::1]", ""]
        {
            assert!(!is_placeholder(host), "{host}");
        }
    }
}
