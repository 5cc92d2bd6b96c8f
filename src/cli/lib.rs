//! The command line: reads it, runs a command, turns what went wrong into one line and an exit status: 0 done,
//! 1 failed, 2 usage or configuration. Standard error is written only here.

mod ask;
mod check;
mod clients_config;
mod demo;
mod orders;
mod plan;
mod policy;
mod refresh;
pub mod relay;
mod rollout;
mod serve;
mod store;
pub mod tour;

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use gupd_config::{self as config, Config, Overrides, Problems};

/// A site relay for endpoint-protection content: fills once, serves everyone.
#[derive(Debug, Parser)]
#[command(name = "gupd", version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay.
    Serve(serve::Serve),
    /// Name every problem of a configuration.
    Check {
        #[command(flatten)]
        settings: Settings,
        /// Ask each upstream whether it answers.
        #[arg(long)]
        probe: bool,
    },
    /// Have the running relay ask whether its catalogs are still good, now.
    Refresh(Settings),
    /// Have the program on disk take over from the running one, whose guard keeps clients served.
    Upgrade(Settings),
    /// Have the running relay read its configuration again, and say what comes of it.
    Reload(Settings),
    /// Have load balancers, and with --redirect clients too, go elsewhere; what runs goes on.
    Drain(orders::Drain),
    /// Print what to enter where, so that clients come to this relay.
    ClientsConfig(Box<clients_config::ClientsConfig>),
    /// Say what a rollout will be like at this site, and what each limit costs.
    Plan(Box<plan::Plan>),
    /// Say what the configuration means for a client.
    Policy {
        #[command(subcommand)]
        command: policy::Command,
    },
    /// Show which revision clients see and what opens next; hold, roll back, release, halt, promote.
    Rollout {
        #[command(subcommand)]
        command: Box<rollout::Command>,
    },
    /// Look at what is stored, verify, remove or carry it.
    Store {
        #[command(subcommand)]
        command: store::Command,
    },
    /// See it work: a manager behind a thin line, the relay, and clients, on this machine.
    Demo {
        /// How many clients.
        #[arg(long, default_value_t = crate::tour::DEFAULT_CLIENTS)]
        clients: NonZeroU16,
        /// End after the table instead of leaving the relay up.
        #[arg(long)]
        exit: bool,
    },
}

/// Flags overrule the environment (`GUPD_…`), which overrules the file.
#[derive(Clone, Debug, Args)]
struct Settings {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address clients connect to; may be repeated [default: 0.0.0.0:2967].
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Manager or LiveUpdate server; may be repeated, by priority.
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// Folder of the store [default: /var/lib/gupd, or the user's state folder].
    #[arg(long, value_name = "DIR")]
    store: Option<String>,
    /// Address of metrics and health [default: 127.0.0.1:9467].
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Certificate chain; with it every --listen speaks TLS.
    #[arg(long, value_name = "PEM")]
    tls_cert: Option<String>,
    /// Key of the certificate.
    #[arg(long, value_name = "PEM")]
    tls_key: Option<String>,
    /// What all upstreams together may send, such as 8Mbit/s [default: unlimited].
    #[arg(long, value_name = "RATE")]
    wan_limit: Option<String>,
}

impl Settings {
    fn load(&self) -> Result<Config, Problems> {
        Config::load(&self.overrides(), self.config.as_deref(), config::environment())
    }

    fn load_without_upstreams(&self) -> Result<Config, Problems> {
        Config::load_without_upstreams(&self.overrides(), self.config.as_deref(), config::environment())
    }

    fn overrides(&self) -> Overrides {
        Overrides {
            listen: self.listen.clone(),
            upstream: self.upstream.clone(),
            store: self.store.clone(),
            admin: self.admin.clone(),
            tls_cert: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
            wan_limit: self.wan_limit.clone(),
        }
    }
}

/// A command that did not do what it was asked.
#[derive(Debug)]
enum Failure {
    /// Usage or configuration: exit status 2. One line a problem.
    Configuration(String),
    /// Anything else: exit status 1.
    Failed(String),
}

/// Runs the command the process was started with.
pub fn main() -> ExitCode {
    // clap writes usage errors itself, and exits with 2.
    let done = match CommandLine::parse().command {
        Command::Serve(serve) => serve::run(serve),
        Command::Check { settings, probe } => check::run(&settings, probe),
        Command::Refresh(settings) => refresh::run(&settings),
        Command::Reload(settings) => orders::reload(&settings),
        Command::Drain(drain) => orders::drain(&drain),
        Command::Upgrade(settings) => orders::upgrade(&settings),
        Command::ClientsConfig(command) => clients_config::run(&command),
        Command::Plan(plan) => plan::run(&plan),
        Command::Policy { command } => policy::run(&command),
        Command::Rollout { command } => rollout::run(*command),
        Command::Store { command } => store::run(command),
        Command::Demo { clients, exit } => demo::run(clients, exit),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (text, status) = match failure {
                Failure::Configuration(text) => (text, 2),
                Failure::Failed(text) => (text, 1),
            };
            for line in text.lines() {
                complain(line);
            }
            ExitCode::from(status)
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Configuration(problems.to_string())
    }
}

impl From<gupd_store::StoreError> for Failure {
    fn from(error: gupd_store::StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<crate::relay::StartError> for Failure {
    fn from(error: crate::relay::StartError) -> Self {
        use crate::relay::StartError::{Connect, Policy, Tls};
        match error {
            Tls(_) | Policy(_) | Connect(_) => Self::Configuration(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one place that speaks to whoever started the program")]
fn complain(line: &str) {
    eprintln!("gupd: {line}");
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn answer(line: &str) {
    println!("{line}");
}
