//! `gupd clients-config`: prints the settings with which clients use this relay first and the manager when it is down.
//! Profiles have those of their vendor; `parts` has those of every client.

mod instructions;
mod parts;

use clap::Args;

use self::parts::{ClientSetting, RelayAddress};
use super::{CommandError, CommonFlags, print_line, to_json};
use gupd_config::Config;

/// Host name of this machine.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

type Part = fn(&RelayAddress<'_>) -> ClientSetting;

/// Settings that belong to no vendor.
const PARTS: [(&str, Part); 2] = [("pac", parts::pac), ("dns", parts::dns)];

#[derive(Debug, Args)]
pub(super) struct ClientsConfig {
    #[command(flatten)]
    common: CommonFlags,
    /// Host name or address of the relay, as clients see it [default: host name of this machine].
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Print one part only, without explanation: pac, dns, or a name of the profiles, such as gup or liveupdate.
    #[arg(long, value_name = "PART")]
    only: Option<String>,
    /// Print a JSON array of the parts.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &ClientsConfig) -> Result<(), CommandError> {
    let config = command.common.load()?;
    let address = relay_address(&config, command.host.as_deref())?;
    let Some(only) = command.only.as_deref() else {
        let of_profiles = instructions::in_use(&config).into_iter();
        let settings = of_profiles.map(|client| instructions::setting(&address, client));
        let settings = settings.chain(PARTS.map(|(_, part)| part(&address)));
        if command.json {
            print_line(&to_json(&settings.map(|part| part.to_json()).collect::<Vec<_>>())?);
        } else {
            settings.for_each(|part| print_line(&part.to_string()));
        }
        return Ok(());
    };
    let setting = match PARTS.iter().find(|(name, _)| *name == only) {
        Some((_, part)) => part(&address),
        None => match instructions::find(&config, only) {
            Some(client) => instructions::setting(&address, client),
            None => return Err(CommandError::Configuration(unknown_part(&config, only))),
        },
    };
    let json = setting.to_json();
    let text = setting.text.map_err(CommandError::Failed)?;
    print_line(&if command.json { to_json(&[json])? } else { text.trim_end().to_owned() });
    Ok(())
}

fn unknown_part(config: &Config, only: &str) -> String {
    let mut names = instructions::names(config);
    names.extend(PARTS.map(|(name, _)| name));
    format!("--only: unknown part {only:?}: use one of {}", names.join(", "))
}

/// Determines the address at which clients reach the relay.
fn relay_address<'a>(config: &'a Config, host: Option<&str>) -> Result<RelayAddress<'a>, CommandError> {
    let host = match host {
        Some(host) => host.to_owned(),
        None => std::fs::read_to_string(HOST_NAME)
            .map_err(|error| CommandError::Failed(format!("{HOST_NAME}: {error}: pass --host")))?,
    };
    let host = host.trim();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    let host = match bare.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) if is_name(host) => host.to_owned(),
        Err(_) => {
            let message = format!("--host: {host:?} is not a host name or address: omit scheme and port");
            return Err(CommandError::Configuration(message));
        }
    };
    let listen = &config.server.listen;
    let listen = listen.iter().find(|address| !address.ip().is_loopback()).or(listen.first());
    let port = listen.map(|address| address.port()).filter(|port| *port > 0).ok_or_else(|| {
        CommandError::Configuration("server.listen: no fixed port: set one for clients".to_owned())
    })?;
    Ok(RelayAddress { config, host, port, has_tls: config.server.tls.is_some() })
}
