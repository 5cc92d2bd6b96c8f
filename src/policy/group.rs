//! Which group a client is in: the first whose subnets hold its address. Asked on every request, so nothing here
//! allocates; without groups it is one comparison.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{self, Outside};

/// A set of clients that shares limits and windows.
#[derive(Debug)]
pub struct Group {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// As it is configured.
    pub settings: config::Group,
    takes_turns: bool,
}

impl Group {
    fn new(settings: config::Group) -> Self {
        let takes_turns = settings.outside != Outside::Ignore
            && !(settings.windows.constant() == Some(true) && settings.spread.is_zero());
        Self { name: settings.name.as_str().into(), settings, takes_turns }
    }

    /// Whether there is a time at which a client of it may not begin a download.
    pub fn takes_turns(&self) -> bool {
        self.takes_turns
    }
}

/// Every group, in the configuration's order.
#[derive(Debug)]
pub(super) struct Groups {
    groups: Vec<Arc<Group>>,
    rest: Arc<Group>,
}

impl Groups {
    pub(super) fn new(configured: &[config::Group]) -> Self {
        let (mut groups, mut rest) = (Vec::new(), None);
        for group in configured {
            let compiled = Arc::new(Group::new(group.clone()));
            if group.subnets.is_empty() {
                rest.get_or_insert(compiled);
            } else {
                groups.push(compiled);
            }
        }
        let of_all_others = || Arc::new(Group::new(config::Group::of_all_others(config::Group::DEFAULT)));
        Self { groups, rest: rest.unwrap_or_else(of_all_others) }
    }

    pub(super) fn find(&self, client: IpAddr) -> &Arc<Group> {
        let client = client.to_canonical();
        let holds =
            |group: &&Arc<Group>| group.settings.subnets.iter().any(|subnet| subnet.contains(&client));
        self.groups.iter().find(holds).unwrap_or(&self.rest)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.iter().chain([&self.rest])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(subnets: &[(&str, &[&str])]) -> Groups {
        let group = |(name, subnets): &(&str, &[&str])| config::Group {
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
            ..config::Group::of_all_others(name)
        };
        Groups::new(&subnets.iter().map(group).collect::<Vec<_>>())
    }

    fn name(groups: &Groups, client: &str) -> String {
        groups.find(client.parse().unwrap()).name.to_string()
    }

    #[test]
    fn the_first_group_that_holds_the_address_is_the_clients() {
        let groups =
            groups(&[("a", &["10.1.2.0/24", "2001:db8::/32"]), ("b", &["10.1.0.0/16", "10.1.2.0/25"])]);
        for (client, expected) in [
            ("10.1.2.3", "a"),
            ("10.1.3.3", "b"),
            ("::ffff:10.1.3.3", "b"),
            ("2001:db8::1", "a"),
            ("2001:db9::1", "default"),
            ("10.2.0.1", "default"),
            ("::10.1.2.3", "default"),
        ] {
            assert_eq!(name(&groups, client), expected, "{client}");
        }
    }

    #[test]
    fn a_group_without_subnets_takes_all_others() {
        let groups = groups(&[("a", &["10.0.0.0/8"]), ("rest", &[])]);
        assert_eq!((name(&groups, "10.0.0.1").as_str(), name(&groups, "::1").as_str()), ("a", "rest"));
        assert_eq!(groups.iter().count(), 2);
    }

    #[test]
    fn only_a_group_with_windows_or_a_spread_takes_turns() {
        let always = config::Group::of_all_others("a");
        assert!(!Group::new(always.clone()).takes_turns());
        let spread = config::Group { spread: std::time::Duration::from_secs(1), ..always };
        assert!(Group::new(spread.clone()).takes_turns());
        assert!(!Group::new(config::Group { outside: Outside::Ignore, ..spread }).takes_turns());
    }
}
