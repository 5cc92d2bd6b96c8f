//! Reads a request's target: which route it is for, under which key its response is stored, and how it is spelled
//! upstream. Refuses every target that is not plainly content of a configured upstream (RFC 9112 §3.2).

use std::net::SocketAddr;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};

use super::refusal::Refusal;
use crate::upstream::Upstreams;
use gupd_config::policy::{Group, Policy, Route, UpstreamBinding};
use gupd_config::{Class, UpstreamId};
use gupd_http::key;
use gupd_http::key::{KeyBinding, NormalizedTarget};

/// A target that has been understood.
#[derive(Debug)]
pub struct Target {
    /// Its route.
    pub route: Arc<Route>,
    /// Path and query in the one spelling.
    pub normalized: NormalizedTarget,
    /// Path and query in the client's own spelling.
    pub original: PathAndQuery,
    /// Asked of a proxy. The client would come here again if it were sent to the manager.
    pub is_proxied: bool,
    /// What its client's group is bound to, and the class of the path, which only then is of interest here.
    bound: Option<(Arc<UpstreamBinding>, Class)>,
}

/// What a target is judged against.
#[derive(Debug)]
pub struct TargetRules<'a> {
    /// The routes.
    pub policy: &'a Policy,
    /// Whose hosts an absolute target may name.
    pub upstreams: &'a Upstreams,
    /// `server.max_uri_bytes`.
    pub max_uri_bytes: usize,
    /// The address the client connected to.
    pub local: SocketAddr,
}

impl Target {
    /// The key its response is stored under.
    pub fn key(&self) -> String {
        let bound =
            self.bound.as_ref().map(|(binding, class)| KeyBinding { binding: binding.name(), class: *class });
        self.normalized.key(&self.route.name, bound)
    }

    /// What its client's group is bound to, if it is.
    pub fn binding(&self) -> Option<&str> {
        self.bound.as_ref().map(|(binding, _)| binding.name())
    }

    /// The upstreams that it goes to, by priority: those that its client's group is bound to, or its route's.
    pub fn upstreams(&self) -> &Arc<[UpstreamId]> {
        self.bound.as_ref().map_or(&self.route.upstreams, |(binding, _)| binding.upstreams())
    }

    /// Now that its client's group is known: only for one that is bound is this more than a comparison.
    pub fn bind(&mut self, group: &Group, policy: &Policy) {
        let Some(binding) = &group.binding else { return };
        let class = policy.classify(&self.route, self.normalized.path()).class;
        self.bound = Some((binding.clone(), class));
    }

    /// Reads the target of a request.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn parse(
        method: &Method,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
        bounds: &TargetRules<'_>,
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
        if original.as_str().len() > bounds.max_uri_bytes {
            return Err(Refusal::UriTooLong);
        }
        let named = host_field(version, headers)?;
        let (host, is_proxied) = match (uri.scheme_str(), uri.authority()) {
            (Some(scheme), Some(authority)) => {
                let is_local = authority.as_str().parse() == Ok(bounds.local);
                if !is_web(scheme, authority) || !is_local && !is_upstream(scheme, authority, bounds) {
                    return Err(Refusal::ForeignTarget);
                }
                // RFC 9112 §3.2.2: an absolute target overrules the Host field.
                (Some(authority.host().to_ascii_lowercase()), !is_local)
            }
            _ => (named, false),
        };
        if !original.path().starts_with('/') {
            return Err(Refusal::TargetForm);
        }
        let normalized = key::normalize(original.path(), original.query())?;
        let route = bounds.policy.route(host.as_deref(), normalized.path()).ok_or(Refusal::NoRoute)?;
        Ok(Self { route: route.clone(), normalized, original: original.clone(), is_proxied, bound: None })
    }
}

fn is_chunked(coding: &HeaderValue) -> bool {
    coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
}

fn is_web(scheme: &str, authority: &Authority) -> bool {
    let is_web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    is_web && !authority.as_str().contains('@')
}

fn is_upstream(scheme: &str, authority: &Authority, bounds: &TargetRules<'_>) -> bool {
    bounds.upstreams.iter().any(|upstream| upstream.is_at(scheme, authority))
}

/// The host of the one `Host` field, without its port, in lower case. HTTP/1.0 may have none.
fn host_field(version: Version, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
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
    let authority = Authority::try_from(field.as_bytes()).map_err(|_| Refusal::Host)?;
    if authority.as_str().contains('@') {
        return Err(Refusal::Host);
    }
    Ok(Some(authority.host().to_ascii_lowercase()))
}
