//! The target of a request: its route, the key of its response, and its spelling upstream.
//!
//! Parsing refuses every target that is not plainly content of a configured upstream (RFC 9112 §3.2).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};

use crate::key::{self, KeyBinding, NormalizedTarget, PathError};
use crate::refusal::Refusal;
use gupd_config::policy::{Classification, Policy, Route, UpstreamBinding};
use gupd_config::{Class, PublicName, UpstreamId};

/// A parsed request target.
#[derive(Debug)]
pub struct Target {
    /// The route.
    pub route: Arc<Route>,
    /// Normalized path, and the part of the query that is in the key.
    pub normalized: NormalizedTarget,
    /// Classification of the path, if the key depends on it.
    pub classification: Option<Classification>,
    /// Path and query as the client spelled them.
    pub original: PathAndQuery,
    /// True if the client uses the relay as its proxy. A redirect to the manager would lead back here.
    pub is_proxied: bool,
    /// Authority of an absolute target.
    pub authority: Option<Authority>,
    /// The upstream binding of the client's group and the class of the path. The class is read only with a binding.
    bound: Option<(Arc<UpstreamBinding>, Class)>,
}

/// Rules that a target must satisfy.
pub struct TargetRules<'a> {
    /// The routes.
    pub policy: &'a Policy,
    /// Returns true if an absolute target may name this scheme and authority.
    pub is_upstream: &'a (dyn Fn(&str, &Authority) -> bool + Send + Sync),
    /// `server.max_uri_bytes`.
    pub max_uri_bytes: usize,
    /// The relay's own addresses.
    pub own: OwnAddresses<'a>,
}

impl TargetRules<'_> {
    /// Returns the host of a target in absolute form, and whether it is an upstream's.
    fn accept_absolute(
        &self,
        scheme: &str,
        authority: &Authority,
    ) -> Result<(Option<String>, bool), Refusal> {
        let host = normalize_host(authority.host());
        let is_own = self.own.contains(scheme, authority);
        let is_upstream = !is_own && (self.is_upstream)(scheme, authority);
        if !is_web(scheme, authority) || !(is_own || is_upstream || self.policy.has_host(&host)) {
            return Err(Refusal::ForeignTarget);
        }
        Ok((Some(host), is_upstream))
    }
}

/// Addresses of the relay itself. An absolute target that names one is served like a path (RFC 9112 §3.2.2).
#[derive(Clone, Copy)]
pub struct OwnAddresses<'a> {
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// `server.listen`.
    pub listen: &'a [SocketAddr],
    /// `server.public_names`.
    pub public_names: &'a [PublicName],
}

impl OwnAddresses<'_> {
    /// Returns true if the authority names the relay by address or by a public name.
    fn contains(&self, scheme: &str, authority: &Authority) -> bool {
        let host = normalize_host(authority.host());
        let port = authority.port_u16().unwrap_or_else(|| default_port(scheme));
        if self.public_names.iter().any(|name| name.is_at(&host, port)) {
            return true;
        }
        let is_local =
            |address: IpAddr| address == self.local.ip().to_canonical() && port == self.local.port();
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                is_local(address) || self.listen.contains(&SocketAddr::new(address, port))
            }
            Err(_) => {
                let is_loopback = self.local.ip().to_canonical().is_loopback();
                host == "localhost" && is_loopback && port == self.local.port()
            }
        }
    }
}

impl Target {
    /// Parses the target of a request.
    ///
    /// # Errors
    /// The refusal, if the request must not be forwarded.
    pub fn parse(
        method: &Method,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
        rules: &TargetRules<'_>,
    ) -> Result<Self, Refusal> {
        if method == Method::CONNECT {
            return Err(Refusal::Connect);
        }
        if method == Method::TRACE {
            return Err(Refusal::Trace);
        }
        if headers.get_all(header::TRANSFER_ENCODING).iter().any(|coding| !is_chunked(coding)) {
            return Err(Refusal::TransferCoding);
        }
        let original = uri.path_and_query().ok_or(Refusal::TargetForm)?;
        if original.as_str().len() > rules.max_uri_bytes {
            return Err(Refusal::UriTooLong);
        }
        let named = parse_host(version, headers)?;
        let (host, is_proxied) = match (uri.scheme_str(), uri.authority()) {
            // RFC 9112 §3.2.2: an absolute target overrides the Host field.
            (Some(scheme), Some(authority)) => rules.accept_absolute(scheme, authority)?,
            _ => (named, false),
        };
        if !original.path().starts_with('/') {
            return Err(Refusal::TargetForm);
        }
        let normalized = key::normalize(original.path(), original.query())?;
        let (policy, path) = (rules.policy, normalized.canonical_path());
        let route = policy.route(host.as_deref(), &path).ok_or(Refusal::NoRoute)?;
        let route = policy
            .origin_route(route, &path, normalized.query())
            .map_err(|_| Refusal::ForeignTarget)?
            .clone();
        if !normalized.is_plain() && policy.is_ambiguous(&route, &path) {
            return Err(PathError::AmbiguousSpelling.into());
        }
        let classification = route.selects_query().then(|| policy.classify(&route, &path));
        drop(path);
        let normalized = match &classification {
            Some(rule) => normalized.with_query(rule.key_query()),
            None => normalized,
        };
        Ok(Self {
            route,
            normalized,
            classification,
            original: original.clone(),
            is_proxied,
            authority: uri.authority().cloned(),
            bound: None,
        })
    }

    /// Returns the key under which the response is stored.
    pub fn key(&self) -> String {
        let binding =
            self.bound.as_ref().map(|(binding, class)| KeyBinding { binding: binding.name(), class: *class });
        self.normalized.key(&self.route.name, binding)
    }

    /// Returns the name of the upstream binding of the client's group.
    pub fn binding(&self) -> Option<&str> {
        self.bound.as_ref().map(|(binding, _)| binding.name())
    }

    /// Returns the upstreams by priority: those of the binding, or else those of the route.
    pub fn upstreams(&self) -> &Arc<[UpstreamId]> {
        self.bound.as_ref().map_or(&self.route.upstreams, |(binding, _)| binding.upstreams())
    }

    /// Returns the upstreams of the client's group, if it has some.
    pub fn bound_upstreams(&self) -> Option<&Arc<[UpstreamId]>> {
        self.bound.as_ref().map(|(binding, _)| binding.upstreams())
    }

    /// Binds the target to the upstreams of its client's group. `class` is the class of its path.
    pub fn bind(&mut self, binding: &Arc<UpstreamBinding>, class: Class) {
        self.bound = Some((binding.clone(), class));
    }
}

fn is_chunked(coding: &HeaderValue) -> bool {
    coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
}

fn is_web(scheme: &str, authority: &Authority) -> bool {
    let is_web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    is_web && !authority.as_str().contains('@')
}

/// Returns a host in the form that routes and names compare in: lower case, an IPv6 address in its canonical form, and
/// without the dot that ends an absolute domain name (RFC 3986 §3.2.2).
pub fn normalize_host(host: &str) -> String {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match address.and_then(|address| address.parse::<Ipv6Addr>().ok()) {
        Some(address) => format!("[{address}]"),
        None => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
    }
}

/// Returns the port of a URL without one.
pub fn default_port(scheme: &str) -> u16 {
    if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 }
}

/// Returns the host of a field that is a name or IPv4 address, perhaps with a port: most of all. Every hit has one, and
/// the general parser copies it.
fn parse_plain_host(field: &HeaderValue) -> Option<&str> {
    let text = field.to_str().ok()?;
    let colon = text.bytes().position(|byte| byte == b':');
    let (host, port) = match colon {
        Some(colon) => (text.get(..colon)?, text.get(colon.checked_add(1)?..)?),
        None => (text, "80"),
    };
    let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    (is_name && is_port && !host.is_empty() && !host.ends_with('.')).then_some(host)
}

/// Returns the normalized host of the only `Host` field, without its port. HTTP/1.0 may have none.
fn parse_host(version: Version, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut fields = headers.get_all(header::HOST).iter();
    let Some(field) = fields.next() else {
        return if version >= Version::HTTP_11 { Err(Refusal::Host) } else { Ok(None) };
    };
    if fields.next().is_some() {
        return Err(Refusal::Host);
    }
    if field.is_empty() {
        return Ok(None);
    }
    if let Some(host) = parse_plain_host(field) {
        return Ok(Some(host.to_ascii_lowercase()));
    }
    let authority = Authority::try_from(field.as_bytes()).map_err(|_| Refusal::Host)?;
    if authority.as_str().contains('@') {
        return Err(Refusal::Host);
    }
    Ok(Some(normalize_host(authority.host())))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::uri::Authority;

    use super::parse_plain_host;

    #[test]
    fn plain_host_is_the_one_that_the_general_parser_finds() {
        for field in ["relay", "Relay.Example", "10.1.2.3", "a-b.c:8080", "relay:80", "1:0"] {
            let general = Authority::try_from(field).unwrap();
            let value = HeaderValue::from_str(field).unwrap();
            assert_eq!(parse_plain_host(&value), Some(general.host()), "{field}");
        }
        let others = [
            "",
            ":80",
            "relay.",
            "relay:",
            "relay:+80",
            "relay:99999",
            "relay:80:80",
            "[::1]",
            "user@relay",
            "a b",
        ];
        for field in others.into_iter().chain(["r\u{e9}lay", "relay/x", "relay,relay", "a_b", "%41"]) {
            let value = HeaderValue::from_bytes(field.as_bytes()).unwrap();
            assert_eq!(parse_plain_host(&value), None, "{field}");
        }
    }
}
