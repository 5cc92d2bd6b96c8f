//! Findings of reports that are made up.

use super::super::LineStatus;
use super::super::sample::{healthy, rollout};
use super::*;
use gupd_ledger::{FullSetClients, RefusedClients};
use gupd_rollout::status::{UpcomingStep, UtcTime};

const DAY: UnixMillis = 86_400_000;

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
    let kinds: Vec<_> = all.findings.iter().map(|finding| (&*finding.kind, &*finding.subject)).collect();
    let expected =
        [("no-upstream", ""), ("upstream-failing", "one"), ("upstream-failing", "two"), ("draining", "")];
    assert_eq!(kinds, expected);
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
    let full = |full_received, received| Facts {
        incidents: IncidentReport { received, full_received, ..IncidentReport::default() },
        ..Facts::default()
    };
    let expected = ["full sets for 0 clients in 24 hours: 0.0 GiB, and 75 % of the WAN bytes"];
    assert_eq!(messages(line(0), &full(3 << 30, 4 << 30)), expected);
    assert_eq!(messages(line(0), &full(3 << 30, 6 << 30)), [""; 0]);
    assert_eq!(messages(line(0), &full(1 << 30, 1 << 30)), [""; 0]);
    let saturated = Facts { saturated_for: Some(Duration::from_secs(2_700)), ..Facts::default() };
    assert_eq!(messages(line(97 * 10), &saturated), ["the line has been saturated for 45 min (97 %)"]);
}

#[test]
fn full_sets_of_many_clients_need_attention_by_bytes() {
    for (clients, bytes, expected) in
        [(300, 30 << 30, true), (5, 2 << 30, true), (4, 30 << 30, false), (300, (2 << 30) - 1, false)]
    {
        let full_sets = FullSetClients {
            clients,
            bytes,
            named: vec!["10.0.0.7".to_owned(), "10.0.0.9".to_owned()],
            no_delta_from: Some("240531001".to_owned()),
        };
        let incidents =
            IncidentReport { received: 1 << 30, full_received: 1 << 20, full_sets, ..Default::default() };
        let report = conclude(healthy(), &Facts { incidents, ..Facts::default() });
        assert_eq!(report.findings.len(), usize::from(expected), "{clients} {bytes}");
        if let Some(finding) = report.findings.first() {
            assert_eq!((&*finding.kind, finding.severity), ("full-set-storm", Severity::Warning));
            assert!(
                finding.message.contains("no delta from revision 240531001 (such as 10.0.0.7, 10.0.0.9)")
            );
        }
    }
}

#[test]
fn each_condition_has_a_finding_with_an_action() {
    let refused = RefusedClients { clients: 2, times: 9, named: vec!["192.0.2.9".to_owned()] };
    let day = Some(Duration::from_secs(86_400));
    for (facts, kind, words) in [
        (
            Facts { foreign: vec!["10.2.0.9".to_owned()], ..Facts::default() },
            "foreign-client",
            "1 client of another site (such as 10.2.0.9)",
        ),
        (
            Facts { incidents: IncidentReport { refused, ..Default::default() }, ..Facts::default() },
            "foreign-client",
            "2 clients of another site refused (9 times) (such as 192.0.2.9)",
        ),
        (
            Facts { catalogs_failing_for: day, ..Facts::default() },
            "catalogs-stale",
            "no refresh of catalogs has succeeded for 24 h",
        ),
        (
            Facts { ledger_error: Some("full".to_owned()), ..Facts::default() },
            "no-history",
            "no history of traffic: full",
        ),
    ] {
        let finding = conclude(healthy(), &facts).findings.remove(0);
        assert_eq!((&*finding.kind, &*finding.message), (kind, words));
        assert!(!finding.action.is_empty());
    }
    let unconfigured = conclude(StatusReport { upstreams: Vec::new(), ..healthy() }, &Facts::default());
    assert_eq!(unconfigured.findings.len(), 1);
    assert!(unconfigured.sentence.ends_with("add [[upstream]] to the configuration file, then gupd reload"));
}

#[test]
fn ring_needs_attention_if_time_does_not_open_it() {
    for (obstacle, expected) in [
        (Some(Obstacle::Trouble), Some(("ring-blocked", Severity::Warning))),
        (Some(Obstacle::Promotion), Some(("ring-waiting", Severity::Notice))),
        (Some(Obstacle::Ring), None),
        (Some(Obstacle::Halt), None),
        (None, None),
    ] {
        let step = UpcomingStep {
            revision: 2.into(),
            ring: "office".to_owned(),
            step: 1,
            steps: 1,
            opens: None,
            begins: None,
            complete: None,
            blocked: obstacle.map(|_| "waits".to_owned()),
            obstacle,
        };
        let status = Status { next: vec![step], ..rollout([0; 4]) };
        let report = conclude(StatusReport { rollout: Some(status), ..healthy() }, &Facts::default());
        let finding = report.findings.first();
        assert_eq!(finding.map(|finding| (&*finding.kind, finding.severity)), expected);
        assert!(finding.is_none_or(|finding| finding.subject == "office"));
    }
}

#[test]
fn certificates_need_attention_two_weeks_before_their_end() {
    for (left, upstream, expected) in [
        (-1, "", Some("certificate listener has expired")),
        (DAY, "", Some("certificate listener expires in 1 day")),
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
