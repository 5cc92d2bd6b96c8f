//! `gupd rollout`: shows what clients of the running relay see and what opens next, and has it change that. Owns the flags;
//! everything is asked of the relay's admin address, and orders need the admin token.

mod clients;
mod order;
mod preview;
mod status;
mod table;

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;

use super::admin_client::AdminClient;
use super::{CommandError, CommonFlags, print_line};
use gupd_rollout::orders::Order;
use gupd_rollout::revision::RevisionNumber;

/// Bytes of an answer at most: 50,000 clients, or the hashes of ten revisions of a whole LiveUpdate server.
const MAX_ANSWER: usize = 64 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum RolloutSubcommand {
    /// Show revisions, rings, who has what, what opens next and what is held up by what.
    Status(status::Show),
    /// Give a revision a name, under which it is kept, or take a name away.
    Name {
        /// The revision's number.
        #[arg(required_unless_present = "remove", conflicts_with = "remove")]
        revision: Option<RevisionNumber>,
        /// The name: a-z, 0-9, - and ., not a number alone.
        #[arg(required_unless_present = "remove", conflicts_with = "remove")]
        name: Option<String>,
        /// Take this name away.
        #[arg(long, value_name = "NAME")]
        remove: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Have a group see one revision until it is released.
    Hold {
        /// The group.
        group: String,
        /// The revision's name or number.
        revision: String,
        #[command(flatten)]
        how: How,
    },
    /// Have a group go back to an earlier revision, and stay there until it is released.
    Rollback {
        /// The group.
        group: String,
        /// The revision's name or number [default: the one before the newest that the group sees].
        revision: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// End what holds a group, or every group.
    Release {
        /// The group [default: every group].
        group: Option<String>,
        /// Have it see the newest revision at once, whatever its ring says.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        how: How,
    },
    /// Let no client's view move.
    Halt(How),
    /// Let views move again, from where they stood.
    Resume(How),
    /// Open a ring's next step now.
    Promote {
        /// The ring.
        ring: String,
        #[command(flatten)]
        how: How,
    },
}

/// How something is ordered.
#[derive(Clone, Debug, Args)]
pub(super) struct How {
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only say which clients would see what.
    #[arg(long)]
    dry_run: bool,
    /// JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: CommonFlags,
}

pub(super) fn run(command: RolloutSubcommand) -> Result<(), CommandError> {
    let (name, order, how) = match command {
        RolloutSubcommand::Status(status) => return status::run(&status),
        RolloutSubcommand::Name { remove: Some(name), how, .. } => ("name", Order::Unname { name }, how),
        RolloutSubcommand::Name { revision, name, remove: None, how } => {
            // clap has them given.
            let (revision, name) = (revision.unwrap_or_default(), name.unwrap_or_default());
            ("name", Order::Name { revision, name }, how)
        }
        RolloutSubcommand::Hold { group, revision, how } => ("hold", Order::Hold { group, revision }, how),
        RolloutSubcommand::Rollback { group, revision, how } => {
            ("rollback", Order::Rollback { group, revision }, how)
        }
        RolloutSubcommand::Release { group, now, how } => ("release", Order::Release { group, now }, how),
        RolloutSubcommand::Halt(how) => ("halt", Order::Halt, how),
        RolloutSubcommand::Resume(how) => ("resume", Order::Resume, how),
        RolloutSubcommand::Promote { ring, how } => ("promote", Order::Promote { ring }, how),
    };
    order::give(name, &order, &how)
}

/// What the relay answers, as it is meant.
fn read<T: DeserializeOwned>(admin: &AdminClient, body: &[u8]) -> Result<T, CommandError> {
    serde_json::from_slice(body).map_err(|error| {
        CommandError::Failed(format!(
            "{} does not answer as this gupd's relay does: {error}",
            admin.address()
        ))
    })
}
