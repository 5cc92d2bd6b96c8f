//! Dry run of a command: for each client the visible revision now, after the command, and once the open steps are
//! complete. Pure: a comparison of the views before and after.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::clients::ClientReport;
use super::command::CommandOutcome;
use super::revision::RevisionNumber;
use super::view::RevisionView;
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;

/// A time at which every open step is complete.
const EVENTUALLY: UnixMillis = UnixMillis::MAX;

/// Effect that a command would have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// Outcome of the command.
    #[serde(flatten)]
    pub outcome: CommandOutcome,
    /// Clients by their visible revisions. A group without known clients has the newest visible to it.
    pub groups: Vec<GroupChange>,
    /// Clients that see another revision, or would come to see another one.
    pub clients: Vec<ClientChange>,
}

/// Clients of a group that see the same revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupChange {
    /// The group.
    #[schema(value_type = String)]
    pub group: GroupId,
    /// Number of these clients.
    pub clients: u64,
    /// Their visible revisions.
    #[serde(flatten)]
    pub visible: VisibleChange,
}

/// A client that would see another revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClientChange {
    /// Its address, or the name in its certificate.
    pub client: String,
    /// Its group.
    #[schema(value_type = String)]
    pub group: GroupId,
    /// Its visible revisions.
    #[serde(flatten)]
    pub visible: VisibleChange,
}

/// Visible revisions of a client with the command and without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct VisibleChange {
    /// Now, without the command.
    #[serde(rename = "sees")]
    pub before: Option<RevisionNumber>,
    /// Now, with the command.
    #[serde(rename = "would_see")]
    pub after: Option<RevisionNumber>,
    /// Once the open steps are complete, with the command. Steps that open later are not counted.
    #[serde(rename = "in_time")]
    pub eventually: Option<RevisionNumber>,
    /// Once the open steps are complete, without the command.
    pub otherwise: Option<RevisionNumber>,
}

impl VisibleChange {
    /// Returns true if the command makes a difference.
    pub fn is_different(&self) -> bool {
        self.before != self.after || self.eventually != self.otherwise
    }

    fn of_client(
        before: &RevisionView,
        after: &RevisionView,
        client: &ClientReport,
        now: UnixMillis,
    ) -> Self {
        let visible = |view: &RevisionView, at| {
            view.visible_revision(&client.group, client.address, at).map(|revision| revision.number)
        };
        Self {
            before: visible(before, now),
            after: visible(after, now),
            eventually: visible(after, EVENTUALLY),
            otherwise: visible(before, EVENTUALLY),
        }
    }

    fn of_group(before: &RevisionView, after: &RevisionView, group: &str) -> Self {
        let (before, after) = (before.newest_in_group(group), after.newest_in_group(group));
        Self { before, after, eventually: after, otherwise: before }
    }
}

impl DryRun {
    /// Compares the views before and after a command, for these groups and clients.
    pub fn new<'a>(
        outcome: CommandOutcome,
        (before, after): (&RevisionView, &RevisionView),
        groups: impl Iterator<Item = &'a GroupId>,
        clients: &[ClientReport],
        now: UnixMillis,
    ) -> Self {
        let mut counts: BTreeMap<(&GroupId, VisibleChange), u64> = BTreeMap::new();
        let mut changed = Vec::new();
        for client in clients {
            let visible = VisibleChange::of_client(before, after, client, now);
            *counts.entry((&client.group, visible)).or_default() += 1;
            if visible.is_different() {
                let (client, group) = (client.client.to_string(), client.group.clone());
                changed.push(ClientChange { client, group, visible });
            }
        }
        for group in groups {
            let mut counted = counts.range((group, VisibleChange::default())..);
            if counted.next().is_none_or(|((counted, _), _)| *counted != group) {
                counts.insert((group, VisibleChange::of_group(before, after, group)), 0);
            }
        }
        let group_change = |((group, visible), clients): ((&GroupId, VisibleChange), u64)| GroupChange {
            group: group.clone(),
            clients,
            visible,
        };
        Self { outcome, groups: counts.into_iter().map(group_change).collect(), clients: changed }
    }
}
