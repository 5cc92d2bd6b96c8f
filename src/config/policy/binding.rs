//! Upstream bindings of groups, resolved from indices to [`UpstreamId`]s. Lists every destination once, for background
//! requests, which have no client.

use std::sync::Arc;

use super::{Group, Policy};
use crate::{Binding, Config, UpstreamId};

/// The upstreams of a group's requests, which replace those of their routes.
#[derive(Debug, PartialEq, Eq)]
pub struct UpstreamBinding {
    name: Box<str>,
    upstreams: Arc<[UpstreamId]>,
}

impl UpstreamBinding {
    /// Returns the joined names of its upstreams. Groups with the same upstreams in the same order share it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its upstreams, by priority. Never empty.
    pub fn upstreams(&self) -> &Arc<[UpstreamId]> {
        &self.upstreams
    }
}

/// Resolves indices into a configuration's list of upstreams.
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

/// Destinations of the requests of all groups.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    by_route: bool,
    bindings: Vec<Arc<UpstreamBinding>>,
}

impl Destinations {
    pub(super) fn new<'a>(groups: impl Iterator<Item = &'a Arc<Group>>) -> Self {
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

    /// Returns every upstream that a request may go to, possibly more than once.
    pub fn upstreams(&self) -> impl Iterator<Item = &UpstreamId> {
        let by_route = self.routes.iter().flat_map(|route| route.upstreams.iter());
        by_route.chain(self.destinations.bindings.iter().flat_map(|binding| binding.upstreams.iter()))
    }

    /// Returns every binding of a group, once.
    pub fn bindings(&self) -> &[Arc<UpstreamBinding>] {
        &self.destinations.bindings
    }

    /// Returns the binding of this name, if a group has it.
    pub fn find_binding(&self, name: &str) -> Option<&Arc<UpstreamBinding>> {
        self.destinations.bindings.iter().find(|binding| binding.name() == name)
    }
}
