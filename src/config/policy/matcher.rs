//! Matchers of a group, and the attributes of a request that they match. Every kind of matcher of a group must match,
//! by any one of its kind. Pure; only the folded path allocates, once, and only for groups with path patterns.

use std::cell::OnceCell;
use std::net::IpAddr;

use globset::{GlobSet, GlobSetBuilder};
use ipnet::IpNet;

use crate::{GroupSettings, ListenerSettings, Networks, pattern};

/// Attributes of a client's request that groups match on.
#[derive(Debug)]
pub struct ClientAttributes<'a> {
    address: IpAddr,
    names: &'a [Box<str>],
    listener: &'a str,
    path: &'a str,
    folded: OnceCell<String>,
}

/// Matchers of a group that matches by more than address.
#[derive(Debug)]
pub(super) struct Matcher {
    /// `None` for any address.
    subnets: Option<Networks<()>>,
    /// `None` for any path.
    paths: Option<GlobSet>,
}

impl<'a> ClientAttributes<'a> {
    /// Creates the attributes of a client that requests `path` (normalised, without query).
    pub fn new(address: IpAddr, path: &'a str) -> Self {
        let listener = ListenerSettings::DEFAULT;
        Self { address: address.to_canonical(), names: &[], listener, path, folded: OnceCell::new() }
    }

    /// Adds the names in the client's certificate, in lower case.
    #[must_use]
    pub fn with_names(self, names: &'a [Box<str>]) -> Self {
        Self { names, ..self }
    }

    /// Sets the listener that the client connected to.
    #[must_use]
    pub fn with_listener(self, listener: &'a str) -> Self {
        Self { listener, ..self }
    }

    /// Returns the name of the listener.
    pub(super) fn listener(&self) -> &str {
        self.listener
    }

    /// Returns the address as a network.
    pub(super) fn host(&self) -> IpNet {
        self.address.into()
    }

    fn folded(&self) -> &str {
        self.folded.get_or_init(|| pattern::fold(self.path))
    }
}

impl Matcher {
    /// Compiles the matcher of a group.
    ///
    /// # Errors
    /// A pattern that is not a glob.
    pub(super) fn new(group: &GroupSettings) -> Result<Self, globset::Error> {
        let subnets = (!group.subnets.is_empty()).then(|| {
            let mut networks = Networks::default();
            for subnet in &group.subnets {
                networks.insert(*subnet, ());
            }
            networks
        });
        let mut globs = GlobSetBuilder::new();
        for path in &group.paths {
            globs.add(pattern::compile(path)?);
        }
        let paths = if group.paths.is_empty() { None } else { Some(globs.build()?) };
        Ok(Self { subnets, paths })
    }

    /// Returns true if the client matches `group`, which this matcher was compiled from. The costliest test is last.
    pub(super) fn is_match(&self, group: &GroupSettings, client: &ClientAttributes<'_>) -> bool {
        (group.listeners.is_empty() || group.listeners.iter().any(|name| name == client.listener))
            && (group.certificates.is_empty() || group.matching_certificate(client.names).is_some())
            && self.subnets.as_ref().is_none_or(|subnets| subnets.longest_match(client.host()).is_some())
            && self.paths.as_ref().is_none_or(|paths| paths.is_match(client.folded()))
    }
}
