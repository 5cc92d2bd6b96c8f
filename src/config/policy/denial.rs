//! Policy denials: content types that groups or routes block. Pure, and one comparison if nothing is denied.

use http::StatusCode;
use serde::Serialize;

use super::{Classification, Group, Policy, Route};
use crate::Class;

/// Setting that denies a content type to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum DenialCause {
    /// `deny` of its group.
    #[serde(rename = "group.deny")]
    GroupDeny,
    /// `deny_download` of its route.
    #[serde(rename = "route.deny_download")]
    RouteDenyDownload,
    /// The type is denied by default, and `allow` of its group does not have it.
    #[serde(rename = "group.allow")]
    NotAllowed,
}

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

    /// Returns every cause of a denial; none if the content is not denied. Content is served once all are removed.
    pub fn denial_causes(
        &self,
        group: &Group,
        route: &Route,
        classification: &Classification,
    ) -> Vec<DenialCause> {
        let has = |names: &[String]| names.iter().any(|name| **name == *classification.content_type);
        let of_group = has(&group.denied).then(|| match has(&group.settings.deny) {
            true => DenialCause::GroupDeny,
            false => DenialCause::NotAllowed,
        });
        let of_route = has(&route.denied).then_some(DenialCause::RouteDenyDownload);
        of_group.into_iter().chain(of_route).collect()
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
