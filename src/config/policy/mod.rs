//! Compiled policy tables of one configuration: routes, class rules, content types and groups. They decide by host,
//! path, client and time only, without I/O, and never change a path. A reload builds a new policy.

mod binding;
#[allow(
    clippy::arithmetic_side_effects,
    reason = "times of years near today, and settings of a week at most"
)]
pub mod calendar;
mod content_type;
mod denial;
mod group;
mod matcher;
pub mod plausibility;
mod revision;
mod route;
mod rules;
#[allow(clippy::arithmetic_side_effects, reason = "times of years near today, and validated settings")]
mod schedule;
mod sequence;
mod vectors;
pub mod window;

use std::net::IpAddr;
use std::sync::Arc;
#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use globset::{GlobSet, GlobSetBuilder};
use http::{HeaderName, StatusCode};

use crate::clock::UnixMillis;
pub use crate::profile::PayloadForm;
use crate::profile::{DigestList, FileFormat, ForeignOrigin, PathRule, QuerySelection};
use crate::{Class, Config, Problems, Verification, content, pattern};
pub use binding::UpstreamBinding;
use binding::{Destinations, Resolver};
use calendar::Calendar;
use content_type::ContentTypes;
pub use denial::DenialCause;
pub use group::Group;
use group::Groups;
pub use matcher::ClientAttributes;
pub use revision::{FirstSeen, PayloadRevision};
pub use route::Route;
use route::Routes;
use rules::{Match, Rules};
pub use schedule::{RefreshSchedule, ScheduledRun};
pub use sequence::{RevisionFile, parse_revision_number};
pub use vectors::evaluate_vectors;
pub use window::ScheduledStart;

/// Compiled routes, rules, content types and groups.
#[derive(Debug)]
pub struct Policy {
    routes: Routes,
    content_types: ContentTypes,
    groups: Groups,
    destinations: Destinations,
    denied_status: StatusCode,
    /// Paths of content that needs no proof.
    unsigned: GlobSet,
    calendar: Calendar,
    /// Calls of [`classify`](Self::classify): tests count them.
    #[cfg(debug_assertions)]
    classifications: AtomicU64,
}

/// Classification of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classification {
    /// Content class.
    pub class: Class,
    /// Form of a payload.
    pub form: PayloadForm,
    /// Content type, one of [`Policy::content_types`].
    pub content_type: Arc<str>,
    /// The rule of the profile that the path matches; `None` if a configured rule or none decides.
    pub rule: Option<Arc<PathRule>>,
    /// The format of files with this extension.
    pub format: Option<Arc<FileFormat>>,
    /// Proof that the content needs.
    pub verification: Verification,
}

impl Classification {
    /// Returns true if no request for the path passes.
    pub fn is_closed(&self) -> bool {
        self.rule.as_ref().is_some_and(|rule| rule.is_closed)
    }

    /// Returns the query parameters that are part of the key.
    pub fn key_query(&self) -> &QuerySelection {
        self.rule.as_ref().map_or(&QuerySelection::All, |rule| &rule.key_query)
    }

    /// Returns the request fields that are part of the key.
    pub fn key_fields(&self) -> &[HeaderName] {
        self.rule.as_ref().map_or(&[], |rule| &rule.key_fields)
    }

    /// Returns the number of digits with which names of such payloads begin.
    pub fn stamp_digits(&self) -> Option<usize> {
        self.rule.as_ref().and_then(|rule| rule.stamp_digits)
    }

    /// Returns the lifetime of a negative response, if it is not that of the class.
    pub fn negative(&self) -> Option<Duration> {
        self.rule.as_ref().and_then(|rule| rule.negative)
    }

    /// Returns the form of the list of payload digests in this catalog.
    pub fn digests(&self) -> Option<DigestList> {
        self.rule.as_ref().and_then(|rule| rule.digests)
    }
}

/// Error of a pattern that does not compile. [`Config::load`] refuses such a pattern first.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The pattern.
    #[error("invalid pattern of a rule, content type or group: {0}: correct it in the configuration")]
    Pattern(#[from] globset::Error),
    /// A built-in profile is invalid.
    #[error("{0}")]
    Profile(#[from] Problems),
}

fn compile_all(patterns: &[String]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for text in patterns {
        set.add(pattern::compile(text)?);
    }
    set.build()
}

impl Policy {
    /// Compiles the policy of a configuration.
    ///
    /// # Errors
    /// A pattern that is not a glob, or all of them together too large.
    pub fn new(config: &Config) -> Result<Self, PolicyError> {
        let resolver = Resolver::new(config);
        let mut compiled: Vec<Arc<Rules>> = Vec::new();
        let mut routes = Vec::with_capacity(config.routes.len());
        for route in &config.routes {
            let selected = rules::select(config, route);
            let rules = match compiled.iter().find(|rules| rules.are_of(&selected)) {
                Some(rules) => Arc::clone(rules),
                None => {
                    let rules = Arc::new(Rules::new(&config.rules, &selected)?);
                    compiled.push(Arc::clone(&rules));
                    rules
                }
            };
            routes.push(Arc::new(Route::new(route, resolver.resolve(&route.upstreams), rules)));
        }
        // Denied to clients by default, as the vendor does, once the type is configured.
        let is_known = config.content_types.iter().any(|own| own.name == content::CLIENT_PATCHES);
        let withheld: Vec<&str> = is_known.then_some(content::CLIENT_PATCHES).into_iter().collect();
        let groups =
            Groups::new(&config.groups, &withheld, &resolver)?.with_gateways(&config.server.listeners);
        Ok(Self {
            routes: Routes::new(routes),
            content_types: ContentTypes::new(config)?,
            destinations: Destinations::new(groups.iter()),
            groups,
            denied_status: config.denials.status,
            unsigned: compile_all(&config.verify.unsigned)?,
            calendar: Calendar::new(config.site.time_zone.clone()),
            #[cfg(debug_assertions)]
            classifications: AtomicU64::new(0),
        })
    }

    /// Number of paths classified so far.
    #[cfg(debug_assertions)]
    pub fn classifications(&self) -> u64 {
        self.classifications.load(Ordering::Relaxed)
    }

    /// Returns the route of a request: by `host` (the authority; a port is ignored), then by the longest prefix of
    /// `path`, in its canonical form if it is not plain.
    pub fn route(&self, host: Option<&str>, path: &str) -> Option<&Arc<Route>> {
        self.routes.find(host, path)
    }

    /// Returns the route of the origin server that a query names, or `route` if it names none. Without an origin in the
    /// profile this costs one comparison.
    ///
    /// # Errors
    /// An origin that the profile does not list, or that no route with this profile has as its host.
    pub fn origin_route<'a>(
        &'a self,
        route: &'a Arc<Route>,
        path: &str,
        query: Option<&str>,
    ) -> Result<&'a Arc<Route>, ForeignOrigin> {
        let (Some(origin), Some(query)) = (&route.profile.origin, query) else { return Ok(route) };
        let Some(host) = origin.host_in(query)? else { return Ok(route) };
        let named = self.routes.find_host(host, path).ok_or(ForeignOrigin)?;
        if named.profile.name == route.profile.name { Ok(named) } else { Err(ForeignOrigin) }
    }

    /// Returns true if a route is for this host, in lower case: a name by which clients reach the relay.
    pub fn has_host(&self, host: &str) -> bool {
        self.routes.has_host(host)
    }

    /// Returns every route.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }

    /// Returns the route of this name, if the configuration has it.
    pub fn find_route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.find_name(name)
    }

    /// Classifies `path` (without query, as the client spelt it) on this route.
    pub fn classify(&self, route: &Route, path: &str) -> Classification {
        #[cfg(debug_assertions)]
        self.classifications.fetch_add(1, Ordering::Relaxed);
        let path = pattern::fold(path);
        let Match { class, form, rule, format } = route.rules.find(&path);
        let content_type = Arc::clone(self.content_types.find(&path, class, rule.as_deref()));
        let is_unsigned = route.verification.needs_proof() && self.unsigned.is_match(&path);
        let verification = if is_unsigned { Verification::Off } else { route.verification };
        Classification { class, form, content_type, rule, format, verification }
    }

    /// Returns true if a path that is not [plain](pattern::is_plain) must be refused: its canonical form is content with
    /// a class, type or revision by a rule, and a server may or may not take it for that. `canonical` is that form.
    pub fn is_ambiguous(&self, route: &Route, canonical: &str) -> bool {
        if route.profile.revisions.iter().any(|pattern| pattern.find(canonical).is_some()) {
            return true;
        }
        let is_known = || {
            let Classification { class, content_type, .. } = self.classify(route, canonical);
            match class {
                Class::Payload | Class::Catalog => true,
                Class::Generic => *content_type != *content::name_for_class(class),
                Class::Private => false,
            }
        };
        route.profile.refuses_ambiguous_paths && is_known()
    }

    /// Returns the group of a client: the first that matches it, else the default group.
    pub fn group(&self, client: &ClientAttributes<'_>) -> &Arc<Group> {
        self.groups.find(client)
    }

    /// Returns every group: the bounded set of metric labels.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.iter()
    }

    /// Returns the revision of a payload; `None` if `path` (normalised, without query) is of another class or form.
    pub fn revision<'a>(
        &self,
        route: &Route,
        path: &'a str,
        class: impl FnOnce() -> Class,
    ) -> Option<PayloadRevision<'a>> {
        let number = route.profile.revisions.iter().find_map(|pattern| pattern.find(path))?;
        (class() == Class::Payload).then(|| PayloadRevision::new(path, number))
    }

    /// Returns when a client of this group may start to download from a revision that was first requested at `seen`.
    pub fn scheduled_start(
        &self,
        group: &Group,
        client: IpAddr,
        revision: PayloadRevision<'_>,
        seen: UnixMillis,
        now: UnixMillis,
    ) -> ScheduledStart {
        window::scheduled_start(&self.calendar, &group.settings, client, revision.sequence, seen, now)
    }

    /// Returns the site's calendar.
    pub fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    /// Returns every content type: the bounded set of metric labels.
    pub fn content_types(&self) -> impl Iterator<Item = &Arc<str>> {
        self.content_types.labels()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy::new(&Config::for_upstreams(&["http://manager:8014"]).unwrap()).unwrap()
    }

    fn profile(name: &str) -> Arc<crate::Profile> {
        Arc::clone(crate::Profiles::built_in().unwrap().find(name).unwrap())
    }

    fn classify(path: &str) -> (Class, PayloadForm, String) {
        let policy = policy();
        let route = policy.route(Some("relay:2967"), path).unwrap();
        let Classification { class, form, content_type, .. } = policy.classify(route, path);
        (class, form, content_type.to_string())
    }

    #[test]
    fn default_policy_classifies_both_protocols() {
        let revision = "/content/{07B590B3-9282-482f-BBAA-6D515D385869}/210602017";
        let name = "virus-definitions-64".to_owned();
        assert_eq!(
            classify(&format!("{revision}/full.zip")),
            (Class::Payload, PayloadForm::Full, name.clone())
        );
        assert_eq!(classify(&format!("{revision}/xdelta1.dax")), (Class::Payload, PayloadForm::Delta, name));
        assert_eq!(classify("/index2.dax"), (Class::Catalog, PayloadForm::Other, "catalog".to_owned()));
        assert_eq!(
            classify("/secars/secars.dll"),
            (Class::Private, PayloadForm::Other, "management".to_owned())
        );
        assert_eq!(
            classify("/1369163480x.zip"),
            (Class::Payload, PayloadForm::Other, "liveupdate".to_owned())
        );
        assert_eq!(classify("/"), (Class::Generic, PayloadForm::Other, "other".to_owned()));
    }

    #[test]
    fn only_payloads_of_a_manager_have_a_revision() {
        let mut config = Config::for_upstreams(&["http://manager:8014"]).unwrap();
        let own = crate::Rule { pattern: "**/own.dax".to_owned(), class: Class::Generic };
        config.rules.push(own);
        let sequence = |config: &Config, path: &str| {
            let policy = Policy::new(config).unwrap();
            let route = policy.route(None, path).unwrap();
            let class = policy.classify(route, path).class;
            policy.revision(route, path, || class).map(|revision| revision.sequence.to_owned())
        };
        let folder = "/content/{07b590b3-9282-482f-bbaa-6d515d385869}/210602017";
        assert_eq!(sequence(&config, &format!("{folder}/full.zip")).as_deref(), Some("210602017"));
        for path in
            [format!("{folder}/index.dax"), format!("{folder}/own.dax"), "/1369163480x.zip".to_owned()]
        {
            assert_eq!(sequence(&config, &path), None, "{path}");
        }
        config.routes[0].profile = profile("liveupdate");
        assert_eq!(sequence(&config, &format!("{folder}/1369163480x.dax")), None);
    }

    #[test]
    fn class_of_a_path_depends_on_the_profile_of_its_route() {
        let mut config = Config::for_upstreams(&["http://manager:8014"]).unwrap();
        let mut generic = config.routes[0].clone();
        generic.prefix = "/mirror".to_owned();
        generic.profile = profile("generic");
        config.routes.push(generic);
        let policy = Policy::new(&config).unwrap();
        let class = |path: &str| policy.classify(policy.route(None, path).unwrap(), path).class;
        assert_eq!(class("/a/x.7z"), Class::Payload);
        assert_eq!(class("/mirror/x.7z"), Class::Generic);
    }

    #[test]
    fn invalid_pattern_is_an_error_that_names_it() {
        let mut config = Config::for_upstreams(&["http://manager:8014"]).unwrap();
        config.rules.push(crate::Rule { pattern: "[a".to_owned(), class: Class::Payload });
        let error = Policy::new(&config).unwrap_err();
        assert!(error.to_string().contains("[a"), "{error}");
    }
}
