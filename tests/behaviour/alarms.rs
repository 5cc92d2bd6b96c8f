//! Alarms, each with its real cause. The API, the status, the Events page and the metric agree on it, and on its end.

use std::time::{Duration, Instant};

use gupd_config::units::Rate;
use gupd_config::{CertificateFiles, RateSchedule};
use jiff::{ToSpan, Zoned};
use serde_json::Value;

use crate::refresh::{ask, with_token};
use crate::support::{Authority, PATIENCE, PAYLOAD, Resource, Response, Site, bytes, get};

const TOKEN: &str = "s3cret-of-the-site";

fn text(response: Response) -> String {
    String::from_utf8(response.expect_body()).unwrap()
}

async fn read(site: &Site, path: &str) -> Value {
    serde_json::from_slice(&get(site.relay().admin(), path).await.expect_body()).unwrap()
}

/// The alarm of this kind in a list of findings.
fn alarm(findings: &Value, kind: &str) -> Option<Value> {
    findings.as_array().unwrap().iter().find(|finding| finding["kind"] == kind).cloned()
}

async fn metric(site: &Site, kind: &str) -> f64 {
    site.metric(&format!("gupd_alarm_active{{alarm=\"{kind}\"}}")).await
}

/// Waits until an alarm is raised, checks it wherever an administrator may look, and returns it.
pub(crate) async fn wait_until_raised(site: &Site, kind: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    let (raised, events) = loop {
        let report = read(site, "/api/v1/events").await;
        if let Some(alarm) = alarm(&report["alarms"], kind) {
            break (alarm, report["events"].clone());
        }
        assert!(Instant::now() < deadline, "no {kind}: {report:#}");
    };
    let event = events.as_array().unwrap().iter().find(|event| event["kind"] == kind).unwrap();
    assert_eq!((&event["change"], &event["severity"]), (&"raised".into(), &raised["severity"]), "{event}");
    assert!(!raised["action"].as_str().unwrap().is_empty(), "{raised}");
    let status = read(site, "/api/v1/status").await;
    let found = alarm(&status["findings"], kind).unwrap_or_else(|| panic!("{status:#}"));
    assert_eq!((&found["severity"], &found["since"]), (&raised["severity"], &event["time"]), "{found}");
    assert_eq!(metric(site, kind).await, 1.0);
    let page = text(get(site.relay().admin(), "/events").await);
    assert!(page.contains("What to do: "), "{page}");
    raised
}

/// Waits until an alarm is over.
pub(crate) async fn wait_until_over(site: &Site, kind: &str) {
    let deadline = Instant::now() + PATIENCE;
    while let Some(alarm) = alarm(&read(site, "/api/v1/events").await["alarms"], kind) {
        assert!(Instant::now() < deadline, "still raised: {alarm:#}");
    }
    assert_eq!(metric(site, kind).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_line_is_an_alarm_until_it_has_room() {
    let limit = Rate(200_000);
    let mut site = Site::with_config(|config| {
        config.wan.limit = RateSchedule::from_rate(limit);
        // The earned burst keeps the mean above the limit, however late the download begins.
        config.wan.burst = Duration::from_secs(10);
        config.alarms.saturated_after = Duration::ZERO;
    });
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 20_000_000)));
    let download = site.start_download(PAYLOAD, 1_000).await;
    let raised = wait_until_raised(&site, "line-saturated").await;
    assert!(raised["message"].as_str().unwrap().starts_with("the line has been saturated for "), "{raised}");
    let mut config = site.config.clone();
    config.wan.limit = RateSchedule::unlimited();
    tokio::task::block_in_place(|| site.relay_mut().reload(config)).unwrap();
    wait_until_over(&site, "line-saturated").await;
    drop(download);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_is_an_alarm_until_it_is_renewed() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let soon = Zoned::now().date().checked_add(9.days()).unwrap();
    let (cert, key) = authority.issue_until("127.0.0.1", soon).write_files(folder.path());
    let site = Site::with_config(|config| {
        config.server.tls = Some(CertificateFiles { cert, key }.into());
    });
    let raised = wait_until_raised(&site, "certificate-expiring").await;
    let message = raised["message"].as_str().unwrap();
    assert!(message.starts_with("certificate listener expires in "), "{raised}");
    assert_eq!(
        (&raised["subject"], &raised["severity"]),
        (&"certificate listener".into(), &"warning".into())
    );
    // Changed files are used without a reload.
    authority.issue("127.0.0.1").write_files(folder.path());
    wait_until_over(&site, "certificate-expiring").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_catalogs_are_an_alarm_until_a_refresh_succeeds() {
    let catalog = "/minitri.flg";
    let site = Site::with_config(|config| {
        with_token(config);
        config.refresh.schedule = gupd_config::Recurrence::Off;
    });
    site.manager.put(catalog, Resource::new("1"));
    site.wait_until_stored(catalog).await;
    site.manager.put(catalog, Resource::new("busy").status(500));
    for _ in 0..2 {
        let refreshed: Value = serde_json::from_slice(&ask(&site, TOKEN).await.expect_body()).unwrap();
        assert_eq!(refreshed["failed"], 1, "{refreshed}");
        site.clock.advance(Duration::from_secs(4 * 3_600));
    }
    let raised = wait_until_raised(&site, "catalogs-stale").await;
    assert_eq!(raised["message"], "no refresh of catalogs has succeeded for 8 h", "{raised}");
    site.manager.put(catalog, Resource::new("2"));
    assert_eq!(ask(&site, TOKEN).await.status, 200);
    wait_until_over(&site, "catalogs-stale").await;
    let events = read(&site, "/api/v1/events").await;
    let cleared = events["events"].as_array().unwrap().iter().find(|event| event["change"] == "cleared");
    assert_eq!(cleared.unwrap()["kind"], "catalogs-stale", "{events:#}");
}
