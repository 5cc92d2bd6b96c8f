//! Client settings of the profiles, with the addresses of the relay and of the upstreams filled in.

use super::parts::{ClientSetting, RelayAddress, origin};
use gupd_config::profile::ClientInstruction;
use gupd_config::{Config, Profile};

/// Returns the settings of the profiles that routes have, each once.
pub(super) fn in_use(config: &Config) -> Vec<&ClientInstruction> {
    let mut clients: Vec<&ClientInstruction> = Vec::new();
    for client in config.routes.iter().flat_map(|route| &route.profile.clients) {
        if !clients.iter().any(|other| other.name == client.name) {
            clients.push(client);
        }
    }
    clients
}

/// Returns the setting of this name: of a profile in use, or else of any.
pub(super) fn find<'a>(config: &'a Config, name: &str) -> Option<&'a ClientInstruction> {
    let all = || config.profiles.iter().flat_map(|profile| &profile.clients);
    in_use(config).into_iter().chain(all()).find(|client| client.name == name)
}

/// Returns the names of all settings.
pub(super) fn names(config: &Config) -> Vec<&str> {
    let clients = config.profiles.iter().flat_map(|profile| &profile.clients);
    let mut names: Vec<_> = clients.map(|client| client.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Fills in the addresses.
pub(super) fn setting(address: &RelayAddress<'_>, client: &ClientInstruction) -> ClientSetting {
    let mut explanation = client.explanation.clone();
    if let Some(note) = client.deferral_note.as_deref().filter(|_| address.can_defer()) {
        explanation.push(' ');
        explanation.push_str(note);
    }
    ClientSetting {
        title: client.title.clone(),
        clients: client.clients.clone(),
        place: client.place.clone(),
        certainty: client.certainty,
        explanation,
        text: text(address, client),
    }
}

fn text(address: &RelayAddress<'_>, client: &ClientInstruction) -> Result<String, String> {
    let has_it = |profile: &Profile| profile.clients.iter().any(|other| other.name == client.name);
    let mut upstreams = address.upstreams(|route| has_it(&route.profile)).peekable();
    if upstreams.peek().is_none() {
        let profiles = address.config.profiles.iter().filter(|profile| has_it(profile));
        let names: Vec<_> = profiles.map(|profile| format!("{:?}", profile.name)).collect();
        return Err(format!(
            "no route has profile {}: set it for the route of this vendor",
            names.join(" or ")
        ));
    }
    if client.is_plain_http && address.has_tls {
        return Err(
            "its clients use plain HTTP, but every listen address has TLS: add one without".to_owned()
        );
    }
    let (url, port) = (address.url(), address.port.to_string());
    let mut text = client.text.render(|name| match name {
        "host" => address.bare_host(),
        "port" => &port,
        _ => &url,
    });
    text.push('\n');
    for (index, (name, url)) in upstreams.enumerate() {
        let Some(template) = &client.upstream_text else { break };
        let (index, position, url) = ((index + 1).to_string(), (index + 2).to_string(), origin(url));
        text += &template.render(|placeholder| match placeholder {
            "index" => &index,
            "position" => &position,
            "name" => name,
            _ => &url,
        });
        text.push('\n');
    }
    Ok(text)
}
