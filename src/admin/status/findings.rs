//! What needs attention, and the state in one sentence. Pure functions of a report and a few facts that it lacks. Each
//! finding has a kind: those of most kinds are alarms, whose beginning and end the ledger keeps as events.

use std::time::Duration;

use super::{Severity, StatusFinding, StatusReport};
use gupd_config::Quantity;
use gupd_config::clock::UnixMillis;
use gupd_ledger::IncidentReport;
use gupd_rollout::status::{ClientCounts, Obstacle, Status};

/// Part of the limit in percent from which the line is saturated.
pub(super) const SATURATED: u64 = 95;

/// Bytes of full sets in 24 hours from which they need attention: several full sets of several content types.
const MANY_FULL_SETS: u64 = 2 << 30;

/// Clients with full sets from which they need attention. Fewer are clients that were off, or new ones.
const MANY_CLIENTS: u64 = 5;

/// Time before the expiry of a certificate at which it needs attention.
const EXPIRES_SOON: UnixMillis = 14 * 86_400_000;

/// Kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FindingKind {
    NotConfigured,
    NoUpstream,
    UpstreamFailing,
    StoreDegraded,
    Draining,
    ReloadRefused,
    NoHistory,
    LineBusy,
    LineSaturated,
    FullSetStorm,
    ForeignClient,
    CatalogsStale,
    RolloutsHalted,
    RingBlocked,
    RingWaiting,
    ClientsFailing,
    ClientsBehind,
    CertificateExpiring,
}

/// Facts that a report has no place for.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) now: UnixMillis,
    /// The last reload was refused.
    pub(super) is_reload_refused: bool,
    /// Use, upstream and expiry of each certificate.
    pub(super) certificates: Vec<CertificateExpiry>,
    /// Incidents of clients in 24 hours.
    pub(super) incidents: IncidentReport,
    /// Clients that are not of this site.
    pub(super) foreign: Vec<String>,
    /// Time for which the line has been saturated, if that is too long.
    pub(super) saturated_for: Option<Duration>,
    /// Time for which no refresh of catalogs has succeeded, if that is too long.
    pub(super) catalogs_failing_for: Option<Duration>,
    /// The ledger cannot be read.
    pub(super) ledger_error: Option<String>,
}

/// Expiry of a certificate.
#[derive(Clone, Debug)]
pub(super) struct CertificateExpiry {
    /// Its use, such as `listener`.
    pub(super) certificate: String,
    /// Name of the upstream or peer; empty for the relay itself.
    pub(super) upstream: String,
    pub(super) at: UnixMillis,
}

impl FindingKind {
    const ALL: [Self; 18] = [
        Self::NotConfigured,
        Self::NoUpstream,
        Self::UpstreamFailing,
        Self::StoreDegraded,
        Self::Draining,
        Self::ReloadRefused,
        Self::NoHistory,
        Self::LineBusy,
        Self::LineSaturated,
        Self::FullSetStorm,
        Self::ForeignClient,
        Self::CatalogsStale,
        Self::RolloutsHalted,
        Self::RingBlocked,
        Self::RingWaiting,
        Self::ClientsFailing,
        Self::ClientsBehind,
        Self::CertificateExpiring,
    ];

    /// Returns the names of all kinds of alarms.
    pub(crate) fn alarms() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().filter(|kind| kind.is_alarm()).map(Self::as_str)
    }

    const fn is_alarm(self) -> bool {
        !matches!(self, Self::LineBusy | Self::ClientsBehind)
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NotConfigured => "not-configured",
            Self::NoUpstream => "no-upstream",
            Self::UpstreamFailing => "upstream-failing",
            Self::StoreDegraded => "store-degraded",
            Self::Draining => "draining",
            Self::ReloadRefused => "reload-refused",
            Self::NoHistory => "no-history",
            Self::LineBusy => "line-busy",
            Self::LineSaturated => "line-saturated",
            Self::FullSetStorm => "full-set-storm",
            Self::ForeignClient => "foreign-client",
            Self::CatalogsStale => "catalogs-stale",
            Self::RolloutsHalted => "rollouts-halted",
            Self::RingBlocked => "ring-blocked",
            Self::RingWaiting => "ring-waiting",
            Self::ClientsFailing => "clients-failing",
            Self::ClientsBehind => "clients-behind",
            Self::CertificateExpiring => "certificate-expiring",
        }
    }
}

impl StatusFinding {
    /// Returns true if its beginning and end are events. Other findings come and go with each download.
    pub(crate) fn is_alarm(&self) -> bool {
        FindingKind::alarms().any(|alarm| alarm == self.kind)
    }

    fn new(kind: FindingKind, message: impl Into<String>, action: impl Into<String>) -> Self {
        let severity = match kind {
            FindingKind::NotConfigured | FindingKind::NoUpstream | FindingKind::StoreDegraded => {
                Severity::Critical
            }
            FindingKind::LineBusy
            | FindingKind::RingWaiting
            | FindingKind::ClientsBehind
            | FindingKind::ForeignClient => Severity::Notice,
            _ => Severity::Warning,
        };
        Self {
            kind: kind.as_str().to_owned(),
            subject: String::new(),
            severity,
            message: message.into(),
            action: action.into(),
            since: None,
        }
    }

    fn about(self, subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), ..self }
    }
}

/// Sets the findings and the sentence.
pub(super) fn conclude(mut report: StatusReport, facts: &Facts) -> StatusReport {
    let mut findings = Vec::new();
    report.add_upstreams(&mut findings);
    report.add_store(&mut findings);
    report.add_process(facts, &mut findings);
    report.add_line(facts, &mut findings);
    add_clients(facts, &mut findings);
    if let Some(rollout) = &report.rollout {
        add_rollout(rollout, &mut findings);
    }
    facts.certificates.iter().for_each(|certificate| findings.extend(certificate.finding(facts.now)));
    // Stable: equals stay in the order above.
    findings.sort_by_key(|finding| finding.severity);
    report.findings = findings;
    report.sentence = report.sentence();
    report
}

impl StatusReport {
    fn add_upstreams(&self, findings: &mut Vec<StatusFinding>) {
        if self.upstreams.is_empty() {
            let action = "add [[upstream]] to the configuration file, then gupd reload";
            findings.push(StatusFinding::new(
                FindingKind::NotConfigured,
                "no upstream is configured: clients get 503",
                action,
            ));
        }
        let failing = self.upstreams.iter().filter(|upstream| !upstream.is_healthy);
        let failing: Vec<&str> = failing.map(|upstream| &*upstream.name).collect();
        let are_all = failing.len() == self.upstreams.len();
        if are_all && !failing.is_empty() {
            let message = format!("no upstream answers ({})", failing.join(", "));
            let action = "check the line and the managers: only stored content is served meanwhile";
            findings.push(StatusFinding::new(FindingKind::NoUpstream, message, action));
        }
        if failing.len() == 1 && are_all {
            return;
        }
        let action = match are_all {
            true => "check the line and the managers",
            false => "check it: the others serve its clients meanwhile",
        };
        findings.extend(failing.into_iter().map(|name| {
            let message = format!("upstream {name} does not answer");
            StatusFinding::new(FindingKind::UpstreamFailing, message, action).about(name)
        }));
    }

    fn add_store(&self, findings: &mut Vec<StatusFinding>) {
        if let Some(detail) = &self.store.detail {
            let message = format!("store {}: {detail}", self.store.health);
            let action = "repair the disk: clients get everything from the manager meanwhile";
            findings.push(StatusFinding::new(FindingKind::StoreDegraded, message, action));
        }
    }

    fn add_process(&self, facts: &Facts, findings: &mut Vec<StatusFinding>) {
        let mut add = |kind, message: String, action: &str| {
            findings.push(StatusFinding::new(kind, message, action));
        };
        if self.is_draining {
            let message = "draining: load balancers use another relay".to_owned();
            add(FindingKind::Draining, message, "gupd drain --end, when the work on this machine is done");
        }
        if facts.is_reload_refused {
            let action = "gupd check, then gupd reload: the old configuration is in force";
            add(FindingKind::ReloadRefused, "the last reload was refused".to_owned(), action);
        }
        if let Some(error) = &facts.ledger_error {
            let action = "see that gupd may write store.dir and that its disk has room";
            add(FindingKind::NoHistory, format!("no history of traffic: {error}"), action);
        }
        if let Some(time) = facts.catalogs_failing_for {
            let message = format!("no refresh of catalogs has succeeded for {}", span(time));
            let action = "gupd refresh names the error; clients see no new revision meanwhile";
            add(FindingKind::CatalogsStale, message, action);
        }
    }

    fn add_line(&self, facts: &Facts, findings: &mut Vec<StatusFinding>) {
        let busy = self.wan.busy_percent().unwrap_or(0);
        let action = "gupd why --since 1h, then wan.limit, windows or rings";
        if let Some(time) = facts.saturated_for {
            let message = format!("the line has been saturated for {} ({busy} %)", span(time));
            findings.push(StatusFinding::new(FindingKind::LineSaturated, message, action));
        } else if busy >= SATURATED {
            let message = format!("the line is saturated ({busy} %)");
            findings.push(StatusFinding::new(FindingKind::LineBusy, message, action));
        }
    }

    fn sentence(&self) -> String {
        let mut parts = vec![if self.is_draining { "draining" } else { "serving" }.to_owned()];
        if let Some(rollout) = &self.rollout {
            let [current, behind, failing, _] = lights(&rollout.clients);
            parts.push(format!("{current} of {} current", Quantity(current + behind + failing, "client")));
        }
        if let Some(busy) = self.wan.busy_percent() {
            parts.push(format!("line {busy} % busy"));
        }
        parts.push(match &self.findings[..] {
            [] => "nothing to do".to_owned(),
            [first, ..] => format!("{}: {}", first.message, first.action),
        });
        parts.join("; ")
    }
}

/// Adds full sets and clients of other sites.
fn add_clients(facts: &Facts, findings: &mut Vec<StatusFinding>) {
    let IncidentReport { received, full_received, full_sets, refused, .. } = &facts.incidents;
    let fills_the_line = *full_received >= MANY_FULL_SETS && *full_received > received / 2;
    if fills_the_line || (full_sets.bytes >= MANY_FULL_SETS && full_sets.clients >= MANY_CLIENTS) {
        let share = full_received.saturating_mul(100) / (*received).max(1);
        let mut message = format!(
            "full sets for {} in 24 hours: {:.1} GiB, and {share} % of the WAN bytes",
            Quantity(full_sets.clients, "client"),
            full_sets.bytes as f64 / f64::from(1 << 30),
        );
        if let Some(revision) = &full_sets.no_delta_from {
            message += &format!("; the manager has no delta from revision {revision}");
        }
        message += &named(&full_sets.named);
        let action = "keep more revisions on the manager, so that it has deltas; gupd why names the clients";
        findings.push(StatusFinding::new(FindingKind::FullSetStorm, message, action));
    }
    if !facts.foreign.is_empty() {
        let message =
            format!("{} of another site{}", Quantity(facts.foreign.len(), "client"), named(&facts.foreign));
        let action = "correct their update policy, or add their subnet to site.subnets";
        findings.push(StatusFinding::new(FindingKind::ForeignClient, message, action).about("served"));
    }
    if refused.clients > 0 {
        let message = format!(
            "{} of another site refused ({}){}",
            Quantity(refused.clients, "client"),
            Quantity(refused.times, "time"),
            named(&refused.named)
        );
        let action = "correct their update policy, or add their subnet to server.allow";
        findings.push(StatusFinding::new(FindingKind::ForeignClient, message, action).about("refused"));
    }
}

fn add_rollout(rollout: &Status, findings: &mut Vec<StatusFinding>) {
    let mut add = |kind, subject: &str, message: String, action: String| {
        findings.push(StatusFinding::new(kind, message, action).about(subject));
    };
    if rollout.halted.is_some() {
        let action = "gupd rollout resume, when clients may advance".to_owned();
        add(FindingKind::RolloutsHalted, "", "rollouts are halted".to_owned(), action);
    }
    let [_, behind, failing, _] = lights(&rollout.clients);
    if failing > 0 {
        let message = Quantity(failing, "client").with_verb("fails", "fail");
        let action = "gupd rollout status --clients, then gupd why --client ADDR".to_owned();
        add(FindingKind::ClientsFailing, "", message, action);
    }
    if behind > 0 {
        let clients = Quantity(behind, "client").with_verb("is", "are");
        let action = "gupd rollout status --clients lists them as yellow".to_owned();
        add(FindingKind::ClientsBehind, "", format!("{clients} behind"), action);
    }
    for step in &rollout.next {
        let kind = match step.obstacle {
            Some(Obstacle::Trouble) => FindingKind::RingBlocked,
            Some(Obstacle::Promotion) => {
                let message =
                    format!("ring {} may get revision {}, and waits for you", step.ring, step.revision);
                let action = format!("gupd rollout promote {}", step.ring);
                add(FindingKind::RingWaiting, &step.ring, message, action);
                continue;
            }
            // Time or the end of the halt opens the step.
            Some(Obstacle::Halt | Obstacle::Ring) | None => continue,
        };
        let blocked = step.blocked.as_deref().unwrap_or_default();
        let message = format!("ring {} waits with revision {}: {blocked}", step.ring, step.revision);
        let action = format!("gupd rollout promote {}, when it may open", step.ring);
        add(kind, &step.ring, message, action);
    }
}

/// Returns the first names of a list, in words.
fn named(names: &[String]) -> String {
    const MAX_NAMED: usize = 3;
    match &names[..names.len().min(MAX_NAMED)] {
        [] => String::new(),
        named => format!(" (such as {})", named.join(", ")),
    }
}

/// Formats a time for a sentence.
fn span(time: Duration) -> String {
    match time.as_secs() / 60 {
        minutes @ ..120 => format!("{minutes} min"),
        minutes @ ..2_880 => format!("{} h", minutes / 60),
        minutes => format!("{} days", minutes / 1_440),
    }
}

/// Returns the clients that are current, behind, failing and unseen.
pub(super) fn lights(clients: &ClientCounts) -> [u64; 4] {
    ["green", "yellow", "red", "grey"].map(|light| clients.lights.get(light).copied().unwrap_or(0))
}

impl CertificateExpiry {
    fn finding(&self, now: UnixMillis) -> Option<StatusFinding> {
        let left = self.at - now;
        let of = if self.upstream.is_empty() { String::new() } else { format!(" of {}", self.upstream) };
        let name = format!("certificate {}{of}", self.certificate);
        let message = match left {
            ..=0 => format!("{name} has expired"),
            1..=EXPIRES_SOON => format!("{name} expires in {}", Quantity(left / 86_400_000, "day")),
            _ => return None,
        };
        let severity = if left <= 0 { Severity::Critical } else { Severity::Warning };
        let action = "renew it, then gupd reload";
        let finding = StatusFinding::new(FindingKind::CertificateExpiring, message, action).about(name);
        Some(StatusFinding { severity, ..finding })
    }
}

#[cfg(test)]
mod tests;
