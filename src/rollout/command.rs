//! Rollout commands of administrators: their form, their effect on the state, and the reasons to refuse them. A command
//! is applied whole or not at all. Authorisation and the audit log are the callers' concern.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::revision::RevisionNumber;
use super::rings::{Ring, Rings};
use super::schedule::{OpenedStep, StepSchedule};
use super::state::RolloutState;
use gupd_config::GroupId;
use gupd_config::Quantity;
use gupd_config::clock::UnixMillis;

/// Maximum number of revision names: each keeps a revision.
const MAX_NAMES: usize = 100;

/// Maximum length of a revision name in bytes, as of a group's name.
const MAX_NAME: usize = 64;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RolloutCommand {
    /// Name a revision, which keeps it.
    Name {
        /// The revision.
        revision: RevisionNumber,
        /// The name. Another revision with this name loses it.
        name: String,
    },
    /// Remove a name.
    Unname {
        /// The name.
        name: String,
    },
    /// Pin a group to a revision until it is released.
    Hold {
        /// The group.
        group: String,
        /// Name or number of the revision.
        revision: String,
    },
    /// Pin a group to an earlier revision.
    Rollback {
        /// The group.
        group: String,
        /// Name or number of the revision; by default the one before the newest that the group sees.
        revision: Option<String>,
    },
    /// Unpin a group.
    Release {
        /// The group; by default every group.
        group: Option<String>,
        /// Also make the newest revision visible at once, whatever the group's ring says.
        #[serde(default)]
        now: bool,
    },
    /// Freeze the view of every client.
    Halt,
    /// End a halt.
    Resume,
    /// Open the next step of a ring now, for the newest revision.
    Promote {
        /// The ring.
        ring: String,
    },
}

/// A command with its origin, for the audit log.
#[derive(Clone, Debug)]
pub struct AttributedCommand<C = RolloutCommand> {
    /// The command; its JSON has its name as `order`.
    pub command: C,
    /// Its author.
    pub by: String,
    /// Address that it came from.
    pub from: String,
    /// Its reason.
    pub reason: Option<String>,
}

/// Outcome of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommandOutcome {
    /// The effect, in words.
    #[serde(rename = "what")]
    pub effect: String,
    /// Side effects that an administrator should know of.
    pub warnings: Vec<String>,
}

/// Reason to refuse a command, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandRefusal {
    /// Nothing has been published.
    #[error("there is no revision yet: have clients ask for catalogs, or run gupd refresh")]
    NoRevision,
    /// No revision has this number or name.
    #[error("no kept revision is called {given:?}: kept are {kept}")]
    UnknownRevision {
        /// The given name.
        given: String,
        /// Names and numbers of the kept revisions.
        kept: String,
    },
    /// No group has this name.
    #[error("there is no group {given:?}: the groups are {known}")]
    UnknownGroup {
        /// The given name.
        given: String,
        /// Names of the groups.
        known: String,
    },
    /// No ring has this name.
    #[error("there is no ring {given:?}: the rings are {known}")]
    UnknownRing {
        /// The given name.
        given: String,
        /// Names of the rings.
        known: String,
    },
    /// The name is malformed.
    #[error("{given:?} is not a name: use 1 to {MAX_NAME} of a-z, 0-9, - and ., not a number alone")]
    InvalidName {
        /// The given name.
        given: String,
    },
    /// Too many revisions have names.
    #[error("{MAX_NAMES} names are in use: remove one with gupd rollout name --remove NAME")]
    TooManyNames,
    /// No earlier revision is kept.
    #[error("no revision before {number} is kept for group {group:?}: name one with gupd rollout hold")]
    NothingBefore {
        /// The group.
        group: String,
        /// The newest revision that it sees.
        number: RevisionNumber,
    },
    /// A rollback must go to an earlier revision.
    #[error(
        "revision {number} is not before {visible}, the newest that group {group:?} sees: to go forward, use gupd rollout hold"
    )]
    NotBefore {
        /// The group.
        group: String,
        /// The given revision.
        number: RevisionNumber,
        /// The newest revision that the group sees.
        visible: RevisionNumber,
    },
    /// There is nothing to release.
    #[error(
        "{subject} not held: to have clients see the newest revision at once, use gupd rollout release --now"
    )]
    NotHeld {
        /// The groups with their verb, such as "groups are".
        subject: String,
    },
    /// Views are frozen.
    #[error("the rollout is halted: resume it first with gupd rollout resume")]
    Halted,
    /// The rollout has this state already.
    #[error("the rollout is {0} already")]
    Already(&'static str),
    /// Every step of the ring is open.
    #[error("ring {ring:?} is open for every revision already")]
    NothingToPromote {
        /// The ring.
        ring: String,
    },
}

impl RolloutState {
    /// Applies a command.
    ///
    /// # Errors
    /// The reason to refuse it; nothing has changed.
    pub fn apply(
        &mut self,
        command: &RolloutCommand,
        rings: &Rings,
        now: UnixMillis,
    ) -> Result<CommandOutcome, CommandRefusal> {
        match command {
            RolloutCommand::Name { revision, name } => self.name(*revision, name),
            RolloutCommand::Unname { name } => match self.names.remove(name) {
                Some(number) => Ok(outcome(format!("revision {number} is not called {name} any more"))),
                None => Err(self.unknown_revision(name)),
            },
            RolloutCommand::Hold { group, revision } => {
                let (group, number) = (find_group(rings, group)?, self.find(revision)?);
                self.rolled_back.remove(&group);
                Ok(self.hold(group, number, now))
            }
            RolloutCommand::Rollback { group, revision } => {
                self.roll_back(&find_group(rings, group)?, revision.as_deref(), rings, now)
            }
            RolloutCommand::Release { group, now: at_once } => {
                self.release(group.as_deref(), at_once.then_some(now), rings)
            }
            RolloutCommand::Halt if self.halted.is_some() => Err(CommandRefusal::Already("halted")),
            RolloutCommand::Halt => {
                self.halted = Some(now);
                Ok(outcome("no view moves until gupd rollout resume".to_owned()))
            }
            RolloutCommand::Resume => {
                let since = self.halted.take().ok_or(CommandRefusal::Already("under way"))?;
                self.resume_from(rings, since, now);
                Ok(outcome("views move again, from where they stood".to_owned()))
            }
            RolloutCommand::Promote { ring } => self.promote(ring, rings, now),
        }
    }

    fn find(&self, given: &str) -> Result<RevisionNumber, CommandRefusal> {
        let number = self.names.get(given).copied().or_else(|| given.parse().ok());
        number.filter(|number| self.revision(*number).is_some()).ok_or_else(|| self.unknown_revision(given))
    }

    /// Removes the holds and releases of groups that no longer exist. Returns these groups.
    pub(super) fn forget_groups(&mut self, rings: &Rings) -> Vec<GroupId> {
        let is_known = |group: &GroupId| rings.ring_of_group(group).is_some();
        let commanded = self.held.keys().chain(self.released.keys());
        let unknown: Vec<GroupId> = commanded.filter(|group| !is_known(group)).cloned().collect();
        self.held.retain(|group, _| is_known(group));
        self.rolled_back.retain(|group, _| is_known(group));
        self.released.retain(|group, _| is_known(group));
        unknown
    }

    fn name(&mut self, revision: RevisionNumber, name: &str) -> Result<CommandOutcome, CommandRefusal> {
        let number = self.find(&revision.to_string())?;
        let is_allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        if name.is_empty() || name.len() > MAX_NAME || is_number || !name.bytes().all(is_allowed) {
            return Err(CommandRefusal::InvalidName { given: name.to_owned() });
        }
        if self.names.len() >= MAX_NAMES && !self.names.contains_key(name) {
            return Err(CommandRefusal::TooManyNames);
        }
        let before = self.names.insert(name.to_owned(), number).filter(|before| *before != number);
        let before = before.map(|before| format!("; revision {before} was until now")).unwrap_or_default();
        Ok(outcome(format!("revision {number} is called {name}{before}")))
    }

    fn roll_back(
        &mut self,
        group: &GroupId,
        revision: Option<&str>,
        rings: &Rings,
        now: UnixMillis,
    ) -> Result<CommandOutcome, CommandRefusal> {
        let given = revision.map(|revision| self.find(revision)).transpose()?;
        let visible = self.view(rings, now).newest_in_group(group).ok_or(CommandRefusal::NoRevision)?;
        let number = match given {
            Some(number) if number >= visible => {
                return Err(CommandRefusal::NotBefore { group: group.to_string(), number, visible });
            }
            Some(number) => number,
            None => {
                let mut before = self.revisions().rev().map(|revision| revision.number);
                before.find(|number| *number < visible).ok_or_else(|| CommandRefusal::NothingBefore {
                    group: group.to_string(),
                    number: visible,
                })?
            }
        };
        // After several rollbacks the range begins at the newest revision that the group has left.
        let left = self.rolled_back.entry(group.clone()).or_insert(visible);
        *left = visible.max(*left);
        Ok(self.hold(group.clone(), number, now))
    }

    fn hold(&mut self, group: GroupId, number: RevisionNumber, now: UnixMillis) -> CommandOutcome {
        let mut outcome =
            outcome(format!("group {group} sees revision {number} until gupd rollout release {group}"));
        let evicted = self.revisions.iter().find(|kept| kept.number == number).map(|kept| kept.evicted);
        if let Some(evicted) = evicted.filter(|evicted| evicted.payloads > 0) {
            let verb = if evicted.payloads == 1 { "was" } else { "were" };
            outcome.warnings.push(format!(
                "{} of revision {number} ({}) {verb} evicted: fetched again if the manager still has them: raise \
                 store.quota",
                Quantity(evicted.payloads, "payload"),
                Quantity(evicted.bytes, "byte")
            ));
        }
        self.released.remove(&group);
        self.held.insert(group, (number, now));
        outcome
    }

    fn release(
        &mut self,
        group: Option<&str>,
        at_once: Option<UnixMillis>,
        rings: &Rings,
    ) -> Result<CommandOutcome, CommandRefusal> {
        let groups: Vec<GroupId> = match group {
            Some(group) => vec![find_group(rings, group)?],
            None => rings.groups().cloned().collect(),
        };
        let newest = self.newest().ok_or(CommandRefusal::NoRevision)?.number;
        if at_once.is_some() && self.halted.is_some() {
            return Err(CommandRefusal::Halted);
        }
        if at_once.is_none() && !groups.iter().any(|group| self.held.contains_key(group)) {
            let subject = group.map_or_else(|| "groups are".to_owned(), |group| format!("group {group} is"));
            return Err(CommandRefusal::NotHeld { subject });
        }
        for group in groups {
            self.held.remove(&group);
            self.rolled_back.remove(&group);
            if let Some(now) = at_once {
                self.released.insert(group, (newest, now));
            }
        }
        let subject = group.map_or_else(|| "every group".to_owned(), |group| format!("group {group}"));
        Ok(outcome(match at_once.is_some() {
            true => format!("{subject} sees revision {newest} now"),
            false => format!("{subject} is held no more, and sees what its ring says"),
        }))
    }

    fn promote(
        &mut self,
        name: &str,
        rings: &Rings,
        now: UnixMillis,
    ) -> Result<CommandOutcome, CommandRefusal> {
        let found = rings.find(name).and_then(|id| Some((id, rings.get(id)?)));
        let (id, ring) = found.ok_or_else(|| CommandRefusal::UnknownRing {
            given: name.to_owned(),
            known: list(rings.iter().map(|(_, ring)| ring.settings.name.as_str())),
        })?;
        if self.halted.is_some() {
            return Err(CommandRefusal::Halted);
        }
        let at = self.revisions.len().checked_sub(1).ok_or(CommandRefusal::NoRevision)?;
        if !self.open_step(at, id, rings, now) {
            return Err(CommandRefusal::NothingToPromote { ring: name.to_owned() });
        }
        let (number, open, steps) = (self.revisions[at].number, self.open_steps(at, ring), ring.step_count());
        self.settle(rings, now);
        let step = if steps > 1 { format!(", step {open} of {steps}") } else { String::new() };
        let mut outcome = outcome(format!("ring {name}{step} is open for revision {number}"));
        let has_closed_windows =
            |ring: &Ring| StepSchedule::for_ring(OpenedStep::now(now), ring, rings).scheduled_start(0) > now;
        if has_closed_windows(ring) {
            outcome.warnings.push(
                "the ring's windows are closed now, and its clients move when they open: see gupd rollout status"
                    .to_owned(),
            );
        }
        Ok(outcome)
    }

    fn unknown_revision(&self, given: &str) -> CommandRefusal {
        if self.newest().is_none() {
            return CommandRefusal::NoRevision;
        }
        let named = self.names.iter().map(|(name, number)| format!("{name} ({number})"));
        let numbers = self.revisions().rev().map(|revision| revision.number.to_string());
        let kept: Vec<String> = named.chain(numbers).collect();
        CommandRefusal::UnknownRevision {
            given: given.to_owned(),
            kept: list(kept.iter().map(String::as_str)),
        }
    }
}

impl Rings {
    /// Refusal of every command on a relay without rings.
    pub const NONE: &'static str = "this relay has no rollouts: add a [[ring]] to its configuration, such as name = \"all\", groups = [\"default\"]";
}

fn find_group(rings: &Rings, given: &str) -> Result<GroupId, CommandRefusal> {
    rings.groups().find(|group| &***group == given).cloned().ok_or_else(|| CommandRefusal::UnknownGroup {
        given: given.to_owned(),
        known: list(rings.groups().map(|group| &**group)),
    })
}

fn outcome(effect: String) -> CommandOutcome {
    CommandOutcome { effect, warnings: Vec::new() }
}

/// Lists the first names in one line.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<&str> = names.collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    names[..names.len().min(SHOWN)].join(", ") + more
}
