//! The command line and the composition of a relay from the other crates.
//!
//! [`main`] parses the command line, runs a command, and turns an error into lines on standard error and an exit
//! status: 0 done, 1 failed, 2 usage or configuration. Results go to standard output. Only this file writes to standard
//! error.
//!
//! Start with [`main`]; each command has a module. [`relay`] is the composition root: it builds, starts, reloads and
//! stops a [`relay::Relay`].

mod admin_client;
mod admin_flags;
mod chart;
mod check;
mod clients_config;
mod config_file;
mod config_text;
mod demo;
mod doctor;
mod examples;
mod fitness;
mod generate;
mod init;
mod machine;
mod plan;
mod policy;
mod process_commands;
pub mod relay;
mod rollout;
mod screen;
mod serve;
mod status;
mod store;
mod table;
mod tier;
mod top;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use rustix::fs::Mode;
use rustix::process::umask;
use tokio::runtime::Runtime;

use self::admin_flags::AdminFlags;
use self::config_file::ConfigFile;
use gupd_config::{Config, Overrides, Problems};
use gupd_net::SetupError;
use gupd_net::listen::ListenError;

/// Caching relay for endpoint-protection content: downloads each object once and serves every client of a site.
#[derive(Debug, Parser)]
// Without a value, `about` would be the description of this crate.
#[command(name = "gupd", version, arg = config_file::default_file_argument())]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay.
    Serve(serve::Serve),
    /// Check a configuration and list all problems and warnings.
    Check {
        #[command(flatten)]
        common: CommonFlags,
        /// Also send a request to each upstream.
        #[arg(long)]
        probe: bool,
        /// Check a profile instead, and run its test vectors.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["probe", "config", "json"])]
        profile: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make the running relay revalidate all catalogs now.
    Refresh(process_commands::RefreshFlags),
    /// Replace the running relay by the program on disk; its guard keeps clients served.
    Upgrade(process_commands::ProcessFlags),
    /// Make the running relay reload its configuration, and print the result.
    Reload(process_commands::ProcessFlags),
    /// Make /readyz answer 503 so that load balancers use another relay; downloads continue.
    Drain(process_commands::Drain),
    /// Print the client settings for this relay: policies, proxy file, DNS record.
    ClientsConfig(Box<clients_config::ClientsConfig>),
    /// Write a configuration from five answers.
    Init(init::InitFlags),
    /// Examine machine, configuration, upstreams and relay, with a remedy for each finding.
    Doctor(Box<doctor::DoctorFlags>),
    /// Print the completions of a shell.
    #[command(hide = true)]
    Completions(generate::CompletionFlags),
    /// Write the manual pages.
    #[command(hide = true)]
    Man(generate::ManFlags),
    /// Show the state of the running relay on one screen.
    Status(status::StatusFlags),
    /// Explain what crossed the line: traffic by cause, client and object.
    Why(why::WhyFlags),
    /// Show clients, fills and rates, and repeat it.
    Top(top::TopFlags),
    /// Simulate a rollout at this site, and show the effect of each limit.
    Plan(Box<plan::PlanFlags>),
    /// Show the effect of the configuration on a client.
    Policy {
        #[command(subcommand)]
        command: policy::PolicyCommand,
    },
    /// Show and control rollouts: hold, roll back, release, halt, promote.
    Rollout {
        #[command(subcommand)]
        command: Box<rollout::RolloutSubcommand>,
    },
    /// List, purge, verify, export, import or warm stored objects.
    Store {
        #[command(subcommand)]
        command: store::StoreCommand,
    },
    /// List, verify or collect the objects of the shared tier.
    Tier {
        #[command(subcommand)]
        command: tier::TierCommand,
    },
    /// Run a demo on this machine: a manager behind a slow line, the relay, and clients.
    Demo(demo::DemoFlags),
}

/// Flags of commands that use all settings. They override the environment (`GUPD_…`), which overrides the file.
#[derive(Clone, Debug, Args)]
struct CommonFlags {
    #[command(flatten)]
    file: ConfigFile,
    /// Address for clients; repeatable [default: 0.0.0.0:2967].
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Manager or LiveUpdate server; repeatable, in order of priority.
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// Folder of the store [default: /var/lib/gupd, or the user's state folder].
    #[arg(long, value_name = "DIR")]
    store: Option<String>,
    /// Address for metrics, health and commands [default: 127.0.0.1:9467].
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Certificate chain; enables TLS on every --listen address.
    #[arg(long, value_name = "PEM")]
    tls_cert: Option<String>,
    /// Private key of the certificate.
    #[arg(long, value_name = "PEM")]
    tls_key: Option<String>,
    /// Maximum rate of all upstreams together, such as 8Mbit/s [default: unlimited].
    #[arg(long, value_name = "RATE")]
    wan_limit: Option<String>,
}

impl CommonFlags {
    fn load(&self) -> Result<Config, Problems> {
        self.file.load(&self.overrides())
    }

    fn load_for_start(&self) -> Result<Config, Problems> {
        self.file.load_for_start(&self.overrides())
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

/// Error of a command; one line for each problem.
#[derive(Debug)]
enum CommandError {
    /// Usage or configuration: exit status 2.
    Configuration(String),
    /// Any other error: exit status 1.
    Failed(String),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    restrict_created_files();
    // clap prints usage errors itself and exits with 2.
    let matches = command_line().get_matches();
    let parsed = CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match parsed.command {
        Command::Serve(serve) => serve::run(serve),
        Command::Check { common, probe, profile, json } => match profile {
            Some(profile) => check::run_profile(&profile),
            None => check::run(&common, probe, json),
        },
        Command::Refresh(common) => process_commands::refresh(&common),
        Command::Reload(common) => process_commands::reload(&common),
        Command::Drain(drain) => process_commands::drain(&drain),
        Command::Upgrade(common) => process_commands::upgrade(&common),
        Command::ClientsConfig(command) => clients_config::run(&command),
        Command::Init(flags) => init::run(flags),
        Command::Doctor(flags) => doctor::run(&flags),
        Command::Completions(flags) => {
            generate::print_completions(&flags);
            Ok(())
        }
        Command::Man(flags) => generate::write_pages(&flags),
        Command::Status(flags) => status::run(&flags),
        Command::Why(flags) => why::run(&flags),
        Command::Top(flags) => top::run(&flags),
        Command::Plan(plan) => plan::run(&plan),
        Command::Policy { command } => policy::run(&command),
        Command::Rollout { command } => rollout::run(*command),
        Command::Store { command } => store::run(command),
        Command::Tier { command } => tier::run(command),
        Command::Demo(flags) => demo::run(flags),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (text, status) = match error {
                CommandError::Configuration(text) => (text, 2),
                CommandError::Failed(text) => (text, 1),
            };
            for line in text.lines() {
                print_error(line);
            }
            ExitCode::from(status)
        }
    }
}

/// Returns the definition of the command line, with examples.
fn command_line() -> clap::Command {
    examples::add(CommandLine::command())
}

/// Takes from others all rights to files that the process creates, and from its group that to write: the store has what
/// clients may be denied. The umask of the service's unit may take more.
fn restrict_created_files() {
    // Sets a mask to read the one in force; no other thread creates files yet.
    let given = umask(Mode::RWXO);
    umask(given | Mode::RWXO | Mode::WGRP);
}

impl CommandError {
    /// Puts a sentence before the error.
    fn with_context(self, context: &str) -> Self {
        match self {
            Self::Configuration(text) => Self::Configuration(format!("{context}: {text}")),
            Self::Failed(text) => Self::Failed(format!("{context}: {text}")),
        }
    }
}

impl From<Problems> for CommandError {
    fn from(problems: Problems) -> Self {
        Self::Configuration(problems.to_string())
    }
}

impl From<gupd_store::StoreError> for CommandError {
    fn from(error: gupd_store::StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<SetupError> for CommandError {
    fn from(error: SetupError) -> Self {
        use SetupError::{Connect, Listen, Policy, Tls};
        match error {
            Tls(_) | Connect(_) | Policy(_) | Listen(ListenError::TooManyAddresses) => {
                Self::Configuration(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<relay::StartError> for CommandError {
    fn from(error: relay::StartError) -> Self {
        match error {
            relay::StartError::Setup(error) => error.into(),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Creates a runtime on the current thread for a command.
fn new_runtime() -> Result<Runtime, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CommandError::Failed(format!("event queue: cannot be created: {error}")))
}

fn to_json(value: &impl serde::Serialize) -> Result<String, CommandError> {
    serde_json::to_string_pretty(value)
        .map_err(|error| CommandError::Failed(format!("result: cannot be written as JSON: {error}")))
}

#[expect(clippy::print_stderr, reason = "the only place that prints errors of commands")]
fn print_error(line: &str) {
    eprintln!("gupd: {line}");
}

#[expect(clippy::print_stdout, reason = "the result of a command")]
fn print_line(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `examine` with every command that has none below it, and its words.
    fn for_each_command(
        command: &clap::Command,
        words: &str,
        examine: &mut impl FnMut(&str, &clap::Command),
    ) {
        if command.get_subcommands().next().is_none() {
            examine(words, command);
        }
        for below in command.get_subcommands() {
            for_each_command(below, format!("{words} {}", below.get_name()).trim(), examine);
        }
    }

    /// Splits a line as a shell does.
    fn arguments(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        for char in line.chars() {
            match quote {
                Some(open) if char == open => quote = None,
                Some(_) => word.push(char),
                None if matches!(char, '"' | '\'') => quote = Some(char),
                None if char == ' ' => words.push(std::mem::take(&mut word)),
                None => word.push(char),
            }
        }
        words.push(word);
        words
    }

    #[test]
    fn every_command_has_examples_that_it_accepts() {
        let command = command_line();
        for_each_command(&command, "", &mut |words, command| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = help.lines().filter_map(|line| line.strip_prefix("  "));
            let examples: Vec<_> = examples.filter(|line| line.contains("gupd ")).collect();
            assert!(help.contains("Examples:\n") && !examples.is_empty(), "{words}: {help}");
            for example in examples {
                let line = example.split(" > ").next().unwrap().trim_start_matches("sudo ");
                assert!(line.starts_with(&format!("gupd {words}")), "{words}: {example}");
                let parsed = command_line().try_get_matches_from(arguments(line));
                assert!(parsed.is_ok(), "{example}: {:?}", parsed.err());
            }
        });
    }

    #[test]
    fn every_command_with_a_result_has_json() {
        // Commands without --json, each with its reason.
        let others = [
            ("serve", "runs until it is stopped; its log lines are JSON"),
            ("top", "runs until it is stopped; status, rollout status and why have its figures"),
            ("demo", "runs until it is stopped; --record writes its measurements"),
            ("init", "prints a configuration file"),
            ("completions", "prints a script of a shell"),
            ("man", "writes manual pages"),
        ];
        for_each_command(&command_line(), "", &mut |words, command| {
            let has_json = command.get_arguments().any(|argument| argument.get_id() == "json");
            assert_eq!(has_json, !others.iter().any(|(other, _)| *other == words), "{words}");
        });
    }

    #[test]
    fn every_command_with_admin_has_token_and_issuers() {
        for_each_command(&command_line(), "", &mut |words, command| {
            let has = |id: &str| command.get_arguments().any(|argument| argument.get_id() == id);
            // The relay itself, and commands that examine its configuration, have --admin as one of its settings.
            if has("admin") && !has("listen") {
                assert!(has("token_file") && has("admin_ca"), "{words}");
            }
        });
    }

    #[test]
    fn help_describes_the_relay() {
        let command = command_line();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(about.starts_with("Caching relay"), "{about}");
        command.debug_assert();
    }
}
