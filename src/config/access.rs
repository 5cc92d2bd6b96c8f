//! Access by subnet: `allow` and `deny` of the server and of each route. `deny` wins over `allow`; a list that is not
//! set restricts nobody.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::Networks;
use crate::document::Section;
use crate::group::subnet;

/// Subnets of the clients that are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessSettings {
    /// Only these, if there are any.
    pub allow: Vec<IpNet>,
    /// Never these.
    pub deny: Vec<IpNet>,
}

/// Compiled [`AccessSettings`]: a lookup costs the same for any number of subnets.
#[derive(Clone, Debug, Default)]
pub struct AccessList {
    allow: Option<Networks<()>>,
    deny: Option<Networks<()>>,
}

impl AccessList {
    /// Compiles the lists of a configuration.
    pub fn new(settings: &AccessSettings) -> Self {
        Self { allow: networks(&settings.allow), deny: networks(&settings.deny) }
    }

    /// Returns true if every client is served.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.allow.is_none() && self.deny.is_none()
    }

    /// Returns true if a client of this address is served.
    #[inline]
    pub fn permits(&self, client: IpAddr) -> bool {
        self.is_open() || self.is_listed(client.to_canonical())
    }

    fn is_listed(&self, client: IpAddr) -> bool {
        self.allow.as_ref().is_none_or(|allow| allow.contains(client))
            && !self.deny.as_ref().is_some_and(|deny| deny.contains(client))
    }
}

fn networks(subnets: &[IpNet]) -> Option<Networks<()>> {
    (!subnets.is_empty()).then(|| subnets.iter().map(|subnet| (*subnet, ())).collect())
}

/// Reads `allow` and `deny` of a section.
pub(crate) fn read_access(s: &mut Section) -> AccessSettings {
    AccessSettings { allow: read_subnets(s, "allow"), deny: read_subnets(s, "deny") }
}

/// Reads a list of subnets and addresses.
pub(crate) fn read_subnets(s: &mut Section, key: &'static str) -> Vec<IpNet> {
    let mut own: Networks<()> = Networks::default();
    let subnets = s.read_list(key, |text| {
        let subnet = subnet(text)?;
        match own.insert(subnet, ()) {
            Some(()) => Err(format!("{subnet} is listed twice: list it once")),
            None => Ok(subnet),
        }
    });
    subnets.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_subnet_within_an_allowed_one_is_not_served() {
        let subnets = |list: &[&str]| list.iter().map(|subnet| subnet.parse().unwrap()).collect();
        for (allow, deny, client, expected) in [
            (&[][..], &[][..], "192.0.2.1", true),
            (&["10.0.0.0/8"], &[], "10.1.2.3", true),
            (&["10.0.0.0/8"], &[], "::ffff:10.1.2.3", true),
            (&["10.0.0.0/8"], &[], "192.0.2.1", false),
            (&["10.0.0.0/8"], &[], "2001:db8::1", false),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.2.3", false),
            (&["10.1.2.3/32"], &["10.0.0.0/8"], "10.1.2.3", false),
            (&[], &["2001:db8::/32"], "2001:db8::1", false),
            (&[], &["2001:db8::/32"], "2001:db9::1", true),
            (&["0.0.0.0/0"], &[], "::1", false),
        ] {
            let list = AccessList::new(&AccessSettings { allow: subnets(allow), deny: subnets(deny) });
            assert_eq!(list.permits(client.parse().unwrap()), expected, "{client} in {allow:?} not {deny:?}");
        }
    }
}
