//! Upstreams of requests: those of the route, or of the binding of the client's group. Resolves the positions of a
//! configuration to upstreams, and lists every binding once, for requests that have no client.

use std::sync::Arc;

use super::{Group, Policy};
use crate::{Binding, Config, UpstreamId};

/// The upstreams of a group, in place of its clients' routes'.
#[derive(Debug, PartialEq, Eq)]
pub struct UpstreamBinding {
    name: Box<str>,
    upstreams: Arc<[UpstreamId]>,
}

impl UpstreamBinding {
    /// The names of its upstreams, joined: groups with the same upstreams in the same order have the same.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its upstreams, by priority. Never empty.
    pub fn upstreams(&self) -> &Arc<[UpstreamId]> {
        &self.upstreams
    }
}

/// Resolves positions in a configuration's list of upstreams.
#[derive(Debug, Default)]
pub(super) struct Resolver(Vec<UpstreamId>);

impl Resolver {
    pub(super) fn new(config: &Config) -> Self {
        Self(config.upstreams.iter().map(UpstreamId::of).collect())
    }

    pub(super) fn resolve(&self, positions: &[usize]) -> Arc<[UpstreamId]> {
        positions.iter().filter_map(|&at| self.0.get(at).cloned()).collect()
    }

    pub(super) fn binding(&self, binding: &Binding) -> Arc<UpstreamBinding> {
        let upstreams = self.resolve(binding.upstreams());
        Arc::new(UpstreamBinding { name: binding.name().into(), upstreams })
    }
}

/// Where requests of all groups go.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    by_route: bool,
    bindings: Vec<Arc<UpstreamBinding>>,
}

impl Destinations {
    pub(super) fn of<'a>(groups: impl Iterator<Item = &'a Arc<Group>>) -> Self {
        let mut all = Self::default();
        for group in groups {
            match &group.binding {
                None => all.by_route = true,
                Some(binding) if all.bindings.contains(binding) => {}
                Some(binding) => all.bindings.push(binding.clone()),
            }
        }
        all
    }
}

impl Policy {
    /// Returns true if requests of some clients go to the upstreams of their routes.
    pub fn has_route_destinations(&self) -> bool {
        self.destinations.by_route
    }

    /// Every upstream that some request may go to, as often as it is named.
    pub fn upstreams(&self) -> impl Iterator<Item = &UpstreamId> {
        let by_route = self.routes.iter().flat_map(|route| route.upstreams.iter());
        by_route.chain(self.destinations.bindings.iter().flat_map(|binding| binding.upstreams.iter()))
    }

    /// Every binding of a group, once.
    pub fn bindings(&self) -> &[Arc<UpstreamBinding>] {
        &self.destinations.bindings
    }

    /// Returns the binding of this name, if a group still has it.
    pub fn find_binding(&self, name: &str) -> Option<&Arc<UpstreamBinding>> {
        self.destinations.bindings.iter().find(|binding| binding.name() == name)
    }
}
