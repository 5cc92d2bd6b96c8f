//! Header fields of forwarded messages (RFC 9110 §7.6): fields of one connection are removed, the relay's own marks are
//! added. All other fields pass unchanged. Also `Max-Forwards`, which limits how far `OPTIONS` goes (§7.6.2).

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use crate::authentication::without_connection_credentials;
use crate::coding::requested_coding;
use crate::field::{WANT_REPR_DIGEST, append_member, decimal, members};
use crate::instance::{CDN_LOOP, RelayInstance};
use crate::update::{HOP_BY_HOP, remove_hop_by_hop};
use gupd_config::Class;
use gupd_config::policy::Classification;

/// Fields of a client that a fill of a payload or catalog sends. Such content is the same for every client, so a field
/// that is not needed can only make the manager answer a request of one client to all.
static CONTENT_FIELDS: [HeaderName; 9] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::PRAGMA,
    header::USER_AGENT,
    header::VIA,
    CDN_LOOP,
];

/// Fields that a request for a whole object must not have: ranges and conditions of the client.
static SELECTIVE: [HeaderName; 9] = [
    // The name of `Range` before RFC 2068. Apache still answers it with a part.
    HeaderName::from_static("request-range"),
    // Asks for the difference to a version that the client has (RFC 3229): a `226` is no object.
    HeaderName::from_static("a-im"),
    HeaderName::from_static("unless-modified-since"),
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// Fields that identify the client.
static PERSONAL: [HeaderName; 6] = [
    header::FORWARDED,
    FORWARDED_FOR,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// Fields by which some servers replace the method or the path of a request, or send a script's source (`Translate`).
static OVERRIDES: [HeaderName; 6] = [
    HeaderName::from_static("translate"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
];

/// Further fields by which applications learn the client and the URL that it wrote. They differ from client to client,
/// and a page with them is wrong for all others.
const PERSONAL_NAMES: [&str; 12] = [
    "cf-connecting-ip",
    "client-ip",
    "fastly-client-ip",
    "forwarded-for",
    "front-end-https",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-forwarder-for",
    "x-remote-addr",
    "x-remote-ip",
];

/// Further fields that replace a part of the request. `Proxy` becomes the proxy of CGI programs.
const OVERRIDE_NAMES: [&str; 8] =
    ["base-url", "proxy", "x-backend-host", "x-host", "x-path", "x-scheme", "x-url-scheme", "x-wap-profile"];

/// Beginnings of the names of such fields.
const OVERRIDE_PREFIXES: [&str; 5] = ["x-http-", "x-method-", "x-original-", "x-override-", "x-rewrite-"];

/// Fields that the relay sets itself.
static OWN: [HeaderName; 3] = [header::HOST, header::EXPECT, WANT_REPR_DIGEST];

/// Maximum bytes of a client's fields in a request for a response that all clients share. Updaters send a few hundred;
/// servers refuse from 4 KiB on.
const MAX_SHARED_BYTES: usize = 2048;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

const MAX_FORWARDS: HeaderName = HeaderName::from_static("max-forwards");

/// Returns the fields of a request that is forwarded for one client.
pub fn prepare_passthrough(
    client: &HeaderMap,
    version: Version,
    peer: SocketAddr,
    instance: &RelayInstance,
) -> HeaderMap {
    let mut headers = forward_fields(client, version, instance);
    let address = peer.ip().to_canonical();
    append_member(&mut headers, FORWARDED_FOR, &address.to_string());
    // RFC 7239 §6: an IPv6 address is in brackets and quotes.
    let node = if address.is_ipv6() { format!("for=\"[{address}]\"") } else { format!("for={address}") };
    append_member(&mut headers, header::FORWARDED, &node);
    headers
}

/// Returns the fields of a request for a response that all clients share.
///
/// It names no client, and no field of one client can make the manager answer a different request or authenticates a
/// connection. It asks for one content coding, and for the content's SHA-256, which a parent relay sends.
pub fn prepare_fill(
    client: &HeaderMap,
    version: Version,
    classification: &Classification,
    instance: &RelayInstance,
) -> HeaderMap {
    let (class, key_fields) = (classification.class, classification.key_fields());
    let end_to_end = without_connection_credentials(client);
    let is_sent = |name: &HeaderName| is_sent_by_fills(name, class) || key_fields.contains(name);
    let sent = end_to_end.iter().filter(|(name, _)| is_sent(name));
    let sent = sent.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut headers = forward_fields(&sent, version, instance);
    if let Some(coding) = requested_coding(client) {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(coding));
    }
    headers.insert(WANT_REPR_DIGEST, HeaderValue::from_static("sha-256=10"));
    headers
}

/// Returns true if a fill sends a client's field of this name.
pub(super) fn is_sent_by_fills(name: &HeaderName, class: Class) -> bool {
    match class {
        Class::Payload | Class::Catalog => CONTENT_FIELDS.contains(name),
        Class::Generic | Class::Private => !is_never_sent_by_fills(name) && !is_override(name),
    }
}

fn is_never_sent_by_fills(name: &HeaderName) -> bool {
    SELECTIVE.iter().chain(&PERSONAL).chain(&OWN).chain(&HOP_BY_HOP).any(|unsent| unsent == name)
        || PERSONAL_NAMES.contains(&name.as_str())
        || name.as_str().starts_with("x-forwarded-")
}

fn is_override(name: &HeaderName) -> bool {
    OVERRIDES.contains(name)
        || OVERRIDE_NAMES.contains(&name.as_str())
        || OVERRIDE_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// Returns true if a fill does not send some of this client's fields, which its response may depend on.
pub fn withholds_fields(client: &HeaderMap, class: Class) -> bool {
    client.keys().any(|name| !is_sent_by_fills(name, class) && !is_never_sent_by_fills(name))
}

/// Returns a number that is the same for equal fields in any order.
pub fn hash_fields(fields: &HeaderMap) -> u64 {
    let hash = |(name, value): (&HeaderName, &HeaderValue)| {
        let mut hasher = DefaultHasher::new();
        (name.as_str(), value.as_bytes()).hash(&mut hasher);
        hasher.finish()
    };
    fields.iter().map(hash).fold(0, u64::wrapping_add)
}

/// Returns true if a fill would send so many bytes of this client's fields that a server may refuse them: with `431`,
/// `400` or, as IIS does, `404`. Other clients must not share that outcome.
pub fn is_large(client: &HeaderMap, class: Class) -> bool {
    let sent = client.iter().filter(|(name, _)| is_sent_by_fills(name, class));
    let sizes = sent.map(|(name, value)| name.as_str().len().saturating_add(value.len()));
    sizes.fold(0, usize::saturating_add) > MAX_SHARED_BYTES
}

/// Returns the fields of a request without those that its `Connection` names. They end at the relay, so they must
/// neither select a response nor count as credentials.
pub fn end_to_end_fields(request: &HeaderMap) -> Cow<'_, HeaderMap> {
    let is_usual =
        |name: &&[u8]| name.eq_ignore_ascii_case(b"keep-alive") || name.eq_ignore_ascii_case(b"close");
    let named = members(request, header::CONNECTION).filter(|name| !is_usual(name));
    let named = named.filter_map(|name| HeaderName::from_bytes(name).ok());
    let mut fields = Cow::Borrowed(request);
    for name in named.filter(|name| request.contains_key(name)) {
        fields.to_mut().remove(name);
    }
    fields
}

/// Turns the fields of an upstream's response, received in `version`, into those of the relay's response.
pub fn prepare_response(headers: &mut HeaderMap, version: Version) {
    remove_hop_by_hop(headers);
    add_via(headers, version);
}

/// Adds this relay to `Via` of a response.
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

/// Returns true if the relay is the final recipient of a request: `OPTIONS *`, or `OPTIONS` with `Max-Forwards: 0`.
pub fn is_final_recipient(method: &Method, target: &Uri, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && (target.path() == "*" || max_forwards(headers) == Some(0))
}

/// Decrements `Max-Forwards` of an `OPTIONS` request.
pub fn decrement_max_forwards(method: &Method, headers: &mut HeaderMap) {
    if let (&Method::OPTIONS, Some(left)) = (method, max_forwards(headers)) {
        headers.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

fn max_forwards(headers: &HeaderMap) -> Option<u64> {
    decimal(headers.get(MAX_FORWARDS)?.as_bytes())
}

fn forward_fields(client: &HeaderMap, version: Version, instance: &RelayInstance) -> HeaderMap {
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
    use gupd_config::Verification;
    use gupd_config::profile::PayloadForm;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn passthrough_keeps_names_of_earlier_proxies() {
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
    fn fill_request_names_no_client_and_has_no_range() {
        let fields = headers(&[
            ("range", "bytes=0-1"),
            ("if-none-match", "\"a\""),
            ("user-agent", "Smc"),
            ("cookie", "a=b"),
            ("accept-encoding", "deflate, gzip;q=0.5"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-original-url", "/secars/"),
            ("authorization", "NTLM TlRMTVNTUAAB"),
            ("x-anything", "1"),
        ]);
        let relay = RelayInstance::new();
        let payload = Classification {
            class: Class::Payload,
            form: PayloadForm::Full,
            content_type: "any".into(),
            rule: None,
            format: None,
            verification: Verification::Off,
        };
        let sent = prepare_fill(&fields, Version::HTTP_11, &payload, &relay);
        let mut expected = headers(&[
            ("user-agent", "Smc"),
            ("accept-encoding", "gzip"),
            ("want-repr-digest", "sha-256=10"),
        ]);
        relay.mark(&mut expected, Version::HTTP_11);
        assert_eq!(sent, expected);
    }

    #[test]
    fn only_sent_fields_make_a_request_large() {
        for (name, bytes, class, expected) in [
            ("x-a", MAX_SHARED_BYTES - 3, Class::Generic, false),
            ("x-a", MAX_SHARED_BYTES - 2, Class::Generic, true),
            ("x-a", 9000, Class::Payload, false),
            ("user-agent", 9000, Class::Catalog, true),
            ("cookie", 9000, Class::Payload, false),
            ("cookie", 9000, Class::Generic, true),
            ("range", 9000, Class::Generic, false),
            ("proxy-authorization", 9000, Class::Generic, false),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(name, HeaderValue::try_from("v".repeat(bytes)).unwrap());
            assert_eq!(is_large(&fields, class), expected, "{name} {bytes} {class:?}");
        }
    }

    #[test]
    fn fields_named_by_connection_are_not_end_to_end() {
        for (connection, kept) in [
            ("keep-alive", true),
            ("close, TE", true),
            ("X-Hop", false),
            ("close, x-hop", false),
            ("x hop", true),
            ("authorization,x-hop", false),
        ] {
            let mut fields = headers(&[("x-hop", "1"), ("cookie", "a=b")]);
            fields.insert(header::CONNECTION, HeaderValue::from_static(connection));
            let end_to_end = end_to_end_fields(&fields);
            assert_eq!(end_to_end.contains_key("x-hop"), kept, "{connection}");
            assert_eq!(matches!(end_to_end, Cow::Borrowed(_)), kept, "{connection}: copied only if need be");
            assert!(end_to_end.contains_key("cookie"));
        }
    }
}
