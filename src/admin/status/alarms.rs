//! The memory behind alarms about time: since when the line has been saturated, and the incidents of clients, which the
//! ledger reports once a minute. Whether an alarm is raised stands in the ledger alone.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::findings::{FindingKind, SATURATED};
use super::{LineStatus, StatusReport};
use gupd_config::AccessList;
use gupd_ledger::{AlarmCondition, AlarmObservation, IncidentReport};

/// Part of the limit in percent below which the line is no longer saturated. A line that is full swings.
const RELIEVED: u64 = 80;

/// Time after the start for which health and rates are not known. An alarm of before the start stays meanwhile.
const SETTLING: Duration = Duration::from_secs(60);

/// Time for which a report on incidents is used.
const INCIDENTS_FOR: Duration = Duration::from_secs(60);

/// Maximum number of clients of other sites that are remembered.
const MAX_FOREIGN: usize = 1_000;

/// Memory of the alarms of one process.
#[derive(Debug)]
pub struct AlarmWatch {
    started: Instant,
    state: Mutex<WatchState>,
}

#[derive(Debug, Default)]
struct WatchState {
    saturated_since: Option<Instant>,
    incidents: Option<(Instant, Arc<IncidentReport>)>,
}

impl Default for AlarmWatch {
    fn default() -> Self {
        Self { started: Instant::now(), state: Mutex::default() }
    }
}

impl AlarmWatch {
    /// Takes the rate of the line, which is read every few seconds.
    pub(crate) fn record_line(&self, wan: LineStatus, now: Instant) {
        let busy = wan.busy_percent().unwrap_or(0);
        let mut state = self.state();
        if busy >= SATURATED {
            state.saturated_since.get_or_insert(now);
        } else if busy < RELIEVED {
            state.saturated_since = None;
        }
    }

    /// Returns the time for which the line has been saturated.
    pub(super) fn saturated_for(&self, now: Instant) -> Option<Duration> {
        self.state().saturated_since.map(|since| now.saturating_duration_since(since))
    }

    /// Returns the last report on incidents unless it is too old.
    pub(super) fn incidents(&self, now: Instant) -> Option<Arc<IncidentReport>> {
        let state = self.state();
        let (at, report) = state.incidents.as_ref()?;
        (now.saturating_duration_since(*at) < INCIDENTS_FOR).then(|| report.clone())
    }

    pub(super) fn remember_incidents(&self, report: &Arc<IncidentReport>, now: Instant) {
        self.state().incidents = Some((now, report.clone()));
    }

    /// Returns the alarms of a report. `has_refreshed` is true if a refresh has succeeded since the start.
    pub(super) fn observation(
        &self,
        report: &StatusReport,
        has_refreshed: bool,
        now: Instant,
    ) -> AlarmObservation {
        let conditions = report.findings.iter().filter(|finding| finding.is_alarm()).map(|finding| {
            let (kind, subject) = (finding.kind.clone(), finding.subject.clone());
            let (message, action) = (finding.message.clone(), finding.action.clone());
            AlarmCondition { kind, subject, severity: finding.severity, message, action }
        });
        let mut undecided = Vec::new();
        if now.saturating_duration_since(self.started) < SETTLING {
            let unknown = [FindingKind::NoUpstream, FindingKind::UpstreamFailing, FindingKind::LineSaturated];
            undecided.extend(unknown.map(FindingKind::as_str));
        }
        if self.saturated_for(now).is_some() {
            undecided.push(FindingKind::LineSaturated.as_str());
        }
        if !has_refreshed {
            undecided.push(FindingKind::CatalogsStale.as_str());
        }
        if report.findings.iter().any(|finding| finding.kind == FindingKind::NoHistory.as_str()) {
            let unknown = [FindingKind::FullSetStorm, FindingKind::ForeignClient];
            undecided.extend(unknown.map(FindingKind::as_str));
        }
        AlarmObservation { conditions: conditions.collect(), undecided }
    }

    fn state(&self) -> MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the clients that are in none of the subnets. Without subnets every client is of the site. A client with a
/// certificate has a name in place of an address, and is of the site.
pub(super) fn foreign_clients<'a>(site: &AccessList, clients: impl Iterator<Item = &'a str>) -> Vec<String> {
    if site.is_open() {
        return Vec::new();
    }
    let is_foreign = |client: &&str| {
        let address: Result<IpAddr, _> = client.parse();
        // The relay's own machine updates through it too.
        address.is_ok_and(|address| !address.is_loopback() && !site.permits(address))
    };
    let mut foreign: Vec<String> = clients.filter(is_foreign).take(MAX_FOREIGN).map(str::to_owned).collect();
    foreign.sort_unstable();
    foreign.dedup();
    foreign
}

#[cfg(test)]
mod tests {
    use super::super::findings::{Facts, conclude};
    use super::super::sample::healthy;
    use super::*;
    use gupd_config::AccessSettings;

    fn line(bytes_per_second: u64) -> LineStatus {
        LineStatus { bytes_per_second, limit: Some(100) }
    }

    #[test]
    fn line_stays_saturated_while_it_swings() {
        let (watch, start) = (AlarmWatch::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for (second, busy, expected) in [
            (0, 94, None),
            (5, 95, Some(0)),
            (60, 81, Some(55)),
            (65, 99, Some(60)),
            (70, 79, None),
            (75, 90, None),
        ] {
            watch.record_line(line(busy), at(second));
            assert_eq!(watch.saturated_for(at(second)), expected.map(Duration::from_secs), "{second}");
        }
        watch.record_line(LineStatus { bytes_per_second: 100, limit: None }, at(80));
        assert_eq!(watch.saturated_for(at(80)), None);
    }

    #[test]
    fn alarms_of_before_the_start_stay_until_health_is_known() {
        let watch = AlarmWatch::default();
        let report = conclude(healthy(), &Facts::default());
        let early = watch.observation(&report, true, watch.started);
        assert_eq!(early.undecided, ["no-upstream", "upstream-failing", "line-saturated"]);
        let settled = watch.started + SETTLING;
        assert_eq!(watch.observation(&report, true, settled), AlarmObservation::default());
        watch.record_line(line(99), settled);
        assert_eq!(
            watch.observation(&report, false, settled).undecided,
            ["line-saturated", "catalogs-stale"]
        );
    }

    #[test]
    fn findings_that_come_and_go_are_no_alarms() {
        let watch = AlarmWatch::default();
        let busy = StatusReport { wan: line(99), is_draining: true, ..healthy() };
        let report = conclude(busy, &Facts::default());
        assert_eq!(report.findings.len(), 2);
        let kinds: Vec<_> = watch.observation(&report, true, watch.started).conditions;
        assert_eq!(kinds.iter().map(|alarm| &*alarm.kind).collect::<Vec<_>>(), ["draining"]);
    }

    #[test]
    fn clients_outside_of_the_subnets_are_foreign() {
        let subnets = ["10.1.0.0/16", "2001:db8:1::/48"].map(|subnet| subnet.parse().unwrap());
        let site = AccessList::new(&AccessSettings { allow: subnets.to_vec(), deny: Vec::new() });
        let clients = [
            "10.2.0.9",
            "10.1.0.9",
            "2001:db8:2::5",
            "2001:db8:1::5",
            "127.0.0.1",
            "pc-1.example",
            "10.2.0.9",
        ];
        let foreign = foreign_clients(&site, clients.into_iter());
        assert_eq!(foreign, ["10.2.0.9", "2001:db8:2::5"]);
        assert!(foreign_clients(&AccessList::default(), clients.into_iter()).is_empty());
    }
}
