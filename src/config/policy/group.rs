//! Lookup of a client's group: the first configured group that matches. It runs on every request: without groups it is
//! one comparison, with subnets alone one trie lookup. Only groups that match more than an address are tested one by
//! one.

use std::sync::Arc;

use ipnet::IpNet;

use super::binding::{Resolver, UpstreamBinding};
use super::matcher::{ClientAttributes, Matcher};
use crate::{GroupId, GroupSettings, ListenerSettings, Networks, OutsideWindow};

/// A set of clients that shares limits and windows.
#[derive(Debug)]
pub struct Group {
    /// Name in logs and metrics.
    pub name: GroupId,
    /// Settings of the group.
    pub settings: GroupSettings,
    /// Upstreams of its clients' requests, if not those of their routes.
    pub binding: Option<Arc<UpstreamBinding>>,
    /// Content types that are denied to its clients.
    pub(super) denied: Vec<String>,
    has_schedule: bool,
}

impl Group {
    /// `withheld` are content types that are denied unless a group allows them.
    fn new(settings: GroupSettings, withheld: &[&str], resolver: &Resolver) -> Self {
        let has_schedule = settings.outside != OutsideWindow::Ignore
            && !(settings.windows.as_constant() == Some(true) && settings.spread.is_zero());
        let denied = settings.deny.iter().map(String::as_str).chain(withheld.iter().copied());
        let denied = denied.filter(|name| !settings.allow.iter().any(|allowed| allowed == name));
        let denied = denied.map(str::to_owned).collect();
        let binding = settings.binding.as_deref().map(|binding| resolver.binding(binding));
        Self { name: settings.name.as_str().into(), binding, denied, settings, has_schedule }
    }

    /// Returns true if a window or a spread can defer its clients' downloads.
    pub fn has_schedule(&self) -> bool {
        self.has_schedule
    }
}

/// All groups, in the order of the configuration.
#[derive(Debug)]
pub(super) struct Groups {
    groups: Vec<Arc<Group>>,
    rest: Arc<Group>,
    /// Index of the first group, among those that match by address alone, for each network. A network has the least
    /// index of itself and all networks that contain it, so the longest match decides.
    by_address: Networks<usize>,
    /// Groups with other matchers, in their order.
    others: Vec<(usize, Matcher)>,
    /// Listeners with clients that belong only to groups that name the listener.
    gateways: Vec<String>,
}

impl Groups {
    pub(super) fn new(
        configured: &[GroupSettings],
        withheld: &[&str],
        resolver: &Resolver,
    ) -> Result<Self, globset::Error> {
        let (mut groups, mut others, mut rest) = (Vec::new(), Vec::new(), None);
        let mut subnets: Vec<(IpNet, usize)> = Vec::new();
        for group in configured {
            let compiled = Arc::new(Group::new(group.clone(), withheld, resolver));
            if group.is_catch_all() {
                rest.get_or_insert(compiled);
                continue;
            }
            if group.matches_address_only() {
                subnets.extend(group.subnets.iter().map(|subnet| (*subnet, groups.len())));
            } else {
                others.push((groups.len(), Matcher::new(group)?));
            }
            groups.push(compiled);
        }
        let default = || GroupSettings::catch_all(GroupSettings::DEFAULT);
        let catch_all = || Arc::new(Group::new(default(), withheld, resolver));
        let rest = rest.unwrap_or_else(catch_all);
        let by_address = index_by_network(subnets);
        Ok(Self { groups, rest, by_address, others, gateways: Vec::new() })
    }

    /// Sets the listeners that are gateways.
    pub(super) fn with_gateways(self, listeners: &[ListenerSettings]) -> Self {
        let gateways = listeners.iter().filter(|listener| listener.is_gateway);
        Self { gateways: gateways.map(|listener| listener.name.clone()).collect(), ..self }
    }

    pub(super) fn find(&self, client: &ClientAttributes<'_>) -> &Arc<Group> {
        if self.groups.is_empty() {
            return &self.rest;
        }
        if self.gateways.iter().any(|gateway| gateway == client.listener()) {
            return self.find_of_gateway(client);
        }
        let by_address =
            self.by_address.longest_match(client.host()).map_or(self.groups.len(), |(_, first)| *first);
        let mut before = self.others.iter().take_while(|(group, _)| *group < by_address);
        let is_match = |(at, matcher): &&(usize, Matcher)| {
            self.groups.get(*at).is_some_and(|group| matcher.is_match(&group.settings, client))
        };
        let first = before.find(is_match).map_or(by_address, |(group, _)| *group);
        self.groups.get(first).unwrap_or(&self.rest)
    }

    /// The configuration has a group for all clients of a gateway, after those of some.
    fn find_of_gateway(&self, client: &ClientAttributes<'_>) -> &Arc<Group> {
        let named = self.others.iter().filter_map(|(at, matcher)| {
            let group = self.groups.get(*at)?;
            let names_listener = group.settings.listeners.iter().any(|name| name == client.listener());
            (names_listener && matcher.is_match(&group.settings, client)).then_some(group)
        });
        named.into_iter().next().unwrap_or(&self.rest)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.iter().chain([&self.rest])
    }
}

// Short prefixes first, so that each network finds the index of the longest prefix around it.
fn index_by_network(mut subnets: Vec<(IpNet, usize)>) -> Networks<usize> {
    subnets.sort_by_key(|(subnet, _)| subnet.prefix_len());
    let mut networks = Networks::default();
    for (subnet, group) in subnets {
        let around = networks.longest_match(subnet).map_or(group, |(_, first)| *first);
        networks.insert(subnet, group.min(around));
    }
    networks
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn group(name: &str, subnets: &[&str], paths: &[&str]) -> GroupSettings {
        GroupSettings {
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
            ..GroupSettings::catch_all(name)
        }
    }

    fn name(groups: &Groups, client: &str, path: &str) -> String {
        groups.find(&ClientAttributes::new(client.parse().unwrap(), path)).name.to_string()
    }

    #[test]
    fn client_belongs_to_first_group_with_its_address() {
        let groups = Groups::new(
            &[
                group("a", &["10.1.2.0/24", "2001:db8::/32"], &[]),
                group("b", &["10.1.0.0/16", "10.1.2.0/25"], &[]),
            ],
            &[],
            &Resolver::default(),
        )
        .unwrap();
        for (client, expected) in [
            ("10.1.2.3", "a"),
            ("10.1.3.3", "b"),
            ("::ffff:10.1.3.3", "b"),
            ("2001:db8::1", "a"),
            ("2001:db9::1", "default"),
            ("10.2.0.1", "default"),
            ("::10.1.2.3", "default"),
        ] {
            assert_eq!(name(&groups, client, "/"), expected, "{client}");
        }
    }

    #[test]
    fn group_without_matchers_contains_all_other_clients() {
        let groups = Groups::new(
            &[group("a", &["10.0.0.0/8"], &[]), group("rest", &[], &[])],
            &[],
            &Resolver::default(),
        )
        .unwrap();
        assert_eq!((name(&groups, "10.0.0.1", "/"), name(&groups, "::1", "/")), ("a".into(), "rest".into()));
        assert_eq!(groups.iter().count(), 2);
    }

    #[test]
    fn group_needs_all_kinds_of_its_matchers_and_first_wins() {
        let groups = Groups::new(
            &[
                group("pilot", &["10.1.2.0/24"], &["/content/{*}/*/full.zip", "/minitri.flg"]),
                group("branch", &["10.1.0.0/16"], &[]),
                group("version-14", &[], &["/packages/14.*/**"]),
                group("late", &["10.1.2.0/24", "10.2.0.0/16"], &[]),
            ],
            &[],
            &Resolver::default(),
        )
        .unwrap();
        let full = "/Content/%7BA%7D/261121001/FULL.zip";
        for (client, path, expected) in [
            ("10.1.2.3", full, "pilot"),
            ("10.1.2.3", "/minitri.flg", "pilot"),
            ("10.1.2.3", "/other", "branch"),
            ("10.1.3.3", full, "branch"),
            ("10.1.3.3", "/packages/14.3/a/x.msi", "branch"),
            ("10.2.0.1", "/packages/14.3/a/x.msi", "version-14"),
            ("10.2.0.1", "/packages/12.1/a/x.msi", "late"),
            ("10.3.0.1", "/packages/12.1/a/x.msi", "default"),
        ] {
            assert_eq!(name(&groups, client, path), expected, "{client} {path}");
        }
    }

    #[test]
    fn group_has_schedule_only_with_windows_or_spread() {
        let always = GroupSettings::catch_all("a");
        assert!(!Group::new(always.clone(), &[], &Resolver::default()).has_schedule());
        let spread = GroupSettings { spread: std::time::Duration::from_secs(1), ..always };
        assert!(Group::new(spread.clone(), &[], &Resolver::default()).has_schedule());
        assert!(
            !Group::new(
                GroupSettings { outside: OutsideWindow::Ignore, ..spread },
                &[],
                &Resolver::default()
            )
            .has_schedule()
        );
    }

    // Few bits differ, so that networks contain each other.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0..64_u32).prop_map(|bits| Ipv4Addr::from(0x0a00_0000 | bits << 2).into()),
            (0..64_u128).prop_map(|bits| Ipv6Addr::from(0x2001_0db8_u128 << 96 | bits << 2).into()),
        ]
    }

    fn subnet() -> impl Strategy<Value = IpNet> {
        let above = |address: IpAddr, up: u8| {
            let full = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, full - up.min(full)).unwrap().trunc()
        };
        let up = prop_oneof![0..10_u8, Just(128)];
        (address(), up).prop_map(move |(address, up)| above(address, up))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn trie_lookup_agrees_with_linear_search(
            groups in prop::collection::vec((prop::collection::vec(subnet(), 0..5), any::<bool>()), 1..8),
            clients in prop::collection::vec(address(), 1..20),
        ) {
            let configured: Vec<GroupSettings> = groups.iter().enumerate().map(|(number, (subnets, by_path))| {
                GroupSettings {
                    subnets: subnets.clone(),
                    paths: by_path.then(|| format!("/{}", number % 2)).into_iter().collect(),
                    ..GroupSettings::catch_all(&number.to_string())
                }
            }).collect();
            let compiled = Groups::new(&configured, &[], &Resolver::default()).unwrap();
            for client in clients {
                for path in ["/0", "/1"] {
                    let takes = |group: &&GroupSettings| {
                        !group.is_catch_all()
                            && (group.subnets.is_empty() || group.subnets.iter().any(|subnet| subnet.contains(&client)))
                            && (group.paths.is_empty() || group.paths[0] == path)
                    };
                    let rest = configured.iter().find(|group| group.is_catch_all());
                    let expected = configured.iter().find(takes).or(rest).map_or("default", |group| &group.name);
                    prop_assert_eq!(name(&compiled, &client.to_string(), path), expected);
                }
            }
        }
    }
}
