//! `gupd clients-config`: what to enter where, so that clients come to this relay first and to the manager when it is
//! gone. Owns the command's form; `parts` has what there is to say. Prints, and changes nothing.

mod parts;

use clap::{Args, ValueEnum};

use self::parts::{Part, Site};
use super::{Failure, Settings, answer};
use gupd_config::Config;

/// The machine's own name, as its kernel knows it.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

#[derive(Debug, Args)]
pub(super) struct ClientsConfig {
    #[command(flatten)]
    settings: Settings,
    /// The relay's name or address, as clients see it [default: this machine's name].
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// One part alone, as it goes into a file.
    #[arg(long, value_enum, value_name = "PART")]
    only: Option<Only>,
}

/// The parts, by the word on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    /// The policy's list of LiveUpdate servers.
    Liveupdate,
    /// The policy's values for a Group Update Provider.
    Gup,
    /// A proxy auto-configuration file.
    Pac,
    /// liveupdate.conf of old Linux clients.
    Linux,
    /// A name for the relay.
    Dns,
}

pub(super) fn run(command: &ClientsConfig) -> Result<(), Failure> {
    let config = command.settings.load()?;
    let site = site(&config, command.host.as_deref())?;
    let all = [Only::Liveupdate, Only::Gup, Only::Pac, Only::Linux, Only::Dns];
    let part = |only| match only {
        Only::Liveupdate => parts::liveupdate(&site),
        Only::Gup => parts::gup(&site),
        Only::Pac => parts::pac(&site),
        Only::Linux => parts::linux(&site),
        Only::Dns => parts::dns(&site),
    };
    match command.only.map(part) {
        Some(Part { text: Ok(text), .. }) => answer(text.trim_end()),
        Some(Part { text: Err(why), .. }) => return Err(Failure::Failed(why)),
        None => all.into_iter().map(part).for_each(|part| answer(&part.to_string())),
    }
    Ok(())
}

/// Where clients find the relay, and what it stands in front of.
fn site<'a>(config: &'a Config, host: Option<&str>) -> Result<Site<'a>, Failure> {
    let host = match host {
        Some(host) => host.to_owned(),
        None => std::fs::read_to_string(HOST_NAME)
            .map_err(|error| Failure::Failed(format!("{HOST_NAME}: {error}; give --host")))?,
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
            let message =
                format!("--host: {host:?} is neither a name nor an address; leave out scheme and port");
            return Err(Failure::Configuration(message));
        }
    };
    let listen = &config.server.listen;
    let listen = listen.iter().find(|address| !address.ip().is_loopback()).or(listen.first());
    let port = listen.map(|address| address.port()).filter(|port| *port > 0).ok_or_else(|| {
        Failure::Configuration("server.listen: has no port that clients could be told".to_owned())
    })?;
    Ok(Site { config, host, port, tls: config.server.tls.is_some() })
}
