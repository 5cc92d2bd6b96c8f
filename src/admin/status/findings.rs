//! What needs attention, and the state in one sentence. Pure functions of a report and a few facts that it lacks.

use super::{Severity, StatusFinding, StatusReport};
use gupd_config::clock::UnixMillis;
use gupd_rollout::status::{ClientCounts, Status};

/// Part of the limit in percent from which the line is saturated.
const SATURATED: u64 = 95;

/// Bytes of full sets in 24 hours from which they need attention: several full sets of several content types.
const MANY_FULL_SETS: u64 = 2 << 30;

/// Time before the expiry of a certificate at which it needs attention.
const EXPIRES_SOON: UnixMillis = 14 * 86_400_000;

/// Facts that a report has no place for.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) now: UnixMillis,
    /// The last reload was refused.
    pub(super) is_reload_refused: bool,
    /// Use, upstream and expiry of each certificate.
    pub(super) certificates: Vec<CertificateExpiry>,
    /// Bytes from upstreams in 24 hours, and those of full sets.
    pub(super) day_received: u64,
    pub(super) day_full_sets: u64,
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

/// Sets the findings and the sentence.
pub(super) fn conclude(mut report: StatusReport, facts: &Facts) -> StatusReport {
    let mut findings = Vec::new();
    report.add_upstreams(&mut findings);
    report.add_store(&mut findings);
    report.add_process(facts, &mut findings);
    report.add_line(facts, &mut findings);
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

fn finding(severity: Severity, message: impl Into<String>, action: impl Into<String>) -> StatusFinding {
    StatusFinding { severity, message: message.into(), action: action.into() }
}

impl StatusReport {
    fn add_upstreams(&self, findings: &mut Vec<StatusFinding>) {
        let failing = self.upstreams.iter().filter(|upstream| !upstream.is_healthy);
        let failing: Vec<&str> = failing.map(|upstream| &*upstream.name).collect();
        if failing.is_empty() {
            return;
        }
        let names = failing.join(", ");
        findings.push(if failing.len() == self.upstreams.len() {
            let action = "check the line and the managers: only stored content is served meanwhile";
            finding(Severity::Critical, format!("no upstream answers ({names})"), action)
        } else {
            let action = "check it: the others serve its clients meanwhile";
            finding(Severity::Warning, format!("upstream {names} does not answer"), action)
        });
    }

    fn add_store(&self, findings: &mut Vec<StatusFinding>) {
        if let Some(detail) = &self.store.detail {
            let message = format!("store {}: {detail}", self.store.health);
            let action = "repair the disk: clients get everything from the manager meanwhile";
            findings.push(finding(Severity::Critical, message, action));
        }
    }

    fn add_process(&self, facts: &Facts, findings: &mut Vec<StatusFinding>) {
        if self.is_draining {
            let action = "gupd drain --end, when the work on this machine is done";
            findings.push(finding(Severity::Warning, "draining: load balancers use another relay", action));
        }
        if facts.is_reload_refused {
            let action = "gupd check, then gupd reload: the old configuration is in force";
            findings.push(finding(Severity::Warning, "the last reload was refused", action));
        }
        if let Some(error) = &facts.ledger_error {
            let action = "see that gupd may write store.dir and that its disk has room";
            findings.push(finding(Severity::Warning, format!("no history of traffic: {error}"), action));
        }
    }

    fn add_line(&self, facts: &Facts, findings: &mut Vec<StatusFinding>) {
        if let Some(busy) = self.wan.busy_percent().filter(|busy| *busy >= SATURATED) {
            let action = "gupd why --since 1h, then wan.limit, windows or rings";
            findings.push(finding(Severity::Notice, format!("the line is saturated ({busy} %)"), action));
        }
        let (all, full) = (facts.day_received, facts.day_full_sets);
        if full >= MANY_FULL_SETS && full > all / 2 {
            let share = full.saturating_mul(100) / all.max(1);
            let message = format!("full sets are {share} % of the WAN bytes of 24 hours");
            let action =
                "keep more revisions on the manager, so that it has deltas; gupd why names the clients";
            findings.push(finding(Severity::Warning, message, action));
        }
    }

    fn sentence(&self) -> String {
        let mut parts = vec![if self.is_draining { "draining" } else { "serving" }.to_owned()];
        if let Some(rollout) = &self.rollout {
            let [current, behind, failing, _] = lights(&rollout.clients);
            parts.push(format!("{current} of {} clients current", current + behind + failing));
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

fn add_rollout(rollout: &Status, findings: &mut Vec<StatusFinding>) {
    if rollout.halted.is_some() {
        let action = "gupd rollout resume, when clients may advance";
        findings.push(finding(Severity::Warning, "rollouts are halted", action));
    }
    let [_, behind, failing, _] = lights(&rollout.clients);
    if failing > 0 {
        let clients = if failing == 1 { "client fails" } else { "clients fail" };
        let action = "gupd rollout status --clients, then gupd why --client ADDR";
        findings.push(finding(Severity::Warning, format!("{failing} {clients}"), action));
    }
    if behind > 0 {
        let clients = if behind == 1 { "client is" } else { "clients are" };
        let action = "gupd rollout status --clients lists them as yellow";
        findings.push(finding(Severity::Notice, format!("{behind} {clients} behind"), action));
    }
    for step in &rollout.next {
        if let Some(blocked) = &step.blocked {
            let message = format!("ring {} waits with revision {}: {blocked}", step.ring, step.revision);
            let action = format!("gupd rollout promote {}, when it may open", step.ring);
            findings.push(finding(Severity::Notice, message, action));
        }
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
        match left {
            ..=0 => {
                Some(finding(Severity::Critical, format!("{name} has expired"), "renew it, then gupd reload"))
            }
            1..=EXPIRES_SOON => {
                let days = left / 86_400_000;
                let message = format!("{name} expires in {days} days");
                Some(finding(Severity::Warning, message, "renew it, then gupd reload"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Activity, LineStatus, StoreStatus, UpstreamStatus};
    use super::*;
    use gupd_rollout::status::UtcTime;

    const DAY: UnixMillis = 86_400_000;

    fn healthy() -> StatusReport {
        let upstream = |name: &str| UpstreamStatus { name: name.to_owned(), is_healthy: true, received: 0 };
        StatusReport {
            version: "1".to_owned(),
            time: String::new(),
            is_draining: false,
            sentence: String::new(),
            findings: Vec::new(),
            savings: None,
            wan: LineStatus { bytes_per_second: 410_000, limit: Some(1_000_000) },
            lan: LineStatus::default(),
            activity: Activity::default(),
            upstreams: vec![upstream("one"), upstream("two")],
            peers: Vec::new(),
            store: StoreStatus { health: "well".to_owned(), detail: None, objects: 0, bytes: 0, quota: 1 },
            rollout: None,
        }
    }

    fn rollout(counts: [u64; 4]) -> Status {
        let lights = ["green", "yellow", "red", "grey"].into_iter().zip(counts);
        let clients = ClientCounts {
            known: counts.iter().sum(),
            lights: lights.map(|(light, count)| (light.to_owned(), count)).collect(),
            ..ClientCounts::default()
        };
        Status {
            time: UtcTime(0),
            halted: None,
            revisions: Vec::new(),
            rings: Vec::new(),
            next: Vec::new(),
            groups: Vec::new(),
            clients,
        }
    }

    #[test]
    fn sentence_of_a_healthy_relay_has_nothing_to_do() {
        let report = conclude(healthy(), &Facts::default());
        assert_eq!(report.sentence, "serving; line 41 % busy; nothing to do");
        let rollout = Some(rollout([312, 0, 0, 4]));
        let report = conclude(StatusReport { rollout, ..healthy() }, &Facts::default());
        assert_eq!(report.sentence, "serving; 312 of 312 clients current; line 41 % busy; nothing to do");
    }

    #[test]
    fn sentence_has_the_most_severe_finding_and_its_action() {
        let one = |report: StatusReport, facts: &Facts| conclude(report, facts).findings.remove(0);
        let mut failing = healthy();
        failing.upstreams[0].is_healthy = false;
        let partly = one(failing.clone(), &Facts::default());
        assert_eq!((partly.severity, &*partly.message), (Severity::Warning, "upstream one does not answer"));
        failing.upstreams[1].is_healthy = false;
        failing.is_draining = true;
        let all = conclude(failing, &Facts::default());
        assert_eq!(all.findings.len(), 2);
        assert!(all.sentence.starts_with("draining; line 41 % busy; no upstream answers (one, two): check"));
        let mut full = healthy();
        full.store.detail = Some("no space".to_owned());
        assert_eq!(one(full, &Facts::default()).severity, Severity::Critical);
        let refused = Facts { is_reload_refused: true, ..Facts::default() };
        assert!(one(healthy(), &refused).action.starts_with("gupd check"));
        let counted = StatusReport { rollout: Some(rollout([1, 2, 1, 0])), ..healthy() };
        let counted = conclude(counted, &Facts::default());
        let messages: Vec<_> = counted.findings.iter().map(|finding| &*finding.message).collect();
        assert_eq!(messages, ["1 client fails", "2 clients are behind"]);
        let halted = Status { halted: Some(UtcTime(1)), ..rollout([0; 4]) };
        let halted = one(StatusReport { rollout: Some(halted), ..healthy() }, &Facts::default());
        assert!(halted.action.starts_with("gupd rollout resume"));
    }

    #[test]
    fn saturated_line_and_full_sets_need_attention() {
        let messages = |wan: LineStatus, facts: &Facts| -> Vec<String> {
            let findings = conclude(StatusReport { wan, ..healthy() }, facts).findings;
            findings.into_iter().map(|finding| finding.message).collect()
        };
        let line = |bytes_per_second| LineStatus { bytes_per_second, limit: Some(1_000) };
        assert_eq!(messages(line(950), &Facts::default()), ["the line is saturated (95 %)"]);
        assert_eq!(messages(line(949), &Facts::default()), [""; 0]);
        let full = |day_full_sets, day_received| Facts { day_received, day_full_sets, ..Facts::default() };
        let expected = ["full sets are 75 % of the WAN bytes of 24 hours"];
        assert_eq!(messages(line(0), &full(3 << 30, 4 << 30)), expected);
        assert_eq!(messages(line(0), &full(3 << 30, 6 << 30)), [""; 0]);
        assert_eq!(messages(line(0), &full(1 << 30, 1 << 30)), [""; 0]);
    }

    #[test]
    fn certificates_need_attention_two_weeks_before_their_end() {
        for (left, upstream, expected) in [
            (-1, "", Some("certificate listener has expired")),
            (DAY, "", Some("certificate listener expires in 1 days")),
            (14 * DAY, "sepm", Some("certificate listener of sepm expires in 14 days")),
            (14 * DAY + 1, "", None),
        ] {
            let certificate = "listener".to_owned();
            let certificate = CertificateExpiry { certificate, upstream: upstream.to_owned(), at: 5 + left };
            let facts = Facts { now: 5, certificates: vec![certificate], ..Facts::default() };
            let report = conclude(healthy(), &facts);
            assert_eq!(report.findings.first().map(|finding| &*finding.message), expected, "{left}");
        }
    }
}
