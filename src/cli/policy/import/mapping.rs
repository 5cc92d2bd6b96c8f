//! Explicit mappings of a policy: each sends the clients of a subnet to a provider. Their subnets become groups, so that
//! traffic and limits of each are known; the policy must map them to the relay.

use std::cmp::Reverse;
use std::net::IpAddr;

use ipnet::IpNet;

use super::sepm::{ExplicitMapping, MappingType};
use super::translation::{ConfigDraft, GUP, ImportFinding, shortened};

/// Adds a group for each client subnet.
///
/// # Errors
/// When a subnet is no address; the message names its field.
pub(super) fn add(mappings: &[ExplicitMapping], prefix: u8, draft: &mut ConfigDraft) -> Result<(), String> {
    let mut groups: Vec<(IpNet, Vec<String>)> = Vec::new();
    for (index, mapping) in mappings.iter().enumerate() {
        let subnet = client_subnet(&mapping.client_subnet_addr, prefix).ok_or_else(|| {
            let given = shortened(&mapping.client_subnet_addr);
            format!("explicit_mappings[{index}].client_subnet_addr: {given} is not an address: correct it")
        })?;
        let provider = provider(mapping);
        match groups.iter_mut().find(|(known, _)| *known == subnet) {
            Some((_, providers)) => providers.push(provider),
            None => groups.push((subnet, vec![provider])),
        }
    }
    // A client belongs to the first group that matches, so narrow subnets come first.
    groups.sort_by_key(|(subnet, _)| (Reverse(subnet.prefix_len()), *subnet));
    for (subnet, providers) in groups {
        let name = group_name(&subnet);
        let providers = shortened(&providers.join(", "));
        draft.groups += &format!(
            "\n# Policy: clients of {subnet} are mapped to {providers}. Map them to the relay.\n\
             [[group]]\nname = \"{name}\"\nsubnets = [\"{subnet}\"]\n"
        );
        draft.findings.push(ImportFinding {
            field: format!("{GUP}.explicit_gup.explicit_mappings"),
            value: format!("{subnet} to {providers}"),
            setting: Some(format!("group {name}")),
            note: "map the subnet to the relay in the policy".to_owned(),
        });
    }
    Ok(())
}

fn client_subnet(text: &str, prefix: u8) -> Option<IpNet> {
    let text = text.trim();
    let subnet = match text.parse::<IpNet>() {
        Ok(subnet) => subnet,
        Err(_) => {
            let address: IpAddr = text.parse().ok()?;
            let prefix = if address.is_ipv4() { prefix } else { 64 };
            IpNet::new(address, prefix).ok()?
        }
    };
    Some(subnet.trunc())
}

fn provider(mapping: &ExplicitMapping) -> String {
    let value = mapping.mapping_value.as_deref().unwrap_or("no provider");
    match mapping.mapping_type {
        Some(MappingType::Subnet) => format!("providers of {value}"),
        Some(MappingType::IpAddress | MappingType::HostName) | None => value.to_owned(),
    }
}

fn group_name(subnet: &IpNet) -> String {
    let text = format!("subnet-{subnet}");
    text.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' }).collect()
}
