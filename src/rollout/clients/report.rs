//! Reports on clients: the status of each, counts by group, and trouble with a revision. Pure functions of the table,
//! of what is visible now, and of the settings.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::record::ClientRecord;
use super::table::ClientTable;
use super::{ClientId, TrackerSettings, Trouble};
use crate::revision::RevisionNumber;
use crate::status::{ClientCounts, UtcTime};
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;

/// Maximum number of clients in one list: some 20 MiB of memory for one answer of the admin listener.
pub const MAX_LISTED: usize = 50_000;

/// Consecutive errors that turn a client red. One is chance, and clients retry at once.
const MAX_ERRORS: u32 = 3;

/// The status of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientStatus {
    /// Current: it has what is visible to it, or has not had time to fetch it.
    Green,
    /// Behind: it has not fetched what has been visible to it for long.
    Yellow,
    /// Failing: its requests fail, or the content does not help it.
    Red,
    /// Unseen: it has made no request lately.
    Grey,
}

/// The revision visible to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisibleRevision {
    /// Its number.
    pub number: RevisionNumber,
    /// Since when a revision other than the client's own has been visible. Not since when this one has: or no client
    /// would be behind where revisions come faster than clients may fall behind.
    pub differs_since: UnixMillis,
}

/// Returns the revision visible to a client at a time; `None` before the first. Called for every client once a minute.
pub type VisibleRevisionOf = dyn Fn(&ClientRecord, UnixMillis) -> Option<VisibleRevision> + Send + Sync;

/// One client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ClientReport {
    /// Its address, or the name in its certificate.
    #[schema(value_type = String)]
    pub client: ClientId,
    /// Address of its latest request.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its group at that time.
    #[schema(value_type = String)]
    pub group: GroupId,
    /// Its status.
    #[serde(rename = "light")]
    pub status: ClientStatus,
    /// The revision visible to it now.
    pub sees: Option<RevisionNumber>,
    /// The revision that it has: that of its catalogs, or the visible one if it fetches payloads only.
    pub revision: Option<RevisionNumber>,
    /// When it first received a catalog of that revision.
    pub revision_since: Option<UtcTime>,
    /// Time of its first request.
    pub first_seen: UtcTime,
    /// Time of its latest request.
    pub last_seen: UtcTime,
    /// Bytes of body sent to it.
    pub bytes: u64,
    /// Failed requests.
    pub errors: u32,
    /// Failed requests since one that succeeded.
    pub errors_in_a_row: u32,
    /// Its trouble with the visible revision: `failed`, `repeated`, `full-again`, `damaged`.
    #[schema(value_type = Vec<String>)]
    pub trouble: Vec<&'static str>,
}

/// Conditions on listed clients; all that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFilter {
    /// Only this client.
    pub client: Option<ClientId>,
    /// Only this group.
    pub group: Option<String>,
    /// Only this status.
    pub status: Option<ClientStatus>,
    /// Only clients that have this revision.
    pub revision: Option<RevisionNumber>,
}

/// A page of a list in the order of clients. Clients that come or go meanwhile move no other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPage {
    /// Only clients behind this one.
    pub after: Option<ClientId>,
    /// Maximum number of clients.
    pub limit: usize,
}

/// Makes reports.
pub(super) struct Reporter<'a> {
    pub(super) table: &'a ClientTable,
    pub(super) visible_of: &'a VisibleRevisionOf,
    pub(super) settings: TrackerSettings,
    pub(super) now: UnixMillis,
}

impl ClientStatus {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Green, Self::Yellow, Self::Red, Self::Grey];

    /// Returns the label for reports and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
            Self::Grey => "grey",
        }
    }
}

impl Reporter<'_> {
    /// Counts the clients by group.
    pub(super) fn summary(&self) -> BTreeMap<GroupId, ClientCounts> {
        let mut groups: BTreeMap<GroupId, ClientCounts> = BTreeMap::new();
        for (_, record) in self.table.iter() {
            let (status, visible) = self.assess(record);
            let group = groups.entry(record.group.clone()).or_default();
            group.known += 1;
            *group.lights.entry(status.as_str().to_owned()).or_default() += 1;
            if let Some(revision) = record.revision(visible) {
                *group.revisions.entry(revision).or_default() += 1;
            }
        }
        groups
    }

    /// Counts the trouble of clients in these groups that see this revision and were seen lately.
    pub(super) fn trouble(&self, revision: RevisionNumber, groups: &[GroupId]) -> Trouble {
        let mut trouble = Trouble::default();
        for (_, record) in self.table.iter() {
            let sees = record.visible.is_some_and(|visible| visible.revision == revision);
            if sees && groups.contains(&record.group) && !self.is_unseen(record) {
                trouble.add(record.trouble(self.settings.repeats));
            }
        }
        trouble
    }

    /// Lists up to `limit` clients, the latest seen first.
    pub(super) fn list(&self, filter: &ClientFilter, limit: usize) -> Vec<ClientReport> {
        let mut clients: Vec<_> =
            self.table.iter().filter(|client| self.is_wanted(filter, *client)).collect();
        clients.sort_unstable_by_key(|(client, record)| (Reverse(record.last_seen), *client));
        clients.truncate(limit.min(MAX_LISTED));
        clients.into_iter().map(|(client, record)| self.report(client, record)).collect()
    }

    /// Lists a page of the clients.
    pub(super) fn page(&self, filter: &ClientFilter, page: &ClientPage) -> Vec<ClientReport> {
        let is_behind = |client: &ClientId| page.after.as_ref().is_none_or(|after| client > after);
        let all = self.table.iter().filter(|(client, _)| is_behind(client));
        let mut clients: Vec<_> = all.filter(|client| self.is_wanted(filter, *client)).collect();
        clients.sort_unstable_by_key(|(client, _)| *client);
        clients.truncate(page.limit.min(MAX_LISTED));
        clients.into_iter().map(|(client, record)| self.report(client, record)).collect()
    }

    fn is_wanted(&self, filter: &ClientFilter, (client, record): (&ClientId, &ClientRecord)) -> bool {
        if filter.client.as_ref().is_some_and(|expected| expected != client)
            || filter.group.as_ref().is_some_and(|expected| **expected != *record.group)
        {
            return false;
        }
        let (status, visible) = self.assess(record);
        filter.status.is_none_or(|expected| expected == status)
            && filter.revision.is_none_or(|expected| record.revision(visible) == Some(expected))
    }

    fn report(&self, client: &ClientId, record: &ClientRecord) -> ClientReport {
        let (status, visible) = self.assess(record);
        ClientReport {
            client: client.clone(),
            address: record.address,
            group: record.group.clone(),
            status,
            sees: visible,
            revision: record.revision(visible),
            revision_since: record.catalogs.map(|catalogs| UtcTime(catalogs.at)),
            first_seen: UtcTime(record.first_seen),
            last_seen: UtcTime(record.last_seen),
            bytes: record.bytes,
            errors: record.errors,
            errors_in_a_row: record.consecutive_errors,
            trouble: record.trouble(self.settings.repeats).labels().collect(),
        }
    }

    /// Returns the status of a client, and the revision visible to it.
    fn assess(&self, record: &ClientRecord) -> (ClientStatus, Option<RevisionNumber>) {
        let visible = (self.visible_of)(record, self.now);
        let is_behind = visible.zip(record.catalogs).is_some_and(|(visible, catalogs)| {
            let differs = visible.number != catalogs.revision;
            differs && has_passed(visible.differs_since, self.settings.behind, self.now)
        });
        let trouble = record.trouble(self.settings.repeats);
        // One failed download does not make a failing client: the gate of the ring counts those.
        let has_trouble = trouble.repeated + trouble.full_again + trouble.damaged > 0;
        let status = if self.is_unseen(record) {
            ClientStatus::Grey
        } else if record.consecutive_errors >= MAX_ERRORS || has_trouble {
            ClientStatus::Red
        } else if is_behind {
            ClientStatus::Yellow
        } else {
            ClientStatus::Green
        };
        (status, visible.map(|visible| visible.number))
    }

    fn is_unseen(&self, record: &ClientRecord) -> bool {
        has_passed(record.last_seen, self.settings.unseen, self.now)
    }
}

/// Returns true if more than `time` has passed since. A time in the future has not passed: the clock was set back.
pub(super) fn has_passed(since: UnixMillis, time: Duration, now: UnixMillis) -> bool {
    let passed = u64::try_from(now.saturating_sub(since)).unwrap_or(0);
    u128::from(passed) > time.as_millis()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample::{HOUR, SETTINGS, T0, catalog, payload};
    use super::super::{Observation, RequestOutcome};
    use super::ClientStatus::{Green, Grey, Red, Yellow};
    use super::*;
    use RequestOutcome::{Damaged, Delivered, Failed};

    const DAY: UnixMillis = 24 * HOUR;

    fn table(observations: &[Observation]) -> ClientTable {
        let mut table = ClientTable::default();
        observations.iter().for_each(|observation| table.observe(observation, observation.at, 100));
        table
    }

    fn of(client: &str, observation: Observation) -> Observation {
        Observation { client: client.parse().unwrap(), ..observation }
    }

    /// Revision 8 has been visible since T0.
    fn reporter(table: &ClientTable, now: UnixMillis) -> Reporter<'_> {
        let visible_of: &VisibleRevisionOf =
            &|_, _| Some(VisibleRevision { number: 8.into(), differs_since: T0 });
        Reporter { table, visible_of, settings: SETTINGS, now }
    }

    fn status(observations: &[Observation], now: UnixMillis) -> ClientStatus {
        reporter(&table(observations), now).list(&ClientFilter::default(), 1)[0].status
    }

    #[test]
    fn status_follows_from_record_view_and_time() {
        for (observations, after, expected) in [
            (&[catalog(8)][..], 3 * DAY, Green),
            (&[catalog(7)], DAY, Green),
            (&[catalog(7)], DAY + 1, Yellow),
            (&[catalog(7), Observation { at: T0 + 2 * DAY, ..catalog(8) }], 2 * DAY, Green),
            // A client that fetches payloads only is never behind.
            (&[payload(7, Delivered)], 5 * DAY, Green),
            (&[payload(8, Failed), payload(8, Failed)], 0, Green),
            (&[payload(8, Failed), payload(8, Failed), payload(8, Failed)], 0, Red),
            (&[payload(8, Failed), payload(8, Failed), payload(8, Failed), payload(8, Delivered)], 0, Green),
            (&[payload(8, Damaged)], 7 * DAY, Red),
            (&[payload(8, Damaged)], 7 * DAY + 1, Grey),
        ] {
            assert_eq!(status(observations, T0 + after), expected, "{observations:?} {after}");
        }
    }

    #[test]
    fn trouble_counts_recent_clients_of_the_ring_and_revision() {
        let failed = payload(8, Failed);
        let table = table(&[
            of("failing", failed.clone()),
            of("well", catalog(8)),
            of("older", payload(7, Failed)),
            of("elsewhere", Observation { group: "other".into(), ..failed.clone() }),
            of("unseen", Observation { at: T0 - 200 * HOUR, ..failed }),
        ]);
        let trouble = reporter(&table, T0).trouble(8.into(), &["pilot".into()]);
        assert_eq!(
            trouble,
            Trouble { clients: 2, failed: 1, troubled: 1, underserved: 1, ..Trouble::default() }
        );
    }

    #[test]
    fn summary_counts_by_group_status_and_revision() {
        let table = table(&[
            of("behind", catalog(7)),
            of("current", catalog(8)),
            of("managed", Observation { group: "other".into(), ..payload(7, Delivered) }),
        ]);
        let summary = reporter(&table, T0 + 25 * HOUR).summary();
        let lights = [("green".to_owned(), 1), ("yellow".to_owned(), 1)].into();
        assert_eq!(
            summary["pilot"],
            ClientCounts { known: 2, lights, revisions: [(7.into(), 1), (8.into(), 1)].into() }
        );
        let lights = [("green".to_owned(), 1)].into();
        assert_eq!(summary["other"], ClientCounts { known: 1, lights, revisions: [(8.into(), 1)].into() });
    }

    #[test]
    fn list_is_filtered_with_the_latest_seen_first() {
        let table = table(&[
            of("a", catalog(8)),
            of("b", Observation { at: T0 + 1, ..catalog(8) }),
            of("c", catalog(7)),
            of("d", payload(8, Damaged)),
        ]);
        let list = |filter: ClientFilter, limit| -> Vec<String> {
            let reports = reporter(&table, T0 + HOUR).list(&filter, limit);
            reports.iter().map(|report| report.client.to_string()).collect()
        };
        let all = ClientFilter::default;
        assert_eq!(list(all(), 10), ["b", "a", "c", "d"]);
        assert_eq!(list(all(), 1), ["b"]);
        assert_eq!(list(ClientFilter { status: Some(Red), ..all() }, 10), ["d"]);
        assert_eq!(list(ClientFilter { revision: Some(7.into()), ..all() }, 10), ["c"]);
        assert_eq!(list(ClientFilter { client: "a".parse().ok(), ..all() }, 10), ["a"]);
        assert_eq!(list(ClientFilter { group: Some("none".into()), ..all() }, 10), [""; 0]);
        let page = |after: &str, filter: ClientFilter, limit| -> Vec<String> {
            let page = ClientPage { after: after.parse().ok(), limit };
            let reports = reporter(&table, T0 + HOUR).page(&filter, &page);
            reports.iter().map(|report| report.client.to_string()).collect()
        };
        assert_eq!(page("", all(), 3), ["a", "b", "c"]);
        assert_eq!(page("c", all(), 3), ["d"]);
        assert_eq!(page("bb", all(), 1), ["c"]);
        assert_eq!(page("a", ClientFilter { status: Some(Red), ..all() }, 3), ["d"]);
        assert_eq!(page("d", all(), 3), [""; 0]);
    }

    #[test]
    fn report_serializes_as_documented() {
        let table = table(&[of("pc-1.example", payload(8, Damaged))]);
        let reports = reporter(&table, T0).list(&ClientFilter::default(), 1);
        let expected = r#"[{"client":"pc-1.example","address":"10.0.0.1","group":"pilot","light":"red","sees":8,"revision":8,"revision_since":null,"first_seen":"2026-05-28T20:26:40Z","last_seen":"2026-05-28T20:26:40Z","bytes":0,"errors":1,"errors_in_a_row":1,"trouble":["damaged"]}]"#;
        assert_eq!(serde_json::to_string(&reports).unwrap(), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn status_only_gets_worse_with_time(
            outcomes in prop::collection::vec((0..4_usize, 7..9_u64), 1..8),
            mut times in prop::collection::vec(T0..T0 + 30 * DAY, 2..10),
        ) {
            let observations = outcomes.into_iter().map(|(kind, revision)| match kind {
                0 => catalog(revision),
                1 => payload(revision, Delivered),
                2 => payload(revision, Failed),
                _ => payload(revision, Damaged),
            });
            let observations: Vec<Observation> = observations.collect();
            times.sort_unstable();
            let statuses: Vec<ClientStatus> = times.iter().map(|now| status(&observations, *now)).collect();
            prop_assert!(statuses.is_sorted(), "{statuses:?}");
        }
    }
}
