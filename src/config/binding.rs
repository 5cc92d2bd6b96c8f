//! The upstreams of a `[[group]]`, in place of its clients' routes'. Owns the type, its name, and its reading; what of the
//! store depends on it `cache::key` says.

use super::document::Section;
use super::tables::upstream;
use super::{RouteSettings, UpstreamSettings};

/// Stands between the names of upstreams in a binding's name, and in none of theirs.
const JOINT: char = '+';

/// Where the requests of a group's clients go, whatever their route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    name: String,
    upstreams: Vec<usize>,
}

impl Binding {
    /// To these of all upstreams, by priority; `None` if there is none.
    pub fn new(all: &[UpstreamSettings], upstreams: Vec<usize>) -> Option<Self> {
        let names: Vec<&str> =
            upstreams.iter().map(|at| Some(&*all.get(*at)?.name)).collect::<Option<_>>()?;
        let name = names.join(&JOINT.to_string());
        (!upstreams.is_empty()).then_some(Self { name, upstreams })
    }

    /// The names of its upstreams, joined: groups with the same upstreams in the same order have the same.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Indices into [`Config::upstreams`](super::Config::upstreams), by priority. Never empty.
    pub fn upstreams(&self) -> &[usize] {
        &self.upstreams
    }
}

/// The `upstreams` of a group; `is_of_paths` if the group asks for paths.
pub(super) fn binding(
    s: &mut Section,
    all: &[UpstreamSettings],
    routes: &[RouteSettings],
    is_of_paths: bool,
) -> Option<Binding> {
    let mut taken: Vec<usize> = Vec::new();
    let upstreams = s.many("upstreams", |text| {
        let at = upstream(text, all)?;
        if text.contains(JOINT) {
            let message = format!("{text:?} has a {JOINT}, which joins names here");
            return Err(format!("{message}; give the upstream a name without"));
        }
        if taken.contains(&at) {
            return Err(format!("{text:?} is named twice; name it once"));
        }
        taken.push(at);
        Ok(at)
    })?;
    let sorted = |route: &RouteSettings| {
        let mut upstreams = route.upstreams.clone();
        upstreams.sort_unstable();
        upstreams
    };
    if !is_of_paths && routes.windows(2).any(|two| sorted(&two[0]) != sorted(&two[1])) {
        let message =
            "hold on every route, and the routes' own differ: all that its clients ask for goes there";
        s.warn(
            "upstreams",
            format!("{message}; give the group paths, such as \"/content/**\", if that is not meant"),
        );
    }
    Binding::new(all, upstreams)
}
