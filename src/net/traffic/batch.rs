//! Aggregated records of traffic. A batch is bounded: beyond the bound a new key gives way to a coarser one, so that
//! sums stay exact whatever clients request.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::AddAssign;
use std::sync::Arc;

use super::{Incident, TransferCause, TransferRecord, WaitReason, form_label};
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;

/// Maximum number of keys in one map: a site of 10,000 clients that all request something new within a minute.
const MAX_KEYS: usize = 20_000;

/// Milliseconds of a minute.
const MINUTE: UnixMillis = 60_000;

/// Milliseconds of an hour.
const HOUR: UnixMillis = 60 * MINUTE;

/// Milliseconds of a day.
const DAY: UnixMillis = 24 * HOUR;

/// Key of the traffic of the line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LineKey {
    /// Beginning of the minute.
    pub at: UnixMillis,
    /// True for a peer.
    pub is_peer: bool,
    /// Name of the upstream or peer.
    pub upstream: Arc<str>,
    /// The cause.
    pub cause: TransferCause,
    /// Content type; empty if unknown.
    pub content_type: Arc<str>,
    /// `full`, `delta` or empty.
    pub form: &'static str,
}

/// Key of the traffic that a client caused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientTrafficKey {
    /// Beginning of the hour.
    pub at: UnixMillis,
    /// The client; `None` for the relay itself and for clients beyond the bound.
    pub client: Option<IpAddr>,
    /// The cause.
    pub cause: TransferCause,
    /// Content type; empty if unknown.
    pub content_type: Arc<str>,
    /// Revision that the client updates from; empty if unknown.
    pub from_revision: Arc<str>,
}

/// Key of the traffic that a group of clients caused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupTrafficKey {
    /// Beginning of the hour.
    pub at: UnixMillis,
    /// The group; `None` for the relay itself and for groups beyond the bound.
    pub group: Option<GroupId>,
    /// The cause.
    pub cause: TransferCause,
    /// Content type; empty if unknown.
    pub content_type: Arc<str>,
}

/// Key of the traffic of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectTrafficKey {
    /// Beginning of the hour.
    pub at: UnixMillis,
    /// Path of the object; empty for objects beyond the bound.
    pub object: Arc<str>,
    /// The cause.
    pub cause: TransferCause,
    /// Revision that the client updates from; empty if unknown.
    pub from_revision: Arc<str>,
}

/// Key of the waits of a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WaitKey {
    /// Beginning of the hour.
    pub at: UnixMillis,
    /// The client; `None` for clients beyond the bound.
    pub client: Option<IpAddr>,
    /// The reason.
    pub reason: WaitReason,
}

/// Key of the incidents of a client. The ledger adds the hour in which it writes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IncidentKey {
    /// The client; `None` for clients beyond the bound.
    pub client: Option<IpAddr>,
    /// The incident.
    pub incident: Incident,
    /// Content type; empty if there is none.
    pub content_type: Arc<str>,
}

/// Sums of transfers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficCounts {
    /// Transfers that have ended.
    pub transfers: u64,
    /// Bytes of response bodies received.
    pub received: u64,
    /// Bytes of request bodies sent.
    pub sent: u64,
    /// Clients that were served by these transfers, besides those that caused them.
    pub followers: u64,
}

/// Sums of waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitCounts {
    /// Number of waits.
    pub waits: u64,
    /// Sum of their milliseconds.
    pub millis: u64,
}

/// Sums of incidents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IncidentCounts {
    /// Incidents.
    pub count: u64,
    /// Bytes sent in them.
    pub bytes: u64,
}

/// Traffic since the last batch.
#[derive(Clone, Debug, Default)]
pub struct TrafficBatch {
    /// By minute, upstream, cause and content.
    pub line: HashMap<LineKey, TrafficCounts>,
    /// By hour and client.
    pub clients: HashMap<ClientTrafficKey, TrafficCounts>,
    /// By hour and group.
    pub groups: HashMap<GroupTrafficKey, TrafficCounts>,
    /// By hour and object.
    pub objects: HashMap<ObjectTrafficKey, TrafficCounts>,
    /// By hour and client.
    pub waits: HashMap<WaitKey, WaitCounts>,
    /// By client.
    pub incidents: HashMap<IncidentKey, IncidentCounts>,
}

impl AddAssign for TrafficCounts {
    fn add_assign(&mut self, more: Self) {
        self.transfers = self.transfers.saturating_add(more.transfers);
        self.received = self.received.saturating_add(more.received);
        self.sent = self.sent.saturating_add(more.sent);
        self.followers = self.followers.saturating_add(more.followers);
    }
}

impl AddAssign for WaitCounts {
    fn add_assign(&mut self, more: Self) {
        self.waits = self.waits.saturating_add(more.waits);
        self.millis = self.millis.saturating_add(more.millis);
    }
}

impl AddAssign for IncidentCounts {
    fn add_assign(&mut self, more: Self) {
        self.count = self.count.saturating_add(more.count);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

impl TrafficBatch {
    /// Adds a transfer, or a part of it, at this time.
    pub fn add(
        &mut self,
        at: UnixMillis,
        record: &TransferRecord,
        cause: TransferCause,
        counts: TrafficCounts,
    ) {
        let (hour, labels) = (beginning(at, HOUR), &record.labels);
        let content_type = labels.content_type.clone().unwrap_or_default();
        let from_revision = record.from_revision.clone().unwrap_or_default();
        self.add_line(
            LineKey {
                at: beginning(at, MINUTE),
                is_peer: record.is_peer,
                upstream: record.upstream.clone(),
                cause,
                content_type: content_type.clone(),
                form: form_label(labels.form),
            },
            counts,
        );
        let group = labels.group.clone();
        self.add_group(
            GroupTrafficKey { at: hour, group, cause, content_type: content_type.clone() },
            counts,
        );
        let client = record.client.map(|client| client.to_canonical());
        self.add_client(
            ClientTrafficKey { at: hour, client, cause, content_type, from_revision: from_revision.clone() },
            counts,
        );
        let object = record.object.clone();
        self.add_object(ObjectTrafficKey { at: hour, object, cause, from_revision }, counts);
    }

    /// Adds a wait that ended at this time.
    pub fn add_wait(&mut self, at: UnixMillis, client: IpAddr, reason: WaitReason, millis: u64) {
        let (at, client) = (beginning(at, HOUR), Some(client.to_canonical()));
        self.add_wait_counts(WaitKey { at, client, reason }, WaitCounts { waits: 1, millis });
    }

    /// Adds an incident.
    pub fn add_incident(
        &mut self,
        client: IpAddr,
        incident: Incident,
        content_type: &Arc<str>,
        counts: IncidentCounts,
    ) {
        let (client, content_type) = (Some(client.to_canonical()), content_type.clone());
        self.add_incident_counts(IncidentKey { client, incident, content_type }, counts);
    }

    /// Adds another batch.
    pub fn merge(&mut self, other: Self) {
        other.line.into_iter().for_each(|(key, counts)| self.add_line(key, counts));
        other.clients.into_iter().for_each(|(key, counts)| self.add_client(key, counts));
        other.groups.into_iter().for_each(|(key, counts)| self.add_group(key, counts));
        other.objects.into_iter().for_each(|(key, counts)| self.add_object(key, counts));
        other.waits.into_iter().for_each(|(key, counts)| self.add_wait_counts(key, counts));
        other.incidents.into_iter().for_each(|(key, counts)| self.add_incident_counts(key, counts));
    }

    /// Returns true if nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty() && self.waits.is_empty() && self.incidents.is_empty()
    }

    /// Returns the bytes received from upstreams, without those from peers.
    pub fn wan_received(&self) -> u64 {
        self.line.iter().filter(|(key, _)| !key.is_peer).map(|(_, counts)| counts.received).sum()
    }

    fn add_line(&mut self, key: LineKey, counts: TrafficCounts) {
        add_bounded(&mut self.line, key, counts, |key| LineKey {
            at: beginning(key.at, DAY),
            content_type: Arc::default(),
            ..key
        });
    }

    fn add_client(&mut self, key: ClientTrafficKey, counts: TrafficCounts) {
        add_bounded(&mut self.clients, key, counts, |key| ClientTrafficKey {
            at: beginning(key.at, DAY),
            client: None,
            content_type: Arc::default(),
            from_revision: Arc::default(),
            ..key
        });
    }

    fn add_group(&mut self, key: GroupTrafficKey, counts: TrafficCounts) {
        add_bounded(&mut self.groups, key, counts, |key| GroupTrafficKey {
            at: beginning(key.at, DAY),
            group: None,
            content_type: Arc::default(),
            ..key
        });
    }

    fn add_object(&mut self, key: ObjectTrafficKey, counts: TrafficCounts) {
        add_bounded(&mut self.objects, key, counts, |key| ObjectTrafficKey {
            at: beginning(key.at, DAY),
            object: Arc::default(),
            from_revision: Arc::default(),
            ..key
        });
    }

    fn add_wait_counts(&mut self, key: WaitKey, counts: WaitCounts) {
        add_bounded(&mut self.waits, key, counts, |key| WaitKey {
            at: beginning(key.at, DAY),
            client: None,
            ..key
        });
    }

    fn add_incident_counts(&mut self, key: IncidentKey, counts: IncidentCounts) {
        add_bounded(&mut self.incidents, key, counts, |key| IncidentKey {
            client: None,
            content_type: Arc::default(),
            ..key
        });
    }
}

/// Returns the beginning of the period, in milliseconds, that a time is in.
fn beginning(at: UnixMillis, period: i64) -> UnixMillis {
    at.saturating_sub(at.rem_euclid(period))
}

/// Adds to a map of at most [`MAX_KEYS`] keys and those that `coarsen` returns, of which there are few.
fn add_bounded<K: Eq + Hash, C: AddAssign + Default>(
    map: &mut HashMap<K, C>,
    key: K,
    counts: C,
    coarsen: impl FnOnce(K) -> K,
) {
    let is_full = map.len() >= MAX_KEYS;
    let key = match map.entry(key) {
        Entry::Occupied(mut entry) => {
            entry.get_mut().add_assign(counts);
            return;
        }
        Entry::Vacant(entry) if !is_full => {
            entry.insert(counts);
            return;
        }
        Entry::Vacant(entry) => coarsen(entry.into_key()),
    };
    map.entry(key).or_default().add_assign(counts);
}

#[cfg(test)]
mod tests {
    use super::super::TransferLabels;
    use super::*;

    fn record(number: u32) -> TransferRecord {
        TransferRecord {
            upstream: "manager".into(),
            is_peer: false,
            labels: TransferLabels { content_type: Some("catalog".into()), ..TransferLabels::default() },
            client: Some(IpAddr::from(number.to_be_bytes())),
            object: format!("/{number}").into(),
            from_revision: None,
        }
    }

    fn received<K>(map: &HashMap<K, TrafficCounts>) -> u64 {
        map.values().map(|counts| counts.received).sum()
    }

    #[test]
    fn flood_of_names_is_bounded_and_keeps_sums() {
        let mut batch = TrafficBatch::default();
        let counts = TrafficCounts { transfers: 1, received: 3, ..TrafficCounts::default() };
        let many = u32::try_from(MAX_KEYS).unwrap() * 2;
        for number in 0..many {
            let at = i64::from(number) * MINUTE;
            batch.add(at, &record(number), TransferCause::Miss, counts);
            batch.add_wait(at, IpAddr::from(number.to_be_bytes()), WaitReason::Queued, 2);
            let refused = IncidentCounts { count: 1, bytes: 0 };
            batch.add_incident(
                IpAddr::from(number.to_be_bytes()),
                Incident::Refused,
                &Arc::default(),
                refused,
            );
        }
        let sum = u64::from(many) * 3;
        let groups = received(&batch.groups);
        assert_eq!(
            [received(&batch.line), received(&batch.clients), received(&batch.objects), groups],
            [sum; 4]
        );
        assert_eq!(batch.waits.values().map(|counts| counts.millis).sum::<u64>(), u64::from(many) * 2);
        assert_eq!(batch.incidents.values().map(|counts| counts.count).sum::<u64>(), u64::from(many));
        let lengths = [batch.line.len(), batch.clients.len(), batch.objects.len(), batch.waits.len()];
        for length in lengths.into_iter().chain([batch.incidents.len()]) {
            assert!(length <= MAX_KEYS + 40, "{length}");
        }
        let mut twice = batch.clone();
        twice.merge(batch);
        assert_eq!(twice.wan_received(), 2 * sum);
    }

    #[test]
    fn parts_of_a_transfer_are_one_line() {
        let mut batch = TrafficBatch::default();
        let part = |transfers, received| TrafficCounts { transfers, received, ..TrafficCounts::default() };
        batch.add(59_999, &record(1), TransferCause::Miss, part(0, 5));
        batch.add(59_999, &record(1), TransferCause::Miss, part(1, 7));
        batch.add(60_000, &record(1), TransferCause::Miss, part(1, 1));
        let mut lines: Vec<_> = batch.line.iter().map(|(key, counts)| (key.at, *counts)).collect();
        lines.sort_unstable_by_key(|(at, _)| *at);
        assert_eq!(lines, [(0, part(1, 12)), (60_000, part(1, 1))]);
        assert_eq!(batch.clients.len(), 1);
    }
}
