//! Content types of paths, which label logs and metrics: by configured pattern, by rule of the profile, by GUID, else by
//! class. No request can add a label.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use globset::{GlobSet, GlobSetBuilder};

use crate::content::{ContentGuid, UNKNOWN, name_for_class};
use crate::profile::PathRule;
use crate::{Class, Config, ContentMatch, ContentType, pattern};

/// Content types with their matchers.
#[derive(Debug)]
pub(super) struct ContentTypes {
    patterns: GlobSet,
    // By the pattern's index.
    by_pattern: Vec<Arc<str>>,
    by_guid: HashMap<Box<str>, Arc<str>>,
    by_class: [(Class, Arc<str>); 4],
    unknown: Arc<str>,
    labels: BTreeSet<Arc<str>>,
}

impl ContentTypes {
    /// Compiles the content types. A GUID names the same content on every route, so all profiles' GUIDs count.
    pub(super) fn new(config: &Config) -> Result<Self, globset::Error> {
        let mut labels = BTreeSet::new();
        let mut patterns = GlobSetBuilder::new();
        let mut by_pattern = Vec::new();
        let mut by_guid = HashMap::new();
        for ContentGuid { guid, name } in config.profiles.iter().flat_map(|profile| &profile.guids) {
            by_guid.insert(guid.as_str().into(), label(&mut labels, name));
        }
        let rules = config.routes.iter().flat_map(|route| &route.profile.paths);
        for name in rules.filter_map(|rule| rule.content_type.as_deref()) {
            label(&mut labels, name);
        }
        for ContentType { name, matches } in &config.content_types {
            let name = label(&mut labels, name);
            match matches {
                ContentMatch::Guid(guid) => drop(by_guid.insert(guid.as_str().into(), name)),
                ContentMatch::Pattern(glob) => {
                    patterns.add(pattern::compile(glob)?);
                    by_pattern.push(name);
                }
            }
        }
        let by_class = [Class::Payload, Class::Catalog, Class::Private, Class::Generic]
            .map(|class| (class, label(&mut labels, name_for_class(class))));
        let unknown = label(&mut labels, UNKNOWN);
        Ok(Self { patterns: patterns.build()?, by_pattern, by_guid, by_class, unknown, labels })
    }

    /// Returns the content type of a folded path: by the first pattern, else by the profile's rule, else by GUID, else
    /// by class.
    pub(super) fn find(&self, path: &str, class: Class, rule: Option<&PathRule>) -> &Arc<str> {
        if let Some(name) =
            self.patterns.matches(path).into_iter().min().and_then(|index| self.by_pattern.get(index))
        {
            return name;
        }
        if let Some(name) = rule.and_then(|rule| self.labels.get(rule.content_type.as_deref()?)) {
            return name;
        }
        if let Some(guid) = path.split('/').find(|segment| is_guid(segment)) {
            return self.by_guid.get(guid).unwrap_or(&self.unknown);
        }
        self.by_class.iter().find(|(of, _)| *of == class).map_or(&self.unknown, |(_, name)| name)
    }

    pub(super) fn labels(&self) -> impl Iterator<Item = &Arc<str>> {
        self.labels.iter()
    }
}

fn label(labels: &mut BTreeSet<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(label) = labels.get(name) {
        return Arc::clone(label);
    }
    let label: Arc<str> = name.into();
    labels.insert(Arc::clone(&label));
    label
}

// `{8-4-4-4-12}`. Hex digits are not checked: another text could only become "unknown".
fn is_guid(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    bytes.len() == 38
        && bytes.starts_with(b"{")
        && bytes.ends_with(b"}")
        && [9, 14, 19, 24].iter().all(|&at| bytes.get(at) == Some(&b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "{07b590b3-9282-482f-bbaa-6d515d385869}";

    fn types(own: &[ContentType]) -> ContentTypes {
        let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
        config.content_types = own.to_vec();
        ContentTypes::new(&config).unwrap()
    }

    fn own(name: &str, matches: ContentMatch) -> ContentType {
        ContentType { name: name.into(), matches }
    }

    #[test]
    fn content_type_follows_the_guid_or_is_unknown() {
        let types = types(&[]);
        let path = "/content/{07b590b3-9282-482f-bbaa-6d515d385869}/1/full.zip";
        assert_eq!(&**types.find(path, Class::Payload, None), "virus-definitions-64");
        let path = path.replace("07b5", "ffff");
        assert_eq!(&**types.find(&path, Class::Payload, None), "unknown");
    }

    #[test]
    fn content_type_without_guid_follows_the_class() {
        let types = types(&[]);
        assert_eq!(&**types.find("/minitri.flg", Class::Catalog, None), "catalog");
        assert_eq!(&**types.find("/1369163480x.zip", Class::Payload, None), "liveupdate");
        assert_eq!(&**types.find("/secars/secars.dll", Class::Private, None), "management");
        assert_eq!(&**types.find("/{}", Class::Generic, None), "other");
    }

    #[test]
    fn configured_types_precede_built_in_ones() {
        let types = types(&[
            own("patches", ContentMatch::Pattern("/packages/**".into())),
            own("av", ContentMatch::Guid(GUID.into())),
        ]);
        assert_eq!(&**types.find("/packages/x", Class::Generic, None), "patches");
        assert_eq!(&**types.find(&format!("/content/{GUID}/1/full.zip"), Class::Payload, None), "av");
        assert_eq!(types.labels().filter(|label| &***label == "patches").count(), 1);
    }

    #[test]
    fn every_content_type_is_in_the_bounded_set() {
        let types = types(&[own("catalog", ContentMatch::Pattern("/x".into()))]);
        let labels: Vec<_> = types.labels().cloned().collect();
        assert_eq!(labels.len(), 8 + 5, "GUIDs, classes and unknown");
        for path in ["/x", "/y", "/content/{ffffffff-9282-482f-bbaa-6d515d385869}/1/full.zip"] {
            assert!(labels.contains(types.find(path, Class::Generic, None)), "{path}");
        }
    }

    #[test]
    fn built_in_guids_are_in_folded_form() {
        let profiles = crate::Profiles::built_in().unwrap();
        for ContentGuid { guid, .. } in profiles.iter().flat_map(|profile| &profile.guids) {
            assert!(is_guid(guid) && *guid == pattern::fold(guid), "{guid}");
        }
    }
}
