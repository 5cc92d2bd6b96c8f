//! Which upstreams the requests of the policy's groups go to: their routes', or those of a binding. Worked out once for a
//! configuration, for who asks for stored content without a client.

use std::sync::Arc;

use super::{Group, Policy};
use crate::config::Binding;

/// Every way that requests of some group go, once each.
#[derive(Debug, Default)]
pub(super) struct Ways {
    by_route: bool,
    bindings: Vec<Arc<Binding>>,
}

impl Ways {
    pub(super) fn of<'a>(groups: impl Iterator<Item = &'a Arc<Group>>) -> Self {
        let mut ways = Self::default();
        for group in groups {
            match &group.settings.binding {
                None => ways.by_route = true,
                Some(binding) if ways.bindings.contains(binding) => {}
                Some(binding) => ways.bindings.push(binding.clone()),
            }
        }
        ways
    }
}

impl Policy {
    /// Whether requests of some clients go to the upstreams of their routes.
    pub fn goes_by_route(&self) -> bool {
        self.ways.by_route
    }

    /// Indices of the upstreams that some request may go to, as often as they are named.
    pub fn upstreams(&self) -> impl Iterator<Item = usize> {
        let by_route = self.routes.iter().flat_map(|route| &route.upstreams);
        by_route.chain(self.ways.bindings.iter().flat_map(|binding| binding.upstreams())).copied()
    }

    /// Every binding of a group, once.
    pub fn bindings(&self) -> &[Arc<Binding>] {
        &self.ways.bindings
    }

    /// The binding of this name, if a group still has it.
    pub fn binding_named(&self, name: &str) -> Option<&Arc<Binding>> {
        self.ways.bindings.iter().find(|binding| binding.name() == name)
    }
}
