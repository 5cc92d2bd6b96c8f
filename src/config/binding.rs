//! `upstreams` of a `[[group]]`: an upstream binding, which replaces the upstreams of the clients' routes. Owns the
//! name of a binding, which is part of the cache key of catalogs.

use crate::document::Section;
use crate::route::RouteSettings;
use crate::upstream::{KnownUpstreams, UpstreamSettings};

/// Separates the names of upstreams in a binding's name. No bound upstream's name contains it.
const SEPARATOR: char = '+';

/// The upstreams of a group's requests, on every route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    name: String,
    upstreams: Vec<usize>,
}

impl Binding {
    /// Creates a binding to upstreams given by index into `all`, by priority. Returns `None` if the list is empty or an
    /// index is out of range.
    pub fn new(all: &[UpstreamSettings], upstreams: Vec<usize>) -> Option<Self> {
        let names: Vec<&str> =
            upstreams.iter().map(|at| Some(&*all.get(*at)?.name)).collect::<Option<_>>()?;
        let name = names.join(&SEPARATOR.to_string());
        (!upstreams.is_empty()).then_some(Self { name, upstreams })
    }

    /// Returns the joined names of its upstreams. Groups with the same upstreams in the same order share it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Indices into [`Config::upstreams`](crate::Config::upstreams), by priority. Never empty.
    pub fn upstreams(&self) -> &[usize] {
        &self.upstreams
    }
}

/// Reads the `upstreams` of a group; `has_paths` if the group matches paths.
pub(crate) fn read_binding(
    s: &mut Section,
    known: KnownUpstreams<'_>,
    routes: &[RouteSettings],
    has_paths: bool,
) -> Option<Binding> {
    let mut taken: Vec<usize> = Vec::new();
    let upstreams = s.read_list("upstreams", |text| {
        let at = known.find(text)?;
        if text.contains(SEPARATOR) {
            return Err(format!(
                "{text:?} contains {SEPARATOR}, which separates names here: rename the upstream"
            ));
        }
        if taken.contains(&at) {
            return Err(format!("{text:?} is listed twice: list it once"));
        }
        taken.push(at);
        Ok(at)
    })?;
    let sorted = |route: &RouteSettings| {
        let mut upstreams = route.upstreams.clone();
        upstreams.sort_unstable();
        upstreams
    };
    if !has_paths && routes.iter().zip(routes.iter().skip(1)).any(|(a, b)| sorted(a) != sorted(b)) {
        s.warn(
            "upstreams",
            "apply to every route, although routes have different upstreams: to bind some paths only, set paths, \
             such as \"/content/**\"",
        );
    }
    Binding::new(known.list, upstreams)
}
