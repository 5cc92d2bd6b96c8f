//! What a client is not to have by the content type of what it asks for. Pure, and one comparison where nothing is denied.

use http::StatusCode;

use super::{Classification, Group, Policy, Route};
use crate::Class;

impl Policy {
    /// Returns true if some content type is denied to this group or on this route. Costs one comparison where none is.
    #[inline]
    pub fn can_deny(&self, group: &Group, route: &Route) -> bool {
        !(group.denied.is_empty() && route.denied.is_empty())
    }

    /// The status that a request for denied content gets: one that updaters take for "there is none". `None` if the
    /// content is not denied to clients of this group on this route.
    pub fn denial_status(
        &self,
        group: &Group,
        route: &Route,
        classified: &Classification,
    ) -> Option<StatusCode> {
        let mut denied = group.denied.iter().chain(&route.denied);
        if !denied.any(|name| **name == *classified.content_type) {
            return None;
        }
        Some(match classified.class {
            Class::Catalog => StatusCode::NOT_FOUND,
            Class::Payload | Class::Private | Class::Generic => self.denied_status,
        })
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
