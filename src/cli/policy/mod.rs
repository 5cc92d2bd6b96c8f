//! `gupd policy`: what the configuration means for one client, by the rules that the relay itself asks. Owns the flags;
//! needs no relay and no upstream, but for what a client sees of a rollout (`stage`). What is said stands in
//! `explanation`, how in `table`.

mod explanation;
mod stage;
mod table;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::uri::PathAndQuery;

use self::explanation::Explanation;
use self::stage::Stage;
use super::{CommandError, print_line, to_json};
use gupd_config as config;
use gupd_config::clock::Clock;
use gupd_config::{Config, Overrides};

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Say what a client that asks for a path gets, and why: its group, turn, limits and upstreams.
    Explain(Explain),
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The client's address.
    #[arg(long, value_name = "ADDR")]
    client: IpAddr,
    /// What it asks for, as it spells it.
    #[arg(long, value_parser = path)]
    path: PathAndQuery,
    /// A name of the certificate that it shows; may be repeated.
    #[arg(long, value_name = "NAME")]
    certificate: Vec<String>,
    /// The host that it names, which routes may ask for.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// JSON, with times in UTC, spans in seconds and rates in bytes a second.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &PolicyCommand) -> Result<(), CommandError> {
    let PolicyCommand::Explain(asked) = command;
    let config = Config::load_without_upstreams(
        &Overrides::default(),
        asked.config.as_deref(),
        config::environment(),
    )?;
    let mut explanation = Explanation::of(asked, &config, Clock::system().now())?;
    explanation.rollout = Stage::of(&config, &explanation.group.name, explanation.client)?;
    if asked.json {
        print_line(&to_json(&explanation)?);
    } else {
        print_line(&table::table(&explanation, &config.site.time_zone));
    }
    Ok(())
}

fn path(text: &str) -> Result<PathAndQuery, String> {
    let path = text.parse().ok().filter(|_| text.starts_with('/'));
    path.ok_or_else(|| format!("{text:?} is not a path; write it like /content/{{GUID}}/261121001/full.zip"))
}
