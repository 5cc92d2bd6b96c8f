//! Whom a group takes: the matchers of one, and who asks as they see it. Every kind of matcher that a group has must
//! hold, any one of its kind will do. Pure; nothing here allocates but the folded path, once, and only for a group with
//! path patterns.

use std::cell::OnceCell;
use std::net::IpAddr;

use globset::{GlobSet, GlobSetBuilder};
use ipnet::IpNet;

use crate as config;
use crate::{Networks, pattern};

/// Who asks, and for what.
#[derive(Debug)]
pub struct ClientAttributes<'a> {
    address: IpAddr,
    names: &'a [Box<str>],
    path: &'a str,
    folded: OnceCell<String>,
}

/// What one group asks of a client, if that is more than its address.
#[derive(Debug)]
pub(super) struct Matcher {
    /// By every network; `None` for any address.
    subnets: Option<Networks<()>>,
    /// `None` for any path.
    paths: Option<GlobSet>,
}

impl<'a> ClientAttributes<'a> {
    /// A client at this address that asks for `path` (normalised, without query).
    pub fn new(address: IpAddr, path: &'a str) -> Self {
        Self { address: address.to_canonical(), names: &[], path, folded: OnceCell::new() }
    }

    /// With these names in the certificate that it has shown, in lower case.
    #[must_use]
    pub fn with_names(self, names: &'a [Box<str>]) -> Self {
        Self { names, ..self }
    }

    /// Its address as a network.
    pub(super) fn host(&self) -> IpNet {
        self.address.into()
    }

    fn folded(&self) -> &str {
        self.folded.get_or_init(|| pattern::fold(self.path))
    }
}

impl Matcher {
    /// The matcher of a group.
    ///
    /// # Errors
    /// A pattern that is not a glob.
    pub(super) fn new(group: &config::GroupSettings) -> Result<Self, globset::Error> {
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

    /// Whether `group`, whose matcher this is, takes this client; the dearest question last.
    pub(super) fn takes(&self, group: &config::GroupSettings, client: &ClientAttributes<'_>) -> bool {
        (group.certificates.is_empty() || group.matching_certificate(client.names).is_some())
            && self.subnets.as_ref().is_none_or(|subnets| subnets.longest_match(client.host()).is_some())
            && self.paths.as_ref().is_none_or(|paths| paths.is_match(client.folded()))
    }
}
