//! Lookup of a request's route: by host, then by the longest prefix of whole segments. A route never rewrites a path.
//! The lookup runs on every request and does not allocate.

use std::cmp::Reverse;
use std::sync::Arc;

use http::Method;

use super::rules::Rules;
use super::{Classification, RevisionFile};
use crate::{AccessList, ClosedTo, Fallback, PassRules, Profile, RouteSettings, UpstreamId, Verification};

/// A path prefix bound to upstreams and to the rules that class its paths.
#[derive(Debug)]
pub struct Route {
    /// Name in keys, logs and metrics.
    pub name: Arc<str>,
    /// Upstreams by priority. Never empty.
    pub upstreams: Arc<[UpstreamId]>,
    /// The profile of its paths.
    pub profile: Arc<Profile>,
    /// Response while no worker serves, if not the general one.
    pub fallback: Option<Fallback>,
    /// Clients that are served here.
    pub access: AccessList,
    /// Requests that reach the upstreams, of those for open paths.
    pub pass: PassRules,
    /// Maximum bytes of a request body.
    pub max_upload: u64,
    /// Maximum number of requests that pass through uncached at once.
    pub max_pass_through: usize,
    /// Content types that are neither fetched nor served here.
    pub(super) denied: Vec<String>,
    /// Proof that its content needs.
    pub verification: Verification,
    pub(super) rules: Arc<Rules>,
    host: Option<Box<str>>,
    // Without its last slash, so `/` is empty.
    prefix: Box<str>,
}

impl Route {
    pub(super) fn new(route: &RouteSettings, upstreams: Arc<[UpstreamId]>, rules: Arc<Rules>) -> Self {
        Self {
            name: route.name.as_str().into(),
            upstreams,
            profile: Arc::clone(&route.profile),
            fallback: route.fallback,
            access: AccessList::new(&route.access),
            pass: route.pass.clone().unwrap_or_else(|| route.profile.pass.clone()),
            max_upload: route.max_upload,
            max_pass_through: route.max_pass_through,
            denied: route.deny_download.clone(),
            verification: route.verification,
            rules,
            host: route.host.as_deref().map(Into::into),
            prefix: route.prefix.trim_end_matches('/').into(),
        }
    }

    /// Returns the file of a revision that a key of this route is for. `path` is the offset of the path in the key.
    pub fn revision_file<'a>(&self, key: &'a str, path: usize) -> Option<RevisionFile<'a>> {
        RevisionFile::find(key, path, &self.profile.revisions)
    }

    /// Returns true if requests of this method pass for every path, so that no path needs to be classified for it.
    pub fn passes_every_path(&self, method: &Method) -> bool {
        !self.rules.has_closed_paths() && self.pass.passes_every_class(method)
    }

    /// Decides whether a request of this method reaches the upstreams.
    ///
    /// # Errors
    /// The reason why it does not.
    pub fn check_pass(&self, method: &Method, classification: &Classification) -> Result<(), ClosedTo> {
        if classification.is_closed() {
            return Err(ClosedTo::Path);
        }
        self.pass.check(classification.class, method)
    }

    /// Returns true if the keys of some paths do not have the whole query.
    pub fn selects_query(&self) -> bool {
        self.rules.selects_query()
    }

    // Case-insensitive: managers serve from Windows, and no two routes differ by case only.
    fn is_match(&self, host: Option<&str>, path: &str) -> bool {
        let is_host_match = match (self.host.as_deref(), host) {
            (None, _) => true,
            (Some(own), Some(host)) => own.eq_ignore_ascii_case(host),
            (Some(_), None) => false,
        };
        let (path, prefix) = (path.as_bytes(), self.prefix.as_bytes());
        is_host_match
            && path.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
            && matches!(path.get(prefix.len()), None | Some(b'/'))
    }
}

/// All routes, the most specific first: one with a host before one without, then by length of prefix.
#[derive(Debug)]
pub(super) struct Routes(Vec<Arc<Route>>);

impl Routes {
    pub(super) fn new(mut routes: Vec<Arc<Route>>) -> Self {
        routes.sort_by_key(|route| Reverse((route.host.is_some(), route.prefix.len())));
        Self(routes)
    }

    pub(super) fn find(&self, host: Option<&str>, path: &str) -> Option<&Arc<Route>> {
        let host = host.map(without_port);
        self.0.iter().find(|route| route.is_match(host, path))
    }

    /// Returns the route of this host and path, among those with a host.
    pub(super) fn find_host(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        self.0.iter().find(|route| route.host.is_some() && route.is_match(Some(host), path))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.0.iter()
    }

    /// Returns true if a route is for this host, in lower case.
    pub(super) fn has_host(&self, host: &str) -> bool {
        self.0.iter().any(|route| route.host.as_deref() == Some(host))
    }

    pub(super) fn find_name(&self, name: &str) -> Option<&Arc<Route>> {
        self.0.iter().find(|route| *route.name == *name)
    }
}

// `Host` is host and optional port (RFC 9110 §7.2); colons within brackets are an IPv6 address's.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::policy::Policy;

    fn policy(routes: &[(&str, Option<&str>)]) -> Policy {
        let mut config = Config::for_upstreams(&["http://manager:8014"]).unwrap();
        config.routes = routes
            .iter()
            .map(|(prefix, host)| RouteSettings {
                name: format!("{}{prefix}", host.unwrap_or_default()),
                host: host.map(str::to_owned),
                ..RouteSettings::new(prefix, vec![0], Arc::default())
            })
            .collect();
        Policy::new(&config).unwrap()
    }

    fn name(policy: &Policy, host: Option<&str>, path: &str) -> Option<String> {
        policy.route(host, path).map(|route| route.name.to_string())
    }

    #[test]
    fn longest_prefix_of_whole_segments_wins() {
        let policy = policy(&[("/", None), ("/content", None), ("/content/a", None)]);
        for (path, route) in [
            ("/content/a/b", "/content/a"),
            ("/content/a", "/content/a"),
            ("/content/ab", "/content"),
            ("/Content/x", "/content"),
            ("/content", "/content"),
            ("/contents", "/"),
            ("/", "/"),
        ] {
            assert_eq!(name(&policy, None, path).as_deref(), Some(route), "{path}");
        }
    }

    #[test]
    fn route_with_host_precedes_longer_prefix_without() {
        let policy = policy(&[("/content/a", None), ("/", Some("lu.example")), ("/", None)]);
        for (host, route) in [
            (Some("lu.example"), "lu.example/"),
            (Some("LU.example:2967"), "lu.example/"),
            (Some("other.example"), "/content/a"),
            (None, "/content/a"),
        ] {
            assert_eq!(name(&policy, host, "/content/a").as_deref(), Some(route), "{host:?}");
        }
    }

    #[test]
    fn path_outside_every_prefix_has_no_route() {
        let policy = policy(&[("/content", None)]);
        assert_eq!(name(&policy, None, "/other"), None);
        assert_eq!(name(&policy, None, "*"), None);
        assert_eq!(name(&policy, None, ""), None);
    }

    #[test]
    fn ipv6_host_keeps_its_colons() {
        assert_eq!(without_port("[::1]:2967"), "[::1]");
        assert_eq!(without_port("[fe80::1]"), "[fe80::1]");
        assert_eq!(without_port("manager:8014"), "manager");
        assert_eq!(without_port("manager"), "manager");
    }
}
