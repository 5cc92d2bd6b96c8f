//! `gupd clients-config`: prints the settings with which clients use this relay first and the manager when it is down.
//! `parts` has the settings.

mod parts;

use clap::{Args, ValueEnum};

use self::parts::{ClientSetting, RelayAddress};
use super::{CommandError, CommonFlags, print_line};
use gupd_config::Config;

/// Host name of this machine.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

#[derive(Debug, Args)]
pub(super) struct ClientsConfig {
    #[command(flatten)]
    common: CommonFlags,
    /// Host name or address of the relay, as clients see it [default: host name of this machine].
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Print one part only, without explanation.
    #[arg(long, value_enum, value_name = "PART")]
    only: Option<PartName>,
}

/// Name of a part on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PartName {
    /// LiveUpdate server list of the policy.
    Liveupdate,
    /// Group Update Provider settings of the policy.
    Gup,
    /// Proxy auto-configuration file.
    Pac,
    /// liveupdate.conf of old Linux clients.
    Linux,
    /// DNS record of the relay.
    Dns,
}

pub(super) fn run(command: &ClientsConfig) -> Result<(), CommandError> {
    let config = command.common.load()?;
    let address = relay_address(&config, command.host.as_deref())?;
    let all = [PartName::Liveupdate, PartName::Gup, PartName::Pac, PartName::Linux, PartName::Dns];
    let part = |only| match only {
        PartName::Liveupdate => parts::liveupdate(&address),
        PartName::Gup => parts::gup(&address),
        PartName::Pac => parts::pac(&address),
        PartName::Linux => parts::linux(&address),
        PartName::Dns => parts::dns(&address),
    };
    match command.only.map(part) {
        Some(ClientSetting { text: Ok(text), .. }) => print_line(text.trim_end()),
        Some(ClientSetting { text: Err(reason), .. }) => return Err(CommandError::Failed(reason)),
        None => all.into_iter().map(part).for_each(|part| print_line(&part.to_string())),
    }
    Ok(())
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
