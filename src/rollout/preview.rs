//! What an order would do, client by client, without doing it: what each sees now, what it would see at once, and what it
//! would come to see by what is then open. Pure: made of the views before and after.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::clients::ClientReport;
use super::orders::Done;
use super::revision::RevisionNumber;
use super::views::Views;
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;

/// Later than any moment of an open step: delays and spreads are of days.
const IN_TIME: UnixMillis = UnixMillis::MAX;

/// What an order would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// What would be said of it when it is done.
    pub what: String,
    /// What an administrator should know besides.
    pub warnings: Vec<String>,
    /// Clients by what they see and would see; a group without clients that are known has what its newest ones might.
    pub groups: Vec<GroupPreview>,
    /// Clients that see, or would come to see, another revision.
    pub clients: Vec<ClientPreview>,
}

/// Clients of a group that see and would see the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPreview {
    /// The group.
    pub group: GroupId,
    /// How many.
    pub clients: u64,
    /// What they see, and would.
    #[serde(flatten)]
    pub moves: Moves,
}

/// A client that would see another revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientPreview {
    /// Its address, or the name in its certificate.
    pub client: String,
    /// Its group.
    pub group: GroupId,
    /// What it sees, and would.
    #[serde(flatten)]
    pub moves: Moves,
}

/// What a client sees, and would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moves {
    /// Now, as it is.
    pub sees: Option<RevisionNumber>,
    /// Now, by the order.
    pub would_see: Option<RevisionNumber>,
    /// When everyone has moved whom open steps move, by the order. Steps that open later are not counted.
    pub in_time: Option<RevisionNumber>,
    /// The same without the order.
    pub otherwise: Option<RevisionNumber>,
}

/// A client that is known.
#[derive(Clone, Debug)]
pub struct KnownClient {
    /// Its address, or the name in its certificate.
    pub client: String,
    /// Where it last came from.
    pub address: IpAddr,
    /// Its group then.
    pub group: GroupId,
}

impl From<&ClientReport> for KnownClient {
    fn from(client: &ClientReport) -> Self {
        Self { client: client.client.to_string(), address: client.address, group: client.group.clone() }
    }
}

impl Moves {
    /// Whether the order makes a difference.
    pub fn differ(&self) -> bool {
        self.sees != self.would_see || self.in_time != self.otherwise
    }

    fn of(before: &Views, after: &Views, client: &KnownClient, now: UnixMillis) -> Self {
        let sees =
            |views: &Views, at| views.of(&client.group, client.address, at).map(|revision| revision.number);
        Self {
            sees: sees(before, now),
            would_see: sees(after, now),
            in_time: sees(after, IN_TIME),
            otherwise: sees(before, IN_TIME),
        }
    }
}

impl Preview {
    /// What would come of an order that turns the views `before` into those `after`, for these clients and groups.
    pub fn of<'a>(
        done: Done,
        (before, after): (&Views, &Views),
        groups: impl Iterator<Item = &'a GroupId>,
        clients: &[KnownClient],
        now: UnixMillis,
    ) -> Self {
        let mut counts: BTreeMap<(&GroupId, Moves), u64> = BTreeMap::new();
        let mut differing = Vec::new();
        for client in clients {
            let moves = Moves::of(before, after, client, now);
            *counts.entry((&client.group, moves)).or_default() += 1;
            if moves.differ() {
                let (client, group) = (client.client.clone(), client.group.clone());
                differing.push(ClientPreview { client, group, moves });
            }
        }
        let newest = |group: &GroupId| {
            let (was, is) = (before.newest_of(group), after.newest_of(group));
            Moves { sees: was, would_see: is, in_time: is, otherwise: was }
        };
        for group in groups {
            if counts.range((group, Moves::LEAST)..).next().is_none_or(|((first, _), _)| *first != group) {
                counts.insert((group, newest(group)), 0);
            }
        }
        let told = |((group, moves), clients): ((&GroupId, Moves), u64)| GroupPreview {
            group: group.clone(),
            clients,
            moves,
        };
        Self {
            what: done.what,
            warnings: done.warnings,
            groups: counts.into_iter().map(told).collect(),
            clients: differing,
        }
    }
}

impl Moves {
    const LEAST: Self = Self { sees: None, would_see: None, in_time: None, otherwise: None };
}
