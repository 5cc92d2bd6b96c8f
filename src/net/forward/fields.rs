//! Header fields on their way through a proxy (RFC 9110 §7.6): what is for one connection only is taken off, and what
//! tells of the relay is put on. Everything else is left as it came, whatever it says.

use std::net::SocketAddr;

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Version};

use gupd_config::Class;
use gupd_http::field::{WANT_REPR_DIGEST, append_member};
use gupd_http::instance::RelayInstance;
use gupd_http::update::remove_hop_by_hop;

/// The fields a request for a whole object is made without: ranges and conditions are the client's own affair.
const SELECTIVE: [HeaderName; 6] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// Fields about the client, not about what it asks for.
const PERSONAL: [HeaderName; 7] = [
    header::FORWARDED,
    header::PROXY_AUTHORIZATION,
    FORWARDED_FOR,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// Fields by which some servers take a request for one with another method or path.
const MEANING_ELSE: [HeaderName; 5] = [
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The fields of a request that is passed through for one client.
pub fn prepare_passthrough(
    client: &HeaderMap,
    version: Version,
    peer: SocketAddr,
    instance: &RelayInstance,
) -> HeaderMap {
    let mut headers = for_any_client(client, version, instance);
    let address = peer.ip().to_canonical();
    append_member(&mut headers, FORWARDED_FOR, &address.to_string());
    // RFC 7239 §6: an IPv6 address is in brackets and quotes.
    let node = if address.is_ipv6() { format!("for=\"[{address}]\"") } else { format!("for={address}") };
    append_member(&mut headers, header::FORWARDED, &node);
    headers
}

/// The fields of a request whose response is for everyone: it names no client, since it is not for one, and nothing
/// that one client says may make the manager answer another question. A relay before this one has the content's
/// SHA-256, and tells it whoever asks.
pub fn prepare_fill(
    client: &HeaderMap,
    version: Version,
    class: Class,
    instance: &RelayInstance,
) -> HeaderMap {
    let mut headers = for_any_client(client, version, instance);
    for name in SELECTIVE.iter().chain(&PERSONAL).chain(&MEANING_ELSE) {
        headers.remove(name);
    }
    if matches!(class, Class::Payload | Class::Catalog) {
        headers.remove(header::COOKIE);
    }
    headers.insert(WANT_REPR_DIGEST, HeaderValue::from_static("sha-256=10"));
    headers
}

/// Makes the fields of an upstream's response, which came in this version, those of the relay's own.
pub fn prepare_response(headers: &mut HeaderMap, version: Version) {
    remove_hop_by_hop(headers);
    add_via(headers, version);
}

/// Notes on a response that it came through here.
pub fn add_via(headers: &mut HeaderMap, version: Version) {
    let via = match version {
        Version::HTTP_10 => "1.0 gupd",
        _ => "1.1 gupd",
    };
    if headers.contains_key(header::VIA) {
        append_member(headers, header::VIA, via);
    } else {
        headers.insert(header::VIA, HeaderValue::from_static(via));
    }
}

fn for_any_client(client: &HeaderMap, version: Version, instance: &RelayInstance) -> HeaderMap {
    let mut headers = client.clone();
    remove_hop_by_hop(&mut headers);
    // Set for the upstream, and by the connection that sends a body.
    headers.remove(header::HOST);
    headers.remove(header::EXPECT);
    instance.mark(&mut headers, version);
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn proxies_before_this_one_stay_named() {
        let fields = headers(&[("via", "1.1 floor"), ("x-forwarded-for", "10.0.0.1"), ("host", "relay")]);
        let relay = RelayInstance::new();
        let peer = "[::ffff:10.0.0.2]:99".parse().unwrap();
        let sent = prepare_passthrough(&fields, Version::HTTP_11, peer, &relay);
        let mut expected = headers(&[
            ("via", "1.1 floor"),
            ("x-forwarded-for", "10.0.0.1, 10.0.0.2"),
            ("forwarded", "for=10.0.0.2"),
        ]);
        relay.mark(&mut expected, Version::HTTP_11);
        assert_eq!(sent, expected);
    }

    #[test]
    fn a_fill_names_no_client_and_asks_for_everything() {
        let fields = headers(&[
            ("range", "bytes=0-1"),
            ("if-none-match", "\"a\""),
            ("user-agent", "Smc"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-original-url", "/secars/"),
        ]);
        let relay = RelayInstance::new();
        let sent = prepare_fill(&fields, Version::HTTP_11, Class::Payload, &relay);
        let mut expected = headers(&[("user-agent", "Smc"), ("want-repr-digest", "sha-256=10")]);
        relay.mark(&mut expected, Version::HTTP_11);
        assert_eq!(sent, expected);
    }
}
