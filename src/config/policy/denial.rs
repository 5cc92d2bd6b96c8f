//! What a client is not to have by the content type of what it asks for. Pure, and one comparison where nothing is denied.

use http::StatusCode;

use super::{Classification, Group, Policy, Route};
use crate::Class;

/// A request that is denied: not an error, but what the administrator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What was asked for.
    pub classified: Classification,
    /// What the client gets: one that updaters take for "there is none".
    pub status: StatusCode,
}

impl Policy {
    /// Whether a client of this group is denied what it asks for (normalised, without query) on this route.
    pub fn find_denial(&self, group: &Group, route: &Route, path: &str) -> Option<Denial> {
        if group.denied.is_empty() && route.denied.is_empty() {
            return None;
        }
        let classified = self.classify(route, path);
        let mut denied = group.denied.iter().chain(&route.denied);
        if !denied.any(|name| **name == *classified.content_type) {
            return None;
        }
        let status = match classified.class {
            Class::Catalog => StatusCode::NOT_FOUND,
            Class::Payload | Class::Private | Class::Generic => self.denied_status,
        };
        Some(Denial { classified, status })
    }

    /// Whether the relay itself may fetch what is on this route and of this kind.
    pub fn can_fetch(&self, route: &Route, classified: &Classification) -> bool {
        !route.denied.iter().any(|name| **name == *classified.content_type)
    }

    /// Every group with every content type that one of its clients may be denied: the bounded set of labels.
    pub fn denial_labels(&self) -> impl Iterator<Item = (&Group, &str)> {
        let of_routes = || self.routes.iter().flat_map(|route| &route.denied);
        self.groups().flat_map(move |group| {
            group.denied.iter().chain(of_routes()).map(move |name| (&**group, name.as_str()))
        })
    }
}
