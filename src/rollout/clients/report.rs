//! What is told of clients: one by one, and how many are how. Pure: made of the table, of what views are now, and of the
//! thresholds.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::light::{Light, Thresholds, View, Viewer, Who, is_over};
use super::row::Row;
use super::table::Table;
use super::{Identity, Trouble};
use crate::status::At;
use gupd_config::clock::UnixMillis;

/// Clients in one list, whatever was asked for: what one answer of the admin address may take of memory, some 20 MiB.
pub const MAX_LISTED: usize = 50_000;

/// One client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientReport {
    /// Its address, or the name in its certificate.
    pub client: Identity,
    /// Where its latest request came from.
    pub address: IpAddr,
    /// The group that it was in then.
    pub group: String,
    /// How it is.
    pub light: Light,
    /// The revision that it sees now.
    pub sees: Option<u64>,
    /// The revision that it has: whose catalogs it was last given. A client that takes payloads alone has what it sees.
    pub revision: Option<u64>,
    /// When it was first given a catalog of that.
    pub revision_since: Option<At>,
    /// When its first request came.
    pub first_seen: At,
    /// When its latest request came.
    pub last_seen: At,
    /// Bytes of bodies that it was sent.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u32,
    /// Those since one that did not.
    pub errors_in_a_row: u32,
    /// Its trouble with the revision that it sees: `failed`, `repeated`, `full-again`, `damaged`.
    pub trouble: Vec<&'static str>,
}

/// How many clients are how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// All of them.
    pub all: Count,
    /// By group.
    pub groups: BTreeMap<String, Count>,
}

/// How many of a set are how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Clients.
    pub clients: u64,
    /// Clients by light; those that none has are not there.
    pub lights: BTreeMap<Light, u64>,
    /// Clients by the revision that they have.
    pub revisions: BTreeMap<u64, u64>,
}

/// Which clients to list: those for whom everything that is given holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// This client.
    pub client: Option<Identity>,
    /// In this group.
    pub group: Option<String>,
    /// With this light.
    pub light: Option<Light>,
    /// With this revision.
    pub revision: Option<u64>,
}

/// What reports are made of.
pub(super) struct Reporter<'a> {
    pub(super) table: &'a Table,
    pub(super) viewer: &'a Viewer,
    pub(super) thresholds: Thresholds,
    pub(super) now: UnixMillis,
}

impl Reporter<'_> {
    /// How many clients are how.
    pub(super) fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for (client, row) in self.table.iter() {
            let view = self.view(client, row);
            let (light, has) = (self.light(row, view), revision(row, view));
            summary.all.add(light, has);
            match summary.groups.get_mut(&*row.group) {
                Some(count) => count.add(light, has),
                None => summary.groups.entry(row.group.to_string()).or_default().add(light, has),
            }
        }
        summary
    }

    /// The trouble of those in these groups that see this revision, and were seen lately.
    pub(super) fn trouble(&self, revision: u64, groups: &[Arc<str>]) -> Trouble {
        let mut trouble = Trouble::default();
        for (_, row) in self.table.iter() {
            let sees = row.sees.is_some_and(|sees| sees.revision == revision);
            if sees
                && groups.contains(&row.group)
                && !is_over(row.last_seen, self.thresholds.unseen, self.now)
            {
                trouble.add(row.ills(self.thresholds.repeats));
            }
        }
        trouble
    }

    /// Up to `limit` clients, the latest seen first.
    pub(super) fn list(&self, filter: &Filter, limit: usize) -> Vec<ClientReport> {
        let mut found: Vec<_> = self.table.iter().filter_map(|found| self.found(found, filter)).collect();
        found.sort_unstable_by_key(|&(client, row, ..)| (Reverse(row.last_seen), client));
        found.truncate(limit.min(MAX_LISTED));
        found.into_iter().map(|(client, row, view, light)| self.report(client, row, view, light)).collect()
    }

    fn found<'a>(
        &self,
        (client, row): (&'a Identity, &'a Row),
        filter: &Filter,
    ) -> Option<(&'a Identity, &'a Row, Option<View>, Light)> {
        let is_of = filter.client.as_ref().is_none_or(|wanted| wanted == client)
            && filter.group.as_ref().is_none_or(|group| **group == *row.group);
        if !is_of {
            return None;
        }
        let view = self.view(client, row);
        let light = self.light(row, view);
        let is_so = filter.light.is_none_or(|wanted| wanted == light)
            && filter.revision.is_none_or(|wanted| revision(row, view) == Some(wanted));
        is_so.then_some((client, row, view, light))
    }

    fn report(&self, client: &Identity, row: &Row, view: Option<View>, light: Light) -> ClientReport {
        ClientReport {
            client: client.clone(),
            address: row.address,
            group: row.group.to_string(),
            light,
            sees: view.map(|view| view.revision),
            revision: revision(row, view),
            revision_since: row.given.map(|given| At(given.at)),
            first_seen: At(row.first_seen),
            last_seen: At(row.last_seen),
            bytes: row.bytes,
            errors: row.errors,
            errors_in_a_row: row.errors_in_a_row,
            trouble: row.ills(self.thresholds.repeats).words().collect(),
        }
    }

    fn view(&self, client: &Identity, row: &Row) -> Option<View> {
        let given = row.given.map(|given| given.revision);
        (self.viewer)(&Who { client, address: row.address, group: &row.group, given }, self.now)
    }

    fn light(&self, row: &Row, view: Option<View>) -> Light {
        Light::of(row, view, &self.thresholds, self.now)
    }
}

impl Count {
    fn add(&mut self, light: Light, revision: Option<u64>) {
        self.clients += 1;
        *self.lights.entry(light).or_default() += 1;
        if let Some(revision) = revision {
            *self.revisions.entry(revision).or_default() += 1;
        }
    }
}

/// The revision that a client has.
fn revision(row: &Row, view: Option<View>) -> Option<u64> {
    row.given.map(|given| given.revision).or(view.map(|view| view.revision))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, HOUR, T0, THRESHOLDS};
    use super::super::sighting::{Outcome, Sighting};
    use super::*;

    fn table(sightings: &[Sighting]) -> Table {
        let mut table = Table::default();
        sightings.iter().for_each(|sighting| table.record(sighting, sighting.at, 100));
        table
    }

    fn of(client: &str, sighting: Sighting) -> Sighting {
        Sighting { client: client.parse().unwrap(), ..sighting }
    }

    fn reporter(table: &Table, now: UnixMillis) -> Reporter<'_> {
        let viewer: &Viewer = &|_, _| Some(View { revision: 8, since: T0 });
        Reporter { table, viewer, thresholds: THRESHOLDS, now }
    }

    #[test]
    fn trouble_is_that_of_a_rings_clients_that_see_the_revision_and_were_seen_lately() {
        let failed = sample::payload(8, Outcome::Failed);
        let table = table(&[
            of("failing", failed.clone()),
            of("well", sample::catalog(8)),
            of("older", sample::payload(7, Outcome::Failed)),
            of("elsewhere", Sighting { group: "other".into(), ..failed.clone() }),
            of("unseen", Sighting { at: T0 - 200 * HOUR, ..failed }),
        ]);
        let trouble = reporter(&table, T0).trouble(8, &["pilot".into()]);
        assert_eq!(trouble, Trouble { clients: 2, failed: 1, troubled: 1, ..Trouble::default() });
    }

    #[test]
    fn clients_are_counted_by_group_light_and_revision() {
        let table = table(&[
            of("behind", sample::catalog(7)),
            of("current", sample::catalog(8)),
            of("managed", Sighting { group: "other".into(), ..sample::payload(7, Outcome::Given) }),
        ]);
        let summary = reporter(&table, T0 + 25 * HOUR).summary();
        let all = Count {
            clients: 3,
            lights: [(Light::Green, 2), (Light::Yellow, 1)].into(),
            revisions: [(7, 1), (8, 2)].into(),
        };
        assert_eq!(summary.all, all);
        assert_eq!(summary.groups["other"].revisions, [(8, 1)].into());
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["groups"]["pilot"]["lights"]["yellow"], 1);
    }

    #[test]
    fn a_list_has_whom_the_filter_takes_the_latest_seen_first() {
        let table = table(&[
            of("a", sample::catalog(8)),
            of("b", Sighting { at: T0 + 1, ..sample::catalog(8) }),
            of("c", sample::catalog(7)),
            of("d", sample::payload(8, Outcome::Damaged)),
        ]);
        let reporter = reporter(&table, T0 + HOUR);
        let list = |filter: Filter, limit| -> Vec<String> {
            reporter.list(&filter, limit).iter().map(|report| report.client.to_string()).collect()
        };
        let all = Filter::default;
        assert_eq!(list(all(), 10), ["b", "a", "c", "d"]);
        assert_eq!(list(all(), 1), ["b"]);
        assert_eq!(list(Filter { light: Some(Light::Red), ..all() }, 10), ["d"]);
        assert_eq!(list(Filter { revision: Some(7), ..all() }, 10), ["c"]);
        assert_eq!(list(Filter { client: "a".parse().ok(), ..all() }, 10), ["a"]);
        assert_eq!(list(Filter { group: Some("none".into()), ..all() }, 10), [""; 0]);
    }

    #[test]
    fn a_report_reads_as_json() {
        let table = table(&[of("pc-1.example", sample::payload(8, Outcome::Damaged))]);
        let reports = reporter(&table, T0).list(&Filter::default(), 1);
        let expected = r#"[{"client":"pc-1.example","address":"10.0.0.1","group":"pilot","light":"red","sees":8,"revision":8,"revision_since":null,"first_seen":"2026-05-28T20:26:40Z","last_seen":"2026-05-28T20:26:40Z","bytes":0,"errors":1,"errors_in_a_row":1,"trouble":["damaged"]}]"#;
        assert_eq!(serde_json::to_string(&reports).unwrap(), expected);
    }
}
