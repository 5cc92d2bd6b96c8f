//! Rules of a route, compiled: the configured ones, then those of its profile. The first match wins, so configured rules
//! can override each of the profile's. Other paths are generic: RFC 9111 costs a revalidation, while mutable content
//! classed as a payload would be stale for ever.

use std::sync::Arc;

use globset::{GlobSet, GlobSetBuilder};

use crate::profile::{FileFormat, PathRule, PayloadForm, QuerySelection, extension};
use crate::{Class, Config, RouteSettings, Rule, pattern};

/// The rules of routes with one profile.
#[derive(Debug)]
pub(super) struct Rules {
    patterns: GlobSet,
    /// Classes of the configured rules; their patterns stand first.
    configured: Vec<Class>,
    /// Rules of the profile; their patterns follow.
    of_profile: Vec<Arc<PathRule>>,
    /// File formats; the first with the path's extension is its format.
    formats: Vec<Arc<FileFormat>>,
    selects_query: bool,
    has_closed_paths: bool,
}

/// Result of the rules for a path.
pub(super) struct Match {
    pub(super) class: Class,
    pub(super) form: PayloadForm,
    /// The rule of the profile, if it decides.
    pub(super) rule: Option<Arc<PathRule>>,
    /// The format of files with this extension.
    pub(super) format: Option<Arc<FileFormat>>,
}

/// The part of a configuration that is for one route.
#[derive(Debug, PartialEq)]
pub(super) struct Selection<'a> {
    paths: Vec<&'a PathRule>,
    formats: Vec<&'a FileFormat>,
}

/// Returns the rules of a route's profile that are for the route's host, or else for its upstreams' hosts.
pub(super) fn select<'a>(config: &'a Config, route: &'a RouteSettings) -> Selection<'a> {
    let of_upstreams = || {
        let upstreams = route.upstreams.iter().filter_map(|&at| config.upstreams.get(at));
        upstreams.filter_map(|upstream| upstream.url.host()).collect()
    };
    let hosts = route.host.as_deref().map_or_else(of_upstreams, |host| vec![host]);
    let paths = route.profile.paths.iter().filter(|rule| rule.is_for_hosts(&hosts)).collect();
    let formats = route.profile.formats.iter().chain(config.profiles.common_formats()).collect();
    Selection { paths, formats }
}

impl Rules {
    /// Compiles configured rules and those of a profile.
    pub(super) fn new(configured: &[Rule], selection: &Selection<'_>) -> Result<Self, globset::Error> {
        let of_profile = &selection.paths;
        let mut patterns = GlobSetBuilder::new();
        for rule in configured {
            patterns.add(pattern::compile(&rule.pattern)?);
        }
        for rule in of_profile {
            patterns.add(rule.pattern.clone());
        }
        Ok(Self {
            patterns: patterns.build()?,
            configured: configured.iter().map(|rule| rule.class).collect(),
            selects_query: of_profile.iter().any(|rule| rule.key_query != QuerySelection::All),
            has_closed_paths: of_profile.iter().any(|rule| rule.is_closed),
            of_profile: of_profile.iter().map(|&rule| Arc::new(rule.clone())).collect(),
            formats: selection.formats.iter().map(|&format| Arc::new(format.clone())).collect(),
        })
    }

    /// Returns true if these are the compiled rules: of one configuration, so the configured ones are equal.
    pub(super) fn are_of(&self, selection: &Selection<'_>) -> bool {
        self.of_profile.iter().map(|rule| &**rule).eq(selection.paths.iter().copied())
            && self.formats.iter().map(|format| &**format).eq(selection.formats.iter().copied())
    }

    /// Returns true if the keys of some paths do not have the whole query.
    pub(super) fn selects_query(&self) -> bool {
        self.selects_query
    }

    /// Returns true if no request for some paths passes.
    pub(super) fn has_closed_paths(&self) -> bool {
        self.has_closed_paths
    }

    /// Returns the first match of a folded path. The form is that of the profile also for a configured payload.
    pub(super) fn find(&self, path: &str) -> Match {
        let matches = self.patterns.matches(path);
        let first = matches.iter().copied().min();
        let of_profile = |index: usize| self.of_profile.get(index.checked_sub(self.configured.len())?);
        let rule = first.and_then(of_profile).map(Arc::clone);
        let configured = first.and_then(|index| self.configured.get(index)).copied();
        let class = rule.as_ref().map(|rule| rule.class).or(configured).unwrap_or(Class::Generic);
        let form = match (class, &rule) {
            (Class::Payload, Some(rule)) => rule.form,
            (Class::Payload, None) => {
                let mut forms = matches.iter().filter_map(|&index| of_profile(index)).map(|rule| rule.form);
                forms.find(|form| *form != PayloadForm::Other).unwrap_or(PayloadForm::Other)
            }
            _ => PayloadForm::Other,
        };
        let extension = extension(path);
        let format = self.formats.iter().find(|format| format.has_extension(extension)).map(Arc::clone);
        Match { class, form, rule, format }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profiles;

    fn rules(own: &[Rule]) -> Rules {
        let profiles = Profiles::built_in().unwrap();
        let auto = profiles.find("auto").unwrap();
        let (paths, formats) = (auto.paths.iter().collect(), Vec::new());
        Rules::new(own, &Selection { paths, formats }).unwrap()
    }

    #[test]
    fn configured_rules_precede_those_of_the_profile_in_order() {
        let rule = |pattern: &str, class| Rule { pattern: pattern.into(), class };
        let rules = rules(&[
            rule("/packages/keep/**", Class::Generic),
            rule("/packages/**", Class::Payload),
            rule("**/minitri.flg", Class::Private),
        ]);
        for (path, class) in [
            ("/packages/a/b.exe", Class::Payload),
            ("/packages/keep/x.7z", Class::Generic),
            ("/minitri.flg", Class::Private),
            ("/x.7z", Class::Payload),
        ] {
            assert_eq!(rules.find(path).class, class, "{path}");
        }
        assert!(rules.find("/packages/a.7z").rule.is_none());
        assert!(rules.find("/x.7z").rule.is_some());
    }

    #[test]
    fn configured_payload_keeps_the_form_of_the_profile() {
        let path = "/content/{07b590b3-9282-482f-bbaa-6d515d385869}/1/full.zip";
        let own = Rule { pattern: "/content/**".into(), class: Class::Payload };
        assert!(rules(&[own]).find(path).form == PayloadForm::Full);
    }

    #[test]
    fn rule_with_hosts_is_for_routes_of_such_hosts() {
        let mut config =
            Config::for_upstreams(&["http://a.updates.example", "http://other.example"]).unwrap();
        let mut profile = (*config.routes[0].profile).clone();
        profile.paths.truncate(1);
        profile.paths[0].hosts = vec![crate::profile::HostPattern::parse("*.updates.example").unwrap()];
        config.routes[0].profile = Arc::new(profile);
        for (host, upstreams, expected) in [
            (Some("x.updates.example"), vec![1], 1),
            (Some("x.example"), vec![0], 0),
            (None, vec![0], 1),
            (None, vec![1], 0),
            (None, vec![0, 1], 0),
        ] {
            config.routes[0].host = host.map(str::to_owned);
            config.routes[0].upstreams = upstreams;
            assert_eq!(select(&config, &config.routes[0]).paths.len(), expected, "{host:?}");
        }
    }
}
