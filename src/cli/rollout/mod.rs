//! `gupd rollout`: shows and controls the rollouts of the running relay through its admin address. Commands that change
//! something need the admin token.

mod clients;
mod command;
mod preview;
mod status;
mod table;

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;

pub(crate) use self::clients::ListedClient;
pub(crate) use self::command::author;
pub(crate) use self::table::time;
use super::admin_client::AdminClient;
use super::{AdminFlags, CommandError, print_line};
use gupd_rollout::command::RolloutCommand;
use gupd_rollout::revision::RevisionNumber;

/// Maximum bytes of a response: 50,000 clients, or the hashes of ten revisions of a whole LiveUpdate server.
const MAX_RESPONSE: usize = 64 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum RolloutSubcommand {
    /// Show revisions, rings, groups, and the next step of each ring or what blocks it.
    Status(status::StatusFlags),
    /// Name a revision, which keeps it stored, or remove a name.
    Name {
        /// Number of the revision.
        #[arg(required_unless_present = "remove", conflicts_with = "remove")]
        revision: Option<RevisionNumber>,
        /// Name: a-z, 0-9, - and ., not only digits.
        #[arg(required_unless_present = "remove", conflicts_with = "remove")]
        name: Option<String>,
        /// Remove this name.
        #[arg(long, value_name = "NAME")]
        remove: Option<String>,
        #[command(flatten)]
        flags: RolloutFlags,
    },
    /// Hold the view of a group at a revision until it is released.
    Hold {
        /// Name of the group.
        group: String,
        /// Name or number of the revision.
        revision: String,
        #[command(flatten)]
        flags: RolloutFlags,
    },
    /// Return a group to an earlier revision and hold it there until it is released.
    Rollback {
        /// Name of the group.
        group: String,
        /// Name or number of the revision [default: the one before the newest that the group sees].
        revision: Option<String>,
        #[command(flatten)]
        flags: RolloutFlags,
    },
    /// Release a held group, or all groups.
    Release {
        /// Name of the group [default: all groups].
        group: Option<String>,
        /// Show the newest revision at once, regardless of rings.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        flags: RolloutFlags,
    },
    /// Freeze the views of all clients.
    Halt(RolloutFlags),
    /// End a halt; views continue from where they were.
    Resume(RolloutFlags),
    /// Open the next step of a ring now.
    Promote {
        /// Name of the ring.
        ring: String,
        #[command(flatten)]
        flags: RolloutFlags,
    },
}

/// Flags of all commands.
#[derive(Clone, Debug, Args)]
pub(super) struct RolloutFlags {
    /// Reason, for the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only show which clients would see which revision.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminFlags,
}

pub(super) fn run(command: RolloutSubcommand) -> Result<(), CommandError> {
    let (name, order, flags) = match command {
        RolloutSubcommand::Status(status) => return status::run(&status),
        RolloutSubcommand::Name { remove: Some(name), flags, .. } => {
            ("name", RolloutCommand::Unname { name }, flags)
        }
        RolloutSubcommand::Name { revision, name, remove: None, flags } => {
            // clap requires both.
            let (revision, name) = (revision.unwrap_or_default(), name.unwrap_or_default());
            ("name", RolloutCommand::Name { revision, name }, flags)
        }
        RolloutSubcommand::Hold { group, revision, flags } => {
            ("hold", RolloutCommand::Hold { group, revision }, flags)
        }
        RolloutSubcommand::Rollback { group, revision, flags } => {
            ("rollback", RolloutCommand::Rollback { group, revision }, flags)
        }
        RolloutSubcommand::Release { group, now, flags } => {
            ("release", RolloutCommand::Release { group, now }, flags)
        }
        RolloutSubcommand::Halt(flags) => ("halt", RolloutCommand::Halt, flags),
        RolloutSubcommand::Resume(flags) => ("resume", RolloutCommand::Resume, flags),
        RolloutSubcommand::Promote { ring, flags } => ("promote", RolloutCommand::Promote { ring }, flags),
    };
    command::send(name, &order, &flags)
}

/// Parses a response of the relay.
fn parse<T: DeserializeOwned>(admin: &AdminClient, body: &[u8]) -> Result<T, CommandError> {
    serde_json::from_slice(body).map_err(|error| admin.invalid_response(&error))
}
