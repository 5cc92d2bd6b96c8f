//! Content types of paths, which label logs and metrics: by pattern, by GUID, else by class. Built-in types are in
//! `crate::content`; the configuration adds others. No request can add a label.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use globset::{GlobSet, GlobSetBuilder};

use crate::content::{GUIDS, UNKNOWN, name_for_class};
use crate::{Class, ContentMatch, ContentType, pattern};

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
    pub(super) fn new(own: &[ContentType]) -> Result<Self, globset::Error> {
        let mut labels = BTreeSet::new();
        let mut patterns = GlobSetBuilder::new();
        let mut by_pattern = Vec::new();
        let mut by_guid = HashMap::new();
        for (guid, name) in GUIDS {
            by_guid.insert(guid.into(), label(&mut labels, name));
        }
        for ContentType { name, matches } in own {
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

    /// Returns the content type of a folded path: by the first pattern, else by GUID, else by class.
    pub(super) fn find(&self, path: &str, class: Class) -> &Arc<str> {
        if let Some(name) =
            self.patterns.matches(path).into_iter().min().and_then(|index| self.by_pattern.get(index))
        {
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
        && [9, 14, 19, 24].iter().all(|&at| bytes[at] == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str, matches: ContentMatch) -> ContentType {
        ContentType { name: name.into(), matches }
    }

    #[test]
    fn content_type_follows_the_guid_or_is_unknown() {
        let types = ContentTypes::new(&[]).unwrap();
        let path = "/content/{07b590b3-9282-482f-bbaa-6d515d385869}/1/full.zip";
        assert_eq!(&**types.find(path, Class::Payload), "virus-definitions-64");
        let path = path.replace("07b5", "ffff");
        assert_eq!(&**types.find(&path, Class::Payload), "unknown");
    }

    #[test]
    fn content_type_without_guid_follows_the_class() {
        let types = ContentTypes::new(&[]).unwrap();
        assert_eq!(&**types.find("/minitri.flg", Class::Catalog), "catalog");
        assert_eq!(&**types.find("/1369163480x.zip", Class::Payload), "liveupdate");
        assert_eq!(&**types.find("/secars/secars.dll", Class::Private), "management");
        assert_eq!(&**types.find("/{}", Class::Generic), "other");
    }

    #[test]
    fn configured_types_precede_built_in_ones() {
        let types = ContentTypes::new(&[
            own("patches", ContentMatch::Pattern("/packages/**".into())),
            own("av", ContentMatch::Guid(GUIDS[2].0.into())),
        ])
        .unwrap();
        assert_eq!(&**types.find("/packages/x", Class::Generic), "patches");
        assert_eq!(&**types.find(&format!("/content/{}/1/full.zip", GUIDS[2].0), Class::Payload), "av");
        assert_eq!(types.labels().filter(|label| &***label == "patches").count(), 1);
    }

    #[test]
    fn every_content_type_is_in_the_bounded_set() {
        let types = ContentTypes::new(&[own("catalog", ContentMatch::Pattern("/x".into()))]).unwrap();
        let labels: Vec<_> = types.labels().cloned().collect();
        assert_eq!(labels.len(), GUIDS.len() + 5);
        for path in ["/x", "/y", "/content/{ffffffff-9282-482f-bbaa-6d515d385869}/1/full.zip"] {
            assert!(labels.contains(types.find(path, Class::Generic)), "{path}");
        }
    }

    #[test]
    fn built_in_guids_are_in_folded_form() {
        for (guid, _) in GUIDS {
            assert!(is_guid(guid) && guid == pattern::fold(guid), "{guid}");
        }
    }
}
