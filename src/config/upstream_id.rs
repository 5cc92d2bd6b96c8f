//! Identity of an upstream. An index into the list of upstreams is valid within one configuration only; values that
//! outlive a reload, such as a running fill and the health of an upstream, refer to it by [`UpstreamId`].

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::Uri;

use crate::config::Config;
use crate::upstream::UpstreamSettings;

/// Identity of an upstream across reloads: its name and URL. Cheap to clone; ids of one configuration compare by
/// pointer.
#[derive(Clone, Debug, Eq)]
pub struct UpstreamId(Arc<Identity>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Identity {
    name: Box<str>,
    url: Uri,
}

impl UpstreamId {
    /// Creates the id of a configured upstream.
    pub fn of(upstream: &UpstreamSettings) -> Self {
        Self(Arc::new(Identity { name: upstream.name.as_str().into(), url: upstream.url.clone() }))
    }

    /// Returns the name of the upstream in logs, metrics and the index.
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

impl PartialEq for UpstreamId {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Hash for UpstreamId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Config {
    /// Returns the upstream of this identity.
    pub fn upstream(&self, id: &UpstreamId) -> Option<&UpstreamSettings> {
        self.upstreams.iter().find(|upstream| UpstreamId::of(upstream) == *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_ids_compare_by_name_and_url_across_reloads() {
        let ids = |urls: &[&str]| -> Vec<UpstreamId> {
            Config::for_upstreams(urls).unwrap().upstreams.iter().map(UpstreamId::of).collect()
        };
        let (before, after) = (ids(&["http://a:1", "http://b:2"]), ids(&["http://b:2", "http://a:1"]));
        assert_eq!([&before[0], &before[1]], [&after[1], &after[0]]);
        assert_ne!(before[0], after[0]);
        let mut moved = Config::for_upstreams(&["http://b:2"]).unwrap().upstreams.remove(0);
        moved.name = before[0].name().to_owned();
        assert_ne!(before[0], UpstreamId::of(&moved), "another machine of the same name");
    }
}
