//! What an administrator may order, and what comes of it. Owns the words for it and every reason to refuse; the state is
//! changed whole or not at all. Who may order, and that it is written down, is not its business.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::advance::opening;
use super::moment::Opened;
use super::revision::RevisionNumber;
use super::rings::{Ring, Rings};
use super::state::State;
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;

/// Names at most: each keeps a revision.
const MAX_NAMES: usize = 100;

/// Bytes of a name, as of a group's.
const MAX_NAME: usize = 64;

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Give a revision a name, under which it is kept.
    Name {
        /// The revision.
        revision: RevisionNumber,
        /// Its name from now on; another revision that had it has it no more.
        name: String,
    },
    /// Take a name away.
    Unname {
        /// The name.
        name: String,
    },
    /// Have a group see one revision until it is released.
    Hold {
        /// The group.
        group: String,
        /// A name or a number.
        revision: String,
    },
    /// The same, by default with the revision before the one that it sees.
    Rollback {
        /// The group.
        group: String,
        /// A name or a number.
        revision: Option<String>,
    },
    /// End what holds a group, or every group; `now` has it see the newest revision at once, whatever its ring says.
    Release {
        /// The group; by default every one.
        group: Option<String>,
        /// At once.
        #[serde(default)]
        now: bool,
    },
    /// Let no view move.
    Halt,
    /// Let them move again.
    Resume,
    /// Open the next step of a ring now, for the newest revision that has not come as far.
    Promote {
        /// The ring.
        ring: String,
    },
}

/// What came of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// In words.
    pub what: String,
    /// What an administrator should know besides.
    pub warnings: Vec<String>,
}

/// Why an order is refused: one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing was published yet.
    #[error("there is no revision yet; have clients ask for catalogs, or run gupd refresh")]
    NoRevision,
    /// No revision has this number or name.
    #[error("no kept revision is called {given:?}; kept are {kept}")]
    UnknownRevision {
        /// What was given.
        given: String,
        /// What there is.
        kept: String,
    },
    /// No group has this name.
    #[error("there is no group {given:?}; the groups are {known}")]
    UnknownGroup {
        /// What was given.
        given: String,
        /// What there is.
        known: String,
    },
    /// No ring has this name.
    #[error("there is no ring {given:?}; the rings are {known}")]
    UnknownRing {
        /// What was given.
        given: String,
        /// What there is.
        known: String,
    },
    /// It is no name.
    #[error("{given:?} is not a name: use 1 to {MAX_NAME} of a-z, 0-9, - and ., not a number alone")]
    NotAName {
        /// What was given.
        given: String,
    },
    /// Enough revisions have one.
    #[error("{MAX_NAMES} names are given already; take one away with gupd rollout name --remove NAME")]
    TooManyNames,
    /// There is nothing before it.
    #[error("no revision before {number} is kept for group {group:?}; name one with gupd rollout hold")]
    NothingBefore {
        /// The group.
        group: String,
        /// What it sees.
        number: RevisionNumber,
    },
    /// It goes forward.
    #[error(
        "revision {number} is not before {sees}, the newest that group {group:?} sees; to go forward, use gupd rollout hold"
    )]
    NotBefore {
        /// The group.
        group: String,
        /// What was given.
        number: RevisionNumber,
        /// What it sees.
        sees: RevisionNumber,
    },
    /// Nothing holds it.
    #[error(
        "{who} not held; to have clients see the newest revision at once, use gupd rollout release --now"
    )]
    NotHeld {
        /// Such as "groups are".
        who: String,
    },
    /// No view may move.
    #[error("the rollout is halted; end that first with gupd rollout resume")]
    Halted,
    /// It is halted already, or it is not.
    #[error("the rollout is {0} already")]
    Already(&'static str),
    /// The ring has nothing to open.
    #[error("ring {ring:?} is open for every revision already")]
    NothingToPromote {
        /// The ring.
        ring: String,
    },
}

impl State {
    /// Does what is ordered.
    ///
    /// # Errors
    /// Why it is refused; nothing has changed.
    pub fn order(&mut self, order: &Order, rings: &Rings, now: UnixMillis) -> Result<Done, Refused> {
        match order {
            Order::Name { revision, name } => self.name(*revision, name),
            Order::Unname { name } => match self.names.remove(name) {
                Some(number) => Ok(done(format!("revision {number} is not called {name} any more"))),
                None => Err(self.unknown(name)),
            },
            Order::Hold { group, revision } => {
                let (group, number) = (known_group(rings, group)?, self.find(revision)?);
                self.rolled_back.remove(&group);
                Ok(self.hold(group, number, now))
            }
            Order::Rollback { group, revision: Some(revision) } => {
                let (group, number) = (known_group(rings, group)?, self.find(revision)?);
                let sees = self.views(rings, now).newest_of(&group).ok_or(Refused::NoRevision)?;
                if number >= sees {
                    return Err(Refused::NotBefore { group: group.to_string(), number, sees });
                }
                Ok(self.roll_back(group, (sees, number), now))
            }
            Order::Rollback { group, revision: None } => {
                let group = known_group(rings, group)?;
                let sees = self.views(rings, now).newest_of(&group).ok_or(Refused::NoRevision)?;
                let before =
                    self.revisions().rev().map(|revision| revision.number).find(|number| *number < sees);
                let before = before
                    .ok_or_else(|| Refused::NothingBefore { group: group.to_string(), number: sees })?;
                Ok(self.roll_back(group, (sees, before), now))
            }
            Order::Release { group, now: at_once } => {
                self.release(group.as_deref(), at_once.then_some(now), rings)
            }
            Order::Halt if self.halted.is_some() => Err(Refused::Already("halted")),
            Order::Halt => {
                self.halted = Some(now);
                Ok(done("no view moves until gupd rollout resume".to_owned()))
            }
            Order::Resume => {
                let since = self.halted.take().ok_or(Refused::Already("under way"))?;
                self.stood_still(rings, since, now);
                Ok(done("views move again, from where they stood".to_owned()))
            }
            Order::Promote { ring } => self.promote(ring, rings, now),
        }
    }

    /// The revision of this name or number.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, given: &str) -> Result<RevisionNumber, Refused> {
        let number = self.names.get(given).copied().or_else(|| given.parse().ok());
        number.filter(|number| self.revision(*number).is_some()).ok_or_else(|| self.unknown(given))
    }

    /// Forgets what was ordered of groups that there are no more; their names.
    pub(super) fn forget_groups(&mut self, rings: &Rings) -> Vec<GroupId> {
        let known = |group: &GroupId| rings.of_group(group).is_some();
        let unknown: Vec<GroupId> =
            self.held.keys().chain(self.released.keys()).filter(|group| !known(group)).cloned().collect();
        self.held.retain(|group, _| known(group));
        self.rolled_back.retain(|group, _| known(group));
        self.released.retain(|group, _| known(group));
        unknown
    }

    fn name(&mut self, revision: RevisionNumber, name: &str) -> Result<Done, Refused> {
        let number = self.find(&revision.to_string())?;
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        if name.is_empty() || name.len() > MAX_NAME || is_number || !name.bytes().all(allowed) {
            return Err(Refused::NotAName { given: name.to_owned() });
        }
        if self.names.len() >= MAX_NAMES && !self.names.contains_key(name) {
            return Err(Refused::TooManyNames);
        }
        let before = self.names.insert(name.to_owned(), number).filter(|before| *before != number);
        let of = before.map(|before| format!("; revision {before} was until now")).unwrap_or_default();
        Ok(done(format!("revision {number} is called {name}{of}")))
    }

    /// Holds a group; what it is rolled back from goes no further by itself. Of several steps back, from the first on.
    fn roll_back(
        &mut self,
        group: GroupId,
        (from, to): (RevisionNumber, RevisionNumber),
        now: UnixMillis,
    ) -> Done {
        let first = self.rolled_back.entry(group.clone()).or_insert(from);
        *first = from.max(*first);
        self.hold(group, to, now)
    }

    fn hold(&mut self, group: GroupId, number: RevisionNumber, now: UnixMillis) -> Done {
        let mut what =
            done(format!("group {group} sees revision {number} until gupd rollout release {group}"));
        let gone = self.revisions.iter().find(|kept| kept.number == number).map(|kept| kept.gone);
        if let Some(gone) = gone.filter(|gone| gone.payloads > 0) {
            what.warnings.push(format!(
                "{} payloads of revision {number} ({} bytes) had to go for room, and are fetched from the manager if it \
                 still has them; raise store.quota",
                gone.payloads, gone.bytes
            ));
        }
        self.released.remove(&group);
        self.held.insert(group, (number, now));
        what
    }

    fn release(
        &mut self,
        group: Option<&str>,
        at_once: Option<UnixMillis>,
        rings: &Rings,
    ) -> Result<Done, Refused> {
        let groups: Vec<GroupId> = match group {
            Some(group) => vec![known_group(rings, group)?],
            None => rings.groups().cloned().collect(),
        };
        let newest = self.newest().ok_or(Refused::NoRevision)?.number;
        if at_once.is_some() && self.halted.is_some() {
            return Err(Refused::Halted);
        }
        let of = group.map_or_else(|| "every group".to_owned(), |group| format!("group {group}"));
        if at_once.is_none() && !groups.iter().any(|group| self.held.contains_key(group)) {
            let who = group.map_or_else(|| "groups are".to_owned(), |group| format!("group {group} is"));
            return Err(Refused::NotHeld { who });
        }
        for group in groups {
            self.held.remove(&group);
            self.rolled_back.remove(&group);
            if let Some(now) = at_once {
                self.released.insert(group, (newest, now));
            }
        }
        Ok(done(match at_once.is_some() {
            true => format!("{of} sees revision {newest} now"),
            false => format!("{of} is held no more, and sees what its ring says"),
        }))
    }

    fn promote(&mut self, name: &str, rings: &Rings, now: UnixMillis) -> Result<Done, Refused> {
        let unknown = || Refused::UnknownRing {
            given: name.to_owned(),
            known: listed(rings.iter().map(|(_, ring)| ring.settings.name.as_str())),
        };
        let ring = rings.named(name).ok_or_else(unknown)?;
        if self.halted.is_some() {
            return Err(Refused::Halted);
        }
        let at = self.revisions.len().checked_sub(1).ok_or(Refused::NoRevision)?;
        if !self.open(at, ring, rings, now) {
            return Err(Refused::NothingToPromote { ring: name.to_owned() });
        }
        let (number, steps) = (self.revisions[at].number, rings.get(ring).map_or(1, |ring| ring.steps()));
        let open = rings.get(ring).map_or(1, |ring| self.steps_open(at, ring));
        self.settle(rings, now);
        let of = if steps > 1 { format!(", step {open} of {steps}") } else { String::new() };
        let mut what = done(format!("ring {name}{of} is open for revision {number}"));
        let waits = |ring: &Arc<Ring>| opening(Opened::at(now), ring, rings).moment(0) > now;
        if rings.get(ring).is_some_and(waits) {
            what.warnings.push(
                "the ring's windows are closed now, and its clients move when they open: see gupd rollout status"
                    .to_owned(),
            );
        }
        Ok(what)
    }

    fn unknown(&self, given: &str) -> Refused {
        if self.newest().is_none() {
            return Refused::NoRevision;
        }
        let named = self.names.iter().map(|(name, number)| format!("{name} ({number})"));
        let numbers = self.revisions().rev().map(|revision| revision.number.to_string());
        let kept: Vec<String> = named.chain(numbers).collect();
        Refused::UnknownRevision { given: given.to_owned(), kept: listed(kept.iter().map(String::as_str)) }
    }
}

impl Rings {
    /// What is ordered of a relay without rings.
    pub const NONE: &'static str = "this relay has no rollouts: give its configuration a [[ring]], such as name = \"all\", groups = [\"default\"]";
}

fn known_group(rings: &Rings, given: &str) -> Result<GroupId, Refused> {
    rings.groups().find(|group| &***group == given).cloned().ok_or_else(|| Refused::UnknownGroup {
        given: given.to_owned(),
        known: listed(rings.groups().map(|group| &**group)),
    })
}

fn done(what: String) -> Done {
    Done { what, warnings: Vec::new() }
}

/// The first of them: it is one line.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<&str> = names.collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    names[..names.len().min(SHOWN)].join(", ") + more
}

#[cfg(test)]
mod tests {
    use super::super::tests::{START, publish, rings, staged};
    use super::*;

    fn refused(state: &mut State, rings: &Rings, order: &Order) -> String {
        let before = state.clone();
        let refused = state.order(order, rings, START).unwrap_err().to_string();
        assert_eq!(*state, before);
        refused
    }

    #[test]
    fn what_would_do_nothing_or_another_thing_than_its_name_says_is_refused() {
        let (rings, mut state) = (staged(), State::default());
        let back =
            |revision: &str| Order::Rollback { group: "pilot".into(), revision: Some(revision.into()) };
        assert!(refused(&mut state, &rings, &back("1")).contains("there is no revision yet"));
        for version in 1..=3 {
            publish(&mut state, version, START);
        }
        state.advance(&rings, START, |_, _| false);
        let forward = "is not before 3, the newest that group \"pilot\" sees";
        assert!(refused(&mut state, &rings, &back("3")).contains(forward));
        let all = Order::Release { group: None, now: false };
        let pilot = Order::Release { group: Some("pilot".into()), now: false };
        assert!(refused(&mut state, &rings, &pilot).starts_with("group pilot is not held"));
        assert!(refused(&mut state, &rings, &all).starts_with("groups are not held"));
        state.order(&back("1"), &rings, START).unwrap();
        assert!(refused(&mut state, &rings, &back("2")).contains("is not before 1"));
        let branch = Order::Release { group: Some("branch".into()), now: false };
        assert!(refused(&mut state, &rings, &branch).starts_with("group branch is not held"));
        state.order(&all, &rings, START).unwrap();
    }

    #[test]
    fn who_promotes_a_ring_while_its_windows_are_closed_is_told() {
        let ring = |windows: &str| {
            rings(&format!(
                "[[ring]]\nname = \"all\"\ngroups = [\"pilot\", \"branch\", \"default\"]\ngate = \"manual\"\n{windows}"
            ))
        };
        let promote = Order::Promote { ring: "all".into() };
        for (rings, warnings) in [(ring("windows = \"sun 02:00-03:00\""), 1), (ring(""), 0)] {
            let mut state = State::default();
            publish(&mut state, 1, START);
            publish(&mut state, 2, START);
            let done = state.order(&promote, &rings, START).unwrap();
            assert_eq!(done.warnings.len(), warnings, "{done:?}");
        }
    }
}
