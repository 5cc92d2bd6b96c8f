//! Policy denials: content types that groups or routes block. Pure, and one comparison if nothing is denied.

use http::StatusCode;

use super::{Classification, Group, Policy, Route};
use crate::Class;

impl Policy {
    /// Returns true if some content type is denied to this group or on this route. Costs one comparison where none is.
    #[inline]
    pub fn can_deny(&self, group: &Group, route: &Route) -> bool {
        !(group.denied.is_empty() && route.denied.is_empty())
    }

    /// Returns the status of a denied request, which updaters take for missing content. `None` if the
    /// content is not denied to clients of this group on this route.
    pub fn denial_status(
        &self,
        group: &Group,
        route: &Route,
        classification: &Classification,
    ) -> Option<StatusCode> {
        let mut denied = group.denied.iter().chain(&route.denied);
        if !denied.any(|name| **name == *classification.content_type) {
            return None;
        }
        Some(match classification.class {
            Class::Catalog => StatusCode::NOT_FOUND,
            Class::Payload | Class::Private | Class::Generic => self.denied_status,
        })
    }

    /// Returns true if the relay itself may fetch content of this classification on this route.
    pub fn can_fetch(&self, route: &Route, classification: &Classification) -> bool {
        !route.denied.iter().any(|name| **name == *classification.content_type)
    }

    /// Returns every pair of group and content type that may be denied: the bounded set of metric labels.
    pub fn denial_labels(&self) -> impl Iterator<Item = (&Group, &str)> {
        let of_routes = || self.routes.iter().flat_map(|route| &route.denied);
        self.groups().flat_map(move |group| {
            group.denied.iter().chain(of_routes()).map(move |name| (&**group, name.as_str()))
        })
    }
}
