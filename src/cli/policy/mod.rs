//! `gupd policy explain`: the effect of the configuration on one client, computed with the policy tables of the relay.
//! Only the view of a rollout (`rollout_stage`) needs a running relay. `explanation` has the results, `table` their
//! output. `import` turns a manager's policy into a configuration.

mod explanation;
mod import;
mod rollout_stage;
mod table;

use std::net::IpAddr;

use clap::{Args, Subcommand};
use http::uri::PathAndQuery;

use self::explanation::Explanation;
use self::rollout_stage::RolloutStage;
use super::config_file::ConfigFile;
use super::{CommandError, print_line, to_json};
use gupd_config::clock::Clock;
use gupd_config::{ListenerSettings, Overrides};

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Show how a request is handled and why: group, scheduled start, limits, upstreams.
    Explain(Explain),
    /// Turn a LiveUpdate policy of a manager into a configuration.
    Import(import::ImportFlags),
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Address of the client.
    #[arg(long, value_name = "ADDR")]
    client: IpAddr,
    /// Path and query of the request, as the client sends them.
    #[arg(long, value_parser = parse_path)]
    path: PathAndQuery,
    /// Name in the client certificate; repeatable.
    #[arg(long, value_name = "NAME")]
    certificate: Vec<String>,
    /// Listener that the client connects to [default: that of server.listen].
    #[arg(long, value_name = "NAME", default_value = ListenerSettings::DEFAULT, hide_default_value = true)]
    listener: String,
    /// Host of the request, for routes with a host.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    #[command(flatten)]
    file: ConfigFile,
    /// Print JSON with times in UTC, spans in seconds and rates in bytes per second.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &PolicyCommand) -> Result<(), CommandError> {
    match command {
        PolicyCommand::Explain(flags) => explain(flags),
        PolicyCommand::Import(flags) => import::run(flags),
    }
}

fn explain(flags: &Explain) -> Result<(), CommandError> {
    let config = flags.file.load_without_upstreams(&Overrides::default())?;
    let mut explanation = Explanation::new(flags, &config, Clock::system().now())?;
    explanation.rollout = RolloutStage::find(&config, &explanation.group.name, explanation.client)?;
    if flags.json {
        print_line(&to_json(&explanation)?);
    } else {
        print_line(&table::table(&explanation, &config.site.time_zone));
    }
    Ok(())
}

fn parse_path(text: &str) -> Result<PathAndQuery, String> {
    let path = text.parse().ok().filter(|_| text.starts_with('/'));
    path.ok_or_else(|| {
        format!("{text:?} is not a path: use a form such as /content/{{GUID}}/261121001/full.zip")
    })
}
